"""Declaring a study: what is trained, how, and what is recorded."""

import dataclasses
import difflib
import functools
import json
import math
import runpy
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from rmtnet.caffe import Solver
from rmtnet.datasets import Images
from rmtnet.fingerprint import text
from rmtnet.language.study import LanguageStudy
from rmtnet.pruning import Recipe
from rmtnet.schedules import Schedule, every, log_spaced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One training run.  A study file sets ``study`` to one of these, or to a list of them (sister networks, seeds).

    Raises
    ------
    ValueError, TypeError
        If a field is out of its range or of the wrong kind.

    Examples
    --------
    >>> study = [
    ...     Study(name=f"b{b1}", network=partial(LeNet5, b1=b1), dataset="mnist5k", iterations=600, layers=["ip1"])
    ...     for b1 in (1, 10, 100)
    ... ]
    """

    unit: ClassVar[str] = "step"
    """What ``iterations`` counts."""

    name: str
    """The run is recorded in ``<name>.zarr``."""
    network: Callable[[], nn.Module]
    """Builds the network; torch is seeded before."""
    dataset: str | Callable[[], Images]
    """A name that :mod:`rmtnet.datasets` knows, or a function that gives the images."""
    iterations: int
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = Solver()
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = functional.cross_entropy
    batch: int = 64
    seed: int = 0
    pixel_scale: float = 1 / 256
    """Pixels, 0 to 255, are multiplied by this."""
    centre: bool = False
    """Whether the mean of the training images is subtracted first, pixel by pixel."""
    pruning: Recipe | None = None
    """A recipe of :mod:`rmtnet.pruning`; its statistics are logged with the accuracy."""
    layers: Sequence[str] | None = None
    """Names or globs of the layers to record; None is all."""
    record: Schedule = log_spaced(per_decade=10, until=1000) | every(100)
    """When they are recorded."""
    what: Sequence[str] = ("weights",)
    """What is recorded of them, as :class:`rmtnet.record.Recorder` has it."""
    evaluate: Schedule = every(500)
    """When the accuracy on the test images is logged (also at the end)."""
    evaluate_train: int = 0
    """Number of training images whose accuracy is logged too, at the same steps; 0 is none."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name must be a plain file name, got {self.name!r}")
        for field, least in (("iterations", 1), ("batch", 1), ("seed", 0), ("evaluate_train", 0)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{field} must be a whole number of at least {least}, got {value!r}")
        if not isinstance(self.pixel_scale, int | float) or not math.isfinite(self.pixel_scale):
            raise ValueError(f"pixel_scale must be a finite number, got {self.pixel_scale!r}")
        if self.layers is not None:
            _check_names("layers", "names or globs", self.layers)
        _check_names("what", "names such as 'weights' and 'moments'", self.what)
        self._check_kinds()

    def _check_kinds(self) -> None:
        if not isinstance(self.centre, bool):
            raise TypeError(f"centre must be True or False, got {self.centre!r}")
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a name such as 'cpu' or 'cuda', got {self.device!r}")
        if not (isinstance(self.dataset, str) or callable(self.dataset)):
            raise TypeError(f"dataset must be a name or a function that gives Images, got {self.dataset!r}")
        if not (self.pruning is None or callable(self.pruning)):
            raise TypeError(f"pruning must be callable or None, got {self.pruning!r}")
        for field in ("network", "optimizer", "loss", "record", "evaluate"):
            if not callable(getattr(self, field)):
                raise TypeError(f"{field} must be callable, got {getattr(self, field)!r}")

    @functools.cached_property
    def described(self) -> dict[str, str]:
        """Every field as text, to keep with the run and to compare with on resume; taken once, as it was declared."""
        return {field.name: text(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        return json.dumps(self.described)


Declaration = Study | LanguageStudy


def load_studies(path: str | Path) -> list[Declaration]:
    """Run the study file at ``path`` and take its ``study``: one Study (or LanguageStudy) or several, named distinctly.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file fails, or sets no ``study``; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such study file")
    try:
        declared = runpy.run_path(str(path)).get("study")
    except Exception as error:
        raise ValueError(f"{path}:{_line(error, path)}: {type(error).__name__}: {error}{_hint(error)}") from error
    studies = [declared] if isinstance(declared, Declaration) else declared
    if (
        not isinstance(studies, list | tuple)
        or not studies
        or not all(isinstance(study, Declaration) for study in studies)
    ):
        raise ValueError(f"{path}: set 'study' to a Study or a list of them, as in  study = Study(name=...)")
    names = [study.name for study in studies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path}: two studies are named {twice!r}")
    return list(studies)


def chosen(studies: Sequence[Declaration], only: str) -> list[Declaration]:
    """The studies whose names match the glob ``only``; a ValueError lists the names if none does."""
    matching = [study for study in studies if fnmatchcase(study.name, only)]
    if not matching:
        raise ValueError(f"no study matches {only!r}; there are {', '.join(study.name for study in studies)}")
    return matching


def with_settings(studies: Sequence[Declaration], settings: Mapping[str, str]) -> list[Declaration]:
    """The studies with some fields replaced, each value given as text.

    Raises
    ------
    ValueError
        If a field does not exist, holds no plain value, differs between the studies, or the text does not fit it.
    """
    hints = [typing.get_type_hints(kind) for kind in {type(study) for study in studies}]
    kinds = {name: kind for name, kind in hints[0].items() if _plain(kind) and all(name in each for each in hints)}
    for key in settings:
        if key not in kinds or key == "name":
            raise ValueError(f"cannot set {key!r}; these can be set: {', '.join(sorted(set(kinds) - {'name'}))}")
        if key == "seed" and len({study.seed for study in studies}) > 1:
            raise ValueError("cannot set 'seed': it is what tells these studies apart; choose with --only instead")
    values: dict[str, Any] = {key: _parsed(key, given, kinds[key]) for key, given in settings.items()}
    return [dataclasses.replace(study, **values) for study in studies]


def _plain(kind: Any) -> bool:
    return kind in (int, float, str) or (isinstance(kind, types.UnionType) and str in typing.get_args(kind))


def _parsed(key: str, given: str, kind: Any) -> int | float | str:
    if kind not in (int, float):
        return given
    try:
        value: int | float = kind(given)
    except ValueError:
        raise ValueError(f"{key} must be {'a whole number' if kind is int else 'a number'}, got {given!r}") from None
    return value


def _check_names(field: str, kind: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{field} must be a list of {kind}, got {value!r}")


def _line(error: Exception, path: Path) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _hint(error: Exception) -> str:
    """The field that a mistyped keyword was meant to be."""
    if not isinstance(error, TypeError) or "unexpected keyword argument" not in str(error):
        return ""
    kind = LanguageStudy if "LanguageStudy" in str(error) else Study
    fields = [field.name for field in dataclasses.fields(kind)]
    near = difflib.get_close_matches(str(error).split("'")[-2], fields, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
