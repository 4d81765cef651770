"""Rows that stay on disk: values, order, memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pairs import callables as kinds

import pvae
from pvae.data import DamagedFileError, FileRows, batches
from pvae.data.shuffle import Shuffle

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float16, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 3)])
def test_rows_are_those_of_the_array(dtype, shape, tmp_path):
    x = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    rows = FileRows(tmp_path / "x.npy")
    assert len(rows) == 7
    for index in ([3, 0, 6, 3], [], np.arange(7)):
        found, expected = rows[index], torch.from_numpy(x[index].astype(np.float32))
        assert found.dtype in (torch.bool, torch.uint8, torch.float32)
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0)
    torch.testing.assert_close(rows[5].float(), torch.from_numpy(x.astype(np.float32))[5])


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 4097])
def test_shuffle_is_a_permutation(size):
    orders = [Shuffle(size, seed)[np.arange(size)] for seed in range(3)]
    for order in orders:
        assert (np.sort(order) == np.arange(size)).all()
    assert size < 1000 or (orders[0] == orders[1]).mean() < 0.01
    parts = Shuffle(size, 0)[np.arange(size // 2, size)]
    assert (parts == orders[0][size // 2 :]).all()


def test_shuffle_is_uniform():
    """Where each of 10 rows is, over 5,000 orders: 81 degrees of freedom, 99.99 % below 136."""
    counts = np.zeros((10, 10))
    for seed in range(5000):
        counts[np.arange(10), Shuffle(10, seed)[np.arange(10)]] += 1
    assert ((counts - 500) ** 2 / 500).sum() < 136


def test_batches_have_each_row_once_in_another_order(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(50, dtype=np.float32)[:, None])
    source = batches(FileRows(tmp_path / "x.npy"), batch_size=8, device=CPU, seed=3)
    epochs = [[x[:, 0].tolist() for (x,) in source.epoch(number)] for number in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(row for batch in epochs[0] for row in batch) == list(range(50))
    assert (source.rows, source.batch_size, len(epochs[0])) == (50, 8, 7)
    assert [x[:, 0].tolist() for (x,) in source.epoch(0, 3)] == epochs[0][3:]
    assert source.row_numbers(0, 2).tolist() == epochs[0][2]
    several = batches(
        FileRows(tmp_path / "x.npy"), batch_size=8, device=CPU, seed=3, steps_per_epoch=9
    )
    passes = [x[:, 0].tolist() for (x,) in several.epoch(0)]
    assert passes[:7] == epochs[0]
    assert passes[7:] != epochs[0][:2]
    assert several.row_numbers(0, 8).tolist() == passes[8]
    assert [x[:, 0].tolist() for (x,) in several.epoch(0, 8)] == passes[8:]


@pytest.mark.parametrize("mapped", [False, True])
def test_fit_resumes_in_mid_epoch(mapped, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", kinds.toy_data().numpy())

    def data():
        path = tmp_path / "x.npy"
        return np.load(path, mmap_mode="r") if mapped else FileRows(path)

    def fit(out, **options):
        options = {"epochs": 3, "batch_size": 20, "progress": False, "save_steps": 3, **options}
        return pvae.fit(*kinds.make("functions", 0), data(), out=tmp_path / out, **options)

    whole = fit("whole")

    from pvae.training.loop import Loop

    save = Loop._save_within

    def stopping(self):
        save(self)
        if self.state.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save_within", stopping)
        assert fit("run").stop_reason == "interrupted"
    resumed = fit("run", resume=True)
    losses = [[row["train_loss"] for row in run.history] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert all(0 <= row["loading"] <= 1 for row in whole.history)
    np.save(tmp_path / "x.npy", kinds.toy_data().numpy() + 1)
    with pytest.raises(ValueError, match="sha256"):
        fit("run", resume=True, epochs=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_loader_of_ones_own(workers, tmp_path):
    np.save(tmp_path / "x.npy", kinds.toy_data().numpy())
    rows = FileRows(tmp_path / "x.npy")
    loader = torch.utils.data.DataLoader(rows, batch_size=32, num_workers=workers)
    torch.testing.assert_close(torch.cat(list(loader)), kinds.toy_data())


def test_files_that_are_no_rows(tmp_path):
    np.save(tmp_path / "order.npy", np.asfortranarray(np.zeros((4, 3))))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "one.npy", np.array(1.0))
    np.savez(tmp_path / "several.npz", x=np.zeros(3))
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for name, said in {
        "order.npy": "Fortran order", "text.npy": "no array of numbers", "one.npy": "no array",
        "several.npz": "no array of numbers with rows", "damaged.npy": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(DamagedFileError, match=said):
            FileRows(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        FileRows(tmp_path / "none.npy")
    np.save(tmp_path / "short.npy", np.zeros((4, 3)))
    rows = FileRows(tmp_path / "short.npy")
    with (tmp_path / "short.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(DamagedFileError, match=r"short\.npy is shorter than it was"):
        rows[[0, 3]]


LIMITED = """
import resource, sys
import numpy as np
import pyro, torch
import pyro.distributions as dist
import pvae

def model(x):
    loc = pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).expand(x.shape).to_event(1), obs=x)

options = {"epochs": 1, "batch_size": 100, "progress": False, "engine": "eager", "device": "cpu"}
pvae.fit(model, lambda x: None, torch.zeros(200, 4096), **options)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
allowed = int(status["VmData"].split()[0]) * 1024 + 100 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
path, how = sys.argv[1:]
data = {"on disk": pvae.data.FileRows, "in memory": np.load}[how](path)
fit = pvae.fit(model, lambda x: None, data, **options)
print(fit.history[-1]["step"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit on memory")
def test_a_file_four_times_as_large_as_the_memory(tmp_path):
    """400 MiB of zeros, with 100 MiB to use; in memory they do not fit."""
    rows = 25_600
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 4096)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * 4096 * 4)
    (tmp_path / "limited.py").write_text(LIMITED)

    def run(how):
        command = [sys.executable, tmp_path / "limited.py", tmp_path / "x.npy", how]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("on disk")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["256"]
    assert run("in memory").returncode != 0
