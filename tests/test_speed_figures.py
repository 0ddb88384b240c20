import importlib.util
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose
from test_figures import drawn, exit_code

from rmtnet.layers import BlockDiagonalLinear
from rmtnet.results import read
from rmtnet.speed import pruning_bound, training_speedup

NAMES = ("a_f01", "a_f02", "a_f03", "b_f02")
SIDES = (512, 1024, 2048)
HERE = Path(__file__).parent
COMMITTED = HERE.parent / "data" / "results" / "speed_cpu.nc"


def measurement(section: str, variant: str, direction: str, seconds: float, **more: object) -> dict[str, object]:
    """A row as tests/benchmarks/block_layers.py writes it; a dense layer takes 1 s."""
    shared = {"precision": "fp32", "launch": "eager", "batch": 100, "block": np.nan, "density": np.nan}
    speed = {"speedup": 1 / seconds, "speedup_low": 0.9 / seconds, "speedup_high": 1.1 / seconds}
    own = {"section": section, "layer": section, "variant": variant, "direction": direction, "seconds": seconds}
    return {**shared, **own, **speed, **more}


def rows() -> list[dict[str, object]]:
    made = []
    for n, power, direction in itertools.product(SIDES, range(1, 9), ("forward", "both")):
        seconds = 2.0**-power + 50 / n
        made.append(measurement("square", "block", direction, seconds, n=n, blocks=2**power))
    for n, power, (variant, seconds) in itertools.product(
        SIDES, range(1, 9), (("dense", 1), ("block", 0), ("prune", 0.1))
    ):
        time = seconds or 2.0**-power
        made.append(measurement("pruning", variant, "both", time * n, n=n, blocks=2**power))
    for layer, count in (
        ("LeNet-5 ip1", 400_000),
        ("LeNet-5 ip2", 5000),
        ("cuda-convnet ip1", 65_536),
        ("cuda-convnet ip2", 640),
    ):
        for blocks, (variant, direction, factor) in itertools.product(
            (1, 2, 10), (("block", "forward", 1), ("block", "both", 1.2), ("CSR", "forward", 9), ("BSR", "forward", 3))
        ):
            made.append(
                measurement(
                    "layers", variant, direction, factor / blocks, layer=layer, blocks=blocks, weights=count // blocks
                )
            )
    shares = (0.05, 0.1, 0.25, 0.5)
    masks = [measurement("mask", "block", "both", each + 0.1, n=2048, block=64, density=each) for each in shares]
    return made + masks


def dataset(made: list[dict[str, object]]) -> xr.Dataset:
    frame = pd.DataFrame(made)
    return xr.Dataset.from_dataframe(frame.rename_axis("row")).drop_vars("row")


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    return dataset(rows())


# --- formulas


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0.01, 10), st.integers(1, 1000), st.integers(1, 1000))
def test_pruning_pays_below_the_bound(dense, block, prune, x, y):
    """A pruning step costs dense and prune, a block step block; all of them dense is what it is compared with."""
    gained = (x + y) * dense - (y * (dense + prune) + x * block)
    bound = float(pruning_bound(dense, block, prune))
    if abs(y / x - bound) > 1e-9 * (1 + abs(bound)):
        assert (gained > 0) == (y / x < bound)


def test_training_speedup_counts_the_products_that_are_left():
    blocks, zero = 50, np.array([0, 5, 20, 40, 40])
    left = np.cumsum(blocks - zero)
    assert_allclose(training_speedup(zero / blocks), blocks * np.arange(1, 6) / left)


def test_the_slides_speedups():
    """Slides, "Experiments": 5x with 80 % from the start, no gain without sparsity."""
    assert_allclose(training_speedup(np.full((2, 100), [[0.8], [0.0]]))[:, -1], [5, 1])


@pytest.mark.parametrize("sparsity", [1.0, -0.1, np.nan])
def test_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must lie in"):
        training_speedup([0.5, sparsity])


@pytest.mark.parametrize("times", [(0, 1, 1), (1, -1, 1), (1, 1, np.nan)])
def test_times_that_are_none_are_refused(times):
    with pytest.raises(ValueError, match="must be positive"):
        pruning_bound(*times)


# --- what measures


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("block_layers", HERE / "benchmarks" / "block_layers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.CpuClock, "rounds", 3)
    sizes = [("LeNet-5 ip1", 24, 12, 4, (1, 3)), ("cuda-convnet ip1", 8, 8, 4, (2, 4))]
    monkeypatch.setattr(module, "PAPER_LAYERS", sizes)
    return module


@pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support is in beta")
def test_measurements_become_results_that_figures_draw(script, tmp_path):
    bench = script.Bench(script.CpuClock(), quick=True)
    measured = [{"section": "layers", **row} for row in script.layers(bench)]
    assert len(measured) == 4 * (4 + 2)  # dense, block, CSR, BSR forward; dense, block backward
    for row in measured:
        assert 0 < row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
        assert row["variant"] != "dense" or row["speedup"] == row["speedup_low"] == 1
    (tmp_path / "speed.json").write_text(json.dumps({"machine": {"device": "test"}, "rows": measured}))
    script.to_results(tmp_path / "speed.json", tmp_path / "speed.nc")
    results = read(tmp_path / "speed.nc")
    assert results.attrs["device"] == "test"
    (line, *_), *_ = drawn("a_f03", results).axes[0].containers
    speedups = [row["speedup"] for row in measured if row["variant"] == "block" and row["direction"] == "forward"]
    assert_allclose(line.get_ydata(orig=False), speedups[1::-1])


def test_errors_of_a_layer_are_against_the_dense_product(script):
    layer = BlockDiagonalLinear(6, 4, 2)
    x = torch.randn(5, 6)
    assert max(script.errors(layer, layer.to_dense().double(), x).values()) < 1e-6
    other = BlockDiagonalLinear(6, 4, 2).to_dense().double()
    assert min(script.errors(layer, other, x)[name] for name in ("y", "dx")) > 0.1


def test_a_pruning_step_does_what_pruning_does(script):
    linear = torch.nn.Linear(8, 8)
    before = linear.weight.detach().clone()
    script.pruning_step(linear, 2)()
    off = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)) == 0
    assert_allclose(linear.weight.grad[off], 1e-3 * before.sign()[off])
    assert not linear.weight.grad[~off].any()


# --- figures


def test_a_line_for_each_side_shows_its_speedup(results):
    figure = drawn("a_f01", results)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [*(f"n = {n}" for n in SIDES), "b"]
    for ax in figure.axes:
        for n, line in zip(SIDES, ax.get_lines(), strict=False):
            assert_allclose(line.get_xdata(), 2.0 ** np.arange(1, 9))
            assert_allclose(line.get_ydata(), 1 / (2.0 ** -np.arange(1, 9) + 50 / n))


def test_graphs_are_drawn_where_there_are_any(results):
    graphs = [{**row, "launch": "graph", "speedup": 7.0} for row in rows() if row["section"] == "square"]
    for ax in drawn("a_f01", dataset([*rows(), *graphs])).axes:
        assert set(ax.get_lines()[0].get_ydata()) == {7.0}


def test_the_bound_is_that_of_the_measured_times(results):
    (ax,) = drawn("a_f02", results).axes
    assert len(ax.get_lines()) == len(SIDES) + 1  # and that at 1
    for line in ax.get_lines()[:-1]:
        assert_allclose(line.get_ydata(), 10 * (1 - 2.0 ** -np.arange(1, 9)))


def test_each_layer_and_format_is_a_curve_over_nonzeros(results):
    for ax, count in zip(drawn("a_f03", results).axes, (400_000, 65_536), strict=True):
        assert len(ax.containers) == 8
        assert_allclose(ax.containers[0].lines[0].get_xdata(orig=False), [count // 10, count // 2, count])
        assert_allclose(ax.containers[2].lines[0].get_ydata(orig=False), np.array([10, 2, 1]) / 9)


def test_the_last_epoch_s_speedup_is_written(results):
    _, bottom = drawn("b_f02", results).axes
    assert [text.get_text() for text in bottom.texts] == ["5.00", "1.90", "1.67"]
    measured = [line.get_ydata()[-1] for line in bottom.get_lines() if line.get_color() == "0.6"]
    at_20 = np.interp(0.2, [0.1, 0.25], [0.2, 0.35])
    assert_allclose(measured[0], 1 / at_20)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_written_overlaps_or_leaves_the_figure(name):
    figure = drawn(name, read(COMMITTED))
    renderer = FigureCanvasAgg(figure).get_renderer()
    legend = [text for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    written = [*legend, *(text for ax in figure.axes for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label))]
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        # An axis shared with the panel below has no labels.
        ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
        written += [label for place, label in ticks if low <= place <= high and label.get_visible()]
    written = [text for text in written if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in written]
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    for (one, a), (two, b) in itertools.combinations(zip(written, boxes, strict=True), 2):
        assert not a.overlaps(b), (one, two)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_write_print_files(results, tmp_path, monkeypatch, capsys, name):
    results.to_netcdf(tmp_path / "speed.nc", engine="h5netcdf")
    assert exit_code(name, monkeypatch, tmp_path / "speed.nc", "-o", tmp_path) == 0
    assert [Path(path).name for path in capsys.readouterr().out.split()] == [f"{name}.pdf", f"{name}.png"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["other results", "other sections"])
def test_faulty_results_end_in_one_line_and_exit_code_2(results, tmp_path, monkeypatch, capsys, name, fault):
    other = dataset([row for row in rows() if row["section"] == "square"] if name != "a_f01" else rows()[-4:])
    faulty = results[["seconds"]] if fault == "other results" else other
    faulty.to_netcdf(tmp_path / "speed.nc", engine="h5netcdf")
    assert exit_code(name, monkeypatch, tmp_path / "speed.nc", "-o", tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"Error: the results hold no .*block_layers.py.*\n", said.err)
