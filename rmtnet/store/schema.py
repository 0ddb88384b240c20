"""How names, shapes and chunks are laid out in a run store."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

SCHEMA_VERSION = 1
SCHEMA_KEY = "rmtnet_schema"
FORMS = ("dense", "block_diagonal", "block_sparse")

# A layer called ``ip1_step`` would collide with the step coordinate of a layer called ``ip1``.
_SUFFIXES = (
    *("_block", "_out", "_in", "_step", "_order", "_block_row", "_block_col", "_block_height", "_block_width"),
    *("_var_w", "_var_dw", "_cov_w_dw", "_var_g", "_cov_w_g", "_gate_row", "_gate_col"),
)
_RESERVED = ("step", "zarr.json", "_")
_CHUNK_BYTES = 4 * 2**20
_LONGEST_CHUNK = 4096


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

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form of layer {self.name!r} must be one of {', '.join(FORMS)}, got {self.form!r}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape of layer {self.name!r} must be (block, out, in), none empty; got {self.shape}")
        if not len(self.block_row) == len(self.block_col) == self.shape[0]:
            raise ValueError(f"layer {self.name!r} has {self.shape[0]} blocks but another number of block positions")


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


def chunk_shape(shape: tuple[int, int, int], itemsize: int) -> tuple[int, int, int, int]:
    """Chunk of a (step, block, out, in) array: about 4 MB, cut along step for small layers, along out for large.

    Parameters
    ----------
    shape : (block, out, in)
    itemsize : bytes of one entry
    """
    row = math.prod(shape) * itemsize
    if row <= _CHUNK_BYTES:
        return (max(1, min(_CHUNK_BYTES // row, _LONGEST_CHUNK)), *shape)
    blocks, out, width = shape
    block_bytes = out * width * itemsize
    if block_bytes <= _CHUNK_BYTES:
        return (1, min(blocks, _CHUNK_BYTES // block_bytes), out, width)
    return (1, 1, max(1, _CHUNK_BYTES // (width * itemsize)), min(width, _CHUNK_BYTES // itemsize))


def layer_variables(record: Mapping[str, Any]) -> list[str]:
    """Variables of the layers, each form one, in a commit record."""
    nodes = record["consolidated_metadata"]["metadata"].items()
    return [
        path.removeprefix("weights/")
        for path, node in nodes
        if path.startswith("weights/") and "form" in node.get("attributes", {})
    ]


def commit_record(path: Path) -> dict[str, Any]:
    """The root's metadata with the committed shape of every array.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no folder at ``path``.
    ValueError
        If the folder is not an rmtnet run, or one of a newer schema.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run")
    if not path.is_dir():
        raise NotADirectoryError(f"{path}: a run is a zarr folder, this is a file")
    try:
        root = json.loads((path / "zarr.json").read_text())
        version = root["attributes"][SCHEMA_KEY]
        layer_variables(root)
    except FileNotFoundError:
        raise ValueError(f"{path}: no rmtnet run (it holds no zarr.json); give the .zarr folder of a run") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: no rmtnet run (its zarr.json is not one that rmtnet wrote)") from None
    if version not in range(1, SCHEMA_VERSION + 1):
        raise ValueError(f"{path}: schema {version!r}, but this rmtnet reads up to {SCHEMA_VERSION}: upgrade rmtnet")
    return root
