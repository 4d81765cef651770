"""What a short training costs in processor time, beside Pyro's own loop.

    python tests/benchmarks/small_fits.py --json small_fits.json

90 gradient steps in ten epochs, each followed by validation: `pvae.fit` with its checks and its
evaluation by site, and a loop over Pyro's SVI with `evaluate_loss` on the same validation data, and
Pyro's validation on, as users run it; both include the construction of the networks. Rounds of the
two are interleaved; the ratio is the median over rounds.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pvae
from pvae.cli.bench import machine, spread

EPOCHS, STEPS, ROWS = 10, 9, 128


class Digits:
    """A VAE of 64 pixels with two latent dimensions."""

    def __init__(self) -> None:
        self.encoder = pvae.nn.MLP(64, 64, 4)
        self.decoder = pvae.nn.MLP(2, 64, 64)

    @staticmethod
    def data() -> tuple[Tensor, Tensor]:
        digits = pvae.data.load("digits", binarize="static")
        return digits.train.first(STEPS * ROWS)[0], digits.valid.first(ROWS)[0]

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            logits = self.decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Sequences:
    """A Markov model of twelve masked steps, inferred by a recurrent network."""

    def __init__(self) -> None:
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.propose = nn.Linear(16 + 4, 8)
        self.move, self.emit = nn.Linear(4, 8), nn.Linear(4, 8)

    @staticmethod
    def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(STEPS * ROWS, 12, 8, generator=generator).cumsum(1) / 4
        lengths = torch.randint(4, 13, (len(x),), generator=generator)
        mask = torch.arange(12) < lengths[:, None]
        return (x, mask), (x[:ROWS], mask[:ROWS])

    def model(self, x: Tensor, mask: Tensor) -> None:
        pyro.module("move", self.move)
        pyro.module("emit", self.emit)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 4)
            for step in range(x.shape[1]):
                loc, raw = self.move(z).chunk(2, -1)
                with pyro.poutine.mask(mask=mask[:, step]):
                    step_prior = dist.Normal(z + loc, nn.functional.softplus(raw) + 0.01)
                    z = pyro.sample(f"z{step}", step_prior.to_event(1))
                    x_step = dist.Normal(self.emit(z), 0.5).to_event(1)
                    pyro.sample(f"x{step}", x_step, obs=x[:, step])

    def guide(self, x: Tensor, mask: Tensor) -> None:
        pyro.module("rnn", self.rnn)
        pyro.module("propose", self.propose)
        features, _ = self.rnn(x)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 4)
            for step in range(x.shape[1]):
                given = torch.cat([features[:, step], z], -1)
                loc, raw = self.propose(given).chunk(2, -1)
                with pyro.poutine.mask(mask=mask[:, step]):
                    scale = nn.functional.softplus(raw) + 0.01
                    z = pyro.sample(f"z{step}", dist.Normal(loc, scale).to_event(1))


def by_pvae(make: type) -> None:
    torch.manual_seed(0)
    pair = make()
    train, valid = make.data()
    pvae.fit(
        pair.model, pair.guide, train, valid=valid, epochs=EPOCHS, batch_size=ROWS, progress=False,
        device="cpu",
    )  # fmt: skip


def by_pyro(make: type) -> None:
    pyro.clear_param_store()
    torch.manual_seed(0)
    pair = make()
    train, valid = make.data()
    train = train if isinstance(train, tuple) else (train,)
    valid = valid if isinstance(valid, tuple) else (valid,)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    for _ in range(EPOCHS):
        order = torch.randperm(len(train[0]))
        for index in order.split(ROWS):
            svi.step(*(part[index] for part in train))
        svi.evaluate_loss(*valid)


def seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {
        "command": "python tests/benchmarks/small_fits.py --json small_fits.json",
        "machine": machine(torch.device("cpu")),
        "steps": EPOCHS * STEPS,
        "batch": ROWS,
    }
    for name, make in (("digits", Digits), ("masked sequences", Sequences)):
        times: dict[str, list[float]] = {"pvae": [], "pyro": []}
        for number in range(options.rounds + 1):
            own, theirs = seconds(lambda: by_pvae(make)), seconds(lambda: by_pyro(make))  # noqa: B023
            if number:
                times["pvae"].append(own)
                times["pyro"].append(theirs)
        ratios = [a / b for a, b in zip(times["pvae"], times["pyro"], strict=True)]
        results[name] = {
            "processor seconds": {key: spread(value) for key, value in times.items()},
            "pvae / pyro": spread(ratios),
        }
        print(name, json.dumps(results[name]["pvae / pyro"]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
