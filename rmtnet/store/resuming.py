"""Whether a resumed run goes on with the layers that it holds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtnet.store.commits import CommitRecord
from rmtnet.store.schema import CONSTANTS, FORM, RowSpec, decode

Read = Callable[[str], NDArray[Any]]


def check_same(run: Path, record: CommitRecord, read: Read, asked: Sequence[RowSpec], held: Sequence[str]) -> None:
    """Refuse layers other than those ``held`` by the group; a layer may have been held in other forms too.

    Raises
    ------
    ValueError
        If names, shapes, forms, kinds of numbers or places of blocks differ; it names the layer and both.
    """
    given = {spec.variable for spec in asked}
    if not given <= set(held) or {_layer(name) for name in held} != {_layer(name) for name in given}:
        recorded, names = sorted(map(decode, held)), sorted(map(decode, given))
        raise ValueError(f"{run}: the run records {recorded}, not {names}: resume with the same layers")
    for spec in asked:
        path = f"{spec.group}/{spec.variable}"
        *was, places = signature(record, path, read)
        *now, asked_places = spec.signature
        if was != now:
            raise ValueError(
                f"{run}: layer {spec.name!r} is {_text(was)} in the run, {_text(now)} in the model: "
                "resume with the same model and precision"
            )
        had, has = (told.get("precision") for told in (record.arrays[path]["attributes"], spec.attributes))
        if had != has:
            raise ValueError(
                f"{run}: layer {spec.name!r} has precision {had!r} in the run, not {has!r}: resume with it"
            )
        if places != asked_places:
            raise ValueError(
                f"{run}: the blocks of layer {spec.name!r} are at other places in the run: "
                "record them in a run of its own"
            )


def signature(record: CommitRecord, path: str, read: Read) -> tuple[object, ...]:
    """That of :class:`RowSpec`, of an array that the run holds."""
    metadata = record.arrays[path]
    constants = tuple(
        (suffix, tuple(map(int, np.asarray(read(f"{path}_{suffix}")))))
        for suffix in sorted(CONSTANTS)
        if f"{path}_{suffix}" in record.arrays
    )
    told = tuple(metadata["attributes"].get(key) for key in FORM)
    return (told, tuple(metadata["shape"][1:]), metadata["data_type"], constants)


def _layer(variable: str) -> str:
    name, _, form = variable.partition("@")
    return name + form.lstrip("0123456789")


def _text(signature: Sequence[object]) -> str:
    told, *rest = signature
    form = told[0] if isinstance(told, tuple) else None
    return " ".join(str(part) for part in (form, *rest) if part is not None)
