"""Mistakes that people make in model/guide pairs, each with the line that a check has to name.

A function here returns a model, a guide and their batch, and the objective where it matters; the
line to be named is marked with `# here`.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

WRONG = []
ROWS, X, Z = 12, 6, 2


def wrong(severity, message):
    """Register a pair with what is to be found in it."""

    def register(make):
        WRONG.append((make, severity, message))
        return make

    return register


def data(*shape, seed=0):
    return torch.randn(shape or (ROWS, X), generator=torch.Generator().manual_seed(seed))


def bits():
    return (data() > 0).float()


def normal(size, *, rows=None):
    """A standard normal prior of so many dimensions."""
    shape = (size,) if rows is None else (rows, size)
    return dist.Normal(torch.zeros(shape), 1.0).to_event(1)


class Pair(nn.Module):
    """A correct pair, which the wrong ones change in one place."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(X, 8), nn.Tanh(), nn.Linear(8, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z, 8), nn.Tanh(), nn.Linear(8, X))

    def posterior(self, x):
        loc, raw = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, softplus(raw) + 1e-3).to_event(1)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


# Sites


@wrong("error", r"guide has no site 'w'; the model samples \['w', 'z'\], the guide \['z'\]")
def latent_that_the_guide_lacks():
    pair = Pair()

    def model(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))  # here
        pair.model(x)

    return model, pair.guide, data()


@wrong("error", "guide samples 'y', but the model has no such site")
def guide_site_that_the_model_lacks():
    pair = Pair()

    def guide(x):
        pair.guide(x)
        pyro.sample("y", dist.Normal(0.0, 1.0))  # here

    return pair.model, guide, data()


@wrong("error", r"guide has no site 'x'.*observe it in the model \(obs=x\)")
def obs_forgotten():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1))  # here

    return model, pair.guide, data()


@wrong("error", "guide samples 'x', but the model observes it")
def data_drawn_by_the_guide():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))
            pyro.sample("x", normal(X))  # here

    return pair.model, guide, data()


@wrong("error", "the guide observes 'x'.*take obs= out")
def data_observed_by_the_guide():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))
            pyro.sample("x", normal(X), obs=x)  # here

    return pair.model, guide, data()


@wrong("error", "'z' is the name of two statements, or of one in a loop: give each draw a name")
def one_name_in_a_loop():
    def model(x):
        with pyro.plate("data", len(x)):
            for _ in range(2):
                z = pyro.sample("z", normal(X))  # here
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model, lambda x: None, data()


@wrong("warning", r"sites \['bonus'\] of the model are there in some runs and not in others")
def site_at_random():
    pair = Pair()

    def model(x):
        pair.model(x)
        if torch.rand(()) < 0.5:
            pyro.sample("bonus", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))  # here

    return model, pair.guide, data()


# Dimensions


@wrong(
    "error", r"site x has 6 elements|at 'x' has 6 elements in the batch dimension.*to_event\(1\)"
)
def to_event_missing_at_the_data():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0), obs=x)  # here

    return model, pair.guide, data()


@wrong("error", r"at 'z' has 2 elements in the batch dimension.*to_event\(1\)")
def to_event_missing_at_the_latent():
    pair = Pair()

    def guide(x):
        loc = pair.encoder(x)[:, :Z]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))  # here

    return pair.model, guide, data()


@wrong("error", r"runs on 12 rows, but not on 11.*by chance.*to_event\(1\)")
def to_event_missing_and_unseen():
    """As many rows as dimensions: everything fits, and means something else."""
    loc = nn.Linear(ROWS, ROWS)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(ROWS), 1.0))
            pyro.sample("x", dist.Normal(z, torch.ones(ROWS)), obs=x[:, 0])

    def guide(x):
        pyro.module("loc", loc)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc(x).mean(0), 1.0))  # here

    return model, guide, data(ROWS, ROWS)


@wrong("error", r"shape \(12, 6\), but the statement is in no plate.*to_event\(1\)")
def plate_forgotten():
    def model(x):
        loc = pyro.param("loc", torch.zeros(X))
        pyro.sample("x", dist.Normal(loc, torch.ones(len(x), X)), obs=x)  # here

    return model, lambda x: None, data()


@wrong("warning", "no plate of size len")
def batch_in_the_event():
    def model(x):
        loc = pyro.param("loc", torch.zeros(X))
        pyro.sample("x", dist.Normal(loc, torch.ones(len(x), X)).to_event(2), obs=x)  # here

    return model, lambda x: None, data()


@wrong("error", r"shape \(12, 12\).*every datum meets every other")
def column_against_row():
    def model(x, y):
        slope = pyro.param("slope", torch.zeros(X, 1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)  # here

    return model, lambda x, y: None, (data(), data(ROWS))


@wrong("error", r"observes data of shape \(12, 1\), but its distribution Normal has shape \(12,\)")
def row_against_column():
    def model(x, y):
        slope = pyro.param("slope", torch.zeros(X))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)  # here

    return model, lambda x, y: None, (data(), data(ROWS, 1))


@wrong("error", r"observes data of shape \(12, 2, 3\), but its distribution Normal has shape")
def image_against_vector():
    pair = Pair()
    return pair.model, lambda x: pair.guide(x.flatten(1)), data(ROWS, 2, 3), {"line": "obs=x)"}


@wrong("error", r"the guide gives 'z' values of shape \(12, 3\).*prior has shape \(12, 2\)")
def latent_of_another_size():
    pair = Pair()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pair.encoder(x)[:, :3], 1.0).to_event(1))  # here

    return model, guide, data()


# Plates and scales


@wrong("error", r"runs on 12 rows, but not on 11.*len\(x\)")
def plate_sized_by_hand():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", ROWS):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", ROWS):
            pyro.sample("z", pair.posterior(x))  # here

    return model, guide, data()


@wrong("error", r"plate 'data' has 600 elements, the batch has 12 rows.*subsample_size=len\(x\)")
def plate_of_the_whole_data_set():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", 600):
            pyro.sample("z", pair.posterior(x))  # here

    return pair.model, guide, data()


@wrong("error", r"sites \['z', 'x'\] are scaled by 50 twice")
def scaled_by_plate_and_by_hand():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with poutine.scale(scale=50.0), pyro.plate("data", 600, subsample_size=len(x)):
            z = pyro.sample("z", normal(Z))  # here
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with poutine.scale(scale=50.0), pyro.plate("data", 600, subsample_size=len(x)):
            pyro.sample("z", pair.posterior(x))

    return model, guide, data()


@wrong("error", "'z' is scaled by 0.1 in the model and by 1 in the guide")
def prior_scaled_alone():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.1):
                z = pyro.sample("z", normal(Z))  # here
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    return model, pair.guide, data()


@wrong("error", "'z' is scaled by 50 in the model and by 1 in the guide")
def plate_sized_to_the_data_in_the_model_alone():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", 600, subsample_size=len(x)):
            z = pyro.sample("z", normal(Z))  # here
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    return model, pair.guide, data()


@wrong("warning", "the same distribution of 'w' for every datum.*outside the plate")
def weight_inside_the_data_plate():
    def model(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", normal(X))
            pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(X))
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(loc, 1.0).to_event(1))  # here

    return model, guide, data()


# Rows that meet


@wrong("error", r"terms of a datum at 'z' in the guide change when another datum")
def centred_by_the_batch():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x - x.mean(0)))  # here

    return pair.model, guide, data()


@wrong("error", r"terms of a datum at 'z' in the guide change when another datum")
def softmax_over_the_batch():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        attention = (x @ x.T).softmax(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(attention @ x))  # here

    return pair.model, guide, data()


@wrong("warning", r"by \S+\.0 \(BatchNorm1d\) in train mode: the training loss is no bound")
def batch_norm():
    pair = Pair()
    pair.encoder = nn.Sequential(nn.BatchNorm1d(X), nn.Linear(X, 2 * Z))

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))  # here

    return pair.model, guide, data()


# Parameters


@wrong(
    "error", r"no gradient for parameters 'encoder\.0\.weight'.* of the guide \(all that it has\)"
)
def encoder_under_no_grad():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)  # here
        with torch.no_grad():
            loc, raw = pair.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 0.1).to_event(1))

    return pair.model, guide, data()


@wrong("error", r"no gradient for parameters 'encoder\.0\.weight'.* and 2 more|all that it has")
def draw_that_is_not_used():
    """The decoder is fed a fresh draw of its own, so that z is nowhere in the likelihood."""
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)  # here
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pair.encoder(x)[:, :Z].detach(), 1.0).to_event(1))

    return pair.model, guide, data()


@wrong("warning", r"no gradient for parameters 'decoder\.unused\.weight'.* of the model")
def layer_that_is_never_called():
    pair = Pair()
    pair.decoder.add_module("unused", nn.Linear(3, 3))
    pair.decoder.forward = lambda z: pair.decoder[2](pair.decoder[1](pair.decoder[0](z)))

    def model(x):
        pyro.module("decoder", pair.decoder)  # here
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    return model, pair.guide, data()


@wrong("warning", "network 'decoder' is used but not passed to pyro.module: it is not trained")
def network_not_registered():
    pair, decoder = Pair(), nn.Linear(Z, X)
    encoder = pair.encoder

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, softplus(raw) + 1e-3).to_event(1))

    return model, guide, data(), {"line": None}


@wrong("warning", r"pyro.param\('scale'\) is given a first value in 2 places")
def one_name_for_two_parameters():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)  # here
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", pair.encoder)
        scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pair.encoder(x)[:, :Z], scale).to_event(1))

    return model, guide, data()


@wrong("warning", r"pyro.module\('net'\) is given two networks, a Sequential and a Sequential")
def one_name_for_two_networks():
    pair = Pair()

    def model(x):
        pyro.module("net", pair.decoder)  # here
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))

    return model, guide, data()


@wrong("error", r"arrived frozen \(requires_grad=False\), and Pyro makes every parameter")
def frozen_network_in_a_pyro_module():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = PyroModule[nn.Linear](Z, X)
            self.scale = nn.Parameter(torch.ones(()))
            for parameter in self.decoder.parameters():
                parameter.requires_grad_(False)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", normal(Z))
                loc = self.decoder(z)
                pyro.sample("x", dist.Normal(loc, softplus(self.scale)).to_event(1), obs=x)

    return Model(), Pair().guide, data(), {"line": "loc = self.decoder(z)"}


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


@wrong("error", "'z' is discrete in the guide alone")
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
    given = {"objective": TraceMeanField_ELBO(), "line": "# discrete"}
    return *discrete_pair(), given


@wrong("warning", "estimates its gradient by the score function, which is unbiased but noisy")
def discrete_latent_under_trace_elbo():
    return *discrete_pair(), {"line": "# discrete"}


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
    return pair.model, lambda x: pair.guide(x.nan_to_num()), x, {"line": "obs=x)"}


@wrong("error", "make a positive scale of it with torch.nn.functional.softplus")
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
    return pair.model, pair.guide, data() * 255, {"line": "obs=x)"}


# Programs that fail


@wrong("error", r"called with the 2 argument\(s\) of a batch: give them the same signature")
def guide_without_the_labels():
    pair = Pair()

    def model(x, y):
        pair.model(x)

    return model, pair.guide, (data(), data(ROWS)), {"line": None}


@wrong("error", r"flatten the data, as in x.flatten\(1\)")
def images_not_flattened():
    pair = Pair()
    line = "loc, raw = self.encoder(x).chunk(2, -1)"
    return pair.model, pair.guide, data(ROWS, 2, 3), {"line": line}


@wrong("error", r"different types: give the data as float32, x.float\(\)")
def data_in_double_precision():
    pair = Pair()
    return pair.model, pair.guide, data().double(), {"line": "loc, raw = self.encoder(x)"}
