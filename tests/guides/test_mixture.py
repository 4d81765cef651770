"""The mixture guide: its density, and the gradient of its bound against an integral."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

import pvae
from pvae.guides import MeanField, Mixture

GRID = torch.linspace(-60, 60, 200_001)
X = torch.tensor([[1.0]])


def model(x):  # a posterior with two modes
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.abs(), 0.3).to_event(1), obs=x)


def log_density(guide):
    loc, raw, logits = guide.encoder(X).unflatten(-1, (2, -1))[0].unbind(-1)
    parts = dist.Normal(loc[:, None], pvae.nn.positive(raw)[:, None]).log_prob(GRID)
    return (parts + logits.log_softmax(0)[:, None]).logsumexp(0)


def test_density_in_eval_mode():
    guide = Mixture(x_shape=(1,), z_dim=1, hidden=()).eval()
    site = poutine.trace(guide).get_trace(X).nodes["z"]
    exact = log_density(guide)
    expected = torch.stack([site["fn"].log_prob(z.reshape(1, 1))[0] for z in GRID[100_000:100_005]])
    torch.testing.assert_close(expected, exact[100_000:100_005], rtol=1e-4, atol=1e-4)


def test_bound_and_gradient_are_exact():
    torch.manual_seed(1)
    guide = Mixture(x_shape=(1,), z_dim=1, hidden=())
    log_q = log_density(guide)
    log_p = dist.Normal(0.0, 1.0).log_prob(GRID) + dist.Normal(GRID.abs(), 0.3).log_prob(X[0])
    bound = (log_q.exp() * (log_p - log_q)).sum() * (GRID[1] - GRID[0])
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(bound, list(guide.parameters()))])
    rows, losses, gradients = 20_000, [], []
    for _ in range(20):
        guide.zero_grad()
        losses.append(
            -TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, X.expand(rows, 1))
        )
        gradients.append(-torch.cat([p.grad.flatten() for p in guide.parameters()]) / rows)
    for found, expected in ((torch.tensor(losses)[:, None] / rows, bound[None]),
                            (torch.stack(gradients), exact)):  # fmt: skip
        z = (found.mean(0) - expected) / (found.std(0) / 20**0.5)
        assert z.abs().max() < 5


def test_two_modes_are_found():
    torch.manual_seed(0)
    x = 1 + 0.2 * torch.randn(64, 1)
    bounds = {}
    for name, guide in (("mixture", Mixture(x_shape=(1,), z_dim=1, hidden=())),
                        ("one", MeanField(x_shape=(1,), z_dim=1, hidden=()))):  # fmt: skip
        fit = pvae.fit(model, guide, x, epochs=300, learning_rate=0.02, progress=False)
        bounds[name] = pvae.elbo(fit.model, fit.guide, x, 200).mean
        assert not fit.notes
    assert bounds["mixture"] > bounds["one"] + 0.2  # of at most log 2
