"""Mistakes in sites and dimensions."""

import pyro
import pyro.distributions as dist
import torch
from pairs.invalid import ROWS, Pair, X, Z, data, normal, wrong
from torch import nn
from torch.nn.functional import softplus

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


@wrong("warning", r"auxiliary sites \['noise'\] are in no divergence.*their entropy")
def auxiliary_site_with_parameters():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
        loc, raw = pair.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            noise = dist.Normal(torch.zeros(Z), scale).to_event(1)
            noise = pyro.sample("noise", noise, infer={"is_auxiliary": True})  # here
            pyro.sample("z", dist.Normal(loc + noise, softplus(raw)).to_event(1))

    return pair.model, guide, data()


@wrong("error", "guide samples 'x', but the model observes it")
def data_drawn_by_the_guide():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))
            pyro.sample("x", normal(X))  # here

    return pair.model, guide, data()


@wrong("error", "the guide observes 'x'.*remove obs=")
def data_observed_by_the_guide():
    pair = Pair()

    def guide(x):
        pyro.module("encoder", pair.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))
            pyro.sample("x", normal(X), obs=x)  # here

    return pair.model, guide, data()


@wrong("error", "'z' names two statements, or one in a loop: give each draw its own name")
def one_name_in_a_loop():
    def model(x):
        with pyro.plate("data", len(x)):
            for _ in range(2):
                z = pyro.sample("z", normal(X))  # here
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return model, lambda x: None, data()


@wrong("warning", r"sites \['bonus'\] of the model exist in some runs only")
def site_at_random():
    pair = Pair()

    def model(x):
        pair.model(x)
        if torch.rand(()) < 0.5:
            pyro.sample("bonus", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))  # here

    return model, pair.guide, data()


# Dimensions


@wrong("error", r"site x has 6 elements|at 'x' has 6 elements in batch dimension.*to_event\(1\)")
def to_event_missing_at_the_data():
    pair = Pair()

    def model(x):
        pyro.module("decoder", pair.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(Z))
            pyro.sample("x", dist.Normal(pair.decoder(z), 1.0), obs=x)  # here

    return model, pair.guide, data()


@wrong("error", r"at 'z' has 2 elements in batch dimension.*to_event\(1\)")
def to_event_missing_at_the_latent():
    pair = Pair()

    def guide(x):
        loc = pair.encoder(x)[:, :Z]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))  # here

    return pair.model, guide, data()


@wrong("error", r"runs on 12 rows, but not on 11.*fit this batch only.*to_event\(1\)")
def to_event_missing_and_unseen():
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


@wrong("error", r"shape \(12, 12\).*every datum is compared with every other")
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
    return (
        pair.model,
        lambda x: pair.guide(x.flatten(1)),
        data(ROWS, 2, 3),
        {"line": (Pair, "obs=x)")},
    )


@wrong("error", r"the guide's values of 'z' have shape \(12, 3\).*prior has shape \(12, 2\)")
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
