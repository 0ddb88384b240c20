"""The command line: each command opens, calls one thing of the library, prints."""

import json
import opcode
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rmtnet._version import __version__

if TYPE_CHECKING:
    from xarray import Dataset

    from rmtnet.store import Run

PATH = click.Path(path_type=Path)


class Commands(click.Group):
    """A group that turns exceptions into one line: exit code 2 for bad input, 1 for a failure of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("rmtnet: stopped", err=True)
            ctx.exit(130)
        except Exception as error:
            if os.environ.get("RMTNET_DEBUG"):
                raise
            line = _one_line(error)
            if isinstance(error, OSError) or _raised_by_us(error):
                click.echo(f"rmtnet: {line}", err=True)
                ctx.exit(2)
            click.echo(
                f"rmtnet: this is a failure of ours: {type(error).__name__}: {line} (RMTNET_DEBUG=1 shows where)",
                err=True,
            )
            ctx.exit(1)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())


def _raised_by_us(error: Exception) -> bool:
    """Whether a ``raise`` of ours raised it: what fails otherwise, in us or in a library, we failed to check.

    A traceback does not say whether a statement or an operation failed; the instruction does.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or isinstance(error, AssertionError):
        return False
    instruction = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    ours = str(trace.tb_frame.f_globals.get("__name__")).startswith("rmtnet.")
    return ours and instruction == opcode.opmap["RAISE_VARARGS"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """What happens inside a layer while it trains: record weights, analyse them against random-matrix laws."""


@main.command()
@click.argument("study", type=PATH)
@click.option("-o", "--output", metavar="DIR", type=PATH, help="Folder of the runs.  [default: runs/<name of STUDY>]")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a field of every run; repeatable.")
@click.option("--only", metavar="GLOB", default="*", help="Train only the runs whose names match.")
def train(study: Path, output: Path | None, settings: tuple[str, ...], only: str) -> None:
    """Train and record what the study file STUDY declares; go on where an earlier call stopped.

    STUDY is a Python file and is executed.

    \b
    Example:
        rmtnet train studies/lenet5_embedded.py -o runs/demo --set iterations=600
    """
    from rmtnet import language, training
    from rmtnet.checkpoints import checkpoint_path
    from rmtnet.study import chosen, load_studies, with_settings
    from rmtnet.terminal import TrainingProgress

    studies = with_settings(chosen(load_studies(study), only), dict(map(_key_value, settings)))
    folder = output or Path("runs") / study.stem
    # Images and language are trained by different loops, which are asked the same.
    loops: list[Any] = [language if isinstance(each, language.LanguageStudy) else training for each in studies]
    done = [loop.steps_done(declared, folder) for loop, declared in zip(loops, studies, strict=True)]
    stores, declared = [], studies[0]
    try:
        with TrainingProgress(sum(declared.iterations for declared in studies), sum(done)) as progress:
            for loop, declared, steps in zip(loops, studies, done, strict=True):
                progress.start(declared.name, steps, declared.iterations, unit=declared.unit)
                stores.append(loop.run(declared, folder, progress=progress))
    except KeyboardInterrupt:
        saved = checkpoint_path(declared, folder).exists()
        where = (
            "goes on from the last checkpoint" if saved else f"begins {declared.name} anew: it had no checkpoint yet"
        )
        click.echo(f"stopped; the same command {where}", err=True)
        raise click.exceptions.Exit(130) from None
    for store in stores:
        click.echo(store)


@main.command()
@click.argument("path")
def info(path: str) -> None:
    """Show what the run PATH (a folder, or a URL such as s3://...) holds, also while it is being written.

    \b
    Example:
        rmtnet info runs/demo/b10.zarr
    """
    from rmtnet import store, terminal

    run = store.open_run(path)
    seen = store.overview(run)
    click.echo("\n".join(terminal.run_lines(run, seen)))
    terminal.show(terminal.run_table(seen))


@main.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--reference", "references", metavar="PATH", multiple=True,
              help="Run of the dense sister; repeat it, one for each seed.")  # fmt: skip
@click.option("--layer", "layers", metavar="GLOB", multiple=True, default=["*"],
              help="Only the layers whose names match; repeatable.")  # fmt: skip
@click.option("--steps", metavar="STEPS", help="Such as 0,100,last or first:1000.  [default: all]")
@click.option("--also", metavar="GROUPS", default="",
              help="Further statistics, slower: any of local,budget,tails.")  # fmt: skip
@click.option(
    "-o", "--output", metavar="FILE", type=PATH, help="Write all results, spectra too, to FILE.nc or FILE.zarr."
)
@click.option("--spectra", metavar="STEPS", help="Keep whole spectra at these steps only.  [default: all]")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--plots", metavar="DIR", type=PATH, help="Draw each layer's results into DIR.")
def analyze(
    paths: tuple[str, ...], references: tuple[str, ...], layers: tuple[str, ...], steps: str | None, also: str,
    output: Path | None, spectra: str | None, form: str, plots: Path | None,
) -> None:  # fmt: skip
    """Compare the recorded matrices of the runs PATH... with random matrices and with their dense sister.

    \b
    Examples:
        rmtnet analyze runs/demo/*.zarr --reference runs/demo/b1.zarr -o demo.nc
        rmtnet analyze model.zarr --layer 'encoder.*' --steps 0,last --format csv > model.csv
        rmtnet analyze model.zarr --steps last --also local,tails
    """
    from rmtnet import analysis, results, store, terminal

    if output:
        results.check_target(output)
    runs, sisters = _with_rows(_opened(paths)), [store.open_run(path) for path in references]
    with terminal.status() as progress:
        found = analysis.analyze_runs(
            runs, references=sisters, layers=layers, steps=steps, also=_words(also), progress=progress
        )
    if spectra:
        found = analysis.with_spectra_at(found, spectra)
    if output:
        results.write(found, output)
    if form == "table":
        terminal.show(terminal.results_table(found))
    elif form == "csv":
        analysis.long_table(found).to_csv(sys.stdout, index=False)
    else:
        click.echo(json.dumps(analysis.long_table(found).to_dict(orient="records"), indent=1))
    if plots:
        _draw(found, plots)


@main.group("store")
def stores() -> None:
    """Check, repair, shrink and convert recorded runs."""


@stores.command()
@click.argument("path")
def verify(path: str) -> None:
    """Read and check every chunk of the run PATH; exit code 2 if it is damaged.

    \b
    Example:
        rmtnet store verify runs/demo/b10.zarr
    """
    from rmtnet import store, terminal

    found = store.verify(path)
    terminal.show(terminal.health_table(found))
    if damaged := sum(bool(health.faults) for health in found):
        click.echo(
            f"rmtnet: {path}: {damaged} of {len(found)} arrays are damaged: rmtnet store repair saves the rest",
            err=True,
        )
        raise click.exceptions.Exit(2)
    click.echo(f"{path}: whole")


@stores.command()
@click.argument("path", type=PATH)
@click.option("--drop", is_flag=True, help="Leave out damaged layers and keep all steps, instead of cutting them off.")
def repair(path: Path, drop: bool) -> None:
    """Cut the run PATH back to its last step that is whole in every layer; keep the original under another name.

    \b
    Examples:
        rmtnet store repair runs/demo/b10.zarr
        rmtnet store repair runs/demo/b10.zarr --drop
    """
    from rmtnet import store

    done = store.repair(path, drop=drop)
    if done is None:
        click.echo(f"{path}: whole, nothing to repair")
        return
    lost = f"without {', '.join(done.dropped)}" if drop else f"cut at step {done.cut}"
    click.echo(f"{path}: {lost}; the damaged run is kept as {done.original}")


@stores.command()
@click.argument("path")
@click.option("-o", "--output", metavar="COPY", type=PATH, help="Write a copy.  [default: replace PATH]")
@click.option("--codec", type=click.Choice(["none", "lz4", "zstd", "delta"]), help="Of matrices.  [default: as it is]")
@click.option("--chunk-mb", type=click.IntRange(1, 256), default=16, show_default=True, help="MiB in a chunk.")
def compact(path: str, output: Path | None, codec: str | None, chunk_mb: int) -> None:
    """Write the run PATH anew with larger chunks, hence fewer files, or another codec; no number in it changes.

    \b
    Examples:
        rmtnet store compact runs/demo/b10.zarr
        rmtnet store compact runs/demo/b10.zarr --codec delta -o b10-small.zarr
    """
    from rmtnet import store

    click.echo(store.compact(path, output, codec=codec, chunk_bytes=chunk_mb * 2**20))


@stores.command()
@click.argument("path")
@click.option("--every", "period", metavar="N", type=click.IntRange(1), help="Keep the steps that N divides.")
@click.option("--steps", metavar="STEPS", help="Keep these, such as 0,100,2000.")
@click.option("-o", "--output", metavar="COPY", type=PATH, help="Write a copy.")
@click.option("--in-place", is_flag=True, help="Replace PATH: the other steps are gone then.")
def thin(path: str, period: int | None, steps: str | None, output: Path | None, in_place: bool) -> None:
    """Keep some steps of the run PATH; what is one number a step (metrics, moments, norms) stays whole.

    \b
    Examples:
        rmtnet store thin runs/demo/b10.zarr --every 100 -o b10-thin.zarr
        rmtnet store thin runs/demo/b10.zarr --steps 0,100,2000 --in-place
    """
    from rmtnet import schedules, store

    if (period is None) == (steps is None):
        raise click.UsageError("choose the steps, by --every or by --steps")
    if (output is None) != in_place:
        raise click.UsageError("choose where to write: -o COPY or --in-place")
    keep = schedules.every(period) if period is not None else schedules.at(*_numbers(steps or ""))
    click.echo(store.thin(path, keep, output))


@stores.command()
@click.argument("path")
@click.option("-o", "--output", metavar="FILE", type=PATH, required=True, help="FILE.nc, FILE.safetensors or FILE.npz.")
@click.option("--group", default="weights", show_default=True, help="What to take: weights, gradients, spectra, ...")
@click.option("--layer", "layers", metavar="NAME", multiple=True, help="Only this layer; repeatable.")
@click.option("--steps", metavar="STEPS", help="Only these, such as 100 or 0,100.  [default: all]")
def export(path: str, output: Path, group: str, layers: tuple[str, ...], steps: str | None) -> None:
    """Write layers of the run PATH, all steps or some, to a file that others read.

    \b
    Examples:
        rmtnet store export runs/demo/b10.zarr -o b10.nc
        rmtnet store export runs/demo/b10.zarr --steps 600 -o b10-600.safetensors
    """
    from rmtnet import store

    chosen = None if steps is None else _numbers(steps)
    click.echo(store.export(store.open_run(path), output, group=group, layers=layers or None, steps=chosen))


@main.group()
def datasets() -> None:
    """Where training data comes from."""


@datasets.command("list")
def list_datasets() -> None:
    """List the datasets, and where each would be taken from now.

    \b
    Example:
        rmtnet datasets list
    """
    from rmtnet.datasets import SOURCES, locate

    for name, source in SOURCES.items():
        click.echo(f"{name:8} {source.description}; {source.licence}; {locate(name)}")


@datasets.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Fetch the dataset NAME, if it is not on this machine, and verify its checksums.

    \b
    Example:
        rmtnet datasets fetch mnist
    """
    from rmtnet import datasets

    paths = datasets.fetch(name)
    click.echo("\n".join(map(str, paths)) or f"{name} is {datasets.locate(name)}: nothing to fetch")


def _with_rows(runs: "list[Run]") -> "list[Run]":
    """The runs that hold matrices to analyse, the others named; all of them if none does."""

    def has_rows(run: "Run") -> bool:
        groups = [group for group in ("weights", "spectra") if group in run.groups]
        return any(rows.sizes["step"] for group in groups for rows in run.layers(group).values())

    held = [has_rows(run) for run in runs]
    for run, holds in zip(runs, held, strict=True):
        if any(held) and not holds:
            click.echo(f"rmtnet: {run.path}: holds neither weights nor singular values: left out", err=True)
    return [run for run, holds in zip(runs, held, strict=True) if holds or not any(held)]


def _opened(paths: Iterable[str]) -> list["Run"]:
    """The runs in natural order, without the superseded ones if there are others."""
    from rmtnet import store

    runs = [store.open_run(path) for path in sorted(paths, key=store.natural_order)]
    current = [run for run in runs if "superseded" not in run.attrs]
    for run in runs:
        if current and "superseded" in run.attrs:
            click.echo(f"{run.path} is superseded: left out", err=True)
    return current or runs


def _draw(results: "Dataset", folder: Path) -> None:
    from rmtnet.publish import save_overviews

    for layer, why in save_overviews(results, folder).items():
        click.echo(f"no picture of layer {layer}: {why}", err=True)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return sorted({int(word) for word in _words(text)})
    except ValueError:
        raise click.BadParameter(f"--steps takes numbers such as 0,100, got {text!r}") from None


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"--set takes KEY=VALUE, got {text!r}")
    return key.strip(), value.strip()
