"""Named data sets, files of the user's, binarization, and batches on the device."""

from pvae.data.downloads import DamagedFileError, DownloadError
from pvae.data.file_rows import FileRows
from pvae.data.minibatches import Batches, batches
from pvae.data.named import load, names
from pvae.data.splits import Splits, rows
from pvae.data.table import Rows

__all__ = [
    "Batches",
    "DamagedFileError",
    "DownloadError",
    "FileRows",
    "Rows",
    "Splits",
    "batches",
    "load",
    "names",
    "rows",
]
