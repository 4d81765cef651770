"""Mistakes in plates and scales."""

import pyro
import pyro.distributions as dist
import torch
from pairs.invalid import ROWS, Pair, X, Z, data, normal, wrong
from pyro import poutine


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


@wrong("warning", r"runs on 12 rows, but not on 11")
def parameters_for_the_rows_of_one_batch():
    pair = Pair()

    def guide(x):
        loc = pyro.param("loc", data(ROWS, Z))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))  # here

    return pair.model, guide, data()


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
