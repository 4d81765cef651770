"""Mistakes in distributions, and programs that raise errors."""

import pyro
import pyro.distributions as dist
import torch
from pairs.invalid import ROWS, Pair, Z, bits, data, normal, wrong
from pyro.infer import TraceMeanField_ELBO

# Distributions


@wrong("error", "outside the prior's support.*Normal in the guide, Gamma in the model")
def normal_for_a_positive_latent():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2 * torch.ones(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))  # here

    return model, guide, data()


@wrong("error", "'z' is discrete in the guide only")
def bernoulli_for_a_normal_latent():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            logits = pair.encoder(x)[:, :Z]
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))  # here

    return pair.model, guide, data()


def discrete_pair():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(Z)).to_event(1))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            logits = pair.encoder(x)[:, :Z]
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))  # discrete

    return model, guide, data()


@wrong("error", "TraceMeanField_ELBO has no gradient of the draw")
def discrete_latent_under_mean_field():
    given = {"objective": TraceMeanField_ELBO(), "line": (discrete_pair, "# discrete")}
    return *discrete_pair(), given


@wrong("warning", "estimates its gradient by the score function, which is unbiased but noisy")
def discrete_latent_under_trace_elbo():
    return *discrete_pair(), {"line": (discrete_pair, "# discrete")}


@wrong("error", "values outside the support of Bernoulli, such as.*binarize them")
def grey_levels_under_a_bernoulli():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Bernoulli(logits=pair.decoder(z)).to_event(1), obs=x)  # here

    return model, pair.guide, data().sigmoid()


@wrong("error", "values outside the support of Normal")
def data_with_a_hole():
    pair, x = Pair(), data()
    x[3, 2] = float("nan")
    return pair.model, lambda x: pair.guide(x.nan_to_num()), x, {"line": (Pair, "obs=x)")}


@wrong("error", "make scale positive with torch.nn.functional.softplus")
def scale_without_softplus():
    pair = Pair()

    def guide(x):
        loc, scale = pair.encoder(10 * x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))  # here

    return pair.model, guide, data()


@wrong("warning", "the logits of the Bernoulli at 'x' all lie between.*applied twice")
def sigmoid_applied_twice():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            probs = pair.decoder(z).sigmoid()
            pyro.sample("x", dist.Bernoulli(logits=probs).to_event(1), obs=x)  # here

    return model, pair.guide, bits()


@wrong("warning", "the Bernoulli at 'x' is saturated before training")
def outputs_saturated():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            logits = 200 * pair.decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)  # here

    return model, pair.guide, bits()


@wrong("warning", "puts .* of the data more than 100 scales from its mean")
def grey_levels_up_to_255():
    pair = Pair()
    return pair.model, pair.guide, data() * 255, {"line": (Pair, "obs=x)")}


# Programs that raise errors


@wrong("error", r"called with the 2 argument\(s\) of a batch: give them the same signature")
def guide_without_the_labels():
    pair = Pair()

    def model(x, y):
        pair.model(x)

    return model, pair.guide, (data(), data(ROWS)), {"line": None}


@wrong("error", r"flatten the data, as in x.flatten\(1\)")
def images_not_flattened():
    pair = Pair()
    line = (Pair, "loc, raw = self.encoder(x).chunk(2, -1)")
    return pair.model, pair.guide, data(ROWS, 2, 3), {"line": line}


@wrong("error", r"different types: convert the data with x.float\(\)")
def data_in_double_precision():
    pair = Pair()
    return pair.model, pair.guide, data().double(), {"line": (Pair, "loc, raw = self.encoder(x)")}
