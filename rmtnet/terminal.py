"""What people see on a terminal: tables, and the progress of long work with the time left."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from rmtnet.store import Health, Overview, Run

_LINE_SECONDS = 10.0
_GAPS = 5
# Two lines of a title keep a table of sisters within 100 columns.
_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "variance": ("variance", lambda value: _short(f"{value:.2e}")),
    "variance_ratio": ("variance\nratio", "{:.3f}".format),
    "largest_ratio": ("largest\n/ R", "{:.3f}".format),
    "largest_p": ("largest\np", lambda value: _p_value(value)),
    "spikes": ("spikes", "{:.0f}".format),
    "mean_deviation": ("mean\n|1-s/R|", "{:.4f}".format),
    "first_departure": ("leaves\nnoise", "{:.0f}".format),
}
_PLACES = {"dense": "{m} x {n}", "block_diagonal": "{blocks} ({m} x {n})", "block_sparse": "{blocks} kept ({m} x {n})"}


class TrainingProgress:
    """Steps done, loss and time left of a grid of runs, on stderr: bars on a terminal, else a line now and then."""

    def __init__(self, total: int, done: int = 0):
        """``total`` steps of all runs together, of which ``done`` were done before."""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._total, self._before, self._began = total, done, time.monotonic()
        self._done = float(done)
        self._lines = not self._bars.console.is_terminal
        self._last_line = self._began
        self._all = self._bars.add_task("all runs", total=total, completed=done, note="")
        self._run: Any = None

    def __enter__(self) -> Self:
        if not self._lines:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._lines:
            self._bars.stop()

    def start(self, name: str, done: int, total: int, *, unit: str = "step") -> None:
        """A run begins, or goes on after ``done`` of ``total`` steps, or of another ``unit``."""
        if self._run is not None:
            self._bars.remove_task(self._run)
        self._name, self._unit, self._reached = name, unit, float(done)
        self._run = self._bars.add_task(name, total=total, completed=done, note="")
        if self._lines:
            what = "is complete" if done >= total else f"goes on from {unit} {done}" if done else "starts"
            print(f"{name}: {what}, {total} {unit}s", file=sys.stderr)

    def __call__(self, step: float, loss: float) -> None:
        self._done += step - self._reached
        self._reached = step
        if not self._lines:
            self._bars.update(self._run, completed=step, note=f"loss {loss:.4f}")
            self._bars.update(self._all, completed=self._done)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            step_seconds = (self._last_line - self._began) / (self._done - self._before)
            left = step_seconds * (self._total - self._done)
            share = 100 * self._done / self._total
            print(
                f"{self._name}: {self._unit} {step:.6g}, loss {loss:.4f}; all runs {share:.0f} %, {_clock(left)} left",
                file=sys.stderr,
            )


def results_table(results: xr.Dataset) -> Table:
    """The statistics of each run and layer at its last analysed step."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold"
    )
    for title in ("run", "layer", "blocks", "step"):
        table.add_column(title)
    shown = {name: column for name, column in _COLUMNS.items() if name in results and results[name].notnull().any()}
    for title, _ in shown.values():
        table.add_column(title, justify="right")
    for layer in results["layer"].values:
        for run in results["run"].values:
            of_layer = results.sel(run=run, layer=layer)
            steps = of_layer["step"].values[of_layer["largest_singular_value"].notnull().values]
            if len(steps):
                table.add_row(*_row(of_layer.sel(step=steps[-1]), shown))
        if results.sizes["run"] > 1:
            table.add_section()
    return table


def run_lines(run: Run, seen: Overview) -> list[str]:
    """A run in words: its attributes, what was recorded, its size, when it was written last, whether it looks whole."""
    lines = [f"{key}: {value}" for key, value in run.attrs.items()]
    lines.append(f"groups: {', '.join(run.groups)}")
    if "metrics" in run.groups:
        metrics = ", ".join(map(str, run.metrics)) or "none"
        lines.append(f"metrics: {metrics} ({run.metrics.sizes['step']} steps)")
    if seen.disk_bytes is not None:
        values, disk = sum(row.nbytes for row in seen.recorded), max(seen.disk_bytes, 1)
        lines.append(f"bytes: {disk:,} in {seen.files:,} files, of values {values:,} ({values / disk:.2f} times)")
    for row in seen.recorded:
        gaps = [f"{first} to {last}" for first, last in row.gaps]
        more = f" and {len(gaps) - _GAPS} more" if len(gaps) > _GAPS else ""
        lines += [f"gaps: {row.group} of {row.layer}: steps {', '.join(gaps[:_GAPS])}{more}"] if gaps else []
    when = f"{seen.committed:%Y-%m-%d %H:%M:%S} UTC" if seen.committed else "at an unknown time"
    lines.append(f"last commit: {when}, step {'none' if seen.last_step is None else seen.last_step}")
    lines.append(f"written now by: {seen.writer or 'nobody'}")
    return [*lines, f"health: {'; '.join(seen.problems) or 'no file is missing (rmtnet store verify reads them)'}"]


def run_table(seen: Overview) -> Table:
    """What was recorded of each layer: form, shape, precision, steps, bytes on disk."""
    titles = ("layer", "of", "form", "shape", "dtype", "steps", "first", "last", "bytes", "ratio")
    table = Table(*titles, header_style="bold")
    for row in seen.recorded:
        ends = [str(row.steps[0]), str(row.steps[-1])] if len(row.steps) else ["", ""]
        ratio = f"{row.nbytes / row.disk_bytes:.2f}" if row.disk_bytes else ""
        disk = "" if row.disk_bytes is None else f"{row.disk_bytes:,}"
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.layer, row.group, row.form, shape, row.dtype, str(len(row.steps)), *ends, disk, ratio)
    return table


def health_table(found: Sequence[Health]) -> Table:
    """Each array of a run: rows, chunks, and what is wrong with it."""
    table = Table("array", "rows", "chunks", "found", header_style="bold")
    for health in found:
        more = f" (and {len(health.faults) - 1} more)" if len(health.faults) > 1 else ""
        wrong = f"damaged at row {health.whole_rows}: {health.faults[0][1]}{more}" if health.faults else ""
        table.add_row(health.array, str(health.rows), str(health.chunks), wrong or health.note or "whole")
    return table


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is worked on now, on a terminal only; gives the function that changes it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: None
        return
    with console.status("") as line:
        yield lambda what: line.update(f"analysing {what}")


def show(table: Table) -> None:
    """Print to stdout, as wide as it needs to be: no number is cut off on a narrow terminal."""
    console = Console()
    width = console.measure(table, options=console.options.update(max_width=1000)).maximum
    Console(width=max(width, console.width)).print(table)


def _row(values: xr.Dataset, shown: dict[str, tuple[str, Callable[[float], str]]]) -> list[str]:
    sizes = {name: int(values[name]) for name in ("blocks", "m", "n")}
    place = _PLACES[str(values["form"].item())].format(**sizes)
    head = [str(values["run"].item()), str(values["layer"].item()), place, str(int(values["step"]))]
    numbers = [values[name].item() for name in shown]
    texts = [
        form(number) if np.isfinite(number) else "-" for (_, form), number in zip(shown.values(), numbers, strict=True)
    ]
    return [*head, *texts]


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else _short(f"{p:.0e}") if p > 0 else "<1e-300"


def _short(number: str) -> str:
    """3e-05 as 3e-5."""
    digits, e, exponent = number.partition("e")
    return f"{digits}e{int(exponent)}" if e else number


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
