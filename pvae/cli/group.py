"""The command group `pvae`, and the options that its commands share."""

from collections.abc import Callable

import click

from pvae import __version__
from pvae.engine.all_reduce import ProcessEndedError
from pvae.training import DivergedError

__all__ = ["AT_LEAST_1", "DEVICE", "EMA", "SPLITS", "TRUST", "main", "pair_options", "print_notes"]

SPLITS = click.Choice(["train", "valid", "test"])
AT_LEAST_1 = click.IntRange(min=1)
TRUST = "Execute the programs that the run names although they are not the zoo's."
EMA = "Use the moving average of the parameters, of a run that has one."
DEVICE = "Device to compute on: auto, cpu, cuda, ..."


def pair_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments and options that name a pair, its data and its objective."""
    decorators = [
        click.argument("model", default="vae"),
        click.argument("guide", required=False),
        click.option(
            "--data",
            "data_name",
            help="A named data set, or a .npz or .npy file.  [default: the model's]",
        ),
        click.option(
            "--binarize",
            default="none",
            help="How to binarize grey levels: none, dynamic, static or threshold.",
        ),
        click.option(
            "--labels", is_flag=True, help="Pass the labels to the programs, as the last argument."
        ),
        click.option(
            "--num-labels",
            type=click.IntRange(min=0),
            help="Pass the labels of this many training rows, and -1 for all others.",
        ),
        click.option(
            "--missing",
            type=click.Choice(["nan"]),
            help="What marks missing values, whose cells the bound then leaves out.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set an option of the model or guide; may be repeated.",
        ),
        click.option(
            "--objective",
            metavar="NAME[:KEY=VALUE,...]",
            help="The objective, with its options.  [default: Trace_ELBO, or TraceEnum_ELBO for "
            "enumerated sites]",
        ),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


class _Commands(click.Group):
    """Prints errors that the user can fix as one sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, DivergedError, ProcessEndedError) as error:
            raise click.ClickException(_plain(str(error))) from error
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
                raise
            what = "there is not enough memory for this"
            raise click.ClickException(f"{what}: {str(error).rpartition(': ')[2]}") from error


@click.group(cls=_Commands, context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(__version__, package_name="pvae-ppl")
def main() -> None:
    """Train and evaluate variational autoencoders: any Pyro model and guide."""


def print_notes(notes: list[str]) -> None:
    """Print notes to the standard error stream."""
    for note in notes:
        click.echo(f"note: {_plain(note)}", err=True)


def _plain(text: str) -> str:
    """A text without characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
