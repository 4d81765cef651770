"""What each process of tests/training/test_processes.py does: all cases, written to a folder."""

import gc
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

import pvae
from pvae.engine.step import eager_step
from pvae.objectives import IWAE, RWS, DReG
from pvae.pair.preserve import generator_state, preserve_generators, restore_generators
from pvae.training.steps import Steps

ROWS = 96


def data():
    return torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))


def with_global_site(scale=0.0, width=1):
    """A pair with a local and a global site; with scale 0 it has no random numbers."""
    torch.manual_seed(0)
    encoder = nn.Linear(3, width)

    def guided(name, loc, event_dim):
        fn = dist.Normal(loc, scale).to_event(event_dim) if scale else None
        pyro.sample(name, fn if scale else dist.Delta(loc, event_dim=event_dim))

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), width), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True) * w
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        guided("w", pyro.param("loc", torch.ones(3)), 1)
        with pyro.plate("data", len(x)):
            guided("z", encoder(x), 1)

    return model, guide


def local_only():
    """A pair with a local site alone, for objectives that have no global ones."""
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(1, 3), nn.Linear(3, 1)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return model, guide


def sized_plate():
    """A program that scales by N / len(batch) itself."""

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", ROWS, subsample=torch.arange(len(x))):
            pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Delta(pyro.param("loc", torch.ones(3)), event_dim=1))

    return model, guide


# Without random numbers, so that the trajectory is that of one process.
TRAJECTORIES = {
    "plain": (with_global_site, {"batch_size": 21}),  # shards of 11 and 10 rows, and of 6 at last
    "few rows": (with_global_site, {"batch_size": 19}),  # one row is left for the last batch
    "clipped": (with_global_site, {"batch_size": 32, "clip_norm": 0.3}),
    "accumulated": (with_global_site, {"batch_size": 21, "accumulate": 2, "clip_norm": 0.3}),
    "recorded": (with_global_site, {"batch_size": 21, "engine": "recorded"}),
    "captured": (with_global_site, {"batch_size": 24, "engine": "captured", "ema": 0.5}),
    "sized plate": (sized_plate, {"batch_size": 24}),
    "validated": (with_global_site, {"batch_size": 24, "valid": data()[:31], "patience": 2}),
}

# With random numbers of each process; each step is compared with the sum over all processes.
OBJECTIVES = {
    "Trace_ELBO": (lambda: with_global_site(0.3), Trace_ELBO),
    "Trace_ELBO of 3": (
        lambda: with_global_site(0.3), lambda: Trace_ELBO(num_particles=3, vectorize_particles=True)
    ),
    "TraceMeanField_ELBO": (lambda: with_global_site(0.3), TraceMeanField_ELBO),
    "TraceGraph_ELBO": (lambda: with_global_site(0.3), TraceGraph_ELBO),
    "IWAE": (local_only, lambda: IWAE(num_particles=4)),
    "DReG": (local_only, lambda: DReG(num_particles=4)),
    "RWS": (local_only, lambda: RWS(num_particles=4)),
}  # fmt: skip


def fit(make, **options):
    options = {"epochs": 3, "progress": False, "learning_rate": 0.05, **options}
    return pvae.fit(*make(), options.pop("data", data()), **options)


def outcome(fitted):
    keys = ("train_loss", "valid_elbo", "gradient_norm", "step")
    rows = [{key: row[key] for key in keys if key in row} for row in fitted.history]
    params = {k: p.detach().clone() for k, p in fitted.model.pair.named_parameters().items()}
    return {"rows": rows, "params": params, "stop": fitted.stop_reason}


def compared(errors):
    """`Steps.take`, which compares the gradient with that of all shards in one process."""
    step = Steps.take

    def both(self, group):
        (batch,) = group
        states = self.processes.gather(generator_state())
        total = {p: torch.zeros_like(p) for p in self.pair.parameters().values()}
        for rank, state in enumerate(states):
            shard = tuple(part[rank :: len(states)] for part in batch)
            divisor = self.scaling.set_batch(len(shard[0]))
            with preserve_generators():
                restore_generators(state)
                done = eager_step(self.svi._loss_and_grads, shard, {})
            for parameter, gradient in zip(done.trained, done.gradients, strict=True):
                total[parameter] += gradient / divisor * len(shard[0]) / len(batch[0])
                parameter.grad = None
        update = self.svi._clipped_update

        def recorded(done, number, apply):
            for parameter, gradient in zip(done.trained, done.gradients, strict=True):
                expected = total[parameter]
                error = (gradient / number - expected).abs().max()
                errors.append((error / (expected.abs().max() + 1e-3)).item())
            return update(done, number, apply)

        self.svi._clipped_update = recorded
        try:
            return step(self, group)
        finally:
            self.svi._clipped_update = update

    return both


def main(folder):
    rank = torch.distributed.get_rank()
    for name, (make, options) in TRAJECTORIES.items():
        torch.save(outcome(fit(make, **options)), folder / f"{name}-{rank}.pt")
    step = Steps.take
    for name, (make, objective) in OBJECTIVES.items():
        errors = []
        Steps.take = compared(errors)
        fitted = fit(make, objective=objective(), batch_size=22)
        torch.save({"errors": errors, **outcome(fitted)}, folder / f"{name}-{rank}.pt")
    Steps.take = step
    x = data()
    x[7] = 1e30  # a row of one process, whose density overflows
    for accumulate in (1, 2):
        options = {"data": x, "batch_size": 12, "accumulate": accumulate}
        found = fit(local_only, on_nan="skip", **options)
        skipped = [row["skipped"] for row in found.history]
        torch.save(
            {"skipped": skipped, **outcome(found)}, folder / f"skipped {accumulate}-{rank}.pt"
        )
        try:
            fit(local_only, **options)
        except pvae.DivergedError as error:
            torch.save(error.step, folder / f"diverged {accumulate}-{rank}.pt")
    run = folder / "run"
    stochastic = {"batch_size": 24, "out": run, "save_steps": 3}
    fit(lambda: with_global_site(0.3), **stochastic, epochs=2)
    resumed = fit(lambda: with_global_site(0.3), **stochastic, epochs=4, resume=True)
    whole = fit(lambda: with_global_site(0.3), batch_size=24, epochs=4)
    torch.save([outcome(resumed), outcome(whole)], folder / f"resumed-{rank}.pt")
    loader = torch.utils.data.DataLoader(data(), batch_size=24, shuffle=True)
    found = fit(with_global_site, data=loader)
    torch.save(outcome(found), folder / f"loader-{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    gc.collect()
