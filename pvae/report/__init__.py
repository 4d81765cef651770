"""What came out of a run: numbers on data, as a table and as JSON, and pictures."""

from pvae.report.numbers import Report, evaluate, table
from pvae.report.pictures import figures, observed_name

__all__ = ["Report", "evaluate", "figures", "observed_name", "table"]
