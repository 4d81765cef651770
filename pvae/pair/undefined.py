"""The error for a quantity that a pair does not have."""

__all__ = ["UndefinedQuantityError"]


class UndefinedQuantityError(ValueError):
    """A quantity that is not defined for a pair of this structure.

    Example:
        >>> import pvae, pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> def loops(x):
        ...     for i in pyro.plate("data", len(x)):
        ...         pyro.sample(f"x{i}", dist.Normal(0.0, 1.0), obs=x[i])
        >>> try:
        ...     found = pvae.evaluation.active_units(loops, lambda x: None, torch.zeros(3))
        ... except pvae.UndefinedQuantityError as error:
        ...     print("is a loop over the data" in str(error))
        True
    """
