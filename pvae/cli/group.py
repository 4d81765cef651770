"""What the commands share: the group, options that name a pair, and notes."""

from collections.abc import Callable

import click

from pvae.training.divergence import DivergedError

__all__ = ["AT_LEAST_1", "SPLITS", "main", "of_a_pair", "print_notes"]

SPLITS = click.Choice(["train", "valid", "test"])
AT_LEAST_1 = click.IntRange(min=1)


def of_a_pair(command: Callable[..., None]) -> Callable[..., None]:
    """What names a pair, its data and its objective."""
    decorators = [
        click.argument("model", default="vae"),
        click.argument("guide", default="mean_field"),
        click.option("--data", "data_name", default="digits", help="A named data set, .npz, .npy."),
        click.option("--binarize", default="none", help="none, dynamic, static or threshold."),
        click.option("--labels", is_flag=True, help="Pass labels to the programs, after x."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="For constructors."
        ),
        click.option(
            "--objective", default="Trace_ELBO", metavar="NAME[:KEY=VALUE,...]", help="The bound."
        ),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


class _Commands(click.Group):
    """Says what went wrong in one sentence, where it is the user's to put right."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, DivergedError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(package_name="pvae-ppl")
def main() -> None:
    """Variational autoencoders by probabilistic programming: any Pyro model/guide pair."""


def print_notes(notes: list[str]) -> None:
    """Print what a reader should know, beside the output."""
    for note in notes:
        click.echo(f"note: {note}", err=True)
