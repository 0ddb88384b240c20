"""Data to train on: where it lies, its checksums, and how it is read.

Files are looked for in the folder ``$RMTNET_DATA/<name>``, then in the cache (``$RMTNET_CACHE/<name>``,
by default the user's cache folder), then on public mirrors. Every file's checksum is verified on every use,
and one dataset never stands in for another.
"""

from rmtnet.datasets.fetching import fetch, locate
from rmtnet.datasets.images import Images, load, read_cifar, read_idx, read_svhn
from rmtnet.datasets.sources import SOURCES, File, Source
from rmtnet.datasets.text import Text, load_text, read_text

__all__ = [
    "SOURCES",
    "File",
    "Images",
    "Source",
    "Text",
    "fetch",
    "load",
    "load_text",
    "locate",
    "read_cifar",
    "read_idx",
    "read_svhn",
    "read_text",
]
