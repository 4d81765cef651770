"""Zuko is imported without its side effect on torch's distributions."""

import subprocess
import sys

import pytest
import torch

from pvae.nn.flows import zuko


def test_import_keeps_validation_on():
    code = (
        "from torch.distributions import Distribution as D, Bernoulli; import torch, pvae\n"
        "pvae.guides.Flow(x_shape=(4,), z_dim=3), pvae.priors.Flow(3)\n"
        "assert D._validate_args\n"
        "try: Bernoulli(torch.tensor(0.5)).log_prob(torch.tensor(0.3))\n"
        "except ValueError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_flows_with_validation():
    assert torch.distributions.Distribution._validate_args
    for family in (zuko.flows.MAF, zuko.flows.NSF):
        flow = family(3, context=2, transforms=1, hidden_features=(8,))(torch.zeros(5, 2))
        z, log_prob = flow.rsample_and_log_prob()
        assert log_prob.shape == (5,)
        torch.testing.assert_close(flow.log_prob(z), log_prob, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="support"):
        torch.distributions.Bernoulli(torch.tensor(0.5)).log_prob(torch.tensor(0.3))
