"""How one gradient step is carried out."""

__all__: list[str] = []
