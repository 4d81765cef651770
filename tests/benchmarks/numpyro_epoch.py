"""NumPyro's time for an epoch in one `lax.scan`, binarized on the device, as JSON on stdout.

python numpyro_epoch.py ROWS BATCH Z_DIM HIDDEN EPOCHS PRECISION
"""

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
        {"w": jax.random.uniform(k, (a, b), minval=-bound, maxval=bound), "b": jnp.zeros(b)}
        for k, bound, a, b in zip(keys, bounds, sizes[:-1], sizes[1:], strict=True)
    ]


def mlp(parameters, x):
    hidden = jax.nn.silu(x @ parameters[0]["w"] + parameters[0]["b"])
    return hidden @ parameters[1]["w"] + parameters[1]["b"]


def main(rows, batch, z_dim, hidden, epochs, precision):
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", precision)
    key = jax.random.PRNGKey(0)
    grey = jax.random.randint(key, (rows, X), 0, 256).astype(jnp.uint8)
    up, down = layers(key, X, hidden, 2 * z_dim), layers(key, z_dim, hidden, X)

    def model(x):
        decoder = numpyro.param("decoder", down)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(z_dim), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=mlp(decoder, z)).to_event(1), obs=x)

    def guide(x):
        encoder = numpyro.param("encoder", up)
        loc, raw = jnp.split(mlp(encoder, x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw + 0.5413) + 1e-5).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    steps = rows // batch

    @jax.jit
    def epoch(state, key):
        order_key, draw_key = jax.random.split(key)
        order = jax.random.permutation(order_key, rows)[: steps * batch].reshape(steps, batch)

        def step(state, given):
            index, own = given
            x = jax.random.bernoulli(own, grey[index].astype(jnp.float32) / 255)
            return svi.update(state, x.astype(jnp.float32))

        return jax.lax.scan(step, state, (order, jax.random.split(draw_key, steps)))

    state = svi.init(key, jnp.zeros((batch, X)))
    times = []
    for number in range(epochs + 2):
        began = time.perf_counter()
        state, losses = epoch(state, jax.random.PRNGKey(number))
        losses.block_until_ready()
        times.append((time.perf_counter() - began) * 1e3)
    low, middle, high = statistics.quantiles(times[2:], n=4)
    found = {"median": middle, "lower quartile": low, "upper quartile": high}
    print(json.dumps({**found, "last loss": float(losses[-1]) / batch, "first": times[0]}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:6]), sys.argv[6])
