import csv
import io

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from rmtnet import analysis, nulls, results
from rmtnet.store import MatrixSpec, RunWriter, open_run

STEPS = [0, 10, 100]


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
    assert all(found[name].attrs["long_name"] for name in analysis.DESCRIPTIONS)


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
    chunk = run / "metrics" / "accuracy" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match="what was logged cannot be read between steps 10 and 100, a chunk is damaged"):
        analysis.analyze_runs([open_run(run)])
    (run / "weights" / "step" / "c" / "0").unlink()
    with pytest.raises(ValueError, match="the steps of 'weights' do not ascend: a chunk of them is missing or damaged"):
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
    assert set(table["statistic"]) == set(analysis.STATISTICS) - {"variance_ratio"}
    rows = list(csv.DictReader(io.StringIO(table.to_csv(index=False))))
    assert [float(row["value"]) for row in rows] == list(table["value"])
    assert [row["statistic"] for row in rows] == list(table["statistic"])


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
