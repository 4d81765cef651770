"""NumPyro's training of a VAE: epochs in one `lax.scan` each, and the bound on validation data."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO
from numpyro_steps import layers, mlp

BATCH, Z_DIM, HIDDEN, X = 128, 20, 400, 784


def model(x):
    decoder = numpyro.param("decoder", lambda key: layers(key, Z_DIM, HIDDEN, X))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(Z_DIM), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=mlp(decoder, z)).to_event(1), obs=x)


def guide(x):
    encoder = numpyro.param("encoder", lambda key: layers(key, X, HIDDEN, 2 * Z_DIM))
    loc, raw = jnp.split(mlp(encoder, x), 2, -1)
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw + 0.5413) + 1e-5).to_event(1))


def main(images: str, epochs: int) -> None:
    grey = np.load(images)
    train, valid = (jnp.asarray(grey[name].reshape(-1, X)) for name in ("train", "valid"))
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    key = jax.random.PRNGKey(0)

    def binarized(key, x):
        return jax.random.bernoulli(key, x / 255.0).astype(jnp.float32)

    @jax.jit
    def epoch(state, key):
        order, noise = jax.random.split(key)
        steps = len(train) // BATCH
        rows = jax.random.permutation(order, len(train))[: steps * BATCH].reshape(steps, BATCH)

        def step(state, given):
            index, key = given
            return svi.update(state, binarized(key, train[index]))

        return jax.lax.scan(step, state, (rows, jax.random.split(noise, steps)))

    @jax.jit
    def validate(state, key):
        return svi.evaluate(state, binarized(key, valid)) / len(valid)

    state = svi.init(key, binarized(key, train[:BATCH]))
    for _ in range(epochs):
        key, first, second = jax.random.split(key, 3)
        state, _ = epoch(state, first)
        bound = float(validate(state, second))
    print(f"{-bound:.2f} nats per datum after {epochs} epochs")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
