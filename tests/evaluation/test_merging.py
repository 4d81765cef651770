"""An estimate that was computed in parts is that of all rows."""

import dataclasses

import pytest
import torch
from pairs import callables as kinds

import pvae
from pvae.evaluation.merging import merged

X = kinds.toy_data()


@pytest.mark.parametrize("quantity", ["elbo", "log_likelihood"])
def test_parts_add_up(quantity):
    """Of unequal sizes, in another order; each field against the part that has the row."""
    model, guide = kinds.make("functions", 0)
    rows = [torch.arange(96)[0::3], torch.arange(96)[1::3], torch.arange(96)[2::3][:-5]]
    parts = [getattr(pvae, quantity)(model, guide, X[n], 20, seed=k) for k, n in enumerate(rows)]
    found = merged(parts, rows)
    assert len(found.per_datum) == 91
    kept = torch.cat(rows).sort().values.tolist()
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, torch.Tensor):
            for part, numbers in zip(parts, rows, strict=True):
                at = [kept.index(n) for n in numbers.tolist()]
                expected = getattr(part, field.name)
                torch.testing.assert_close(value[at], expected, rtol=0, atol=0, equal_nan=True)
    assert found.mean == pytest.approx(found.per_datum.mean().item(), rel=1e-5)
    assert found.std_error == pytest.approx(found.per_datum.std().item() / 91**0.5, rel=1e-5)
    errors = torch.tensor([part.mc_error * len(n) for part, n in zip(parts, rows, strict=True)])
    assert found.mc_error == pytest.approx(errors.square().sum().sqrt().item() / 91, rel=1e-5)
    if quantity == "elbo":
        assert sum(found.sites.values()) == pytest.approx(found.mean, rel=1e-5)
