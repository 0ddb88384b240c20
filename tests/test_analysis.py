import csv
import io

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_allclose
from torch import nn

from rmtnet import analysis, nulls, results, sisters
from rmtnet.edges import simulated
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.record import Recorder
from rmtnet.schedules import every
from rmtnet.store import MatrixSpec, RowSpec, RunWriter, open_run

STEPS = [0, 10, 100]
ON_REQUEST = {
    *("gap_ratio", "gap_ratio_error", "brody", "brody_error", "variance_change", "update_variance", "covariance_term"),
    *("alpha_low", "alpha_high", "tail_p", "heavy_tailed"),
}
DEFAULT = {*analysis.STATISTICS} - ON_REQUEST


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Nulls of small blocks from 100 times fewer draws than theirs, which tests of edges judge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "_BUDGET", 400_000)
        simulated.extreme_tails.cache_clear()
        simulated._extremes.cache_clear()
        yield
    simulated.extreme_tails.cache_clear()
    simulated._extremes.cache_clear()


def make_run(folder, name, blocks=1, *, seed=0, steps=STEPS, shape=(20, 40), scale=1.0, spoil=None, layers=("ip1",)):
    """A run of iid noise: blocks of variance `scale` times the number of blocks, growing by half at every row."""
    rng = np.random.default_rng([seed, blocks])
    rows, columns = shape[0] // blocks, shape[1] // blocks
    form = "dense" if blocks == 1 else "block_diagonal"
    place = tuple(range(blocks))
    specs = [
        MatrixSpec(layer, (blocks, rows, columns), np.dtype("float32"), form, *shape, place, place) for layer in layers
    ]
    with RunWriter.create(folder / f"{name}.zarr", {"seed": seed}) as writer:
        writer.declare(specs)
        stack = rng.normal(scale=(scale * blocks) ** 0.5, size=(len(steps), blocks, rows, columns)).astype("float32")
        stack *= (1.5 ** np.arange(len(steps)) ** 0.5 if len(steps) > 10 else 1.5 ** (np.arange(len(steps)) / 2))[
            :, None, None, None
        ]
        if spoil is not None:
            stack[spoil, 0, 0, 0] = np.nan
        writer.append(steps, {layer: stack * (1 + k) for k, layer in enumerate(layers)})
        writer.append_metrics([10, 100], {"accuracy": np.array([0.5, 0.9]), "variance": np.array([7.0, 7.0])})
        writer.commit()
    return open_run(folder / f"{name}.zarr")


def test_sisters_are_compared_with_the_dense_one(tmp_path):
    dense, sister = make_run(tmp_path, "b1"), make_run(tmp_path, "b4", 4)
    found = analysis.analyze_runs([dense, sister], references=[dense])
    assert dict(found.sizes) == {"run": 2, "layer": 1, "step": 3, "order": 20}
    at = found.sel(run="b4", layer="ip1", step=100)
    expected = np.var(sister["ip1"].sel(step=100).values.astype(float)) / np.var(
        dense["ip1"].sel(step=100).values.astype(float)
    )
    assert at["variance_ratio"] == pytest.approx(expected, rel=1e-12)
    assert at["reference_variance"] == pytest.approx(np.var(dense["ip1"].sel(step=100).values.astype(float)))
    assert found.sel(run="b1", layer="ip1", step=100)["variance_ratio"] == pytest.approx(1)
    assert (at["blocks"], at["m"], at["n"], at["form"]) == (4, 5, 10, "block_diagonal")
    assert found["accuracy"].sel(run="b4", step=100) == 0.9
    assert np.isnan(found["accuracy"].sel(run="b4", step=0))
    assert all("long_name" in found[name].attrs for name in found if name != "accuracy" and "metric" not in name)


def test_r_has_the_variance_of_the_reference_at_the_same_step(tmp_path):
    dense = make_run(tmp_path, "b1", steps=[0, 10, 100])
    sister = make_run(tmp_path, "b4", 4, steps=[0, 10, 55, 100])
    found = analysis.analyze_runs([sister], references=[dense]).sel(run="b4", layer="ip1")
    null = nulls.ordered_null(1, 20, 40)
    for step in (0, 10, 100):
        reference = dense["ip1"].sel(step=step).values.astype(float).var()
        values = np.sort(np.linalg.svd(sister["ip1"].sel(step=step).values.astype(float), compute_uv=False).ravel())[
            ::-1
        ]
        at = found.sel(step=step)
        assert at["reference_variance"] == pytest.approx(reference, rel=1e-12)
        assert_allclose(at["singular_value_ratio"], values / (reference**0.5 * null.mean), rtol=1e-6)
        assert at["mean_deviation"] == pytest.approx(np.abs(1 - values / (reference**0.5 * null.mean)).mean(), rel=1e-6)
    # The reference has no step 55: nothing is borrowed from its neighbours.
    for name in ("reference_variance", "variance_ratio", "mean_deviation", "largest_ratio"):
        assert np.isnan(found[name].sel(step=55)), name
    assert np.isfinite(found["variance"].sel(step=55))


def test_every_layer_and_seed_has_the_variance_of_its_own_reference(tmp_path):
    layers = ("ip1", "ip2")
    dense = [make_run(tmp_path, f"b1-{seed}", seed=seed, layers=layers) for seed in (0, 1)]
    sisters = [make_run(tmp_path, f"b4-{seed}", 4, seed=seed, layers=layers) for seed in (0, 1)]
    short = make_run(tmp_path, "b4-short", 4, seed=1, steps=[10, 100], layers=layers)
    found = analysis.analyze_runs([short, *dense, *sisters], references=dense)
    for run, reference in (("b1-0", 0), ("b1-1", 1), ("b4-0", 0), ("b4-1", 1), ("b4-short", 1)):
        for layer in layers:
            for step in (10, 100) if run == "b4-short" else STEPS:
                expected = dense[reference][layer].sel(step=step).values.astype(float).var()
                at = found["reference_variance"].sel(run=run, layer=layer, step=step)
                assert at == pytest.approx(expected, rel=1e-12), (run, layer, step)


def test_a_file_keeps_spectra_at_the_chosen_steps_of_each_run(tmp_path):
    runs = [make_run(tmp_path, "long", steps=[0, 10, 100]), make_run(tmp_path, "short", steps=[0, 10])]
    thin = analysis.with_spectra_at(analysis.analyze_runs(runs), "last")
    for run, last in (("long", 100), ("short", 10)):
        has = thin["singular_values"].sel(run=run, layer="ip1").notnull().all("order")
        assert list(thin["step"].values[has.values]) == [last]
    assert thin["variance"].sel(run="long").notnull().all()
    assert (thin["block"].sel(run="long", step=0) == -1).all()


def test_results_say_where_they_come_from(tmp_path):
    dense = make_run(tmp_path, "b1", seed=7)
    found = analysis.analyze_runs([dense], references=[dense])
    assert found.attrs["references"] == "b1"
    assert {"created", "rmtnet_version", "numpy_version", "null"} <= found.attrs.keys()
    assert found["seed"].values.tolist() == [7]
    # A metric's name that the analysis takes is told apart.
    assert found["metric_variance"].sel(run="b1", step=100) == 7


def test_damage_beside_the_weights_is_one_clear_error(tmp_path):
    run = make_run(tmp_path, "b1").path
    chunk = run / "metrics" / "accuracy" / "c.0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match="what was logged cannot be read between steps 10 and 100, a chunk is damaged"):
        analysis.analyze_runs([open_run(run)])
    (run / "weights" / "step" / "c.0").unlink()
    with pytest.raises(ValueError, match="group 'weights' cannot be read, the run is damaged"):
        analysis.analyze_runs([open_run(run)])


def test_without_reference_the_null_is_the_layers_own(tmp_path):
    sister = make_run(tmp_path, "b4", 4)
    found = analysis.analyze_runs([sister])
    assert_allclose(found["reference_variance"], found["variance"])
    assert found["variance_ratio"].isnull().all()
    # R has the same blocks, so noise deviates from it by sampling alone.
    assert (found["mean_deviation"] < 0.1).all()


def test_every_run_is_compared_with_the_dense_sister_of_its_seed(tmp_path):
    dense = [make_run(tmp_path, f"b1-{seed}", seed=seed, scale=seed + 1) for seed in (0, 1)]
    sisters = [make_run(tmp_path, f"b4-{seed}", 4, seed=seed, scale=seed + 1) for seed in (0, 1)]
    found = analysis.analyze_runs(sisters, references=dense)
    assert_allclose(found["variance_ratio"], 4, rtol=0.3)
    assert list(found["seed"].values) == [0, 1]
    with pytest.raises(ValueError, match="0 references have its seed \\(2\\); give one for each seed"):
        analysis.analyze_runs([make_run(tmp_path, "b4-2", 4, seed=2)], references=dense)


def test_runs_of_other_layers_and_steps_stand_side_by_side(tmp_path):
    one = make_run(tmp_path, "one", layers=("ip1", "ip2"))
    other = make_run(tmp_path, "other", 2, steps=[0, 7], shape=(8, 6), layers=("head",))
    found = analysis.analyze_runs([one, other])
    assert dict(found.sizes) == {"run": 2, "layer": 3, "step": 4, "order": 20}
    assert found["blocks"].sel(run="other", layer="ip1") == 0
    assert found["variance"].sel(run="other", layer="ip1").isnull().all()
    table = analysis.long_table(found)
    assert set(zip(table["run"], table["layer"], table["step"], strict=True)) == {
        *(("one", layer, step) for layer in ("ip1", "ip2") for step in STEPS),
        *(("other", "head", step) for step in (0, 7)),
    }


def test_the_long_table_round_trips_through_csv_exactly(tmp_path):
    found = analysis.analyze_runs([make_run(tmp_path, "b4", 4)])
    table = analysis.long_table(found)
    assert list(table.columns) == ["run", "layer", "form", "step", "blocks", "m", "n", "statistic", "value"]
    assert set(table["statistic"]) == DEFAULT - {"variance_ratio", "variance_ratio_low", "variance_ratio_high"}
    rows = list(csv.DictReader(io.StringIO(table.to_csv(index=False))))
    assert [float(row["value"]) for row in rows] == list(table["value"])
    assert [row["statistic"] for row in rows] == list(table["statistic"])


def test_statistics_are_those_of_the_layer(tmp_path):
    run, dense = make_run(tmp_path, "b4", 4), make_run(tmp_path, "b1")
    weight = run["ip1"].load()
    found = analysis.analyze_runs([run], references=[dense], also=list(analysis.GROUPS)).sel(run="b4", layer="ip1")
    assert {*analysis.STATISTICS} <= {*found}
    for at, part in ((found.sel(step=step), weight.sel(step=step).values.astype(float)) for step in STEPS):
        error = part.var() * ((at["kurtosis"].item() - 1) / part.size) ** 0.5
        assert at["variance_error"] == pytest.approx(error, rel=0.1)
        known = [sisters.entry_moments(part), sisters.entry_moments(dense["ip1"].sel(step=at["step"]).values)]
        interval = sisters.variance_ratio_interval(*known)
        assert_allclose([at["variance_ratio_low"], at["variance_ratio_high"]], [interval.low, interval.high])
        assert at["stable_rank"] == pytest.approx((part**2).sum() / at["largest_singular_value"].item() ** 2)
        assert at["hard_rank"] == 20
    assert_allclose(found["variance_change"][:-1], np.diff(found["variance"]), rtol=1e-9)
    assert np.isnan(found["variance_change"][-1])
    assert_allclose(found["update_variance"] + found["covariance_term"], found["variance_change"], rtol=1e-6)
    assert (found["tail_p"] > 0.01).all()


@pytest.mark.parametrize("group", analysis.GROUPS)
def test_what_is_asked_for_besides_does_not_depend_on_the_slices(tmp_path, monkeypatch, group):
    run = make_run(tmp_path, "b4", 4)
    whole = analysis.analyze_runs([run], also=[group])
    monkeypatch.setattr("rmtnet.analysis.sources._SLICE_BYTES", 2 * 200 * 8)
    xr.testing.assert_allclose(analysis.analyze_runs([run], also=[group]).drop_attrs(), whole.drop_attrs(), rtol=1e-12)
    assert {*whole} - {*analysis.analyze_runs([run])} != set()


def test_noise_stays_and_a_layer_with_a_spike_leaves_at_its_step(tmp_path):
    steps = list(range(0, 200, 20))
    specs = [MatrixSpec(layer, (1, 64, 80), np.dtype("float32"), "dense", 64, 80) for layer in ("noise", "spiked")]
    stack = np.random.default_rng(1).normal(size=(len(steps), 1, 64, 80))
    spike = 40 * np.outer(np.ones(64) / 8, np.ones(80) / 80**0.5)
    with RunWriter.create(tmp_path / "run.zarr") as writer:
        writer.declare(specs)
        writer.append(steps, {"noise": stack, "spiked": stack + spike * (np.array(steps) >= 60)[:, None, None, None]})
        writer.commit()
    found = analysis.analyze_runs([open_run(tmp_path / "run.zarr")]).sel(run="run")
    assert np.isnan(found["first_departure"].sel(layer="noise"))
    assert found["first_departure"].sel(layer="spiked") == 60
    assert_allclose(found["spikes"].sel(layer="spiked"), [0] * 3 + [1] * 7)
    table = analysis.long_table(found.expand_dims("run"))
    rows = table[table["statistic"] == "first_departure"]
    assert rows[["layer", "step", "value"]].to_numpy().tolist() == [["spiked", 60, 60.0]]


@pytest.mark.parametrize("kind", ["zeros", "constant", "rank one", "one row", "two by two"])
def test_layers_without_noise_have_no_value_where_there_is_none(tmp_path, kind):
    shape = {"one row": (1, 6), "two by two": (2, 2)}.get(kind, (12, 16))
    matrix = {
        "zeros": np.zeros(shape),
        "constant": np.ones(shape),
        "rank one": np.outer(np.arange(1, shape[0] + 1), np.arange(shape[1]) - 3),
    }.get(kind, np.random.default_rng(0).normal(size=shape))
    with RunWriter.create(tmp_path / "run.zarr") as writer:
        writer.declare([MatrixSpec("ip1", (1, *shape), np.dtype("float32"), "dense", *shape)])
        writer.append([0, 1], {"ip1": np.stack([matrix, matrix])[:, None].astype("float32")})
        writer.commit()
    found = analysis.analyze_runs([open_run(tmp_path / "run.zarr")], also=list(analysis.GROUPS))
    at = found.sel(run="run", layer="ip1", step=1)
    assert np.isfinite(at["largest_singular_value"])
    assert at["hard_rank"] == {"zeros": 0, "constant": 1, "rank one": 1}.get(kind, min(shape))
    absent = {"zeros": {"largest_p", "kurtosis", "stable_rank", "spikes"}, "two by two": {"alpha", "gap_ratio"}}
    for name in absent.get(kind, {"alpha"}):
        assert np.isnan(at[name]), name
    assert found["first_departure"].isnull().all() or kind in ("constant", "rank one")


def test_the_hard_rank_knows_what_the_weights_were_stored_in(tmp_path):
    values = np.diag([1.0, 1e-3, 1e-5, 1e-8])
    for dtype, rank in (("bfloat16", 1), ("float16", 1), ("float32", 3), ("float64", 4), ("float8_e5m2", np.nan)):
        spec = MatrixSpec("ip1", (1, 4, 4), np.dtype("float64"), "dense", 4, 4, attributes={"dtype_original": dtype})
        with RunWriter.create(tmp_path / f"{dtype}.zarr") as writer:
            writer.declare([spec])
            writer.append([0], {"ip1": values[None, None]})
            writer.commit()
        assert_allclose(analysis.analyze_runs([open_run(tmp_path / f"{dtype}.zarr")])["hard_rank"].item(), rank)


@pytest.mark.parametrize("name", ["results.nc", "results.zarr"])
def test_results_on_disk_are_the_results(tmp_path, name):
    found = analysis.analyze_runs([make_run(tmp_path, "b4", 4)])
    for _ in range(2):
        results.write(found, tmp_path / name)
    xr.testing.assert_equal(results.read(tmp_path / name), found)
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, STEPS), ("0,last", [0, 100]), ("first", [0]), ("5:", [10, 100]), (":10", [0, 10]), ("first:last", STEPS)],
)
def test_steps_are_chosen_by_number_or_word(chosen, expected):
    assert list(analysis.choose_steps(np.array(STEPS), chosen)) == expected


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("5", "step 5 was not recorded; there are 3 steps from 0 to 100"),
        ("soon", "steps must be like 0,100,last or first:1000, got 'soon'"),
        ("1:2:3", "steps must be like"),
    ],
)
def test_wrong_steps_are_one_clear_error(chosen, message):
    with pytest.raises(ValueError, match=message):
        analysis.choose_steps(np.array(STEPS), chosen)


def test_bad_runs_are_one_clear_error(tmp_path):
    dense = make_run(tmp_path, "b1")
    with pytest.raises(ValueError, match="also must be among local, budget, tails, got 'global'"):
        analysis.analyze_runs([dense], also=["local", "global"])
    with pytest.raises(ValueError, match="layer 'ip1' holds NaN or infinity at step 10"):
        analysis.analyze_runs([make_run(tmp_path, "nan", spoil=1)])
    with pytest.raises(ValueError, match="no layer matches 'conv'; recorded are ip1"):
        analysis.analyze_runs([dense], layers=["conv"])
    with pytest.raises(ValueError, match="two runs are named 'b1'"):
        analysis.analyze_runs([dense, dense])
    with pytest.raises(
        ValueError, match=r"is \(20, 40\) in the run and \(10, 40\) in .*: choose other layers with --layer"
    ):
        analysis.analyze_runs([dense], references=[make_run(tmp_path, "small", shape=(10, 40))])
    with pytest.raises(ValueError, match="has no step in common with the runs"):
        analysis.analyze_runs([dense], references=[make_run(tmp_path, "late", steps=[1, 2, 3])])
    with pytest.raises(
        ValueError, match="the reference has no layer 'ip1', only head: choose other layers with --layer"
    ):
        analysis.analyze_runs([dense], references=[make_run(tmp_path, "other", layers=("head",))])
    with pytest.raises(ValueError, match="no step of layer 'ip1' is recorded in 11:12"):
        analysis.analyze_runs([dense], steps="11:12")


def test_results_are_never_written_over_something_else(tmp_path):
    run = make_run(tmp_path, "b1")
    (tmp_path / "notes.nc").write_text("mine")
    for path, message in (
        (run.path, "holds no results of rmtnet: not overwritten"),
        (tmp_path / "notes.nc", "holds no results of rmtnet: not overwritten"),
        (tmp_path / "results.csv", "ending in .nc or .zarr"),
    ):
        with pytest.raises(ValueError, match=message):
            results.check_target(path)
    with pytest.raises(FileNotFoundError, match="no such folder to write results into"):
        results.check_target(tmp_path / "nowhere" / "results.nc")
    with pytest.raises(FileNotFoundError, match="does not exist: write it with"):
        results.read(tmp_path / "nothing.nc")
    with pytest.raises(ValueError, match="holds no Dataset"):
        results.read(tmp_path / "notes.nc")


@pytest.mark.parametrize("name", ["results.nc", "results.zarr"])
def test_a_full_disk_leaves_earlier_results_as_they_were(tmp_path, monkeypatch, name):
    found = analysis.analyze_runs([make_run(tmp_path, "b4", 4)])
    results.write(found, tmp_path / name)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("xarray.Dataset.to_zarr", full)
    with pytest.raises(OSError, match="No space left"):
        results.write(found, tmp_path / name)
    monkeypatch.undo()
    xr.testing.assert_equal(results.read(tmp_path / name), found)
    assert list(tmp_path.glob(".results*")) == []


def test_several_globs_choose_layers_and_runs_without_any_are_left_out(tmp_path):
    one = make_run(tmp_path, "one", layers=("ip1", "ip2", "conv"))
    other = make_run(tmp_path, "other", layers=("head",))
    found = analysis.analyze_runs([one, other], layers=["ip?", "co*"])
    assert found["run"].values.tolist() == ["one"]
    assert found["layer"].values.tolist() == ["conv", "ip1", "ip2"]


# --- runs without weights, and layers of several forms, by the recorder itself


def model_of(blocks=1):
    """A model of one layer of Gaussian entries about 0.02, whose kurtosis rounds to 3."""
    layer = BlockDiagonalLinear(40, 24, blocks, bias=False) if blocks > 1 else nn.Linear(40, 24, bias=False)
    rng = np.random.default_rng([7, blocks])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.normal(0.02, (blocks / 40) ** 0.5, size=layer.weight.shape)))
    return nn.Sequential(layer)


def recorded(folder, name, what, *, blocks=1, steps=4, change=None, **options):
    """A run of a short training; ``change`` is made to the model after two of its steps."""
    model, data = model_of(blocks), torch.from_numpy(np.random.default_rng(1).normal(size=(8, 40))).float()
    path = folder / f"{name}.zarr"
    with Recorder(model, path, what=what, process=False, **options) as recorder:
        recorder.attach(optimizer := torch.optim.SGD(model.parameters(), 0.05))
        for step in range(steps):
            if change and step == 2:
                change(model)
                optimizer.param_groups[0]["params"] = [*model.parameters()]
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()
    return open_run(path)


ENTRIES_ONLY = {"variance", "variance_error", "kurtosis", "variance_ratio_low", "variance_ratio_high"}
OF_KURTOSIS = {"noise_kurtosis", "bulk_variance_error"}


def test_a_run_of_spectra_is_analysed_as_one_of_weights(tmp_path):
    for what in ("weights", "spectra"):
        (tmp_path / what).mkdir()
    dense = recorded(tmp_path, "b1", ("weights",))
    weights, spectra = (recorded(tmp_path / what, "b4", (what,), blocks=4) for what in ("weights", "spectra"))
    assert not list(spectra) and "spectra" not in weights.groups
    whole, alone = (
        analysis.analyze_runs([run], references=[dense], also=["local", "tails"])
        .sel(run="b4", layer="0")
        .drop_vars("started")
        for run in (weights, spectra)
    )
    assert (whole["source"], alone["source"]) == ("weights", "spectra")
    assert (whole["compared"], alone["compared"]) == ("variance", "second moment")
    assert_allclose(whole["noise_kurtosis"], 3, atol=0.2)  # hence rounded to 3
    same = {*whole.data_vars} - ENTRIES_ONLY - OF_KURTOSIS - {"source", "compared", "variance_ratio", "tail_p"}
    assert {"blocks", "m", "n", "form", "hard_rank", "largest_p", "spikes", "mean_deviation_p", "brody"} <= same
    for name in same:
        xr.testing.assert_allclose(alone[name], whole[name], rtol=1e-6)
    assert alone[[*ENTRIES_ONLY]].to_array().isnull().all()
    assert_allclose(alone["noise_kurtosis"], 3)
    own, reference = (run["0"].values.astype(float) for run in (weights, dense))
    assert_allclose(alone["second_moment"], np.square(own).mean(axis=(1, 2, 3)), rtol=1e-6)
    ratio = np.square(own).mean(axis=(1, 2, 3)) / np.square(reference).mean(axis=(1, 2, 3))
    assert_allclose(alone["variance_ratio"], ratio, rtol=1e-6)
    assert (np.abs(alone["variance_ratio"] / whole["variance_ratio"] - 1) > 1e-4).all(), "means are not 0 here"
    assert_allclose(alone["reference_variance"], reference.var(axis=(1, 2, 3)), rtol=1e-6)


def test_a_reference_of_spectra_gives_its_second_moment(tmp_path):
    dense, sister = recorded(tmp_path, "b1", ("spectra",)), recorded(tmp_path, "b4", ("weights",), blocks=4)
    found = analysis.analyze_runs([dense, sister], references=[dense]).sel(layer="0")
    second = (dense.spectra["0"].values ** 2).sum(axis=(1, 2)) / (24 * 40)
    for run in ("b1", "b4"):
        assert_allclose(found["reference_variance"].sel(run=run), second)
        assert found["compared"].sel(run=run) == "second moment"
    own = np.square(sister["0"].values.astype(float)).mean(axis=(1, 2, 3))
    assert_allclose(found["variance_ratio"].sel(run="b4"), own / second, rtol=1e-6)
    assert_allclose(found["variance_ratio"].sel(run="b1"), 1)
    # Without one, R has the second moment of the layer itself.
    alone = analysis.analyze_runs([dense]).sel(run="b1", layer="0")
    assert_allclose(alone["reference_variance"], second)
    assert alone["variance_ratio"].isnull().all()


def test_results_without_weights_go_where_others_go(tmp_path):
    found = analysis.analyze_runs([recorded(tmp_path, "b1", ("spectra",))])
    assert "Gaussian" in found.attrs["null"]
    results.write(found, tmp_path / "results.nc")
    xr.testing.assert_equal(results.read(tmp_path / "results.nc"), found)
    thin = analysis.with_spectra_at(found, "last").sel(run="b1", layer="0")
    assert thin["singular_values"].notnull().all("order").values.tolist() == [False] * 4 + [True]
    assert {"spikes", "noise_kurtosis", "second_moment"} <= {*analysis.long_table(found)["statistic"]}


def test_weights_go_before_spectra_and_layers_are_mixed(tmp_path):
    rng = np.random.default_rng(0)
    both = recorded(tmp_path, "both", ("weights", "spectra"))
    assert analysis.analyze_runs([both])["source"].item() == "weights"
    specs = [MatrixSpec(name, (1, 6, 8), np.dtype("float32"), "dense", 6, 8) for name in ("a", "c")]
    told = {**specs[0].rows().attributes, "dtype_original": "float32", "block_out": 6, "block_in": 8}
    alone = RowSpec("spectra", "b", (1, 6), ("block", "order"), attributes=told)
    with RunWriter.create(tmp_path / "mixed.zarr") as writer:
        writer.declare([*specs, alone])
        matrices = rng.normal(size=(3, 1, 6, 8)).astype("float32")
        writer.append([0], {"a": matrices[:1], "c": matrices[1:2]})
        writer.append([0], {"b": np.linalg.svd(matrices[2:].astype(float), compute_uv=False)}, group="spectra")
        writer.commit()
    found = analysis.analyze_runs([open_run(tmp_path / "mixed.zarr")]).sel(run="mixed")
    assert found["source"].to_series().to_dict() == {"a": "weights", "b": "spectra", "c": "weights"}
    assert found["largest_singular_value"].sel(layer="b", step=0) == pytest.approx(np.linalg.norm(matrices[2, 0], 2))


def test_the_budget_comes_from_moments_where_they_were_recorded(tmp_path):
    every_step = recorded(tmp_path, "all", ("weights",))
    found = {
        name: analysis.analyze_runs([run], also=["budget"]).sel(run=name, layer="0")
        for name, run in {
            "all": every_step,
            "some": recorded(tmp_path, "some", ("spectra", "moments"), when=every(2)),
            "both": recorded(tmp_path, "both", ("weights", "moments"), when=every(2)),
        }.items()
    }
    for name in ("variance_change", "update_variance", "covariance_term"):
        assert np.isnan(found["all"][name].sel(step=4))
        for of in ("some", "both"):
            assert found[of]["step"].values.tolist() == [0, 2, 4]
            assert_allclose(found[of][name][:2], found["all"][name].sel(step=[0, 2]), rtol=1e-6)
            assert np.isnan(found[of][name].sel(step=4)), "no step follows"
    weight = every_step["0"].values.astype(float)
    assert_allclose(found["all"]["variance_change"][:-1], np.diff(weight.var(axis=(1, 2, 3))), rtol=1e-6)
    assert_allclose(found["some"]["variance"], [weight[0].var(), weight[2].var(), np.nan])
    assert_allclose(found["both"]["variance"], [weight[k].var() for k in (0, 2, 4)])


def test_what_singular_values_cannot_tell_is_one_clear_error(tmp_path):
    run = recorded(tmp_path, "b1", ("spectra",))
    with pytest.raises(
        ValueError, match=r"of layer '0' neither weights nor moments were recorded, .* leave out budget"
    ):
        analysis.analyze_runs([run], also=["budget"])
    told = {"form": "block_sparse", "blocks": 3, "out_features": 8, "in_features": 12}
    for name, more in {"told": {"block_out": 4, "block_in": 6}, "untold": {}}.items():
        with RunWriter.create(tmp_path / f"{name}.zarr") as writer:
            writer.declare([RowSpec("spectra", "ip1", (3, 4), ("block", "order"), attributes=told | more)])
            values = np.linalg.svd(np.random.default_rng(0).normal(size=(1, 3, 4, 6)), compute_uv=False)
            writer.append([0], {"ip1": values}, group="spectra")
            writer.commit()
    found = analysis.analyze_runs([open_run(tmp_path / "told.zarr")]).squeeze()
    assert (found["blocks"], found["m"], found["n"]) == (3, 4, 6)
    with pytest.raises(ValueError, match="shape of the blocks of layer 'ip1' cannot be told from its singular values"):
        analysis.analyze_runs([open_run(tmp_path / "untold.zarr")])


def packed(model):
    """A model whose layer goes on as four blocks on its diagonal."""
    model[0] = BlockDiagonalLinear.from_linear(model[0], 4)


@pytest.mark.parametrize("what", ["weights", "spectra"])
def test_each_form_of_a_layer_is_analysed_at_its_own_steps(tmp_path, what):
    run, dense = recorded(tmp_path, "run", (what, "moments"), change=packed), recorded(tmp_path, "dense", (what,))
    assert run.layers(what).forms("0") == ["0@0", "0@1"]
    found = analysis.analyze_runs([run], references=[dense], also=["budget"])
    table = analysis.long_table(found)
    rows = table[["run", "layer", "form", "step", "blocks", "m", "n"]].drop_duplicates()
    assert [tuple(row) for row in rows.to_numpy()] == [
        *(("run", "0@0", "dense", step, 1, 24, 40) for step in (0, 1, 2)),
        *(("run", "0@1", "block_diagonal", step, 4, 6, 10) for step in (2, 3, 4)),
    ]
    values = run.layers(what)["0@1"].sel(step=3).values
    largest = np.linalg.svd(values, compute_uv=False).max() if what == "weights" else values.max()
    assert found["largest_singular_value"].sel(run="run", layer="0@1", step=3) == pytest.approx(largest)
    # R is the dense layer that goes by the name alone, at the same steps.
    there = analysis.analyze_runs([dense]).sel(run="dense", layer="0", step=3)
    name = "variance" if what == "weights" else "second_moment"
    assert found["reference_variance"].sel(run="run", layer="0@1", step=3) == pytest.approx(there[name].item())
    # "last" is the last step of all forms; names go with and without a form.
    last = analysis.analyze_runs([run], layers=["0"], steps="last")
    assert (last["layer"].values.tolist(), last["step"].values.tolist()) == (["0@1"], [4])
    assert analysis.analyze_runs([run], layers=["0@0"], steps="0,last")["step"].values.tolist() == [0, 2]
