"""NumPyro's time for the same step: one jitted step per call, and a loop within one jit."""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO

X = 784


def layers(key, *sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    bounds = [size**-0.5 for size in sizes[:-1]]
    return [
        {
            "w": jax.random.uniform(k, (a, b), minval=-bound, maxval=bound),
            "b": jnp.zeros(b),
        }
        for k, bound, a, b in zip(keys, bounds, sizes[:-1], sizes[1:], strict=True)
    ]


def mlp(parameters, x):
    hidden = jax.nn.silu(x @ parameters[0]["w"] + parameters[0]["b"])
    return hidden @ parameters[1]["w"] + parameters[1]["b"]


def main(batch: int, z_dim: int, hidden: int, rounds: int) -> None:
    key = jax.random.PRNGKey(0)
    x = jax.random.bernoulli(key, 0.5, (batch, X)).astype(jnp.float32)
    up, down = layers(key, X, hidden, 2 * z_dim), layers(key, z_dim, hidden, X)

    def model(x):
        decoder = numpyro.param("decoder", down)
        with numpyro.plate("data", batch):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(z_dim), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=mlp(decoder, z)).to_event(1), obs=x)

    def guide(x):
        encoder = numpyro.param("encoder", up)
        loc, raw = jnp.split(mlp(encoder, x), 2, -1)
        with numpyro.plate("data", batch):
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw + 0.5413) + 1e-5).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(key, x)
    one = jax.jit(svi.update)
    many = 10

    @jax.jit
    def loop(state, x):
        return jax.lax.fori_loop(0, many, lambda _, s: svi.update(s, x)[0], state)

    times: dict[str, list[float]] = {"NumPyro, a step at a time": [], "NumPyro, a loop": []}
    for round_ in range(-3, rounds):
        began = time.perf_counter()
        for _ in range(many):
            state, loss = one(state, x)
        jax.block_until_ready(loss)
        middle = time.perf_counter()
        state = jax.block_until_ready(loop(state, x))
        ended = time.perf_counter()
        if round_ >= 0:
            times["NumPyro, a step at a time"].append((middle - began) / many * 1e3)
            times["NumPyro, a loop"].append((ended - middle) / many * 1e3)
    spreads = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        spreads[name] = {"median": middle, "lower quartile": low, "upper quartile": high}
    print(json.dumps(spreads))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
