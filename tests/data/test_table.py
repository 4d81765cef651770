"""`Rows`: arguments for programs, binarization, and errors."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import pvae
from pvae import data
from pvae.data import Rows, rows


def grey(n: int = 64, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 6), generator=generator).to(torch.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("stored", "levels", "expected", "dtype"),
    [
        (torch.tensor([[0, 255]], dtype=torch.uint8), 256, [[0.0, 1.0]], torch.float32),
        (torch.tensor([[0, 1]], dtype=torch.uint8), 2, [[0.0, 1.0]], torch.float32),
        (torch.tensor([[False, True]]), 2, [[0.0, 1.0]], torch.float32),
        (torch.tensor([[0.5, -3.0]]), None, [[0.5, -3.0]], torch.float32),
        (torch.tensor([[0.5, 3.0]]).double(), None, [[0.5, 3.0]], torch.float64),
        (torch.tensor([[4, 300]]), None, [[4, 300]], torch.int64),
    ],
)
def test_arguments_of_programs(
    stored: Tensor, levels: int | None, expected: list[list[float]], dtype: torch.dtype
) -> None:
    data_rows = Rows(stored)
    (x,) = data_rows.first(1)
    assert data_rows.levels == levels
    assert x.dtype == dtype
    assert x.tolist() == expected


def test_explicit_levels() -> None:
    x = torch.tensor([[0, 8, 16]], dtype=torch.uint8)
    assert Rows(x, levels=17).first(1)[0].tolist() == [[0.0, 0.5, 1.0]]
    with pytest.raises(ValueError, match="levels=16 does not fit x, whose largest value is 16"):
        Rows(x, levels=16)
    with pytest.raises(ValueError, match="levels=17 is for x of uint8"):
        Rows(x.float(), levels=17)


def test_batches_ordered_and_shuffled() -> None:
    x = torch.arange(10.0).reshape(10, 1)
    data_rows = Rows(x, torch.arange(10))
    assert [b.flatten().tolist() for b, _ in data_rows.batches(4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    batches = list(data_rows.batches(4, generator=seeded(1)))
    seen = torch.cat([b for b, _ in batches]).flatten()
    assert [len(b) for b, _ in batches] == [4, 4, 2]
    assert seen.tolist() != x.flatten().tolist()
    assert sorted(seen.tolist()) == x.flatten().tolist()
    assert all(torch.equal(b.flatten().long(), i) for b, i in batches), (
        "arguments must stay aligned"
    )
    again = torch.cat([b for b, _ in data_rows.batches(4, generator=seeded(1))]).flatten()
    assert torch.equal(seen, again)


def test_dynamic_draws_are_bernoulli() -> None:
    x = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).repeat(20_000, 1)
    data_rows = Rows(x, binarize="dynamic")
    generator = seeded(0)
    (first,), (second,) = (next(data_rows.batches(20_000, generator=generator)) for _ in range(2))
    assert set(first.flatten().tolist()) == {0.0, 1.0}
    assert first.dtype == torch.float32
    # Four standard errors of a frequency in 20,000 draws with probability 0.2 or 0.8.
    assert torch.allclose(first.mean(0), torch.tensor([0, 0.2, 0.8, 1.0]), atol=4 * 0.4 / 141.4)
    assert not torch.equal(first, second)
    assert data_rows.levels == 2


def test_dynamic_without_generator_is_static() -> None:
    x = grey(50)
    fixed = Rows(x, binarize="static", seed=5).first(50)[0]
    dynamic = Rows(x, binarize="dynamic", seed=5)
    for batch_size in (50, 7):
        assert torch.equal(torch.cat([b for (b,) in dynamic.batches(batch_size)]), fixed)
    assert torch.equal(dynamic.arguments(torch.tensor([3, 1]))[0], fixed[[3, 1]])
    assert not torch.equal(Rows(x, binarize="static", seed=6).first(50)[0], fixed)


def test_static_and_threshold_stored_as_uint8() -> None:
    x = torch.tensor([[0, 127, 128, 255]], dtype=torch.uint8)
    threshold = Rows(x, binarize="threshold")
    assert threshold.first(1)[0].tolist() == [[0, 0, 1, 1]]
    assert threshold.levels == Rows(x, binarize="static").levels == 2
    assert Rows(torch.tensor([[0.2, 0.5, 0.6]]), binarize="threshold").first(1)[0].tolist() == [
        [0, 0, 1]
    ]
    digits = torch.tensor([[7, 8, 9]], dtype=torch.uint8)
    assert Rows(digits, levels=17, binarize="threshold").first(1)[0].tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_binarize_of_other_values_raises(binarize: str) -> None:
    with pytest.raises(ValueError, match="binarize is not needed"):
        Rows(torch.tensor([[0.0, 1.0]]), binarize=binarize)
    with pytest.raises(ValueError, match=r"x goes from -0\.5 to 2"):
        Rows(torch.tensor([[-0.5, 2.0]]), binarize=binarize)
    with pytest.raises(ValueError, match=r"x is torch\.int64"):
        Rows(torch.tensor([[0, 7]]), binarize=binarize)


def test_unknown_binarization_raises() -> None:
    with pytest.raises(ValueError, match="unknown binarize 'dynamc': give one of none, dynamic"):
        Rows(grey(), binarize="dynamc")


def test_labels_only_on_request() -> None:
    labelled = Rows(grey(3), labels=torch.tensor([2, 1, 0], dtype=torch.uint8))
    assert labelled.labels is not None
    assert len(labelled.first(3)) == 1
    assert labelled.with_labels().first(2)[1].tolist() == [2, 1]
    assert labelled.with_labels().first(2)[1].dtype == torch.int64
    last = Rows(grey(3), torch.ones(3), labels=torch.arange(3)).with_labels().first(3)[-1]
    assert last.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no labels"):
        Rows(grey(3)).with_labels()
    with pytest.raises(ValueError, match=r"labels have shape \(2,\) and x has 3 rows"):
        Rows(grey(3), labels=torch.tensor([1, 2]))
    with pytest.raises(TypeError, match=r"labels are torch\.float32"):
        Rows(grey(3), labels=torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_raise_with_rows(bad: float) -> None:
    x = torch.zeros(20, 2, 2)
    x[[3, 17], 1, 0] = bad
    with pytest.raises(ValueError, match=r"x has NaN or infinity in 2 of its 20 rows.* 3, 17;"):
        rows(x)
    x[5:12] = bad
    with pytest.raises(ValueError, match="3, 5, 6, 7, 8 and 4 more"):
        rows(x)
    with pytest.raises(ValueError, match="argument 1 has NaN"):
        rows((torch.zeros(20), x))


def test_lengths_and_emptiness() -> None:
    with pytest.raises(ValueError, match="argument 1 has 4 rows and x has 5"):
        rows((torch.zeros(5, 2), torch.zeros(4)))
    for shape in ((0, 3), (3, 0), ()):
        with pytest.raises(ValueError, match="x is empty"):
            rows(torch.zeros(shape))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(Rows(grey()).batches(0))


def test_to_and_first() -> None:
    data_rows = Rows(grey(5), torch.arange(5), labels=torch.arange(5), binarize="dynamic")
    moved = data_rows.to("meta")
    assert moved.device.type == "meta"
    assert moved.labels is not None
    assert moved.labels.device.type == "meta"
    assert data_rows.device.type == "cpu"
    assert len(data_rows.first(9)[0]) == 5
    assert repr(data_rows) == "Rows(5 of (6,), levels=2, binarize='dynamic')"


def test_rows_from_user_data() -> None:
    x, y = torch.rand(5, 3), torch.arange(5)
    for given in ((x, y), [x, y], TensorDataset(x, y), (x.numpy(), y)):
        taken = rows(given)
        assert all(torch.equal(a, b) for a, b in zip(taken.first(5), (x, y), strict=True))
    assert rows(taken) is taken
    assert torch.equal(rows(x).first(5)[0], x)
    frozen = np.arange(6.0).reshape(3, 2)[::-1]
    frozen.flags.writeable = False
    assert rows(frozen).first(1)[0].tolist() == [[4.0, 5.0]]
    assert rows(np.array([[1, 2]], np.uint16)).first(1)[0].dtype == torch.int64
    assert rows(np.array([[1, 2]], ">f4")).first(1)[0].tolist() == [[1.0, 2.0]]


def test_invalid_data_raise() -> None:
    with pytest.raises(TypeError, match=r"give one split: data\.train, \.valid or \.test"):
        rows(data.load("digits"))
    with pytest.raises(TypeError, match="data is of type str"):
        rows("mnist")
    with pytest.raises(TypeError, match="data is an empty list"):
        rows([])
    with pytest.raises(TypeError, match="item 1 of data is of type int"):
        rows((torch.zeros(3), 4))
    with pytest.raises(TypeError, match="an array of object cannot be data"):
        rows(np.array([{}, {}]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_gpu_matches_cpu() -> None:
    x = grey(50)
    for binarize in ("none", "static", "dynamic"):
        on_cpu = Rows(x, binarize=binarize)
        on_gpu = Rows(x.cuda(), binarize=binarize)
        for a, b in zip(on_cpu.batches(7), on_gpu.batches(7), strict=True):
            torch.testing.assert_close(b[0].cpu(), a[0], rtol=1e-6, atol=0.0)  # divided by 255
    generator = torch.Generator("cuda").manual_seed(0)
    seen = torch.cat([b for (b,) in Rows(x.cuda()).batches(7, generator=generator)])
    wanted = torch.tensor(sorted(Rows(x).first(50)[0].tolist()))
    torch.testing.assert_close(torch.tensor(sorted(seen.cpu().tolist())), wanted)


SELECTIONS = (slice(2, 7), slice(None, None, 3), torch.tensor([5, 0, 5]), torch.arange(9) % 2 == 0)


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic", "threshold"])
@pytest.mark.parametrize("index", SELECTIONS)
def test_selected_rows(binarize, index):
    x = torch.randint(0, 256, (9, 4), dtype=torch.uint8)
    more, labels = torch.randn(9, 2), torch.arange(9)
    table = Rows(x, more, labels=labels, binarize=binarize, seed=3)
    part = table[index]
    for own, whole in zip(part.first(9), table.first(9), strict=True):
        assert torch.equal(own, whole[index])
    assert torch.equal(part.labels, labels[index])
    assert (part.levels, part.binarize, part.x_shape) == (table.levels, binarize, (4,))


def test_selection_shares_memory():
    x = torch.randn(9, 4)
    assert Rows(x)[2:5].first(1)[0].data_ptr() == x[2].data_ptr()


@pytest.mark.parametrize("index", [3, torch.tensor(3)])
def test_one_row_is_a_slice(index):
    with pytest.raises(TypeError, match=r"rows\[i : i \+ 1\]"):
        Rows(torch.zeros(9, 4))[index]


def test_empty_selection():
    with pytest.raises(ValueError, match="selects none of 9 rows"):
        Rows(torch.zeros(9, 4))[9:]


def test_selected_rows_in_every_function():
    digits = pvae.data.load("digits", binarize="dynamic")
    model = pvae.models.VAE(x_shape=(8, 8), z_dim=2, hidden=8)
    guide = pvae.guides.MeanField(x_shape=(8, 8), z_dim=2, hidden=8)
    fit = pvae.fit(model, guide, digits.train[:50], epochs=1, progress=False)
    assert len(pvae.elbo(fit.model, fit.guide, digits.test[:20]).per_datum) == 20


def test_static_binarization_is_unrelated_to_the_seed_of_the_data():
    """Data made after `torch.manual_seed(0)` are the uniform numbers that a bare seed repeats."""
    torch.manual_seed(0)
    x = torch.rand(500, 20)
    drawn = pvae.data.rows(Rows(x, binarize="static", seed=0)).first(500)[0]
    expected = (x * (1 - x)).sum().sqrt()
    assert abs(drawn.sum() - x.sum()) < 4 * expected
    correlation = torch.corrcoef(torch.stack([drawn.flatten(), (x > 0.5).float().flatten()]))[0, 1]
    assert correlation > 0.3  # of grey levels and draws, as it should be
    torch.manual_seed(0)
    noise = torch.randn(1000)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    seen = []

    def guide(x):
        with pyro.plate("data", len(x)):
            seen.append(pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0)))

    pvae.elbo(model, guide, noise, seed=0)
    assert abs(torch.corrcoef(torch.stack([seen[-1], noise]))[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.to_sparse(), r"are a sparse tensor: give ordinary ones, x.to_dense\(\)"),
        (lambda x: x.to("meta"), "which has no values"),
    ],
)
def test_tensors_that_are_not_ordinary_raise(make, message):
    with pytest.raises(TypeError, match=message):
        Rows(make(torch.ones(4, 3)))
