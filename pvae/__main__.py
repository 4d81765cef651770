"""The command `python -m pvae`, which is `pvae`."""

from pvae.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
