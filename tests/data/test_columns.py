"""Tables, sequences and few labels: columns, codes, units, and what is refused."""

import numpy as np
import pytest
import torch

from pvae import data
from pvae.data.columns import columns_of

NAN = np.nan


def test_units_and_codes():
    x = np.array([[1.0, 0, 3, 1, 0], [3.0, NAN, 1, 2, 2], [NAN, np.e - 1, 2, 3, 1]])
    found = columns_of(x, ["real", "pos", "count", "cat", "ordinal"])
    assert found[0] == {"kind": "real", "loc": 2.0, "scale": 1.0}
    assert found[1]["loc"] == pytest.approx(0.5)
    assert found[2] == {"kind": "count", "loc": 0.0, "scale": 2.0}
    assert found[3] == {"kind": "cat", "classes": 3, "first": 1}
    assert found[4] == {"kind": "ordinal", "classes": 3, "first": 0}
    # With a known number of classes, the lowest need not occur.
    assert columns_of(np.array([[2.0], [3]]), ["cat"], [3])[0]["first"] == 1
    assert columns_of(np.array([[1.0], [2]]), ["cat"], [3])[0]["first"] == 0


@pytest.mark.parametrize(
    ("column", "kind", "classes", "match"),
    [
        ([1.0, -1], "pos", None, "column 0 is 'pos' and has the value -1"),
        ([1.5, 2], "count", None, "no whole numbers"),
        ([0.0, 3], "cat", [3], "codes from 0 to 3"),
        ([5.0, 6], "ordinal", None, "codes from 5 to 6"),
        ([NAN, NAN], "real", None, "has no value"),
        ([1.0, 2], "what", None, "kind 'what'"),
    ],
)
def test_columns_are_checked(column, kind, classes, match):
    with pytest.raises(ValueError, match=match):
        columns_of(np.array(column)[:, None], [kind], classes)


def test_a_table_in_a_file(tmp_path):
    x = np.array([[1.0, 1], [NAN, 2], [2, 1]])
    np.savez(tmp_path / "t.npz", data=x, kind=np.array(["real", "cat"]))
    with pytest.raises(ValueError, match="missing='nan'"):
        data.load(tmp_path / "t.npz")
    found = data.load(tmp_path / "t.npz", missing="nan")
    assert [column["kind"] for column in found.columns] == ["real", "cat"]
    assert found.levels is None
    assert found.train.missing.tolist() == [[False, False], [True, False], [False, False]]
    assert torch.isnan(found.train.first(3)[0]).equal(found.train.missing)
    np.savez(tmp_path / "t.npz", data=x, kind=np.array(["real"]))
    with pytest.raises(ValueError, match="kind names 1 columns"):
        data.load(tmp_path / "t.npz", missing="nan")


def test_lengths_in_a_file_are_arguments(tmp_path):
    x = np.zeros((4, 3, 2), np.float32)
    np.savez(tmp_path / "s.npz", train=x + 0.5, train_lengths=np.arange(1, 5) % 4)
    rows = data.load(tmp_path / "s.npz").train
    assert rows.first(2)[1].tolist() == [1, 2]


def test_missing_cells_of_grey_levels():
    x = torch.tensor([[0, 255], [51, 0]], dtype=torch.uint8)
    hidden = torch.tensor([[True, False], [False, False]])
    rows = data.Rows(x, missing=hidden)
    assert rows.levels == 256
    (seen,) = rows.first(2)
    assert torch.isnan(seen).equal(hidden)
    assert seen[1, 0] == pytest.approx(0.2)
    (drawn,) = data.Rows(x, missing=hidden, binarize="static").first(2)
    assert torch.isnan(drawn).equal(hidden)
    assert rows[1:].missing.tolist() == [[False, False]]


def test_few_labels():
    full = data.load("digits", labels=True)
    few = data.load("digits", labels=25, seed=3)
    y = few.train.first(2000)[1]
    known = y >= 0
    assert known.sum() == 25
    assert torch.equal(y[known], full.train.first(2000)[1][known])
    counts = torch.bincount(y[known], minlength=10)
    assert counts.max() - counts.min() <= 1
    assert (few.test.first(200)[1] == -1).all()
    assert torch.equal(data.load("digits", labels=25, seed=3).train.first(2000)[1], y)
    assert not torch.equal(data.load("digits", labels=25, seed=4).train.first(2000)[1], y)
    assert (few.train.without_labels().first(2000)[1] == -1).all()
    with pytest.raises(ValueError, match="give fewer"):
        data.load("digits", labels=2000)
