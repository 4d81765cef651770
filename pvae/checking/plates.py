"""Does a plate of the batch's size enclose the data, whatever the batch's size?"""

from collections.abc import Iterator

from pyro.infer.autoguide import AutoGuide

from pvae.checking.failures import OF_PROGRAMS, failed
from pvae.checking.finding import Finding
from pvae.checking.inspection import Subject
from pvae.pair.locations import place_of_error
from pvae.pair.log_prob import log_probs
from pvae.pair.traces import observed_sites

__all__ = ["no_data_plate", "one_batch_size_only"]


def no_data_plate(subject: Subject) -> Iterator[Finding]:
    """Data in no plate of size len(batch)."""
    if subject.plate is not None or subject.rows == 1:
        return
    name = next(iter(observed_sites(subject.model)), None)
    yield Finding.at(
        subject.place("model", name) if name is not None else None,
        "warning",
        "no plate of size len(batch) encloses the observed sites: every site counts once per "
        "batch, the sum over data is no mean, and evaluation goes row by row; put latent and "
        "observed sites of a datum into `with pyro.plate('data', len(x)):`",
    )


def one_batch_size_only(subject: Subject) -> Iterator[Finding]:
    """Programs that fail on a batch of one row less."""
    if subject.rows < 3 or (subject.plate is not None and subject.plate.subsamples):
        return
    fewer = tuple(part[:-1] for part in subject.batch)
    try:
        for trace in subject.traces(fewer):
            log_probs(trace, None)
    except OF_PROGRAMS as error:
        # A guide with a row of parameters for each datum is meant for all data at once.
        sized = isinstance(subject.belongings.guide.fn, AutoGuide) or any(
            subject.rows in param.shape
            for params in subject.params.values()
            for name, param in params.items()
            if "$$$" not in name
        )
        yield Finding.at(
            place_of_error(error.__traceback__),
            "warning" if sized else "error",
            f"the pair runs on {subject.rows} rows, but not on {subject.rows - 1}: sizes in it "
            f"fit this batch alone, by hand or by chance; {failed(error, fewer).message}",
        )
