"""Which models of the zoo go with which guides."""

ONE_LAYER = {
    "mean_field",
    "full_rank",
    "low_rank",
    "flow",
    "conditional",
    "mixture",
    "point",
    "per_datum",
}
COMPATIBLE = {
    "autoencoder": ONE_LAYER,
    "bayesian_vae": {"weights"},
    "cvae": {"conditional", "per_datum"},
    "dmm": {"combiner"},
    "gmvae": {"classifier", "clusters"},
    "helmholtz": {"bottom_up", "ladder"},
    "ppca": ONE_LAYER,
    "ssvae": {"classifier"},
    "tabular": {"tabular", *ONE_LAYER},
    "vae": ONE_LAYER,
}
