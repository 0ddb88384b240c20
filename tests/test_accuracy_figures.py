import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from test_plots import iid_results
from torch import nn

from rmtnet import publish, results, training
from rmtnet.datasets import Images
from rmtnet.pruning import BlockDiagonalPruning
from rmtnet.schedules import at, every
from rmtnet.study import Study

FIGURES = Path(__file__).parents[1] / "figures"
STEPS = np.array([0, 500, 1000])


def script(name: str) -> dict:
    return runpy.run_path(str(FIGURES / f"{name}.py"))


def drawn(name: str, data: xr.Dataset) -> Figure:
    with publish.paper_style():
        figure = script(name)["draw"](data)
        FigureCanvasAgg(figure).draw()
    return figure


def reduced(columns: dict[str, tuple[int, int]], seeds: int = 2) -> xr.Dataset:
    """As a_reduce.py writes it: accuracies that rise by step, seed and column, blocks of (ip1, ip2)."""
    names = [(column, seed) for column in columns for seed in range(seeds)]
    rank = {column: k for k, column in enumerate(columns)}
    accuracy = np.array([[0.1 + 0.01 * rank[c] + 0.001 * s + rise for rise in (0, 0.5, 0.6)] for c, s in names])
    # The gap halves from column to column.
    gap = np.array([[0, 0.08 / 2 ** rank[c], 0.16 / 2 ** rank[c]] for c, _ in names])
    blocks = np.array([columns[c] for c, _ in names])
    return xr.Dataset(
        {
            "accuracy": (("run", "step"), accuracy),
            "train_accuracy": (("run", "step"), accuracy + gap),
            "variance": (("run", "layer"), 0.01 * blocks[:, ::-1] + [[0.01 * s, 0] for _, s in names]),
            "blocks": (("run", "layer"), blocks),
        },
        {
            "run": [f"{c}-seed{s}" for c, s in names],
            "column": ("run", [c for c, _ in names]),
            "seed": ("run", [s for _, s in names]),
            "step": STEPS,
            "layer": ["ip1", "ip2"],
        },
    )


GRID = {"b1x1": (1, 1), "b8x1": (8, 1), "b64x1": (64, 1), "b64x2": (64, 2), "ip-b8x1": (8, 1)}


# --- reducing runs


def images() -> Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 1, 2, 2), dtype=np.uint8)
    labels = rng.integers(0, 2, 40)
    return Images("random", "here", pixels[:30], labels[:30], pixels[30:], labels[30:])


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def test_runs_are_reduced_to_their_accuracies_and_last_variances(tmp_path):
    recipe = BlockDiagonalPruning({"1": 2}, dense=1, pruning=2, alpha=0.05, threshold=1e-3)
    options = {
        "network": network,
        "dataset": images,
        "batch": 8,
        "iterations": 6,
        "evaluate": every(3),
        "record": at(0),
    }
    for seed in (0, 1):
        training.run(Study(name=f"ip-seed{seed}", seed=seed, pruning=recipe, **options), tmp_path)
    training.run(Study(name="dense-seed0", **options, evaluate_train=9), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        training.run(Study(name="dense-seed1", **options), tmp_path, progress=interrupt)
    arguments = [*map(str, sorted(tmp_path.glob("*.zarr"))), "-o", str(tmp_path / "reduced.nc")]
    done = CliRunner().invoke(script("a_reduce")["main"], arguments)
    assert done.exit_code == 0, done.output
    assert "dense-seed1.zarr is not complete: left out" in done.output and "reduced.nc: 3 runs" in done.output
    found = results.read(tmp_path / "reduced.nc")
    assert found["run"].values.tolist() == ["dense-seed0", "ip-seed0", "ip-seed1"]
    assert found["column"].values.tolist() == ["dense", "ip", "ip"] and found["seed"].values.tolist() == [0, 0, 1]
    assert found["step"].values.tolist() == [0, 3, 6]
    assert found["blocks"].values.tolist() == [[1, 1], [2, 1], [2, 1]]
    assert found["train_accuracy"].notnull().any("step").values.tolist() == [True, False, False]
    for run in found["run"].values:
        state = torch.load(tmp_path / f"{run}.checkpoint.pt", weights_only=True)["model"]
        expected = [state[f"{layer}.weight"].double().var(correction=0).item() for layer in ("1", "3")]
        assert_allclose(found["variance"].sel(run=run, layer=["1", "3"]), expected)
    assert "loss" not in found


def interrupt(step, loss):
    if step == 4:
        raise KeyboardInterrupt


# --- tables


def test_the_accuracy_table_has_the_papers_numbers_beside_means_over_seeds():
    ways = ("", "shuffle-", "reshuffle-", "ip-", "traditional-")
    columns = {"b1x1": (1, 1)} | {f"{way}{net}": (1, 1) for net in ("b10x1", "b100x10") for way in ways}
    data = reduced(columns)
    lines = script("a_t01")["table"]({"MNIST": data}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = {tuple(line[:3]): line[3:] for line in cells[2:]}
    # Columns are in order 0.01 apart, seeds 0.001.
    assert table["MNIST", "(1,1)", "dense"] == ["99.11", "70.05 ± 0.05", "-29.06", "2"]
    assert table["MNIST", "(10,1)", "BDIP"] == ["98.83", "71.05 ± 0.05", "-27.78", "2"]
    assert table["MNIST", "(100,10)", "traditional pruning"] == ["98.55", "80.05 ± 0.05", "-18.50", "2"]
    assert table["MNIST", "(10,1)", "shuffled anew at each pass"] == ["", "73.05 ± 0.05", "", "2"]
    # Seed by seed: what seeds share is no part of the spread.
    assert table["MNIST", "(10,1)", "IP-BDIP less BDIP, seed by seed"] == ["0.19", "3.00 ± 0.00", "+2.81", "2"]
    assert table["SVHN", "(64,2)", "IP-BDIP"] == ["90.02", "not measured", "", ""]
    with pytest.raises(ValueError, match="hold no run 'shuffle-b10x1': make them with"):
        script("a_t01")["table"]({"MNIST": data.isel(run=data["column"].values != "shuffle-b10x1")})


def three_layers() -> xr.Dataset:
    runs = {"b1-seed0": (1, 0.0012, 1.0, 0.11), "b100-seed0": (100, 0.12, 100.0, 0.09)}
    names = ("blocks", "variance", "variance_ratio", "mean_deviation")
    values = {
        name: (("run", "layer"), [[run[k]] for run in runs.values()])
        if name == "blocks"
        else (("run", "layer", "step"), [[[0.0, run[k]]] for run in runs.values()])
        for k, name in enumerate(names)
    }
    return xr.Dataset(values, {"run": list(runs), "layer": ["ip2"], "step": [0, 10]})


def test_the_table_of_numbers(tmp_path):
    lenet5 = {"b1x1": (1, 1), "b1x5": (1, 5), "b10x1": (10, 1), "b10x2": (10, 2)}
    lenet5 |= {"ip-b100x10": (100, 10)}
    cuda = {"b1x1": (1, 1), "b1x2": (1, 2), "ip-b64x2": (64, 2), "traditional-b64x2": (1, 1)}
    cuda |= {"traditional-37x40": (1, 1), "nodes-2": (1, 1)}
    parts = (reduced(lenet5), reduced(cuda), reduced({"b1": (1, 1), "b49": (49, 1), "ip-b49": (49, 1)}), three_layers())
    files = [tmp_path / f"{k}.nc" for k in range(4)]
    for part, file in zip(parts, files, strict=True):
        results.write(part, file)
    lines = script("a_x")["table"](files).splitlines()
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    what = "accuracy of IP-BDIP (100,10) LeNet-5, 15 + 350 iterations, %"
    assert ("A-X1", what, "98.65", "74.05 ± 0.05") in cells
    # 405,510 parameters over 4,000 + 500 + 510; 66,250 over 1,024 + 320 + 74; 779,110 over 15,680 + 980 + 9,810.
    for name, what, paper, ours in (
        ("A-X1", "fewer ip parameters", "about 81", 405_510 / 5_010),
        ("A-X3", "fewer ip parameters", "about 47", 66_250 / 1_418),
        ("A-X2", "compression", "29.43", 779_110 / 26_470),
    ):
        assert (name, what, paper, f"{ours:.2f}") in cells
    assert ("A-X2", "MNIST error of IP-BDIP (49,1)-BD2, %", "4.37", "27.95 ± 0.05") in cells
    # Of ip1: 0.01 b2 + 0.01 seed over 0.01 + 0.01 seed, hence 5 and 3.
    assert ("A-X6", "LeNet-5, ip1 variance, (1,5) over (1,1)", "1 ± 0.05", "4.000 ± 1.000") in cells
    assert ("A-X6", "LeNet-5, ip1 variance, (10,2) over (10,1)", "1 ± 0.05", "1.750 ± 0.250") in cells
    assert ("A-X7", "variance of ip2, (1,100,1) over (1,1,1)", "106.42", "100.00 ± 0.00") in cells
    assert ("A-X7", "mean abs(1 - s/R), (1,1,1)", "0.1162", "0.1100 ± 0.0000") in cells
    assert not any("(64,2) over" in what for _, what, *_ in cells)


# --- figures


def legends(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes]


def test_overfitting_is_drawn_for_each_sister_and_no_pruned_one():
    figure = drawn("a_f04", reduced(GRID))
    assert legends(figure) == [["(1,1)-BD5", "(8,1)-BD5", "(64,1)-BD5"]]
    for k, line in enumerate(figure.axes[0].get_lines()):
        assert line.get_xdata().tolist() == [500, 1000]
        assert_allclose(line.get_ydata(), np.array([8, 16]) / 2.0**k)


def test_the_accuracy_over_the_overfitting_begins_where_all_overfit():
    figure = drawn("a_f05", reduced(GRID))
    assert legends(figure) == [["(1,1)-BD5", "(8,1)-BD5", "(64,1)-BD5"]]
    for k, line in enumerate(figure.axes[0].get_lines()):
        assert line.get_xdata().tolist() == [500, 1000]
        mean = np.array([0.6005, 0.7005]) + 0.01 * k
        assert_allclose(line.get_ydata(), mean / (np.array([0.08, 0.16]) / 2.0**k))
    weaker = reduced(GRID)
    weaker["train_accuracy"] = weaker["accuracy"] + 0.005
    with pytest.raises(ValueError, match="some network does not overfit in the end"):
        drawn("a_f05", weaker)


def test_singular_values_of_cuda_convnet_have_one_over_root_b_beside_them():
    figure = drawn("a_f10", iid_results())
    assert legends(figure) == [
        ["(2,1)-BD5 / (1,1)-BD5", "(4,1)-BD5 / (1,1)-BD5"],
        ["(1,1)-BD5 / R", "(2,1)-BD5 / R", "(4,1)-BD5 / R", "R, 5 to 95 %"],
    ]
    level = [float(line.get_ydata()[0]) for line in figure.axes[1].get_lines() if len(set(line.get_ydata())) == 1]
    assert_allclose(sorted(level), [0.5, 0.5**0.5, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_f11", [["(1,1)-BD5", "(2,1)-BD5", "(4,1)-BD5"], ["(1,1)-BD5", "(2,1)-BD5", "(4,1)-BD5", "R"]]),
        ("a_f12", [["$W_1$, iteration 100", "R", "Marchenko-Pastur"]]),
    ],
)
def test_figures_of_cuda_convnet_name_its_curves(name, expected):
    assert legends(drawn(name, iid_results())) == expected


@pytest.mark.parametrize("name", ["a_f04", "a_f05", "a_f10", "a_f11", "a_f12"])
def test_results_that_lack_something_end_in_one_line(name, tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.nc"
    reduced(GRID)[["blocks"]].to_netcdf(path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(path), "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FIGURES / f"{name}.py"), run_name="__main__")
    assert end.value.code == 2
    assert re.fullmatch(r"Error: .{20,}\n", capsys.readouterr().err)
    assert not list(tmp_path.glob("*.p*"))
