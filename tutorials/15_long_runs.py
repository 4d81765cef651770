"""How do I leave a training alone for a week, and lose nothing?"""

# %% [markdown]
# # Long runs
#
# A training that takes days is interrupted: by a scheduler, a full disk, a loss that becomes NaN,
# or a better idea. This script interrupts trainings in these ways, and shows what is left. After
# this tutorial you will be able to stop a training anywhere, and to go on as if it never stopped.
# Each part can be copied by itself. The figure goes to the folder `figures`.

# %%
import json
import os
import signal
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import IterableDataset

import pvae

SHORT = os.environ.get("PVAE_SHORT") == "1"  # the tests run a short version
FIGURES = Path("figures")
FIGURES.mkdir(exist_ok=True)
EPOCHS = 4 if SHORT else 60

digits = pvae.data.load("digits", binarize="threshold")


def pair():
    torch.manual_seed(0)
    sizes = {"x_shape": digits.x_shape, "z_dim": 4, "hidden": 64}
    return pvae.models.VAE(**sizes), pvae.guides.MeanField(**sizes)


def train(out=None, data=digits, **options):
    return pvae.fit(*pair(), data, out=out, **{"epochs": EPOCHS, "progress": False, **options})


# %% [markdown]
# ## A run that is interrupted goes on as if it had not been
#
# With `out=`, `fit` writes a checkpoint after each epoch, and within an epoch after ten minutes
# (`save_minutes=`) or after a number of steps (`save_steps=`). Ctrl-C, and the SIGTERM of a
# scheduler, wait for the step at hand and save it. Here a callback sends the signal. A second
# Ctrl-C would end the training at once.

# %%
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
whole = train("runs/whole")


def interrupt(so_far):
    if len(so_far.history) == 2:
        os.kill(os.getpid(), signal.SIGINT)


stopped = train("runs/stopped", callback=interrupt)
print(f"stopped after {len(stopped.history)} epochs: {stopped.stop_reason}")
resumed = train("runs/stopped", resume=True)
same = [row["train_loss"] for row in whole.history] == [
    row["train_loss"] for row in resumed.history
]
print("resumed with the same numbers:", same)

# %% [markdown]
# On the command line, the same command starts a run or goes on with it, so that it can stand in a
# job that a scheduler repeats:
#
# ```
# pvae train vae --data mnist --epochs 500 --out runs/long --resume auto --keep 3
# ```
#
# A run is resumed only under the same programs, data, versions and options. With
# `allow_changed=True` it is resumed all the same, and its config.json says what changed.

# %% [markdown]
# ## Numbers that go wrong
#
# A row whose density overflows makes one loss infinite. With `on_nan="stop"` the error names step,
# site, rows and the first operation whose output is not finite. With `"skip"` such steps change
# nothing, and are counted. With `"rollback"` the training goes back to the last good state, and on
# with half the learning rate.

# %%
table = torch.randn(500, 8)
table[123] = 1e30


def gaussian_pair():
    torch.manual_seed(0)
    sizes = {"x_shape": (8,), "z_dim": 2, "hidden": 16}
    return pvae.models.VAE(**sizes, likelihood="gaussian"), pvae.guides.MeanField(**sizes)


try:
    pvae.fit(*gaussian_pair(), table, batch_size=50, epochs=2, progress=False)
except pvae.DivergedError as error:
    print(error)
kept = pvae.fit(*gaussian_pair(), table, batch_size=50, epochs=2, on_nan="skip", progress=False)
print("skipped steps by epoch:", [row["skipped"] for row in kept.history])

# %% [markdown]
# ## Averages, large batches and schedules
#
# - `ema=0.999` keeps an exponential moving average of the parameters, which is smoother than their
#   last values, and better where these jump. `with fit.averaged():` evaluates it,
#   `pvae.load(run, ema=True)` loads it.
# - `accumulate=4` adds the gradients of four batches for each step: the step of a batch that would
#   not fit into memory.
# - `scheduler=` takes torch's schedules; on the command line there are `--schedule cosine` and
#   `--learning-rate-warmup 5`.

# %%
averaged = train(ema=0.99, accumulate=2, batch_size=64, learning_rate=3e-3)
raw = [row["valid_elbo"] for row in averaged.history]
smooth = [row["valid_elbo_ema"] for row in averaged.history]
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(raw, label="last values")
axes.plot(smooth, label="moving average")
axes.set(xlabel="epoch", ylabel="validation bound (nats per datum)")
axes.legend()
figure.savefig(FIGURES / "15_average.png", dpi=150)
with averaged.averaged():
    bound = pvae.elbo(averaged.model, averaged.guide, digits.test).mean
print(f"test bound of the moving average: {bound:.2f} nats per datum")

# %% [markdown]
# ## Callbacks: a log of one's own
#
# A callback is called with the `Fit` so far after each epoch; `callback=[one, another]` calls
# several, and training ends if one returns True. This one writes a file. For Weights & Biases or
# MLflow, replace its last line by `wandb.log(row, step=row["epoch"])` after a `wandb.init(...)`, or
# by `mlflow.log_metrics(row, step=row["epoch"])` within `mlflow.start_run()`.

# %%


def log(so_far):
    row = {k: v for k, v in so_far.history[-1].items() if isinstance(v, int | float)}
    with Path("log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


train(callback=[log, lambda so_far: len(so_far.history) == 3])
print(f"{len(Path('log.jsonl').read_text().splitlines())} epochs in the log")

# %% [markdown]
# ## Data that are larger than memory, and data without an end
#
# Rows of an .npy file may stay on disk: `FileRows` reads those of each batch, in an order that is
# computed and not stored. "loading" in the history is the share of the time that passes until
# batches are there; above a few per cent, a `DataLoader` with workers helps.

# %%
np.save("large.npy", (np.random.default_rng(0).random((5000, 8, 8)) < 0.2).astype(np.uint8))
from_disk = train(data=pvae.data.FileRows("large.npy"), epochs=2)
print(f"{from_disk.history[-1]['loading']:.0%} of the time for loading")

# %% [markdown]
# A stream has no epochs: `steps_per_epoch` says how many steps count as one, for the log, the
# checkpoints and the learning rate. For learning from a stream without an end, give a learning rate
# that falls like 1 / epoch, or a constant one that forgets. A stream that has `state_dict` and
# `load_state_dict`, as those of torchdata have, goes on where it was; any other is read again from
# its start up to there.


# %%
class Stream(IterableDataset):
    """Noisy copies of the digits, one after another, which knows how many it has given."""

    def __init__(self):
        self.given = 0
        self.rows = digits.train.first(len(digits.train))[0]

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.given)
            x = self.rows[self.given % len(self.rows)]
            self.given += 1
            yield torch.where(torch.rand(x.shape, generator=generator) < 0.02, 1 - x, x)

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


stream = {
    "steps_per_epoch": 20,
    "batch_size": 64,
    "scheduler": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch / 10)),
}
train("runs/stream", data=Stream(), epochs=2, **stream)
source = Stream()
train("runs/stream", data=source, epochs=3, resume=True, **stream)
print(f"the stream went on at {2 * 20 * 64:,} and is at {source.given:,}")

# %% [markdown]
# ## Many processes
#
# torchrun starts one process for each GPU, or for some cores each. The rows of every batch are
# divided among them, each with random numbers of its own, and the gradient is that of the whole
# batch. The first process writes the run, which can be resumed with any number of processes. If one
# process ends, the others end with a sentence.
#
# ```
# torchrun --nproc-per-node=4 -m pvae train vae --data mnist --batch-size 1024 --out runs/four
# ```
#
# In a script of one's own, call `torch.distributed.init_process_group` before `pvae.fit`. What more
# processes bring for which batch is measured in `tests/benchmarks/README.md`.
#
# ## What to try next
#
# - Kill a training with `kill -9` in the middle of an epoch, and repeat its command with
#   `--resume auto`. Expect the numbers of a training that was never killed, to the last digit.
# - Flip a byte of a `checkpoint.pt`, and load the run. Expect a sentence that names the file; with
#   `--keep 3`, the checkpoint before it is used.
#
# Not said here: where to run. Schedulers send SIGTERM some time before they end a job; `pvae train`
# then writes what it has and ends with 143.
