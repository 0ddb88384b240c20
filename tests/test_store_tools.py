"""Verify, repair, compact, thin, export, overview: on runs that plain zarr wrote, and read back by others."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from handmade import chunk_of, commit, full_run, matrices, new_run, put_layer, put_steps
from numpy.testing import assert_array_equal
from test_reading import STEPS, small_run

from rmtnet import store
from rmtnet.schedules import at, every
from rmtnet.store import lock


def contents(path):
    """Every committed number of a run, as plain xarray reads it."""
    tree = xr.open_datatree(path, engine="zarr", chunks=None).load()
    return {
        f"{name}/{key}": values.values
        for name, node in tree.subtree_with_keys
        for key, values in node.variables.items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype and found[name].tobytes() == values.tobytes(), name


def faults(path):
    """Array -> (row of the first fault, what it is)."""
    return {health.array: health.faults[0] for health in store.verify(path) if health.faults}


def files(path):
    return sum(file.is_file() for file in Path(path).rglob("*"))


# --- verify


@pytest.mark.parametrize("codec", ["none", "lz4", "delta"])
def test_a_whole_run_verifies(tmp_path, codec):
    full_run(tmp_path / "run.zarr", codec)
    found = store.verify(tmp_path / "run.zarr")
    assert not any(health.faults or health.note for health in found)
    by_name = {health.array: health for health in found}
    assert by_name["weights/ip1"].rows == by_name["weights/ip1"].whole_rows == 5
    assert by_name["weights/ip1"].chunks == 3 and by_name["weights/ip1@1"].rows == 3
    arrays = [file.parent for file in (tmp_path / "run.zarr").rglob("zarr.json") if (file.parent / "c").exists()]
    assert len(found) == len(arrays)


def truncate(chunk):
    chunk.write_bytes(chunk.read_bytes()[:-3])


def flip(chunk):
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)


@pytest.mark.parametrize("codec", ["lz4", "delta"])
@pytest.mark.parametrize("spoil", [truncate, flip, os.unlink])
def test_verify_finds_every_damaged_chunk(tmp_path, codec, spoil):
    path = tmp_path / "run.zarr"
    small_run(path, layers=("ip1", "a%2Fb"), codec=codec)
    chunks = sorted(file for file in path.glob("weights/*/c/**/*") if file.is_file() and "step" not in file.parts)
    assert len(chunks) == 6
    for chunk in chunks:
        whole = chunk.read_bytes()
        spoil(chunk)
        array, index = chunk.relative_to(path).as_posix().split("/c/")
        [(found, (row, why))] = faults(path).items()
        assert (found, row) == (array, 2 * int(index.split("/")[0])) and "\n" not in why
        chunk.write_bytes(whole)
    assert not faults(path)


@pytest.mark.parametrize(
    "array", ["gradients/a%2Fb", "updates/ip1@1", "spectra/ip1", "gates/ip1", "weights/ip1@1_step"]
)
def test_verify_looks_into_every_group(tmp_path, array):
    full_run(tmp_path / "run.zarr")
    [chunk, *_] = sorted(file for file in (tmp_path / "run.zarr" / array / "c").rglob("*") if file.is_file())
    truncate(chunk)
    assert list(faults(tmp_path / "run.zarr")) == [array]


def test_a_changed_number_without_a_checksum_is_told_by_its_norm(tmp_path):
    full_run(tmp_path / "run.zarr", "none")
    array = zarr.open_array(tmp_path / "run.zarr/weights/ip1", mode="r+")
    array.resize((5, 1, 3, 4))
    array[3, 0, 1, 1] += 1e-3
    found = faults(tmp_path / "run.zarr")
    assert list(found) == ["weights/ip1"]
    row, why = found["weights/ip1"]
    assert row == 3 and "the norm at step 7 is" in why


def test_norms_of_rounded_weights_need_not_be_exact(tmp_path):
    root = new_run(tmp_path / "run.zarr")
    weights, norms = map(root.create_group, ("weights", "norms"))
    values = matrices([0, 1])
    for group in (weights, norms):
        put_steps(group, [0, 1])
    put_layer(weights, "fc", values.astype("float16"), codec="none", precision="float16")
    exact = np.sqrt((values.astype("float64") ** 2).sum(axis=(1, 2, 3)))
    put_layer(norms, "fc", exact, codec="none")
    commit(tmp_path / "run.zarr")
    assert not faults(tmp_path / "run.zarr")
    chunk = chunk_of(tmp_path / "run.zarr", "weights/fc", (0, 0, 0, 0))
    chunk.write_bytes(bytes(chunk.stat().st_size))
    assert faults(tmp_path / "run.zarr")["weights/fc"][0] == 0


def test_steps_that_do_not_ascend_and_values_that_do_not_descend_are_damage(tmp_path):
    root = new_run(tmp_path / "run.zarr")
    spectra = root.create_group("spectra")
    put_steps(spectra, [0, 1, 2, 3, 3, 5])
    put_layer(spectra, "fc", np.array([[2, 1], [3, 2], [1, 2], [1, 0], [1, 1], [1, 0]], dtype="f4")[:, None])
    commit(tmp_path / "run.zarr")
    found = faults(tmp_path / "run.zarr")
    assert found["spectra/fc"] == (2, "singular values do not descend")
    assert found["spectra/step"] == (4, "steps do not ascend")


def test_rows_of_nan_are_noted(tmp_path):
    weights = new_run(tmp_path / "run.zarr").create_group("weights")
    values = matrices(STEPS)
    values[3:] = np.nan
    values[1, 0, 0, 0] = np.nan
    put_steps(weights, STEPS)
    put_layer(weights, "ip1", values)
    commit(tmp_path / "run.zarr")
    [note] = [health.note for health in store.verify(tmp_path / "run.zarr") if health.note]
    assert note == "2 rows are NaN throughout, the first is row 3: did training diverge?"


# --- repair


def test_a_whole_run_is_not_repaired(tmp_path):
    full_run(tmp_path / "run.zarr")
    assert store.repair(tmp_path / "run.zarr") is None
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


def test_a_repair_cuts_all_groups_at_the_first_damaged_step_and_keeps_the_original(tmp_path):
    path = tmp_path / "run.zarr"
    held = full_run(path, seed=7)
    (path / "schedules.json").write_text("{}")
    chunk_of(path, "gradients/a%2Fb", (1, 0, 0, 0)).unlink()
    before = {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    done = store.repair(path)
    assert (done.cut, done.dropped, done.original.name) == (5, (), "run.damaged-1.zarr")
    kept = {file.relative_to(done.original): file.read_bytes() for file in done.original.rglob("*") if file.is_file()}
    kept.pop(Path(".lock"))
    assert kept == before
    assert not faults(path)
    run = store.open_run(path)
    assert run.attrs["seed"] == 7 and "cut at step 5" in run.attrs["repaired"] and (path / "schedules.json").exists()
    for kind in ("weights", "gradients", "updates"):
        assert_array_equal(run.layers(kind)["ip1@0"], held[kind]["ip1@0"][:2])
        assert run.layers(kind)["ip1@1"]["step"].values.tolist() == [3, 4]
        assert_array_equal(run.layers(kind)["ip1@1"], held[kind]["ip1@1"][:2])
    assert run.metrics["step"].values.tolist() == [0, 2] and run.moments["ip1@0"].sizes["step"] == 2
    assert contents(path)["weights/ip1"].shape == (2, 1, 3, 4)


def test_a_repair_can_drop_what_is_damaged_instead(tmp_path):
    path = tmp_path / "run.zarr"
    held = full_run(path)
    chunk_of(path, "weights/ip1@1", (0, 0, 0, 0)).unlink()
    chunk_of(path, "gradients/ip1@1_block_row", (0,)).write_bytes(b"x")
    done = store.repair(path, drop=True)
    assert done.cut is None
    assert {"weights/ip1@1", "weights/ip1@1_block_row", "gradients/ip1@1", "gradients/ip1@1_block_row"} <= set(
        done.dropped
    )
    run = store.open_run(path)
    assert "ip1@1" not in run and "ip1@1" not in run.gradients and "ip1@1" in run.updates
    assert_array_equal(run["ip1@0"], held["weights"]["ip1@0"])
    assert not faults(path)


def test_damaged_steps_cut_at_the_last_that_is_whole_or_drop_their_rows(tmp_path):
    for name in ("cut", "drop"):
        held = small_run(tmp_path / f"{name}.zarr")
        chunk_of(tmp_path / f"{name}.zarr", "weights/step", (1,)).unlink()
    assert store.repair(tmp_path / "cut.zarr").cut == 31
    assert_array_equal(store.open_run(tmp_path / "cut.zarr")["ip1"], held["ip1"][:4])
    with pytest.raises(ValueError, match="no step is whole in every array: repair by dropping"):
        store.repair(tmp_path / "drop.zarr", drop=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cut.damaged-1.zarr", "cut.zarr", "drop.zarr"]


def test_a_repair_that_would_leave_nothing_changes_nothing(tmp_path):
    path = tmp_path / "run.zarr"
    full_run(path)
    chunk_of(path, "weights/ip1", (0, 0, 0, 0)).unlink()
    with pytest.raises(ValueError, match="no step is whole in every array"):
        store.repair(path)
    full_run(tmp_path / "places.zarr")
    chunk_of(tmp_path / "places.zarr", "weights/ip1@1_block_row", (0,)).write_bytes(b"x")
    with pytest.raises(ValueError, match="weights/ip1@1_block_row is damaged at all steps: repair by dropping"):
        store.repair(tmp_path / "places.zarr")
    assert len(list(tmp_path.iterdir())) == 2


# --- compact and thin


@pytest.mark.parametrize("codec", [None, "none", "lz4", "zstd", "delta"])
def test_compacting_changes_no_bit_and_saves_files(tmp_path, codec):
    path = tmp_path / "run.zarr"
    full_run(path, seed=1)
    before, count, attributes = contents(path), files(path), dict(store.open_run(path).attrs)
    assert store.compact(path, tmp_path / "copy.zarr", codec=codec) == tmp_path / "copy.zarr"
    assert_same(contents(tmp_path / "copy.zarr"), before)
    assert_same(contents(path), before)
    store.compact(path, codec=codec)
    assert_same(contents(path), before)
    assert files(path) < count and not faults(path)
    assert store.open_run(path).attrs == attributes
    node = json.loads((path / "weights/ip1/zarr.json").read_text())
    names = [entry["name"] for entry in node["codecs"]]
    assert ("transpose" in names, "blosc" in names) == (codec == "delta", codec != "none")
    assert node["chunk_grid"]["configuration"]["chunk_shape"] == [5, 1, 3, 4]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy.zarr", "run.zarr"]


def test_chunks_grow_to_the_size_asked_for_only(tmp_path):
    path = tmp_path / "run.zarr"
    held = small_run(path, steps=list(range(20)), shape=(1, 8, 8))
    store.compact(path, chunk_bytes=4 * 8 * 8 * 7)
    assert zarr.open_array(path / "weights/ip1").chunks == (7, 1, 8, 8)
    assert_array_equal(store.open_run(path)["ip1"], held["ip1"])
    with pytest.raises(ValueError, match="chunk_bytes must lie between"):
        store.compact(path, chunk_bytes=0)


def test_a_damaged_run_is_neither_compacted_nor_thinned(tmp_path):
    path = tmp_path / "run.zarr"
    small_run(path)
    flip(chunk_of(path, "weights/ip1", (1, 0, 0, 0)))
    before = {file: file.read_bytes() for file in path.rglob("c/**/*") if file.is_file()}
    for rewrite in (lambda: store.compact(path), lambda: store.thin(path, every(20))):
        with pytest.raises(ValueError, match=r"run.zarr: array weights/ip1 cannot be read"):
            rewrite()
    assert {file: file.read_bytes() for file in path.rglob("c/**/*") if file.is_file()} == before
    assert store.open_run(path).steps.size == 5


def test_thinning_keeps_the_steps_asked_for_and_all_single_numbers(tmp_path):
    path = tmp_path / "run.zarr"
    held = full_run(path)
    store.thin(path, at(0, 4, 9), tmp_path / "thin.zarr")
    run = store.open_run(tmp_path / "thin.zarr")
    assert run["ip1@0"]["step"].values.tolist() == [0, 9] and run["ip1@1"]["step"].values.tolist() == [4]
    assert_array_equal(run["ip1@0"], held["weights"]["ip1@0"][[0, 4]])
    assert_array_equal(run["ip1@1"], held["weights"]["ip1@1"][[1]])
    assert_array_equal(run.spectra["ip1@0"], held["spectra"][[0, 4]])
    assert run.metrics.sizes["step"] == run.moments["ip1@0"].sizes["step"] == run.norms["ip1@0"].sizes["step"] == 5
    assert not faults(tmp_path / "thin.zarr")
    with pytest.raises(ValueError, match="none of its steps would stay"):
        store.thin(path, at(1))
    store.thin(path, every(5))
    assert store.open_run(path)["ip1@0"]["step"].values.tolist() == [0, 5]


def test_nothing_is_overwritten(tmp_path):
    small_run(tmp_path / "run.zarr")
    (tmp_path / "taken").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("taken", "dangling", "run.zarr"):
        with pytest.raises(FileExistsError, match="not overwritten"):
            store.compact(tmp_path / "run.zarr", tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such folder to write a run into"):
        store.thin(tmp_path / "run.zarr", every(10), tmp_path / "none" / "copy.zarr")
    (tmp_path / "run.zarr.rewriting").symlink_to(tmp_path / "taken")
    with pytest.raises(FileExistsError, match=r"run\.zarr\.rewriting is in the way"):
        store.compact(tmp_path / "run.zarr")
    assert list((tmp_path / "taken").iterdir()) == []
    (tmp_path / "run.zarr.rewriting").unlink()
    (tmp_path / "run.zarr.old").mkdir()
    with pytest.raises(FileExistsError, match="an earlier rewrite was cut short"):
        store.compact(tmp_path / "run.zarr")


def test_a_link_to_a_run_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    held = small_run(tmp_path / "disk" / "run.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "disk" / "run.zarr")
    store.compact(tmp_path / "link.zarr")
    assert (tmp_path / "link.zarr").is_symlink()
    assert_array_equal(store.open_run(tmp_path / "link.zarr")["ip1"], held["ip1"])


def test_a_run_that_is_being_written_is_shown_but_not_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WAIT", 0.2)
    path = tmp_path / "run.zarr"
    held = small_run(path)
    with lock.acquire(path):
        for rewrite in (store.compact, store.repair):
            with pytest.raises(store.RunLocked, match=f"pid {os.getpid()}"):
                rewrite(path)
        assert f"pid {os.getpid()}" in store.overview(store.open_run(path)).writer
        assert_array_equal(store.open_run(path)["ip1"], held["ip1"])
    assert store.overview(store.open_run(path)).writer == ""


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(tmp_path, monkeypatch, rename):
    path = tmp_path / "run.zarr"
    held = small_run(path)
    real, calls = os.rename, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == rename:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact(path)
    monkeypatch.undo()
    whole = path if rename == 1 else tmp_path / "run.zarr.old"
    for left in (whole, tmp_path / "run.zarr.rewriting"):
        assert_array_equal(store.open_run(left)["ip1"], held["ip1"])


# --- export


def test_netcdf_holds_everything_of_a_group(tmp_path):
    path = tmp_path / "run.zarr"
    held = full_run(path, seed=3)
    store.export(store.open_run(path), tmp_path / "run.nc")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as found:
        assert found.attrs["seed"] == 3
        assert_array_equal(found["ip1%400"], held["weights"]["ip1@0"])
        assert_array_equal(found["a%2Fb"], held["weights"]["a/b"])
        assert_array_equal(found["ip1%401_step"], held["own"])
        assert_array_equal(found["ip1%401_block_height"], [2, 1])
        assert found["ip1%401"].attrs["form"] == "block_sparse"


def test_npz_holds_layers_and_steps(tmp_path):
    held = small_run(tmp_path / "run.zarr", layers=("ip1", "ip2"))
    store.export(store.open_run(tmp_path / "run.zarr"), tmp_path / "run.npz", steps=[10, 40], layers=["ip2"])
    with np.load(tmp_path / "run.npz", allow_pickle=False) as found:
        assert sorted(found) == ["ip2", "step"]
        assert_array_equal(found["ip2"], held["ip2"][[1, 4]])
        assert found["step"].tolist() == [10, 40]


def test_safetensors_is_read_by_its_own_library(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    held = full_run(tmp_path / "run.zarr", seed=3)
    run = store.open_run(tmp_path / "run.zarr")
    store.export(run, tmp_path / "all.safetensors")
    found = safetensors.load_file(tmp_path / "all.safetensors")
    for name, values in held["weights"].items():
        assert found[name].dtype == values.dtype
        assert_array_equal(found[name], values)
    assert found["ip1@1_block_col"].tolist() == [0, 2] and found["a/b_step"].tolist() == held["steps"]
    store.export(run, tmp_path / "one.safetensors", steps=[7], layers=["a/b", "ip1@0"])
    found = safetensors.load_file(tmp_path / "one.safetensors")
    assert sorted(found) == ["a/b", "ip1@0"]
    assert_array_equal(found["ip1@0"], held["weights"]["ip1@0"][3])
    import safetensors as package

    with package.safe_open(tmp_path / "one.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["run"])["seed"] == 3
        assert json.loads(file.metadata()["arrays"])["ip1@0"]["step"] == 7


@pytest.mark.parametrize("ending", ["nc", "npz", "safetensors"])
@pytest.mark.parametrize("group", ["spectra", "gates", "norms", "updates"])
def test_every_group_is_exported_in_every_format(tmp_path, ending, group):
    full_run(tmp_path / "run.zarr", "none")
    target = store.export(store.open_run(tmp_path / "run.zarr"), tmp_path / f"run.{ending}", group=group)
    assert target.stat().st_size > 300
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run.zarr", target.name])


def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(tmp_path):
    path = tmp_path / "run.zarr"
    small_run(path)
    run = store.open_run(path)
    (tmp_path / "there.nc").write_text("")
    for options, error, message in [
        ({"output": "run.txt"}, ValueError, r"exports end in \.nc, \.safetensors, \.npz"),
        ({"group": "metrics"}, ValueError, "group must be one of weights"),
        ({"group": "spectra"}, ValueError, "no spectra were recorded"),
        ({"layers": ["ip2"]}, KeyError, "no layer 'ip2'; recorded are ip1"),
        ({"steps": [10, 11]}, ValueError, "step 11 of layer 'ip1' was not recorded, only 5 steps from 0 to 40"),
        ({"output": "there.nc"}, FileExistsError, "not overwritten"),
        ({"output": "none/run.nc"}, FileNotFoundError, "no such folder"),
    ]:
        with pytest.raises(error, match=message):
            store.export(run, tmp_path / options.pop("output", "run.nc"), **options)
    flip(chunk_of(path, "weights/ip1", (1, 0, 0, 0)))
    for ending in ("nc", "npz", "safetensors"):
        with pytest.raises(ValueError, match="'ip1' cannot be read between steps 0 and 40"):
            store.export(run, tmp_path / f"run.{ending}")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.zarr", "there.nc"]


def test_an_export_that_does_not_fit_on_the_disk_is_not_begun(tmp_path, monkeypatch):
    small_run(tmp_path / "run.zarr")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(OSError, match=r"run.nc: takes 240 bytes, but its disk has room for 100"):
        store.export(store.open_run(tmp_path / "run.zarr"), tmp_path / "run.nc")


# --- overview


def test_an_overview_counts_without_reading(tmp_path):
    path = tmp_path / "run.zarr"
    full_run(path)
    seen = store.overview(store.open_run(path))
    assert seen.last_step == 9 and seen.problems == () and seen.files == files(path)
    [row] = [row for row in seen.recorded if (row.group, row.layer) == ("weights", "ip1@1")]
    assert (row.form, row.shape, row.dtype, row.steps.tolist()) == ("block_sparse", (2, 2, 5), "float32", [3, 4, 8])
    assert row.nbytes == 3 * 20 * 4
    assert row.disk_bytes <= sum(file.stat().st_size for file in (path / "weights/ip1@1/c").rglob("*"))
    chunk_of(path, "updates/ip1", (1, 0, 0, 0)).unlink()
    assert store.overview(store.open_run(path)).problems == ("updates/ip1: 1 chunk files are missing",)


@pytest.mark.parametrize(
    ("steps", "gaps"),
    [
        (range(0, 100, 10), []),
        ([0, 10, 20, 40, 50, 60], [(20, 40)]),
        ([0, 1, 2, 3, 50, 51, 52, 90, 91], [(3, 50), (52, 90)]),
        ([0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100], []),
        ([5], []),
        ([], []),
    ],
)
def test_gaps_are_where_steps_are_missing(tmp_path, steps, gaps):
    small_run(tmp_path / "run.zarr", steps=list(steps))
    [row] = store.overview(store.open_run(tmp_path / "run.zarr")).recorded
    assert row.gaps == gaps
