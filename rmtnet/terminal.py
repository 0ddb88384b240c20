"""What people see on a terminal: tables, and the progress of long work with the time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from rmtnet.store import Run

_LINE_SECONDS = 10.0
_COLUMNS = {
    "variance": ("variance", "{:.3e}"),
    "variance_ratio": ("variance ratio", "{:.3f}"),
    "largest_ratio": ("largest / R", "{:.3f}"),
    "mean_deviation": ("mean |1 - s/R|", "{:.4f}"),
    "bulk_variance": ("bulk variance", "{:.3e}"),
    "outliers": ("outliers", "{:.0f}"),
}


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
        self._total, self._before, self._done, self._began = total, done, done, time.monotonic()
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

    def start(self, name: str, done: int, total: int) -> None:
        """A run begins, or goes on after ``done`` of ``total`` steps."""
        if self._run is not None:
            self._bars.remove_task(self._run)
        self._name = name
        self._run = self._bars.add_task(name, total=total, completed=done, note="")
        if self._lines:
            what = "is complete" if done >= total else f"goes on from step {done}" if done else "starts"
            print(f"{name}: {what}, {total} steps", file=sys.stderr)

    def __call__(self, step: int, loss: float) -> None:
        self._done += 1
        if not self._lines:
            self._bars.update(self._run, completed=step, note=f"loss {loss:.4f}")
            self._bars.update(self._all, completed=self._done)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            step_seconds = (self._last_line - self._began) / (self._done - self._before)
            left = step_seconds * (self._total - self._done)
            share = 100 * self._done / self._total
            print(
                f"{self._name}: step {step}, loss {loss:.4f}; all runs {share:.0f} %, {_clock(left)} left",
                file=sys.stderr,
            )


def results_table(results: xr.Dataset) -> Table:
    """The statistics of each run and layer at its last analysed step."""
    table = Table("run", "layer", "form", "blocks", "block", "step", header_style="bold")
    shown = {name: column for name, column in _COLUMNS.items() if results[name].notnull().any()}
    for title, _ in shown.values():
        table.add_column(title, justify="right")
    for layer in results["layer"].values:
        for run in results["run"].values:
            of_layer = results.sel(run=run, layer=layer)
            steps = of_layer["step"].values[of_layer["variance"].notnull().values]
            if len(steps):
                table.add_row(*_row(of_layer.sel(step=steps[-1]), shown))
        if results.sizes["run"] > 1:
            table.add_section()
    return table


def run_table(run: Run) -> Table:
    """The layers of a run: form, shape, precision, recorded steps."""
    table = Table("layer", "form", "blocks", "block", "dtype", "steps", "first", "last", header_style="bold")
    for name, weight in run.items():
        steps = weight["step"].values
        ends = [str(steps[0]), str(steps[-1])] if len(steps) else ["", ""]
        _, blocks, rows, columns = weight.shape
        shape = f"{rows} x {columns}"
        table.add_row(name, weight.attrs["form"], str(blocks), shape, str(weight.dtype), str(len(steps)), *ends)
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


def _row(values: xr.Dataset, shown: dict[str, tuple[str, str]]) -> list[str]:
    head = [str(values[name].item()) for name in ("run", "layer", "form")]
    place = [str(int(values["blocks"])), f"{int(values['m'])} x {int(values['n'])}", str(int(values["step"]))]
    numbers = [values[name].item() for name in shown]
    texts = [
        form.format(number) if np.isfinite(number) else "-"
        for (_, form), number in zip(shown.values(), numbers, strict=True)
    ]
    return [*head, *place, *texts]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
