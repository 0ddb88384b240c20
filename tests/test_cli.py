"""The command line as a shell sees it: what it prints where, and with which exit code."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from handmade import chunk_of, full_run
from test_analysis import few_draws, make_run  # noqa: F401
from test_reading import small_run

from rmtnet import cli
from rmtnet.store import open_run

STUDY = '''
"""Two small sisters on random images."""
import numpy as np
from functools import partial
from torch import nn
from rmtnet.datasets import Images
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.schedules import every
from rmtnet.study import Study

def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(60, 1, 4, 6), dtype=np.uint8)
    labels = np.arange(60) % 3
    return Images("noise", "drawn here", pixels[:40], labels[:40], pixels[40:], labels[40:])

def network(blocks):
    first = nn.Linear(24, 12) if blocks == 1 else BlockDiagonalLinear(24, 12, blocks)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(12, 3))

study = [
    Study(name=f"b{b}", network=partial(network, b), dataset=images, iterations=30, batch=8,
          layers=["1"], record=every(10), evaluate=every(10))
    for b in (1, 2)
]
'''


def rmtnet(*arguments, code=0):
    outcome = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome


def error_of(*arguments, code=2):
    """The one line, the last, that bad input is answered with."""
    outcome = rmtnet(*arguments, code=code)
    lines = outcome.stderr.strip().splitlines()
    assert "Traceback" not in outcome.output
    assert [line for line in lines if line.startswith("rmtnet: ")] == lines[-1:], outcome.stderr
    return lines[-1]


def commands(group, *above):
    """Words of every command there is."""
    for name, command in group.commands.items():
        yield from (commands(command, *above, name) if hasattr(command, "commands") else [(*above, name)])


@pytest.fixture
def study(tmp_path) -> Path:
    path = tmp_path / "study.py"
    path.write_text(STUDY)
    return path


def test_train_info_analyze_are_one_way_through(study, tmp_path):
    runs = tmp_path / "runs"
    assert rmtnet("train", study, "-o", runs).stdout.split() == [
        str(runs / "b1.zarr"),
        str(runs / "b2.zarr"),
    ]
    shown = rmtnet("info", runs / "b2.zarr").stdout
    assert "block_diagonal" in shown
    assert "metrics: accuracy, loss (31 steps)" in shown
    assert "last commit: 20" in shown and ", step 30" in shown
    assert "written now by: nobody" in shown and "health: no file is missing" in shown
    [row] = [line.split() for line in shown.splitlines() if "block_diagonal" in line]
    assert row[row.index("block_diagonal") + 2 :][:5] == ["2", "x", "6", "x", "12"]
    paths = [runs / "b1.zarr", runs / "b2.zarr", "--reference", runs / "b1.zarr"]
    table = rmtnet("analyze", *paths, "-o", tmp_path / "r.nc", "--plots", tmp_path / "plots").stdout
    assert "|1-s/R|" in table
    assert (tmp_path / "plots" / "1.png").stat().st_size > 10_000
    with xr.open_dataset(tmp_path / "r.nc") as found:
        assert list(found["run"].values) == ["b1", "b2"]
        assert float(found["variance_ratio"].sel(run="b2", layer="1", step=0)) == pytest.approx(2, rel=0.6)


def test_csv_and_json_pipe_cleanly_and_agree(tmp_path):
    runs = [make_run(tmp_path, "b10", 10).path, make_run(tmp_path, "b2", 2).path]
    as_csv = rmtnet("analyze", *runs, "--format", "csv")
    as_json = rmtnet("analyze", *runs, "--format", "json")
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert as_csv.stderr == as_json.stderr == ""
    assert rows[0]["run"] == "b2", "in natural order"
    assert list(rows[0]) == [
        "run",
        "layer",
        "form",
        "step",
        "blocks",
        "m",
        "n",
        "statistic",
        "value",
    ]
    assert [{**row, "value": float(row["value"])} for row in rows] == [
        {**{key: str(value) for key, value in row.items()}, "value": row["value"]} for row in json.loads(as_json.stdout)
    ]


def test_further_statistics_come_on_request(tmp_path):
    run = make_run(tmp_path, "b2", 2).path
    asked = rmtnet("analyze", run, "--also", "local, budget", "--format", "csv").stdout
    statistics = {row["statistic"] for row in csv.DictReader(io.StringIO(asked))}
    assert {
        "gap_ratio",
        "brody_error",
        "covariance_term",
        "spikes",
        "hard_rank",
    } <= statistics
    assert "gap_ratio" not in rmtnet("analyze", run, "--format", "csv").stdout


def test_a_table_of_sisters_keeps_to_100_columns(tmp_path):
    runs = [make_run(tmp_path, f"b{b}-seed0", b, steps=[0, 10000], shape=(100, 200)).path for b in (1, 2)]
    table = rmtnet("analyze", *runs, "--reference", runs[0]).stdout
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = (line.split() for line in lines if line.startswith("b2-seed0"))
    assert row[:7] == ["b2-seed0", "ip1", "2", "(50", "x", "100)", "10000"]
    assert len(row) == 13
    assert "leaves" not in table, "noise does not"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.4321, "0.43"), (0.0312, "0.031"), (3.2e-5, "3e-5"), (0.0, "<1e-300")],
)
def test_p_values_are_short(p, text):
    from rmtnet.terminal import _p_value

    assert _p_value(p) == text


def test_a_real_pipe_that_closes_early_is_no_failure(tmp_path):
    run = make_run(tmp_path, "b1", steps=list(range(150)), shape=(64, 80)).path
    script = f"{sys.executable} -m rmtnet analyze {run} --format csv | head -n 1"
    outcome = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert outcome.stdout.startswith("run,layer,form")
    assert "Traceback" not in outcome.stderr


def test_training_again_changes_nothing_and_more_iterations_go_on(study, tmp_path):
    rmtnet("train", study, "-o", tmp_path / "runs", "--only", "b1")
    before = (tmp_path / "runs" / "b1.zarr" / "zarr.json").read_bytes()
    rmtnet("train", study, "-o", tmp_path / "runs", "--only", "b1")
    assert (tmp_path / "runs" / "b1.zarr" / "zarr.json").read_bytes() == before
    again = rmtnet(
        "train",
        study,
        "-o",
        tmp_path / "runs",
        "--only",
        "b1",
        "--set",
        "iterations=50",
    )
    assert "b1: goes on from step 30, 50 steps" in again.stderr


def test_help_is_quick_to_load_and_every_command_has_an_example():
    for command in commands(cli.main):
        assert "Example" in rmtnet(*command, "--help").stdout, command
    code = "import sys; from rmtnet.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "numpy", "xarray", "zarr", "rich"}.isdisjoint(loaded)


def test_datasets_are_listed_with_their_place(monkeypatch, tmp_path):
    monkeypatch.setenv("RMTNET_CACHE", str(tmp_path))
    monkeypatch.delenv("RMTNET_DATA", raising=False)
    listed = rmtnet("datasets", "list").stdout
    assert "to download" in listed
    assert "embedded" in listed
    assert "nothing to fetch" in rmtnet("datasets", "fetch", "mnist5k").stdout
    assert "no dataset" in error_of("datasets", "fetch", "cats").lower() or "mnist5k" in error_of(
        "datasets", "fetch", "cats"
    )


def test_paths_that_are_no_runs_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    xr.Dataset({"x": ("t", [1.0])}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    for command in ("info", "analyze"):
        assert error_of(command, tmp_path / "missing.zarr").endswith("missing.zarr: no such run")
        assert "no rmtnet run" in error_of(command, tmp_path / "empty")
        assert "this is a file" in error_of(command, tmp_path / "file")
        assert "no rmtnet run" in error_of(command, tmp_path / "other.zarr")


def test_damaged_and_diverged_runs_are_one_line(tmp_path):
    run = make_run(tmp_path, "b1").path
    chunk = next((run / "weights" / "ip1").glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:100])
    line = error_of("analyze", run)
    assert "layer 'ip1' cannot be read between steps 0 and 100, a chunk is damaged" in line
    chunk.unlink()
    line = error_of("analyze", run)
    assert "layer 'ip1' cannot be read between steps 0 and 100, a chunk is damaged" in line and "is missing" in line
    assert "at step 10" in error_of("analyze", make_run(tmp_path, "nan", spoil=1).path)


def test_bad_options_are_one_line(tmp_path):
    run = make_run(tmp_path, "b1").path
    assert "no layer matches 'conv*'; recorded are ip1" in error_of("analyze", run, "--layer", "conv*")
    assert "step 5 was not recorded" in error_of("analyze", run, "--steps", "5")
    assert "also must be among local, budget, tails, got 'global'" in error_of("analyze", run, "--also", "local,global")
    assert "ending in .nc or .zarr" in error_of("analyze", run, "-o", tmp_path / "r.txt")
    assert "no such run" in error_of("analyze", run, "--reference", tmp_path / "b0.zarr")


def test_bad_studies_are_one_line_with_the_place_and_the_cure(study, tmp_path):
    def broken(old, new):
        path = tmp_path / "broken.py"
        path.write_text(STUDY.replace(old, new))
        return error_of("train", path, "-o", tmp_path / "runs")

    assert "no such study file" in error_of("train", tmp_path / "nothing.py")
    assert "did you mean 'iterations'?" in broken("iterations=30", "iteratons=30")
    assert "broken.py:22: " in broken("iterations=30", "iterations=0")
    assert "set 'study' to a Study" in broken("study = [", "studies = [")
    assert "SyntaxError" in broken("study = [", "study = [[")
    assert "network or loss, on a first batch, of study 'b1' fails" in broken("nn.Linear(24, 12)", "nn.Linear(23, 12)")
    assert "the network of study 'b7' fails: ValueError: blocks must divide" in broken("in (1, 2)", "in (7, 2)")
    assert "the dataset function of study 'b1' fails: KeyError" in broken("return Images(", "{}['x']; return Images(")
    assert "no layer matches 'ip1'; this model has 1, 3" in broken('layers=["1"]', 'layers=["ip1"]')
    assert "cannot set 'rate'; these can be set: batch, " in error_of("train", study, "--set", "rate=1")
    assert "iterations must be a whole number, got '1e3'" in error_of("train", study, "--set", "iterations=1e3")
    assert "dataset must be a name or a function" in broken("dataset=images", "dataset=5")
    assert "layers must be a list of names or globs, got 5" in broken('layers=["1"]', "layers=5")
    assert "pixel_scale must be a finite number, got nan" in error_of("train", study, "--set", "pixel_scale=nan")
    assert "no study matches 'c*'; there are b1, b2" in error_of("train", study, "--only", "c*")
    assert "KEY=VALUE" in rmtnet("train", study, "--set", "iterations", code=2).stderr


def test_a_dataset_file_with_a_wrong_checksum_is_one_line(monkeypatch, tmp_path, study):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"not the digits")
    monkeypatch.setenv("RMTNET_DATA", str(tmp_path))
    line = error_of("train", study, "-o", tmp_path / "runs", "--set", "dataset=mnist")
    assert "train-images-idx3-ubyte.gz" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_line(study, tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o500)
    assert "Permission denied" in error_of("train", study, "-o", folder)


def test_a_full_disk_is_one_line_and_loses_nothing_recorded(study, tmp_path, monkeypatch):
    from rmtnet.record import Recorder

    real = Recorder.flush
    calls = []

    def flush(self):
        calls.append(self.step)
        if self.step > 1:
            raise OSError(28, "No space left on device", str(self.path))
        real(self)

    monkeypatch.setattr(Recorder, "flush", flush)
    line = error_of("train", study, "-o", tmp_path / "runs", "--only", "b1")
    assert "No space left on device" in line
    kept = open_run(tmp_path / "runs" / "b1.zarr")["1"]["step"].values.tolist()
    assert kept[:1] == [0] and kept == [0, 10, 20, 30][: len(kept)]
    monkeypatch.undo()
    rmtnet("train", study, "-o", tmp_path / "runs", "--only", "b1")
    assert list(open_run(tmp_path / "runs" / "b1.zarr")["1"]["step"].values) == [
        0,
        10,
        20,
        30,
    ]


def test_a_failure_of_ours_is_one_line_with_exit_code_1(tmp_path, monkeypatch):
    run = make_run(tmp_path, "b1").path
    monkeypatch.setattr("rmtnet.analysis.long_table", lambda found: [].nothing)
    assert error_of("analyze", run, "--format", "csv", code=1).startswith(
        "rmtnet: this is a failure of ours: AttributeError"
    )


def test_only_what_a_check_of_ours_raised_is_bad_input():
    def error_from(code):
        scope = {"__name__": "rmtnet.somewhere"}
        exec(compile(f"def f():\n    {code}", "rmtnet/somewhere.py", "exec"), scope)
        with pytest.raises(Exception) as caught:
            scope["f"]()
        # The first frame is this test's.
        return caught.value

    assert cli._raised_by_us(error_from("raise ValueError('a check')"))
    for mistake in ("None.foo", "1 / 0", "[][0]", "int('x')", "assert False"):
        assert not cli._raised_by_us(error_from(mistake)), mistake


def test_superseded_runs_are_left_out_when_there_are_others(tmp_path):
    run = make_run(tmp_path, "b1").path
    from rmtnet.store import RunWriter

    with RunWriter(run) as writer:
        copy = writer.rewind(10)
    assert copy is not None
    rows = list(csv.DictReader(io.StringIO(rmtnet("analyze", run, copy, "--format", "csv").stdout)))
    assert {row["run"] for row in rows} == {"b1"}
    assert f"{copy} is superseded: left out" in rmtnet("analyze", run, copy).stderr
    assert "superseded" in rmtnet("analyze", copy, "--format", "csv").stdout


def test_ctrl_c_in_any_command_is_one_line(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    run = make_run(tmp_path, "b1").path
    monkeypatch.setattr("rmtnet.analysis.analyze_runs", interrupted)
    assert error_of("analyze", run, code=130) == "rmtnet: stopped"


def test_no_number_of_the_table_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "encoder.layers.0.self_attn.in_proj_weight.k"
    run = make_run(tmp_path, "a_run_with_quite_a_name", layers=(name,)).path
    table = rmtnet("analyze", run).stdout
    assert name in table
    assert "…" not in table


def test_a_layer_that_cannot_be_drawn_is_named_and_the_others_are_drawn(tmp_path):
    from rmtnet.store import MatrixSpec, RunWriter

    specs = [MatrixSpec(name, (1, 4, 6), np.dtype("float32"), "dense", 4, 6) for name in ("dead", "alive", "one")]
    specs[2] = MatrixSpec("one", (1, 1, 6), np.dtype("float32"), "dense", 1, 6)
    with RunWriter.create(tmp_path / "run.zarr") as writer:
        writer.declare(specs)
        alive = np.random.default_rng(0).normal(size=(2, 1, 4, 6)).astype("float32")
        writer.append([0, 1], {"dead": 0 * alive, "alive": alive, "one": alive[:, :, :1]})
        writer.commit()
    outcome = rmtnet("analyze", tmp_path / "run.zarr", "--plots", tmp_path / "plots")
    assert "no picture of layer dead: " in outcome.stderr
    assert sorted(path.name for path in (tmp_path / "plots").glob("*.png")) == [
        "alive.png",
        "one.png",
    ]


def test_a_complete_run_is_said_to_be_complete(study, tmp_path):
    rmtnet("train", study, "-o", tmp_path / "runs", "--only", "b1")
    assert "b1: is complete, 30 steps" in rmtnet("train", study, "-o", tmp_path / "runs").stderr
    edited = tmp_path / "edited.py"
    edited.write_text(STUDY.replace("nn.ReLU()", "nn.Tanh()"))
    assert "is of another study (network is" in error_of("train", edited, "-o", tmp_path / "runs")


def damaged(path):
    """The second chunk of a layer is cut short."""
    chunk = chunk_of(path, "weights/ip1", (1, 0, 0, 0))
    chunk.write_bytes(chunk.read_bytes()[:-3])


def test_info_shows_gaps_missing_files_and_a_url(tmp_path):
    small_run(tmp_path / "run.zarr", steps=[0, 10, 20, 80, 90, 100], seed=3)
    shown = rmtnet("info", f"file://{tmp_path}/run.zarr").stdout
    assert "seed: 3" in shown and "gaps: weights of ip1: steps 20 to 80" in shown
    assert ", step 100" in shown
    chunk_of(tmp_path / "run.zarr", "weights/ip1", (0, 0, 0, 0)).unlink()
    assert "health: weights/ip1: 1 chunk files are missing" in rmtnet("info", tmp_path / "run.zarr").stdout


def test_verify_tells_whole_runs_from_damaged_ones_by_its_exit_code(tmp_path):
    path = tmp_path / "run.zarr"
    full_run(path)
    assert rmtnet("store", "verify", path).stdout.endswith("run.zarr: whole\n")
    damaged(path)
    outcome = rmtnet("store", "verify", path, code=2)
    [row] = [line for line in outcome.stdout.splitlines() if "weights/ip1 " in line]
    assert "damaged at row 2: chunk 1/0/0/0: " in row
    assert "1 of 35 arrays are damaged: rmtnet store repair saves the rest" in outcome.stderr


def test_repair_says_what_it_did(tmp_path):
    path = tmp_path / "run.zarr"
    small_run(path)
    assert "whole, nothing to repair" in rmtnet("store", "repair", path).stdout
    damaged(path)
    assert "cut at step 20; the damaged run is kept as" in rmtnet("store", "repair", path).stdout
    assert "whole" in rmtnet("store", "verify", path).stdout
    second = tmp_path / "second.zarr"
    small_run(second, layers=("ip1", "ip2"))
    damaged(second)
    assert "without weights/ip1; the" in rmtnet("store", "repair", second, "--drop").stdout
    assert list(open_run(second)) == ["ip2"]


def test_compact_thin_and_export_are_one_call_each(tmp_path):
    path = tmp_path / "run.zarr"
    held = small_run(path)
    copy, thinned = tmp_path / "copy.zarr", tmp_path / "thin.zarr"
    assert rmtnet("store", "compact", path, "--codec", "delta", "-o", copy).stdout.strip() == str(copy)
    assert (open_run(copy)["ip1"] == held["ip1"]).all()
    rmtnet("store", "compact", path, "--chunk-mb", "1")
    rmtnet("store", "thin", path, "--every", "20", "-o", thinned)
    assert open_run(thinned).steps.values.tolist() == [0, 20, 40]
    rmtnet("store", "thin", thinned, "--steps", "0, 40", "--in-place")
    assert open_run(thinned).steps.values.tolist() == [0, 40]
    rmtnet(
        "store",
        "export",
        path,
        "--steps",
        "10",
        "--layer",
        "ip1",
        "-o",
        tmp_path / "run.npz",
    )
    with np.load(tmp_path / "run.npz") as found:
        assert (found["ip1"] == held["ip1"][1]).all()


def test_bad_options_of_the_store_commands_are_one_line(tmp_path):
    path = tmp_path / "run.zarr"
    small_run(path)
    for arguments, message in [
        (("thin", path, "--in-place"), "choose the steps, by --every or by --steps"),
        (
            ("thin", path, "--every", "2", "--steps", "1", "--in-place"),
            "choose the steps, by --every or by --steps",
        ),
        (
            ("thin", path, "--every", "2"),
            "choose where to write: -o COPY or --in-place",
        ),
        (
            ("thin", path, "--steps", "a", "--in-place"),
            "--steps takes numbers such as 0,100, got 'a'",
        ),
        (("compact", path, "--codec", "zip"), "'zip' is not one of"),
        (("export", path, "-o", "x.txt"), "exports end in .nc, .safetensors, .npz"),
        (
            ("export", path, "-o", tmp_path / "x.nc", "--group", "gates"),
            "no gates were recorded, only weights",
        ),
        (("verify", tmp_path / "none.zarr"), "none.zarr: no such run"),
        (("compact", "s3:/none"), "s3:/none: no such run"),
    ]:
        assert message in rmtnet("store", *arguments, code=2).stderr
    assert open_run(path).steps.size == 5


def test_runs_without_matrices_are_left_out_and_named(tmp_path):
    from rmtnet.store import MatrixSpec, RowSpec, RunWriter

    spec = MatrixSpec("ip1", (1, 6, 8), np.dtype("float32"), "dense", 6, 8)
    for name in ("full", "empty", "norms"):
        with RunWriter.create(tmp_path / f"{name}.zarr") as writer:
            writer.declare([RowSpec("norms", "ip1")] if name == "norms" else [spec])
            if name == "full":
                writer.append([0], {"ip1": np.random.default_rng(0).normal(size=(1, 1, 6, 8)).astype("float32")})
            elif name == "norms":
                writer.append([0], {"ip1": np.ones(1)}, group="norms")
            writer.commit()
    result = CliRunner().invoke(cli.main, ["analyze", *(str(path) for path in sorted(tmp_path.glob("*.zarr")))])
    assert result.exit_code == 0, result.output
    left_out = [line for line in result.stderr.splitlines() if "holds neither weights nor singular values" in line]
    assert len(left_out) == 2 and "empty.zarr" in left_out[0] and "norms.zarr" in left_out[1]
    result = CliRunner().invoke(cli.main, ["analyze", str(tmp_path / "norms.zarr")])
    assert result.exit_code == 2 and "norms: neither weights nor singular values were recorded" in result.stderr
