"""How a figure leaves the house in print: column widths, style, files, and the ``__main__`` of a figure script.

The widths are those of Springer's journals (84 mm a column, 174 mm a page), where the first of our papers
appeared; in inches, as matplotlib wants them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import matplotlib
import xarray as xr
from matplotlib.figure import Figure

from rmtnet import plots
from rmtnet.files import write_whole
from rmtnet.results import read

__all__ = ["DOUBLE_COLUMN", "SINGLE_COLUMN", "figure_script", "overview", "paper_style", "save", "save_overviews"]

SINGLE_COLUMN = 84 / 25.4
DOUBLE_COLUMN = 174 / 25.4

PRINT: dict[str, Any] = {
    "font.family": "sans-serif",
    # matplotlib carries this font: a figure looks the same on every machine.
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
    "legend.title_fontsize": 6.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}
for _axis in ("xtick", "ytick"):
    PRINT |= {
        f"{_axis}.major.width": 0.6,
        f"{_axis}.major.size": 3,
        f"{_axis}.minor.width": 0.4,
        f"{_axis}.minor.size": 2,
    }


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and save in print's style: 8 pt sans serif, thin lines, fonts embedded as TrueType (type 42)."""
    # Imported here: seaborn loads pyplot, which a figure drawn without this style has no need of.
    import seaborn

    style: Any = {**seaborn.plotting_context("paper"), **seaborn.axes_style("ticks"), **PRINT}
    with matplotlib.rc_context(style):
        yield


def save(figure: Figure, path: Path | str) -> tuple[Path, Path]:
    """Write ``path``.pdf (vectors) and ``path``.png (300 dpi), without dates: the same figure, the same bytes.

    The folder is made where it is missing. Returns the two paths.
    """
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("pdf", "png"))
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        _write(figure, pdf, format="pdf", metadata={"CreationDate": None})
    _write(figure, png, format="png", dpi=300, metadata={"Software": None})
    return pdf, png


def _write(figure: Figure, path: Path, **options: Any) -> None:
    # Through memory: on a full disk the writers of pictures say nothing of the disk.
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    write_whole(path, buffer.getbuffer())


def overview(results: xr.Dataset, layer: str) -> Figure:
    """Everything about one layer at a glance: each run a line, at the last step that all runs have.

    Raises
    ------
    ValueError
        If the runs share no step, or the layer has nothing to compare (all weights 0).
    """
    figure = Figure(figsize=(DOUBLE_COLUMN, 5.5), layout="constrained")
    axes = figure.subplots(2, 2)
    look: Any = {"layer": layer, "label": "{run}"}
    step = plots.last_step(results, "singular_value_ratio", layer=layer)
    of_layer = results.sel(layer=layer)
    sisters = bool((of_layer["variance_ratio"].notnull() & (of_layer["blocks"] > 1)).any())
    (plots.plot_variance_ratio if sisters else plots.plot_variance)(results, ax=axes[0, 0], **look)
    plots.plot_mean_deviation(results, ax=axes[0, 1], **look)
    plots.plot_singular_values(results, step=step, ax=axes[1, 0], **look)
    plots.plot_singular_value_ratio(results, step=step, ax=axes[1, 1], **look)
    for ax in axes.flat:
        # Names of layers may be long: once, above all, is enough.
        ax.set_ylabel(ax.get_ylabel().removesuffix(f" of {layer}"))
        ax.xaxis.set_major_formatter("{x:,.0f}")
    for ax in axes[1]:
        ax.set_xlabel(f"order, after {step:,} iterations")
    figure.legend(*axes[1, 1].get_legend_handles_labels(), loc="outside upper center", ncols=4, title=layer)
    return figure


def save_overviews(results: xr.Dataset, folder: Path) -> dict[str, str]:
    """Draw the :func:`overview` of every layer into ``folder``; returns the layers that have none, and why."""
    without: dict[str, str] = {}
    with paper_style():
        for layer in map(str, results["layer"].values):
            try:
                figure = overview(results, layer)
            except ValueError as error:
                without[layer] = str(error)
                continue
            save(figure, folder / layer.replace("/", "-"))
    return without


def figure_script(draw: Callable[[xr.Dataset], Figure], name: str) -> None:
    """The ``__main__`` of a figure script: read ``RESULTS [-o DIR]``, draw, save, print the paths of the files.

    What is wrong with the results (a ValueError) ends in one line and exit code 2.
    """

    @click.command(help=draw.__doc__)
    @click.argument("results", type=click.Path(path_type=Path))
    @click.option("-o", "--output", metavar="DIR", default=".", type=click.Path(path_type=Path), help="folder")
    def main(results: Path, output: Path) -> None:
        try:
            with paper_style():
                paths = save(draw(read(results)), output / name)
        except (ValueError, OSError) as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(2) from error
        for path in paths:
            click.echo(path)

    main()
