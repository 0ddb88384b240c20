"""The checkpoint beside a run: where a stopped training goes on, if it is still the same study."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from rmtnet.files import write_whole
from rmtnet.fingerprint import text
from rmtnet.store import open_run

_MAY_DIFFER = ("iterations", "epochs", "device")


class Declared(Protocol):
    """A dataclass that declares a run, as :class:`rmtnet.study.Study`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    @property
    def described(self) -> dict[str, str]:
        """Every field as text."""


def store_path(study: Declared, folder: Path) -> Path:
    """Where the run of ``study`` is recorded."""
    return folder / f"{study.name}.zarr"


def checkpoint_path(study: Declared, folder: Path) -> Path:
    """Where its checkpoint is."""
    return folder / f"{study.name}.checkpoint.pt"


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    # Through memory: on a full disk torch's own writer says nothing of the disk.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getbuffer())


def load(study: Declared, folder: Path) -> dict[str, Any] | None:
    """The checkpoint of ``study``, on the CPU; None if there is none.

    Raises
    ------
    ValueError
        If it cannot be read, is of another study, or its run is gone or ends before it.
    """
    path, run = checkpoint_path(study, folder), store_path(study, folder)
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        described, step = state["study"], int(state["step"])
    except Exception as error:
        raise ValueError(f"{path}: no checkpoint that can be read; delete it to train anew") from error
    check_same_study(study, described, path)
    if not run.exists():
        raise ValueError(f"{path}: the run of this checkpoint is gone; delete the checkpoint to train anew")
    last = max(open_run(run).metrics["step"].values, default=-1)
    if last < step:
        raise ValueError(
            f"{run} ends at step {last}, before its checkpoint at {step}: "
            "put the whole run back, or delete the checkpoint to train anew"
        )
    return state


def check_same_study(study: Declared, described: str, path: Path) -> None:
    """Refuse, naming the field, a run or checkpoint that was made by a study declared otherwise."""
    fields = dataclasses.fields(study)
    # A field that the rmtnet of that run did not have was at its default.
    defaults = {field.name: text(field.default) for field in fields if field.default is not dataclasses.MISSING}
    was, now = defaults | json.loads(described), study.described
    for field in fields:
        old, new = was.get(field.name), now[field.name]
        if old != new and field.name not in _MAY_DIFFER:
            raise ValueError(
                f"{path} is of another study ({field.name} is {old}, now {new}): choose another folder with -o"
            )
