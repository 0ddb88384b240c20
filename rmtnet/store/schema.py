"""How names, shapes and chunks are laid out in a run store."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import numpy as np

SCHEMA_VERSION = 2
SCHEMA_KEY = "rmtnet_schema"
FORMS = ("dense", "block_diagonal", "block_sparse")

MOMENTS = ("var_w", "var_dw", "cov_w_dw", "var_g", "cov_w_g")
MOMENT_SUFFIXES = tuple(f"_{moment}" for moment in MOMENTS)
# A layer called ``ip1_step`` would collide with the step coordinate of a layer called ``ip1``.
_SUFFIXES = (
    *("_block", "_out", "_in", "_step", "_order", "_block_row", "_block_col", "_block_height", "_block_width"),
    *(*MOMENT_SUFFIXES, "_gate_row", "_gate_col"),
)
_RESERVED = ("step", "zarr.json", "_")
_FLOAT64 = np.dtype(np.float64)
CHUNK_BYTES = 8 * 2**20
LONGEST_CHUNK = 4096
"""Rows."""
_DELTA_STEPS = 16
MATRICES = ("weights", "gradients", "updates")
MATRIX = ("block", "out", "in")
DIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MATRICES, MATRIX),
    "spectra": ("block", "order"),
    "gates": ("gate_row", "gate_col"),
    "norms": (),
}
"""Groups with one array a layer -> its dimensions after ``step``."""
CONSTANTS = ("block_row", "block_col", "block_height", "block_width")
"""Suffixes of variables that tell one number a block."""
FORM = ("form", "blocks", "block_out", "block_in")
"""Attributes that tell the form of a layer."""
STATES = ("weights", "spectra", "gates", "metrics", "norms")
"""Groups whose row t tells of the weights after t optimizer steps."""
TRANSITIONS = ("gradients", "updates", "moments")
"""Groups whose row t tells of step t + 1: the gradient at the weights of row t, and the update that follows them."""
GROUPS = STATES + TRANSITIONS


@dataclass(frozen=True)
class RowSpec:
    """One variable of a run: what a row of it looks like."""

    group: str
    name: str
    """The layer or metric."""
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    dtype: np.dtype[Any] = _FLOAT64
    suffix: str = ""
    form: int = 0
    own_steps: bool = False
    """Whether it has steps of its own: another schedule, or a form that others do not share."""
    attributes: dict[str, str | int] = field(default_factory=dict)
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Suffix of a further variable -> one number a block."""

    @property
    def base(self) -> str:
        """Encoded name of the layer in this form."""
        return encode(self.name) + (f"@{self.form}" if self.form else "")

    @property
    def variable(self) -> str:
        """Its name in the group."""
        return self.base + self.suffix

    @property
    def signature(self) -> tuple[object, ...]:
        """What makes two forms of a layer the same."""
        constants = sorted((suffix, tuple(map(int, values))) for suffix, values in self.constants.items())
        told = tuple(self.attributes.get(key) for key in FORM)
        return (told, tuple(self.shape), str(self.dtype), tuple(constants))

    @property
    def axis(self) -> str:
        """The coordinate of its rows."""
        return f"{self.base}_step" if self.own_steps else "step"


@dataclass(frozen=True)
class MatrixSpec:
    """What a store must know of a layer before its first row: ``blocks`` dense blocks and their place."""

    name: str
    shape: tuple[int, int, int]
    """(block, out, in)"""
    dtype: np.dtype[Any]
    form: str = "dense"
    out_features: int = 0
    in_features: int = 0
    block_row: tuple[int, ...] = (0,)
    block_col: tuple[int, ...] = (0,)
    attributes: dict[str, str | int] = field(default_factory=dict)
    block_height: tuple[int, ...] = ()
    """Of blocks of unequal size, which are padded with zeros to the largest."""
    block_width: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form of layer {self.name!r} must be one of {', '.join(FORMS)}, got {self.form!r}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape of layer {self.name!r} must be (block, out, in), none empty; got {self.shape}")
        if not len(self.block_row) == len(self.block_col) == self.shape[0]:
            raise ValueError(f"layer {self.name!r} has {self.shape[0]} blocks but another number of block positions")

    def rows(self, group: str = "weights", *, form: int = 0, own_steps: bool = False) -> RowSpec:
        """Rows of matrices: weights, gradients or updates."""
        places = {"block_row": self.block_row, "block_col": self.block_col} if self.form == "block_sparse" else {}
        sizes = {"block_height": self.block_height, "block_width": self.block_width} if self.block_height else {}
        attributes = {
            "form": self.form,
            "blocks": self.shape[0],
            "out_features": self.out_features,
            "in_features": self.in_features,
            "long_name": f"{group} of {self.name}",
            "units": "1",
            **self.attributes,
        }
        return RowSpec(
            group, self.name, self.shape, MATRIX, self.dtype, "", form, own_steps or form > 0,
            attributes, {**places, **sizes},
        )  # fmt: skip


def encode(name: str) -> str:
    """Variable name of a layer or metric: its own, percent-encoded where the schema needs the character.

    >>> encode("ip1"), encode("train/loss"), encode("step"), encode("gate_in")
    ('ip1', 'train%2Floss', '%73tep', 'gate%5Fin')
    """
    if not name:
        raise ValueError("a layer or metric needs a name, got an empty string")
    coded = name.replace("%", "%25").replace("/", "%2F").replace("\\", "%5C").replace("@", "%40")
    for suffix in _SUFFIXES:
        if coded.lower().endswith(suffix):
            start = len(coded) - len(suffix)
            coded = coded[:start] + "%5F" + coded[start + 1 :]
    if coded.lower() in _RESERVED or coded.startswith("__") or not coded.strip("."):
        return f"%{ord(coded[0]):02X}{coded[1:]}"
    return coded


def decode(variable: str) -> str:
    """The layer or metric name behind a variable name: the inverse of :func:`encode`."""
    return unquote(variable)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``layers.2`` before ``layers.10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def check_unique(names: Iterable[str]) -> None:
    """Refuse names that differ only in case: some file systems cannot tell them apart."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(encode(name).lower(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} differ only in case: record one of them, or rename one")


def rows_a_chunk(row_bytes: int, budget: int) -> int:
    """How many rows of all variables together a chunk holds: a power of two of at most ``budget`` bytes."""
    return int(2 ** max(0, min(LONGEST_CHUNK, budget // max(row_bytes, 1)).bit_length() - 1))


def chunk_shape(
    shape: tuple[int, ...], itemsize: int, depth: int = LONGEST_CHUNK, codec: str = "lz4", most: int = CHUNK_BYTES
) -> tuple[int, ...]:
    """Chunk of a (step, *shape) array: at most about 8 MB, cut along step for small rows, along the row for large ones.

    Parameters
    ----------
    shape : of a row: (block, out, in), or (block, order)
    itemsize : bytes of one entry
    depth : the most rows in a chunk; chunks of all variables hold a power of two, hence end together
    codec : "delta" asks for at least 16 rows (or `depth`), and cuts the rows instead
    most : bytes of a chunk
    """
    row = math.prod(shape) * itemsize
    fewest = min(depth, _DELTA_STEPS) if codec == "delta" else 1
    if row * fewest <= most:
        return (rows_a_chunk(row, min(most, depth * row)), *shape)
    return (fewest, *_cut(shape, most // (fewest * itemsize)))


def _cut(shape: tuple[int, ...], entries: int) -> tuple[int, ...]:
    """The largest piece of at most ``entries`` entries that is whole in its last axes."""
    if not shape:
        return ()
    inner = math.prod(shape[1:])
    if inner > entries:
        return (1, *_cut(shape[1:], entries))
    pieces = -(-shape[0] // max(1, entries // inner))
    return (-(-shape[0] // pieces), *shape[1:])  # of equal size: the last one is padded
