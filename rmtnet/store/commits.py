"""The commit record of a run: the metadata at its root, with the committed shape of every array."""

import copy
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rmtnet.store.schema import TRANSITIONS
from rmtnet.store.source import Source


class CommitRecord:
    """What is committed, in memory as on the disk, where it is replaced as a whole.

    Paths are ``group/array``; an *axis* is the coordinate of rows, ``weights/step`` or ``weights/ip1@1_step``.
    """

    def __init__(self, run: Path):
        self.run = run
        self._record = Source(run).own_record()

    @property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """Path -> metadata, with the committed shape."""
        nodes: dict[str, dict[str, Any]] = self._record["consolidated_metadata"]["metadata"]
        return {path: node for path, node in nodes.items() if node["node_type"] == "array"}

    @property
    def axes(self) -> list[str]:
        """The coordinates of rows."""
        return [path for path, node in self.arrays.items() if _is_axis(path, node)]

    @property
    def attributes(self) -> dict[str, Any]:
        """What the run says of itself."""
        attributes: dict[str, Any] = self._record["attributes"]
        return attributes

    def length(self, axis: str) -> int:
        """Committed rows of an axis."""
        return int(self.arrays[axis]["shape"][0])

    def variables(self, group: str, axis: str = "step") -> list[str]:
        """Names of the variables that have a row for each step of an axis."""
        members = ((path.partition("/"), node) for path, node in self.arrays.items())
        return [
            name
            for (of, _, name), node in members
            if of == group and name != axis and node["dimension_names"][:1] == [axis]
        ]

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the run; the next commit publishes them."""
        self._record["attributes"].update(attributes)

    def enlist(self, paths: Iterable[str]) -> None:
        """Take up new nodes as they are on the disk; the next commit publishes them."""
        consolidated = self._record["consolidated_metadata"]
        new = {path: self.on_disk(path) for path in paths}
        # zarr loses arrays of a group whose entries do not follow one another.
        consolidated["metadata"] = dict(sorted({**consolidated["metadata"], **new}.items()))

    def on_disk(self, path: str) -> dict[str, Any]:
        """A node's own metadata."""
        own: dict[str, Any] = json.loads((self.run / path / "zarr.json").read_text())
        return own

    def move(self, variable: str, axis: str) -> None:
        """Give a variable another axis from the next commit on."""
        self.arrays[variable]["dimension_names"][0] = axis

    def publish(self, lengths: Mapping[str, int], *, force: bool = False) -> None:
        """Commit axes of these lengths; all others, and what else is there, stay.

        Parameters
        ----------
        force : whether the record must survive a power failure
        """
        # A copy: were the disk full, the record in memory must still say what is committed.
        record = copy.deepcopy(self._record)
        for path, node in record["consolidated_metadata"]["metadata"].items():
            if node["node_type"] == "array":
                axis = f"{path.partition('/')[0]}/{node['dimension_names'][0]}"
                node["shape"][0] = lengths.get(axis, node["shape"][0])
        new = self.run / ".commit"
        new.write_text(json.dumps(record))
        if force:
            forced([new])
        os.replace(new, self.run / "zarr.json")
        if force:
            forced([self.run])
        self._record = record

    def write_own(self, path: str) -> None:
        """Give an array's own metadata, which readers of the whole run do not use, its committed shape."""
        own, new = self.run / path / "zarr.json", self.run / path / ".zarr.json"
        text = json.dumps(self.arrays[path])
        if own.read_text() != text:
            new.write_text(text)
            os.replace(new, own)

    def cut_back(self) -> None:
        """Remove what was written and not committed: arrays, and chunk files beyond the last row."""
        arrays = self.arrays
        for group in {path.partition("/")[0] for path in self._record["consolidated_metadata"]["metadata"]}:
            # The folders themselves: an array whose making was cut short is none to zarr.
            for folder in filter(Path.is_dir, (self.run / group).iterdir()):
                path = f"{group}/{folder.name}"
                if path not in arrays:
                    shutil.rmtree(folder)
                    continue
                self.write_own(path)
                _remove_chunks(folder, arrays[path])


def is_transition(axis: str) -> bool:
    """Whether rows tell of the step that follows the one they are labelled with."""
    return axis.partition("/")[0] in TRANSITIONS


def forced(paths: Iterable[Path]) -> None:
    """Have the disk itself hold these files and folders."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def forced_tree(folder: Path, pattern: str = "*") -> None:
    """Have the disk itself hold all files of a folder that match, and the folders."""
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    forced([*files, *{path.parent for path in files}, folder, folder.parent])


def _is_axis(path: str, node: Mapping[str, Any]) -> bool:
    name = path.partition("/")[2]
    return node["dimension_names"] == [name] and (name == "step" or name.endswith("_step"))


def _remove_chunks(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Chunks that hold no committed row, whether their names have dots or, as in schema 1, slashes."""
    depth = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    chunks = -(-metadata["shape"][0] // depth)
    for pattern in ("c.*", "c/*"):
        for path in folder.glob(pattern):
            number = path.name.removeprefix("c.").partition(".")[0]
            if number.isdecimal() and int(number) >= chunks:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
