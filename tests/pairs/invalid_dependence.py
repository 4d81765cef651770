"""Programs that depend on what they should not, or do not depend on what they should."""

import pyro
import pyro.distributions as dist
import torch
from pairs.invalid import ROWS, Pair, X, Z, bits, data, normal, wrong
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn.functional import softplus


def decoded(loc_of, scale_of=lambda: 1.0):
    """A pair whose model observes x around `loc_of(pair, z, x)`."""
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            loc = loc_of(pair, z, x)
            pyro.sample("x", dist.Normal(loc, scale_of()).to_event(1), obs=x)  # here

    return model, pair.guide, data(), {"line": (decoded,)}


@wrong("error", r"terms of a datum at 'x' in the model depend on other rows")
def latents_centred_by_the_batch():
    return decoded(lambda pair, z, x: pair.decoder(z - z.mean(0)))


@wrong("error", r"terms of a datum at 'x' in the model depend on other rows")
def attention_over_latents():
    return decoded(lambda pair, z, x: pair.decoder((z @ z.T).softmax(-1) @ z))


@wrong("warning", r"through \S+ \(BatchNorm1d\) in train mode")
def batch_norm_over_latents():
    pair = Pair()
    pair.decoder = nn.Sequential(nn.Linear(Z, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, X))
    return pair.model, pair.guide, data(), {"line": (Pair, "obs=x)")}


@wrong("warning", "no observed site depends on a latent one.*let the decoder read them")
def decoder_that_reads_the_data():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(Z))
            loc = pair.decoder(x[:, :Z])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)  # here

    return model, pair.guide, data()


@wrong("warning", "observes a value that depends on parameters")
def model_that_observes_its_own_output():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            loc = pair.decoder(z)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=loc + 0.1 * x)  # here

    return model, pair.guide, data()


@wrong("warning", "the scale of the Normal at 'x' is the parameter 'scale'.*constraints.positive")
def scale_without_a_constraint():
    return decoded(lambda pair, z, x: pair.decoder(z), lambda: pyro.param("scale", torch.ones(X)))


@wrong("warning", "the scale of the distribution at 'z' in the guide follows the parameters, but")
def half_of_the_output_detached():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        loc, raw = pair.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw).detach() + 0.1).to_event(1))  # here

    return pair.model, guide, data()


@wrong("error", "a lazy layer, such as nn.LazyLinear, has no parameters until it is called")
def lazy_layer_that_is_never_called():
    pair = Pair()
    pair.decoder.add_module("spare", nn.LazyLinear(3))
    pair.decoder.forward = lambda z: pair.decoder[2](pair.decoder[1](pair.decoder[0](z)))
    return pair.model, pair.guide, data(), {"line": (Pair, 'pyro.module("decoder"')}


@wrong("error", "site 'k' is annotated for enumeration, and Trace_ELBO does not enumerate.*prior")
def enumerated_site_under_an_objective_that_draws():
    def model(x):
        shift = pyro.param("shift", torch.zeros(2))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})  # here
            loc = shift[k.long()].unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), X]).to_event(1), obs=x)

    return model, lambda x: None, data(), {"objective": Trace_ELBO()}


@wrong("error", "the guide's plate of that name replaces them")
def rows_that_the_guide_replaces():
    pair = Pair()
    everything = data(100, X)

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", 100, subsample=torch.arange(len(x))) as rows:
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=everything[rows])

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", 100, subsample_size=len(x)):
            pyro.sample("z", pair.posterior(x))

    return model, guide, everything[:ROWS], {"line": None}


@wrong("warning", "the output of a softmax, which is applied twice")
def softmax_applied_twice():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            probs = pair.decoder(z).softmax(-1).unflatten(-1, (2, 3))
            pyro.sample("x", dist.Bernoulli(logits=probs).to_event(2), obs=x)  # here

    return model, lambda x: pair.guide(x.flatten(1)), bits().unflatten(-1, (2, 3))
