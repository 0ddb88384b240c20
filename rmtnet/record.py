"""The recorder: snapshots of a model's matrices while any loop trains it."""

import datetime
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmtnet._version import __version__
from rmtnet.matrices import Matrix, described, select
from rmtnet.schedules import every
from rmtnet.store import MatrixSpec, RunWriter, check_unique

_log = logging.getLogger(__name__)
_BUFFER_BYTES = 32 * 2**20
_COMMIT_SECONDS = 10.0


class Recorder:
    """Record the weights of chosen layers of ``model`` into the run store ``path``.

    Parameters
    ----------
    model : the module that trains
    path : the run's folder, by custom ``<name>.zarr``
    layers : names or globs (``["ip1", "encoder.*"]``); None records every matrix
    when : step -> bool, asked with the number of optimizer steps done; see :mod:`rmtnet.schedules`
    what : what is recorded of each layer; so far ``("weights",)``
    mode : "x" makes a new run, "resume" goes on with one, "overwrite" replaces one
    attributes : kept with the run (strings and numbers), e.g. ``{"seed": 0}``

    Raises
    ------
    ValueError
        If a name matches no layer (the message lists those there are) or an argument is none of its choices.
    FileExistsError
        If there is a run and the mode is "x".
    RunLocked
        If another process is writing the run.

    Examples
    --------
    >>> with Recorder(model, "runs/b10.zarr", layers=["ip1"], when=every(10)).attach(optimizer):
    ...     train()  # the loop is not edited
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        *,
        layers: Iterable[str] | None = None,
        when: Callable[[int], bool] = every(1),
        what: tuple[str, ...] = ("weights",),
        mode: Literal["x", "resume", "overwrite"] = "x",
        attributes: Mapping[str, str | int] | None = None,
    ):
        if mode not in ("x", "resume", "overwrite"):
            raise ValueError(f"mode must be 'x', 'resume' or 'overwrite', got {mode!r}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch module, got {type(model).__name__}")
        if tuple(what) != ("weights",):
            raise ValueError(f"what must be ('weights',), got {what!r}")
        self.path = Path(path)
        self.matrices = select(model, layers)
        self.when = when
        specs = [_spec(matrix) for matrix in self.matrices]
        check_unique(spec.name for spec in specs)  # before an older run is overwritten
        self._writer = _open(self.path, mode, {**_provenance(self.matrices[0].tensor), **(attributes or {})})
        try:
            self._writer.declare(specs)
        except BaseException:
            self._writer.close()
            raise
        self._shapes = {spec.name: spec.shape for spec in specs}
        self._last_row = self._committed("weights")
        self.step = max(0, self._last_row, self._committed("metrics"))
        self._rows: dict[int, dict[str, NDArray[Any]]] = {}
        self._metrics: dict[int, dict[str, float]] = {}
        self._logged = self._writer.metrics()
        self._bytes = 0
        self._last_commit = time.monotonic()
        self._hooks: list[Any] = []
        self._stepping = self._closed = False

    def attach(self, optimizer: torch.optim.Optimizer, *, step: int | None = None) -> Self:
        """Observe after every step of ``optimizer``; use as a context, which closes the run at its end.

        Parameters
        ----------
        step : optimizer steps already done; by default 0 in a new run, the last committed step in a resumed one.  Rows
            that the run holds beyond it (the training starts from an earlier checkpoint) are first copied to
            ``<run>.superseded-<k>.zarr``.

        Raises
        ------
        ValueError
            If ``step`` is negative, or the recorder is attached or closed already.
        """
        step = self.step if step is None else step
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        if self._hooks or self._closed:
            state = "closed" if self._closed else "attached"
            raise ValueError(f"the recorder of {self.path} is {state} already: make another one")
        self.flush()
        self.step = step
        superseded = self._writer.rewind(step)
        if superseded:
            _log.warning("%s goes on from step %d: its later rows are kept in %s", self.path, step, superseded.name)
        self._last_row = self._committed("weights")
        before, after = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
        self._hooks = [before(self._before_step), after(self._after_step)]
        if self.when(step):
            self.observe()
        return self

    def observe(self) -> None:
        """Record the weights as they are, at the present step; nothing if that step is recorded already."""
        self._check_open()
        if self.step > self._last_row:
            self._take_row()

    def log(self, **metrics: float | torch.Tensor) -> None:
        """Record metrics (loss, accuracy, ...) of the optimizer steps done so far.

        Raises
        ------
        ValueError
            If a name is empty or differs from another one only in case, a value is no number, or the recorder is
            closed.
        """
        self._check_open()
        if new := [name for name in metrics if name not in self._logged]:
            check_unique([*self._logged, *new])
            self._logged += new
        self._metrics.setdefault(self.step, {}).update({name: _number(name, value) for name, value in metrics.items()})

    def flush(self) -> None:
        """Write and commit all that was observed and logged; what fails to be written stays for the next flush.

        Raises
        ------
        OSError
            If it cannot be written; it names the run.
        """
        self._last_commit = time.monotonic()
        if not (self._rows or self._metrics):
            return
        try:
            self._write()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error
        self._rows, self._metrics, self._bytes = {}, {}, 0

    def close(self) -> None:
        """Flush, stop observing and give the run back; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        try:
            self.flush()
        finally:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            # The loop's own error, if any, says more; a full disk says it once.
            if error is None:
                raise
            if not isinstance(error, OSError):
                _log.error("%s: what was recorded since the last commit is lost: %s", self.path, failure)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the recorder of {self.path} is closed: nothing more is recorded")

    def _before_step(self, *_: object) -> None:
        self._stepping = True
        if self._bytes >= _BUFFER_BYTES or time.monotonic() - self._last_commit >= _COMMIT_SECONDS:
            self.flush()

    def _after_step(self, *_: object) -> None:
        # Where a class's step calls its parent's, torch calls the hooks for both: that is one step, seen again here.
        self.step += self._stepping
        self._stepping = False
        if self.when(self.step):
            self._take_row()

    def _write(self) -> None:
        # An interrupt may have come between the last commit and the emptying of the buffers.
        last_row, last_metric = self._committed("weights"), self._committed("metrics")
        rows = {step: row for step, row in self._rows.items() if step > last_row}
        metrics = {step: row for step, row in self._metrics.items() if step >= last_metric}
        if rows:
            stacks = {name: np.stack([row[name] for row in rows.values()]) for name in self._shapes}
            self._writer.append(list(rows), stacks)
        if metrics:
            names = dict.fromkeys(name for row in metrics.values() for name in row)
            columns = {name: np.array([row.get(name, np.nan) for row in metrics.values()]) for name in names}
            self._writer.append_metrics(list(metrics), columns)
        self._writer.commit()

    def _take_row(self) -> None:
        row = {matrix.name: self._snapshot(matrix) for matrix in self.matrices}
        self._rows[self.step] = row
        self._last_row = self.step
        self._bytes += sum(values.nbytes for values in row.values())

    def _committed(self, group: Literal["weights", "metrics"]) -> int:
        """The last committed step of a group, -1 if it has none."""
        return int(self._writer.steps(group).max(initial=-1))

    def _snapshot(self, matrix: Matrix) -> NDArray[Any]:
        values = matrix.snapshot()
        if values.shape != self._shapes[matrix.name]:
            raise ValueError(
                f"layer {matrix.name!r} changed from {self._shapes[matrix.name]} to {values.shape} "
                f"at step {self.step}: record the new form in a run of its own"
            )
        return values


def _number(name: str, value: float | torch.Tensor) -> float:
    try:
        return float(value.item() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"metric {name!r} must be one number, got {value!r}") from None


def _open(path: Path, mode: str, attributes: Mapping[str, str | int]) -> RunWriter:
    if mode == "resume":
        return RunWriter(path)
    return RunWriter.create(path, attributes, overwrite=mode == "overwrite")


def _provenance(tensor: torch.Tensor) -> dict[str, str | int]:
    packages = {f"{name}_version": version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"rmtnet_version": __version__, **packages, "started": started, "device": str(tensor.device)}


def _spec(matrix: Matrix) -> MatrixSpec:
    layout = matrix.layout
    return MatrixSpec(
        name=matrix.name,
        shape=matrix.shape,
        dtype=matrix.dtype,
        form=layout.form,
        out_features=layout.out_features,
        in_features=layout.in_features,
        block_row=layout.block_row,
        block_col=layout.block_col,
        attributes=dict(described(matrix)),
    )
