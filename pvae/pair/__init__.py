"""The user's two programs as Pyro runs them."""

__all__: list[str] = []
