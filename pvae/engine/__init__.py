"""How one gradient step is executed: as Pyro does, replayed from a recording, or compiled."""

__all__: list[str] = []
