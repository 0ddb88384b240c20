import itertools
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.testing import assert_allclose
from test_plots import INPUTS, OUTPUTS, iid_results

from rmtnet import publish

FIGURES = Path(__file__).parents[1] / "figures"
NAMES = ("a_f06", "a_f07", "a_f08", "a_f09")


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    return iid_results()


@pytest.fixture(scope="module")
def file(results, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("results") / "results.nc"
    results.to_netcdf(path)
    return path


def drawn(name: str, results: xr.Dataset) -> Figure:
    with publish.paper_style():
        figure = runpy.run_path(str(FIGURES / f"{name}.py"))["draw"](results)
        FigureCanvasAgg(figure).draw()
    return figure


def exit_code(name: str, monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FIGURES / f"{name}.py"), run_name="__main__")
    return end.value.code


def legends(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes]


def test_variance_ratio_figure_names_its_curves_as_the_paper_does(results):
    figure = drawn("a_f06", results)
    assert legends(figure) == [
        ["(2,1)-BD4 / (1,1)-BD4", "(4,1)-BD4 / (1,1)-BD4"],
        ["(1,1)-BD4 / R", "(2,1)-BD4 / R", "(4,1)-BD4 / R", "R, 5 to 95 %"],
    ]
    top, bottom = figure.axes
    ends = [results["variance_ratio"].sel(layer="ip1", run=[f"b{b}-seed0", f"b{b}-seed1"])[:, -1] for b in (2, 4)]
    assert [text.get_text() for text in top.texts] == [f"{float(end.mean()):.2f}" for end in ends]
    assert [label.get_text() for label in top.get_yticklabels()] == ["2", "4"]
    assert bottom.get_xlabel() == "order, after 100 iterations"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a_f07", [["(1,1)-BD4", "(2,1)-BD4", "(4,1)-BD4"]]),
        ("a_f08", [["(1,1)-BD4", "(2,1)-BD4", "(4,1)-BD4"], ["(1,1)-BD4", "(2,1)-BD4", "(4,1)-BD4", "R"]]),
        ("a_f09", [["$W_1$, iteration 100", "R", "Marchenko-Pastur"]]),
    ],
)
def test_figures_name_their_curves_as_the_paper_does(results, name, expected):
    assert legends(drawn(name, results)) == expected


def test_eigenvalues_are_drawn_on_the_papers_axis(results):
    (ax,) = drawn("a_f09", results).axes
    assert ax.get_legend().get_title().get_text() == "atom of 0.375 at 0 not drawn"
    (law,) = (line for line in ax.get_lines() if line.get_label() == "Marchenko-Pastur")
    variance = float(results["variance"].sel(layer="ip1", run=["b1-seed0", "b1-seed1"], step=100).mean())
    upper = variance * (1 + np.sqrt(INPUTS / OUTPUTS)) ** 2
    assert_allclose(law.get_xdata()[-1], upper)
    sigma = results["singular_values"].sel(layer="ip1", run=["b1-seed0", "b1-seed1"], step=100).values
    ticks = next(line for line in ax.get_lines() if line.get_marker() == "|").get_xdata()
    assert_allclose(ticks, np.sort(sigma[sigma**2 / OUTPUTS > upper] ** 2 / OUTPUTS)[::-1], rtol=1e-12)


def test_runs_with_blocks_elsewhere_change_no_figure(results):
    other = results.sel(run=["b2-seed0"]).assign_coords(run=["b2x5-seed0"]).copy(deep=True)
    other["blocks"].loc[{"layer": "ip2"}] = 5
    other["variance"] *= 100
    plain, mixed = (drawn("a_f08", data).axes[0].get_lines() for data in (results, xr.concat([results, other], "run")))
    for line, same in zip(plain, mixed, strict=True):
        assert_allclose(line.get_ydata(), same.get_ydata())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_written_overlaps_or_leaves_the_figure(results, name):
    figure = drawn(name, results)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for ax in figure.axes:
        written = [*ax.texts, *ax.get_legend().get_texts(), ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            written += [label for place, label in ticks if low <= place <= high and label.get_text()]
        boxes = [text.get_window_extent(renderer) for text in written]
        assert all(figure.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
        for (one, a), (two, b) in itertools.combinations(zip(written, boxes, strict=True), 2):
            assert not a.overlaps(b), (one, two)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_write_print_files_and_say_where(file, tmp_path, monkeypatch, capsys, name):
    assert exit_code(name, monkeypatch, file, "-o", tmp_path / "new" / "folder") == 0
    pdf, png = map(Path, capsys.readouterr().out.split())
    assert (pdf.name, png.name) == (f"{name}.pdf", f"{name}.png")
    assert pdf.parent == png.parent == tmp_path / "new" / "folder"
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/FontFile2" in pdf.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    assert abs(imread(png).shape[1] - 84 / 25.4 * 300) <= 1


def test_a_script_runs_by_its_path_from_any_folder(file, tmp_path):
    command = [sys.executable, "-W", "error", FIGURES / "a_f07.py", file]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a_f07.pdf", "a_f07.png"]
    assert done.stderr == ""
    assert (tmp_path / "a_f07.pdf").exists()


@pytest.mark.parametrize("consolidated", [True, False])
def test_results_may_be_zarr(results, consolidated, tmp_path, monkeypatch, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results.to_zarr(tmp_path / "results.zarr", consolidated=consolidated)
    assert exit_code("a_f07", monkeypatch, tmp_path / "results.zarr", "-o", tmp_path) == 0
    assert (tmp_path / "a_f07.png").exists()


def test_the_same_figure_is_the_same_bytes(results, tmp_path):
    once, again = (publish.save(drawn("a_f06", results), tmp_path / side / "figure") for side in ("once", "again"))
    for one, two in zip(once, again, strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["missing", "garbage", "lacking", "orphans"])
def test_faulty_results_end_in_one_line_and_exit_code_2(results, tmp_path, monkeypatch, capsys, name, fault):
    path = tmp_path / "results.nc"
    if fault == "garbage":
        path.write_text("run,layer\n")
    elif fault == "lacking":
        results[["blocks"]].to_netcdf(path)
    elif fault == "orphans":
        nothing = {name: results[name] * np.nan for name in results if "step" in results[name].dims}
        results.assign(nothing).to_netcdf(path)
    assert exit_code(name, monkeypatch, path, "-o", tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"Error: .{20,}\n", said.err)
    assert not list(tmp_path.glob("*.p*"))


def test_paper_style_ends_with_its_block():
    before = dict(matplotlib.rcParams)
    with publish.paper_style():
        assert matplotlib.rcParams["font.size"] == 8
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_columns_are_those_of_the_journal():
    assert_allclose([publish.SINGLE_COLUMN * 25.4, publish.DOUBLE_COLUMN * 25.4], [84, 174])
