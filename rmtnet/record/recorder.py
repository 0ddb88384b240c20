"""The recorder: what a model's matrices hold while any loop trains it."""

import datetime
import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from rmtnet import ranks
from rmtnet._version import __version__
from rmtnet.record.device import DeviceCopies
from rmtnet.record.layers import Layers
from rmtnet.record.link import Link, WriterFailed
from rmtnet.record.sources import QUANTITIES, FormChanged
from rmtnet.record.steps import Steps, optimizers_of
from rmtnet.schedules import Moment, every
from rmtnet.store import CODECS, check_unique
from rmtnet.store.precision import keepbits

_log = logging.getLogger(__name__)
_FEWEST_BYTES = 2**20
_MOST_LOGGED = 64
_CHOICES = {"mode": ("x", "resume", "overwrite"), "on_error": ("raise", "warn"), "sync": ("never", "close", "commit")}
Due = Callable[[int], bool]


class Recorder:
    """Record chosen layers of ``model`` into the run store ``path``, at the optimizer steps that are due.

    What is due is copied into memory shared with another process, which writes it.  When that memory is full the
    training waits.  When the training is killed the writer commits what it holds.

    Parameters
    ----------
    model : the module that trains
    path : the run's folder, by custom ``<name>.zarr``
    layers : names or globs (``["ip1", "encoder.*"]``); None records every matrix
    when : a schedule of :mod:`rmtnet.schedules`, or any function of the number of optimizer steps done; or one for each
        name or glob of layers, ``{"ip1": every(1), "*": every(100)}``, of which the first that matches counts
    what : of each layer, "weights", "gradients", "updates", "moments" (of the variance budget), "spectra" (singular
        values), "gates", "norms".  The row of step t holds the weights after t optimizer steps, the gradient at these
        weights, and the update that follows.
    mode : "x" makes a new run, "resume" goes on with one, "overwrite" replaces one
    attributes : kept with the run (strings and numbers), e.g. ``{"seed": 0}``
    codec : "none" (fastest), "lz4", "zstd", or "delta" (smallest: successive steps are compressed together); no loss
    precision : "float16", "bfloat16" or "bitround:<bits of the mantissa>": matrices are stored rounded
    buffer_bytes : memory shared with the writer; it may hold half as much again
    commit_seconds : after which what was recorded becomes visible
    sync : when it is forced to the disk itself, to survive a power failure: "never", at "close", at every "commit"
    on_error : whether the training is to end ("raise") or go on ("warn") when recording cannot
    process : False has a thread write, which slows busy trainings

    Attributes
    ----------
    step : optimizer steps done
    epoch : for schedules; set it, or log a metric of that name
    stalls, stalled_seconds : how often and how long the training waited for the disk
    dropped : due steps for which the buffer had no room, with ``on_error="warn"``

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
        when: Due | Mapping[str, Due] = every(1),
        what: Iterable[str] = ("weights",),
        mode: Literal["x", "resume", "overwrite"] = "x",
        attributes: Mapping[str, str | int] | None = None,
        codec: Literal["none", "lz4", "zstd", "delta"] = "lz4",
        precision: str | None = None,
        buffer_bytes: int = 128 * 2**20,
        commit_seconds: float = 10.0,
        sync: Literal["never", "close", "commit"] = "close",
        on_error: Literal["raise", "warn"] = "raise",
        process: bool = True,
    ):
        quantities = _checked(
            model, what, precision, buffer_bytes, commit_seconds, mode=mode, on_error=on_error, sync=sync, codec=codec
        )
        self.path = Path(path)
        self._layers = Layers(model, layers, when, quantities, precision)
        self._codec, self._on_error = codec, on_error
        self.step, self.dropped = 0, 0
        self.epoch: float | None = None
        self._steps: Steps | None = None
        self._metrics: dict[str, float] = {}
        self._logged: list[tuple[int, dict[str, float | torch.Tensor]]] = []
        self._known: set[str] = set()
        self._closed = self._warned = False
        self._pid, self._started = os.getpid(), time.monotonic()
        self._link: Link | None = None
        if ranks.is_leader():
            size = self._layers.ring_bytes(buffer_bytes)
            self._link = Link(self.path.absolute(), size, commit_seconds=commit_seconds, process=process)
            if self._layers.device.type == "cuda":
                self._link.copies = DeviceCopies(self._link.ring.memory, self._layers.device)
        try:
            given = {**_provenance(self._layers.device), **(attributes or {})}
            last = ranks.led(lambda: self._open(mode, given, {"sync": sync, "buffer": size // 2}))
        except BaseException:
            self._hang_up()
            raise
        self._layers.start(last)
        if self._link and (row := self._layers.row_bytes) > self._link.ring.largest():
            _log.warning(
                "%s: a row of %.0f MB does not fit into a buffer of %.0f MB: at every due step the training waits for "
                "the disk; a larger buffer_bytes cures it", self.path, row / 2**20, self._link.ring.size / 2**20,
            )  # fmt: skip
        self.step = max(0, *last.values())

    @property
    def stalls(self) -> int:
        """How often the training waited for the disk."""
        return self._link.stalls if self._link else 0

    @property
    def stalled_seconds(self) -> float:
        """How long it did."""
        return self._link.stalled_seconds if self._link else 0.0

    def attach(self, optimizer: Any, *, step: int | None = None) -> Self:
        """Observe after every step of ``optimizer``; use as a context, which closes the run at its end.

        Parameters
        ----------
        optimizer : or several, each of whose steps counts; a recorder that is attached goes on with these
        step : optimizer steps already done; by default 0 in a new run, the last committed step in a resumed one.  Rows
            that the run holds beyond it (the training starts from an earlier checkpoint) are first copied to
            ``<run>.superseded-<k>.zarr``.

        Raises
        ------
        ValueError
            If ``step`` is negative, or the recorder is closed already.
        """
        optimizers = optimizers_of(optimizer)
        step = self.step if step is None else step
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        self._check_open()
        if self._steps:
            self._steps.remove()
        try:
            self._send_logged()
            self._layers.start(ranks.led(lambda: self._rewind(step)))
            self.step, self._started = step, time.monotonic()
            self._observe_if_due()
        except BaseException:
            self.close()  # nobody else would
            raise
        self._layers.warn_of_strangers(optimizers)
        self._steps = Steps(optimizers, self._before_step, self._with_gradients, self._after_step)
        return self

    def observe(self) -> None:
        """Record the weights as they are, at the present step; nothing if that step is recorded already."""
        self._check_open()
        self._layers.all_due()
        self._record_state()

    def log(self, **metrics: float | torch.Tensor) -> None:
        """Record metrics (loss, accuracy, ...) of the optimizer steps done so far.

        Raises
        ------
        ValueError
            If a name is empty or differs from another one only in case, a value is no number, or the recorder is
            closed.
        """
        self._check_open()
        if not metrics.keys() <= self._known:
            check_unique([*self._known, *metrics])
            self._known |= metrics.keys()
        if metrics:
            self._logged.append((self.step, {name: _detached(name, value) for name, value in metrics.items()}))
        # Numbers on a GPU are fetched some steps at a time: each waits for all that the GPU has queued.
        if len(self._logged) >= _MOST_LOGGED or not any(map(_is_on_device, metrics.values())):
            self._send_logged()

    def flush(self) -> None:
        """Write and commit all that was observed and logged; what fails to be written stays for the next flush.

        Raises
        ------
        OSError
            If it cannot be written; it names the run.
        """
        if self._link and not self._closed:
            self._check_open()
            self._send_logged()
            try:
                self._link.ask("flush")
            except OSError as error:
                raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error

    def close(self) -> None:
        """Flush, stop observing and give the run back; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._steps:
            self._steps.remove()
        if self._link and os.getpid() == self._pid:
            if self.stalls:
                _log.info("%s: waited %d times, %.1f s, for the disk", self.path, self.stalls, self.stalled_seconds)
            try:
                try:
                    self._send_logged()
                finally:
                    self._link.close()
            except OSError as error:
                named = OSError(error.errno, error.strerror or str(error), str(self.path))
                if self._on_error == "raise":
                    raise named from error
                self._warn(named)

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

    def _send_logged(self) -> None:
        logged, self._logged = self._logged, []
        for step, metrics in logged:
            values = {name: float(value) for name, value in metrics.items()}
            self._metrics.update(values)
            self.epoch = values.get("epoch", self.epoch)
            if link := self._link:
                self._guarded(partial(link.put_metrics, step, values))

    # --- the run

    def _open(self, mode: str, attributes: Mapping[str, str | int], options: Mapping[str, Any]) -> dict[str, int]:
        """Make or open the run; the last committed step of each of its rows."""
        assert self._link is not None
        self._link.open(mode, attributes, options)
        self._layers.restore(self._link.ask("attributes"))
        self._layers.adopt(self._link.ask("forms"))
        if left := self._layers.left_out(self._link.ask("groups")):
            _log.warning("%s holds %s too, which are not recorded from here on", self.path, ", ".join(left))
        self._link.ask("declare", self._layers.specs(), self._codec)
        self._known = set(self._link.ask("metrics"))
        return self._committed()

    def _committed(self) -> dict[str, int]:
        assert self._link is not None
        axes = [*self._layers.axes(), ("metrics", "step")]
        return {f"{group}/{axis}": self._link.ask("last", group, axis) for group, axis in axes}

    def _rewind(self, step: int) -> dict[str, int]:
        assert self._link is not None
        if superseded := self._link.ask("rewind", step):
            _log.warning("%s goes on from step %d: its later rows are kept in %s", self.path, step, superseded.name)
        return self._committed()

    # --- the steps

    def _moment(self) -> Moment:
        if self._layers.ask_for_metrics:
            self._send_logged()
        return Moment(self.step, epoch=self.epoch, seconds=time.monotonic() - self._started, metrics=self._metrics)

    def _before_step(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child is not the training
        if self._layers.have_moved():
            self._begin_new_forms()
        try:
            self._layers.keep_before()
        except FormChanged:
            self._begin_new_forms()
            self._layers.keep_before()

    def _with_gradients(self) -> None:
        if os.getpid() == self._pid:
            self._layers.keep_gradients()

    def _after_step(self) -> None:
        if os.getpid() != self._pid:
            return
        # First: an interrupt below must not cost all later rows their step.
        self.step += 1
        if self._layers.have_transitions and not self._layers.have_moved():
            self._guarded(lambda: self._layers.send_transitions(self._link, self.step - 1))
        self._observe_if_due()

    def _begin_new_forms(self) -> None:
        """Record what was replaced since the last step, as it is before the coming one."""

        def begin() -> None:
            self._layers.refresh(self._link, self._codec, self.step)
            self._layers.send_states(self._link, self.step)

        self._guarded(begin)

    def _observe_if_due(self) -> None:
        due = self._layers.ask(self._moment())
        if self._layers.ask_for_metrics and (link := self._link) and (state := self._layers.state()):
            self._guarded(lambda: link.put_notes(self.step, state))
        if due:
            self._record_state()

    def _record_state(self) -> None:
        try:
            if self._layers.have_moved():
                raise FormChanged
            self._guarded(lambda: self._layers.send_states(self._link, self.step))
        except FormChanged:
            self._begin_new_forms()

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something that may find the disk full."""
        try:
            if self._link and self._link.failed:
                self._report(self._link)
            action()
        except OSError as error:
            if self._on_error == "raise":
                raise
            self.dropped += 1
            self._warn(error)

    def _report(self, link: Link) -> None:
        failure = link.ask("failure")
        if failure is None:
            return
        error, first, last = failure
        text = f"steps {first} to {last} cannot be written: {getattr(error, 'strerror', None) or error}"
        failed = WriterFailed(getattr(error, "errno", None) or errno.EIO, text, str(self.path))
        if self._on_error == "raise":
            raise failed from error
        self._warn(failed)

    def _warn(self, failure: Exception) -> None:
        """Say once what keeps steps from being recorded."""
        if not self._warned:
            _log.warning("the training goes on, and is not recorded: %s", failure)
        self._warned = True

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the recorder of {self.path} is closed: nothing more is recorded")
        if os.getpid() != self._pid:
            raise ValueError(f"the recorder of {self.path} belongs to process {self._pid}: make one of this process")

    def _hang_up(self) -> None:
        if self._link:
            self._link.abandon()
        self._closed = True


def _checked(
    model: Any,
    what: Iterable[str],
    precision: str | None,
    buffer_bytes: int,
    commit_seconds: float,
    *,
    codec: str,
    **choices: str,
) -> tuple[str, ...]:
    for name, value in {**choices, "codec": codec}.items():
        allowed = CODECS if name == "codec" else _CHOICES[name]
        if value not in allowed:
            raise ValueError(f"{name} must be {_listed(allowed)}, got {value!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    quantities = (what,) if isinstance(what, str) else tuple(what)
    if not quantities or not set(quantities) <= set(QUANTITIES):
        raise ValueError(f"what must be among {', '.join(QUANTITIES)}, got {quantities!r}")
    if not isinstance(buffer_bytes, int) or buffer_bytes < _FEWEST_BYTES:
        raise ValueError(f"buffer_bytes must be a whole number of at least {_FEWEST_BYTES}, got {buffer_bytes!r}")
    if not isinstance(commit_seconds, int | float) or not commit_seconds >= 0:
        raise ValueError(f"commit_seconds must not be negative, got {commit_seconds!r}")
    if precision is not None:
        keepbits(precision)
    return tuple(dict.fromkeys(quantities))


def _listed(names: Iterable[str]) -> str:
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}"


def _detached(name: str, value: float | torch.Tensor) -> float | torch.Tensor:
    try:
        if _is_on_device(value) and value.numel() == 1:  # type: ignore[union-attr]
            return value.detach().clone()  # type: ignore[union-attr]
        return float(value.item() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"metric {name!r} must be one number, got {value!r}") from None


def _is_on_device(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type != "cpu"


def _provenance(device: torch.device) -> dict[str, str | int]:
    packages = {f"{name}_version": version(name) for name in ("torch", "numpy", "zarr", "xarray")}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"rmtnet_version": __version__, **packages, "started": started, "device": str(device)}
