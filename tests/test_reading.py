"""Reading runs that plain zarr wrote as the schema says, whole ones and others."""

import json
import os
import pickle
import shutil
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from handmade import (
    chunk_of,
    commit,
    edit_record,
    full_run,
    matrices,
    new_run,
    put,
    put_layer,
    put_steps,
)
from numpy.testing import assert_array_equal

from rmtnet import store
from rmtnet.store.source import Source

STEPS = [0, 10, 20, 30, 40]


def small_run(path, layers=("ip1",), steps=STEPS, codec="lz4", shape=(1, 3, 4), **attributes):
    """Weights only; what was put in it."""
    weights = new_run(path, **attributes).create_group("weights")
    put_steps(weights, steps)
    held = {name: matrices(steps, shape, seed) for seed, name in enumerate(layers)}
    for name, values in held.items():
        put_layer(weights, name, values, codec=codec)
    commit(path)
    return held


# --- what was recorded


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd", "delta"])
def test_every_group_is_read_whole_with_plain_dims(tmp_path, codec):
    held = full_run(tmp_path / "b1.zarr", codec)
    run = store.open_run(tmp_path / "b1.zarr")
    assert run.groups == [
        "gates",
        "gradients",
        "metrics",
        "moments",
        "norms",
        "spectra",
        "updates",
        "weights",
    ]
    for group in (run.weights, run.gradients, run.updates):
        assert list(group) == ["a/b", "ip1@0", "ip1@1"]
    for name in run:
        for kind in ("weights", "gradients", "updates"):
            array = getattr(run, kind)[name]
            assert array.dims == ("step", "block", "out", "in") and array.name == name
            assert array.values.tobytes() == held[kind][name].tobytes()
            assert array["step"].values.tolist() == held["own" if name == "ip1@1" else "steps"]
        assert_array_equal(run[name], held["weights"][name])
    assert run["ip1@1"]["block_row"].values.tolist() == [1, 0]
    assert run["ip1@1"]["block_height"].values.tolist() == [2, 1]
    assert run.spectra["ip1@0"].dims == ("step", "block", "order")
    assert_array_equal(run.spectra["ip1@0"], held["spectra"])
    assert run.gates["ip1@0"].dims == ("step", "gate_row", "gate_col")
    assert_array_equal(run.gates["ip1@0"].sel(step=7), held["gates"][3])
    assert_array_equal(run.norms["ip1@0"].sel(step=[2, 9]), held["norms"][[1, 4]])
    moments = run.moments["ip1@0"]
    assert dict(moments.sizes) == {"step": 5} and set(moments.data_vars) == {
        "var_w",
        "cov_w_dw",
    }
    assert_array_equal(moments["cov_w_dw"], held["moments"]["cov_w_dw"])
    assert_array_equal(run.metrics["train/loss"], held["loss"])


def test_float16_moments_and_norms_with_steps_of_their_own(tmp_path):
    root = new_run(tmp_path / "run.zarr")
    weights, moments, norms = map(root.create_group, ("weights", "moments", "norms"))
    half = matrices([1, 5], dtype="float16")
    for group in (weights, moments, norms):
        put_steps(group, [])
    put_layer(weights, "fc", half, own=[1, 5], dtype_original="bfloat16", precision="float16")
    put_steps(moments, [2, 4], "fc_step")
    for name in ("fc_var_w", "fc_var_g"):
        put(moments, name, [0.5, 0.25], ("fc_step",), codec="none")
    put_layer(norms, "fc", [1.0, 2.0], own=[1, 5], codec="none")
    commit(tmp_path / "run.zarr")
    run = store.open_run(tmp_path / "run.zarr")
    assert run["fc"].dtype == np.float16 and run["fc"].attrs["precision"] == "float16"
    assert_array_equal(run["fc"].sel(step=5), half[1])
    assert run.moments["fc"]["step"].values.tolist() == [2, 4]
    assert run.moments["fc"]["var_g"].sel(step=4).item() == 0.25
    assert run.norms["fc"].sel(step=5).item() == 2
    assert run.steps.size == 0


def test_what_was_not_recorded_is_named(tmp_path):
    root = new_run(tmp_path / "run.zarr")
    spectra = root.create_group("spectra")
    put_steps(spectra, [0])
    put_layer(spectra, "ip1", [[[2.0, 1.0]]])
    commit(tmp_path / "run.zarr")
    run = store.open_run(tmp_path / "run.zarr")
    assert list(run) == [] and list(run.spectra) == ["ip1"] and "ip1" not in run
    with pytest.raises(ValueError, match=r"run\.zarr: no gradients were recorded, only spectra"):
        _ = run.gradients
    with pytest.raises(ValueError, match=r"no metrics were recorded, only spectra"):
        _ = run.metrics
    with pytest.raises(KeyError, match=r"spectra: no layer 'ip2'; recorded are ip1"):
        run.spectra["ip2"]
    with pytest.raises(KeyError, match=r"no layer 'ip1'; recorded are none"):
        run["ip1"]


def test_the_first_schema_still_opens():
    run = store.open_run(Path(__file__).parent / "golden" / "schema1.zarr")
    bare = xr.open_zarr(run.path, group="weights", chunks=None)
    assert len(run) >= 1
    for name in run:
        assert_array_equal(run[name].values, bare[name].values)
    assert_array_equal(
        run.metrics["step"],
        xr.open_zarr(run.path, group="metrics", chunks=None)["step"],
    )
    assert not any(health.faults for health in store.verify(run.path))


def test_reading_keeps_nothing_in_the_run(tmp_path):
    steps = list(range(40))
    small_run(tmp_path / "run.zarr", steps=steps, shape=(1, 100, 200))
    run = store.open_run(tmp_path / "run.zarr")
    run["ip1"].values.sum()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run["ip1"].values.sum()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < 40 * 100 * 200 * 4 / 4


def test_an_open_layer_survives_a_pickle(tmp_path):
    held = small_run(tmp_path / "run.zarr")
    copy = pickle.loads(pickle.dumps(store.open_run(tmp_path / "run.zarr")["ip1"]))
    assert_array_equal(copy, held["ip1"])


# --- places


def test_a_run_that_was_moved_copied_or_linked_reads_the_same(tmp_path):
    held = small_run(tmp_path / "run.zarr")
    shutil.copytree(tmp_path / "run.zarr", tmp_path / "copy.zarr")
    shutil.move(tmp_path / "run.zarr", tmp_path / "moved.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "moved.zarr")
    for name in ("copy", "moved", "link"):
        assert_array_equal(store.open_run(tmp_path / f"{name}.zarr")["ip1"], held["ip1"])
    assert_array_equal(store.open_run(f"file://{tmp_path}/copy.zarr")["ip1"], held["ip1"])


def test_a_relative_path_is_read_after_the_working_folder_changed(tmp_path, monkeypatch):
    held = small_run(tmp_path / "run.zarr")
    monkeypatch.chdir(tmp_path)
    run = store.open_run("run.zarr")
    monkeypatch.chdir("/")
    assert_array_equal(run["ip1"], held["ip1"])


@pytest.fixture
def remote(tmp_path):
    """A run in fsspec's memory, and what is in it."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    held = full_run(tmp_path / "run.zarr", seed=4)
    system.put(str(tmp_path / "run.zarr"), "/runs/run.zarr", recursive=True)
    yield "memory://runs/run.zarr", held, system
    system.rm("/runs", recursive=True)


def test_a_remote_run_is_read_as_a_local_one(remote):
    address, held, _ = remote
    run = store.open_run(address)
    assert run.name == "run" and run.attrs["seed"] == 4
    assert_array_equal(run["ip1@1"], held["weights"]["ip1@1"])
    assert_array_equal(run.spectra["ip1@0"], held["spectra"])
    assert run.metrics["train/loss"].sel(step=9).item() == 0.5
    assert not any(health.faults for health in store.verify(address))
    assert store.overview(run).last_step == 9


def test_what_is_wrong_with_a_remote_run_is_one_line(remote):
    address, _, system = remote
    with pytest.raises(FileNotFoundError, match=r"memory://runs/other.zarr: no such run"):
        store.open_run("memory://runs/other.zarr")
    with pytest.raises(ValueError, match=r"no rmtnet run \(it holds no zarr.json\)"):
        store.open_run("memory://runs")
    with pytest.raises(ValueError, match=r"nosuch://x: cannot be read .*: install"):
        store.open_run("nosuch://x")
    chunk = next(file for file in system.find("/runs/run.zarr/weights/ip1/c"))
    system.rm(chunk)
    with pytest.raises(ValueError, match=r"weights/ip1/c/.*: it is missing"):
        store.load(store.open_run(address)["ip1@0"], address, "layer 'ip1'")
    with pytest.raises(ValueError, match=r"is remote, and is only read"):
        store.compact(address)


# --- while it is written


def test_a_reader_sees_whole_commits_while_rows_are_written(tmp_path):
    path = tmp_path / "run.zarr"
    weights = new_run(path).create_group("weights")
    for name in ("a", "b"):
        put_layer(weights, name, np.empty((0, 1, 8, 8), "f4"), chunks=(4, 1, 8, 8))
    put_steps(weights, [])
    commit(path, stale=False)
    done = threading.Event()

    def write():
        for row in range(60):
            for name in ("b", "a", "step"):
                array = zarr.open_array(path / "weights" / name, mode="r+")
                array.resize((row + 1, *array.shape[1:]))
                array[row] = row
            record = json.loads((path / "zarr.json").read_text())
            for name in ("a", "b", "step"):
                record["consolidated_metadata"]["metadata"][f"weights/{name}"]["shape"][0] = row + 1
            (path / ".commit").write_text(json.dumps(record))
            os.replace(path / ".commit", path / "zarr.json")

    def write_and_tell():
        try:
            write()
        finally:
            done.set()

    writer = threading.Thread(target=write_and_tell)
    writer.start()
    seen = set()
    while not done.is_set():
        run = store.open_run(path)
        for name in ("a", "b"):
            rows = run[name].load()
            assert_array_equal(rows[:, 0, 0, 0], np.arange(len(rows)))
            assert (rows == rows[:, 0, 0, 0]).all()
        seen.add(len(run.steps))
    writer.join()
    assert len(seen) > 2
    assert len(store.open_run(path).steps) == 60


def test_own_metadata_of_arrays_is_never_read(tmp_path):
    held = small_run(tmp_path / "run.zarr")
    for file in (tmp_path / "run.zarr" / "weights").rglob("zarr.json"):
        file.write_text("not JSON")
    assert_array_equal(store.open_run(tmp_path / "run.zarr")["ip1"], held["ip1"])


# --- damage


@pytest.mark.parametrize("codec", ["none", "lz4", "delta"])
def test_a_missing_chunk_is_an_error_wherever_it_is_read_from(tmp_path, codec):
    path = tmp_path / "run.zarr"
    held = small_run(path, codec=codec)
    chunk_of(path, "weights/ip1", (1, 0, 0, 0)).unlink()
    weight = store.open_run(path)["ip1"]
    with pytest.raises(ValueError, match=r"weights/ip1/c/1/0/0/0: it is missing"):
        _ = weight.values
    with pytest.raises(
        ValueError,
        match=r"run.zarr: layer 'ip1' cannot be read between steps 20 and 30, a chunk is dam",
    ):
        store.load(weight.sel(step=[20, 30]), path, "layer 'ip1'")
    assert_array_equal(weight.sel(step=[0, 10, 40]), held["ip1"][[0, 1, 4]])


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd", "delta"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"", lambda data: data[:7], lambda data: data[:-1], lambda data: data + b"x",
        lambda data: data + bytes(10**6), lambda data: data[: len(data) // 2],
    ],
    ids=["empty", "7 bytes", "one less", "one more", "a million more", "half"],
)  # fmt: skip
def test_a_chunk_of_another_size_is_an_error(tmp_path, codec, spoil):
    path = tmp_path / "run.zarr"
    small_run(path, codec=codec, shape=(1, 30, 40))
    chunk = chunk_of(path, "weights/ip1", (0, 0, 0, 0))
    chunk.write_bytes(spoil(chunk.read_bytes()))
    with pytest.raises(ValueError, match=r"layer 'ip1' cannot be read between steps 0 and 10") as error:
        store.load(store.open_run(path)["ip1"][:2], path, "layer 'ip1'")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "delta"])
def test_any_flipped_bit_of_a_compressed_chunk_is_an_error(tmp_path, codec):
    path = tmp_path / "run.zarr"
    small_run(path, codec=codec, shape=(1, 30, 40))
    chunk = chunk_of(path, "weights/ip1", (0, 0, 0, 0))
    whole = chunk.read_bytes()
    weight = store.open_run(path)["ip1"][:2]
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 40):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        chunk.write_bytes(data)
        with pytest.raises(ValueError, match=r"a chunk is damaged"):
            store.load(weight.copy(), path, "layer 'ip1'")


def test_metrics_that_were_never_logged_are_nan(tmp_path):
    root = new_run(tmp_path / "run.zarr")
    metrics = root.create_group("metrics")
    put_steps(metrics, [0, 1, 2])
    put(metrics, "late", [np.nan, np.nan, 1], ("step",), codec="none")
    chunk_of(tmp_path / "run.zarr", "metrics/late", (0,)).unlink()
    commit(tmp_path / "run.zarr")
    assert_array_equal(store.open_run(tmp_path / "run.zarr").metrics["late"], [np.nan, np.nan, 1])


# --- hostile input


def set_node(**changes):
    """A change of the committed metadata of the layer ip1."""
    return lambda nodes: nodes["weights/ip1"].update(changes)


def set_rows(rows):
    """The run claims so many steps."""

    def change(nodes):
        for name in ("step", "ip1"):
            nodes[f"weights/{name}"]["shape"][0] = rows

    return change


def rename(name):
    return lambda nodes: nodes.update({name: nodes.pop("weights/ip1")})


def grid(*chunks):
    return {"name": "regular", "configuration": {"chunk_shape": chunks}}


NOT_OURS = "array 'weights/ip1': its metadata is not such as rmtnet writes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("weights/../../ip1"), "'weights/../../ip1' is no name of a group or variable"),
        (rename("../ip1"), "'../ip1' is no name"),
        (rename("/etc/passwd"), "'/etc/passwd' is no name"),
        (rename("weights/.."), "'weights/..' is no name"),
        (rename("weights/"), "'weights/' is no name"),
        (rename("weights/a\\b"), "is no name"),
        (rename("weights/a\0b"), "is no name"),
        (rename("weights/zarr.json"), "is no name"),
        (rename("a/" * 50_000), "is no name"),
        (set_rows(10**15), "shape .1000000000000000, 1, 3, 4. in 500,000,000,000,000 chunks is more than 10,000,000"),
        (set_rows(10**400), NOT_OURS.replace("ip1", ".*")),
        (set_rows(10**7), "'weights/step' is said to be .10000000,., but only 2 of 2500000 chunks"),
        (set_rows(-1), "must be positive"),
        (set_rows(6), "group 'weights' cannot be read, the run is damaged"),
        (set_node(shape=[4, 1, 3, 4]), "'weights/ip1' has 4 rows but 5 steps"),
        (set_node(shape=[5, 1, 10**6, 10**6]), "is more than 10,000,000"),
        (set_node(shape=[5, 1, 10**6, 10**6], chunk_grid=grid(2, 1, 10**6, 10**6)), "chunks of 8,000,000,000,000"),
        (set_node(shape=[5, 1, 3000, 4000], chunk_grid=grid(2, 1, 3000, 4)), "5, 1, 3000, 4000., but only 1 of 1000"),
        (set_node(shape=[5, 1, 3]), "do not fit together"),
        (set_node(shape=[5, 1, 3, 4.0]), NOT_OURS),
        (set_node(shape=[5, 1, 3, True]), NOT_OURS),
        (set_node(shape=None), NOT_OURS),
        (set_node(chunk_grid=grid(0, 1, 3, 4)), "must be positive"),
        (set_node(chunk_grid={"name": "regular"}), NOT_OURS),
        (set_node(chunk_grid={"name": "rectilinear", "configuration": {"chunk_shape": [2, 1, 3, 4]}}), NOT_OURS),
        (set_node(chunk_key_encoding={"name": "default", "configuration": {"separator": "../"}}), NOT_OURS),
        (set_node(chunk_key_encoding={"name": "v2"}), NOT_OURS),
        (set_node(data_type="object"), NOT_OURS),
        (set_node(data_type={"name": "numpy.datetime64"}), NOT_OURS),
        (set_node(codecs=[{"name": "pickle"}]), "codec 'pickle' is none that rmtnet writes"),
        (set_node(codecs=[{"name": "bytes"}, {"name": "gzip"}]), "codec 'gzip' is none"),
        (set_node(codecs=[]), "group 'weights' cannot be read, the run is damaged"),
        (set_node(dimension_names=["step", "step", "a", "b"]), "do not fit together"),
        (set_node(dimension_names=["time", "a", "b", "c"]), "'weights/ip1' has 5 rows but no steps"),
        (set_node(dimension_names=None), NOT_OURS),
        (set_node(zarr_format=2), NOT_OURS),
        (set_node(node_type="group"), NOT_OURS),
        (lambda nodes: nodes.pop("weights/step"), "'weights/ip1' has 5 rows but no steps"),
        (lambda nodes: nodes["weights/step"].update(dimension_names=["x"]), "'weights/ip1' has 5 rows but no steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_hostile_record_is_one_line_and_takes_no_memory(tmp_path, change, message):
    path = tmp_path / "run.zarr"
    small_run(path)
    edit_record(path, change)
    tracemalloc.start()
    with pytest.raises((ValueError, KeyError), match=message) as error:
        store.load(store.open_run(path)["ip1"], path, "layer 'ip1'")
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_header_that_claims_gigabytes_is_refused_before_it_is_unpacked(tmp_path):
    small_run(tmp_path / "run.zarr")
    chunk = chunk_of(tmp_path / "run.zarr", "weights/ip1", (0, 0, 0, 0))
    data = bytearray(chunk.read_bytes())
    data[4:8] = (2**31 - 1).to_bytes(4, "little")
    chunk.write_bytes(data)
    with pytest.raises(ValueError, match=r"it holds 2,147,483,647 bytes instead of 96 bytes"):
        store.open_run(tmp_path / "run.zarr")["ip1"].load()


def test_a_zstd_bomb_is_refused_before_it_is_unpacked(tmp_path):
    import numcodecs

    path = tmp_path / "run.zarr"
    weights = new_run(path).create_group("weights")
    array = weights.create_array("step", shape=(3,), chunks=(4,), dtype="i8", dimension_names=("step",))
    array[:] = [1, 2, 3]
    assert [codec.to_dict()["name"] for codec in array.compressors] == ["zstd"], "zarr's default, as in schema 1"
    put_layer(weights, "ip1", matrices([1, 2, 3]))
    commit(path)
    assert store.open_run(path).steps.values.tolist() == [1, 2, 3]
    chunk_of(path, "weights/step", (0,)).write_bytes(numcodecs.Zstd(9).encode(bytes(8 * 2**20)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"it holds 8,388,608 bytes instead of 32 bytes"):
        _ = store.open_run(path)["ip1"]
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "place",
    ["weights/ip1/c/0/0/0/0", "weights/ip1/c/0", "weights/ip1", "weights", "zarr.json"],
)
def test_nothing_outside_the_folder_is_read(tmp_path, place):
    for name in ("run", "other"):
        small_run(tmp_path / f"{name}.zarr")
    path = tmp_path / "run.zarr"
    inner = path / place
    shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
    inner.symlink_to(tmp_path / "other.zarr" / place)
    with pytest.raises(ValueError, match=r"leads out of the run, to .*other\.zarr"):
        store.load(store.open_run(path)["ip1"], path, "layer 'ip1'")


def test_a_run_that_is_to_be_written_has_no_folder_elsewhere(tmp_path):
    path = tmp_path / "run.zarr"
    small_run(path)
    assert Source(path).own_record() == Source(path).record()
    (tmp_path / "thesis").mkdir()
    (path / "spectra").symlink_to(tmp_path / "thesis")
    edit_record(path, lambda nodes: nodes.update(spectra={"node_type": "group", "zarr_format": 3}))
    with pytest.raises(ValueError, match=r"leads out of the run, to .*thesis"):
        Source(path).own_record()
    with pytest.raises(ValueError, match="is remote"):
        Source.folder(Source("memory://run.zarr"))


def test_a_link_within_the_run_is_followed(tmp_path):
    held = small_run(tmp_path / "run.zarr")
    chunk = chunk_of(tmp_path / "run.zarr", "weights/ip1", (0, 0, 0, 0))
    chunk.rename(chunk.with_name("kept"))
    chunk.symlink_to("kept")
    assert_array_equal(store.open_run(tmp_path / "run.zarr")["ip1"], held["ip1"])


def test_a_pipe_in_the_place_of_a_chunk_does_not_hang(tmp_path):
    small_run(tmp_path / "run.zarr")
    chunk = chunk_of(tmp_path / "run.zarr", "weights/ip1", (0, 0, 0, 0))
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(ValueError, match=r"is no file"):
        store.open_run(tmp_path / "run.zarr")["ip1"].load()


def test_a_giant_record_is_not_read(tmp_path):
    small_run(tmp_path / "run.zarr")
    os.truncate(tmp_path / "run.zarr" / "zarr.json", 10 * 2**30)
    with pytest.raises(ValueError, match=r"its zarr.json is larger than 67,108,864 bytes"):
        store.open_run(tmp_path / "run.zarr")


@pytest.mark.parametrize("content", [b"", b"[" * 10**6, b'{"a":' * 10**5, b"\xff", b"NaN", b'"x"', b"{}"])
def test_json_that_is_no_record_is_one_line(tmp_path, content):
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr" / "zarr.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"its zarr.json is not one that rmtnet wrote"):
        store.open_run(tmp_path / "run.zarr")


def test_attributes_do_not_change_what_is_read(tmp_path):
    path = tmp_path / "run.zarr"
    held = small_run(path)
    told = {
        "scale_factor": 2.0,
        "add_offset": 1.0,
        "units": "days since 1970-01-01",
        "coordinates": "x",
    }
    edit_record(
        path,
        lambda nodes: [nodes[name].update(attributes=told) for name in ("weights/ip1", "weights/step")],
    )
    weight = store.open_run(path)["ip1"]
    assert_array_equal(weight, held["ip1"])
    assert weight["step"].values.tolist() == STEPS


# --- several runs


def test_runs_together_have_a_dimension_and_read_lazily(tmp_path):
    paths = [tmp_path / f"b{k}.zarr" for k in (1, 2, 10)]
    for seed, path in enumerate(paths):
        full_run(path, seed=seed, study="s", network=path.stem)
        zarr_file = json.loads((path / "zarr.json").read_text())
        zarr_file["attributes"]["extra"] = seed
        (path / "zarr.json").write_text(json.dumps(zarr_file))
    together = store.open_runs(paths)
    assert together["run"].values.tolist() == ["b1", "b2", "b10"]
    assert together["seed"].values.tolist() == [0, 1, 2] and together["network"].values.tolist() == ["b1", "b2", "b10"]
    assert together["ip1@0"].dims == (
        "run",
        "step",
        "ip1@0_block",
        "ip1@0_out",
        "ip1@0_in",
    )
    assert together["ip1@1"].dims[1] == "ip1@1_step" and together["ip1@1_step"].values.tolist() == [3, 4, 8]
    single = store.open_run(paths[1])
    for name in single:
        assert_array_equal(together[name][1], single[name])
    shutil.rmtree(paths[0] / "weights" / "a%2Fb")
    assert_array_equal(together["a/b"].isel(run=[2, 1], step=slice(1, 4))[1], single["a/b"][1:4])
    assert_array_equal(
        together["a/b"].sel(step=7).isel(run=1, **{"a/b_in": 0}),
        single["a/b"].sel(step=7)[..., 0],
    )
    with pytest.raises(ValueError, match=r"it is missing|leads|no such"):
        together["a/b"].load()
    assert_array_equal(
        store.open_runs(paths, group="spectra")["ip1@0"][2],
        store.open_run(paths[2]).spectra["ip1@0"],
    )


def test_runs_together_share_steps_and_shapes(tmp_path):
    small_run(tmp_path / "a.zarr", layers=("ip1", "ip2"), steps=[0, 1, 2, 5])
    small_run(tmp_path / "b.zarr", layers=("ip1",), steps=[1, 2, 3, 5])
    (tmp_path / "seed1").mkdir()
    small_run(tmp_path / "seed1" / "a.zarr", layers=("ip1",), steps=[1, 5], shape=(2, 3, 4))
    together = store.open_runs([tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert together["step"].values.tolist() == [1, 2, 5] and list(together) == ["ip1"]
    assert together.attrs["left_out"] == "ip2"
    assert_array_equal(
        together["ip1"][0],
        store.open_run(tmp_path / "a.zarr")["ip1"].sel(step=[1, 2, 5]),
    )
    same = store.open_runs([tmp_path / "a.zarr", tmp_path / "a.zarr"])
    assert same["run"].values.tolist() == [str(tmp_path / "a.zarr")] * 2
    for paths, options, message in [
        ([], {}, "at least one run"),
        (["a.zarr"], {"group": "metrics"}, "group must be one of weights"),
        (
            ["a.zarr", "b.zarr"],
            {"layers": ["ip2"]},
            "'ip2' must have one shape in all runs, got a: .1, 3, 4., b: no such",
        ),
        (
            ["b.zarr", "seed1/a.zarr"],
            {},
            "'ip1' must have one shape in all runs, got b: .1, 3, 4., a: .2, 3, 4.",
        ),
        (["a.zarr"], {"group": "spectra"}, "no spectra were recorded"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.open_runs([tmp_path / path for path in paths], **options)
    small_run(tmp_path / "late.zarr", steps=[7])
    with pytest.raises(ValueError, match=r"the runs a, late share no step of layer 'ip1'"):
        store.open_runs([tmp_path / "a.zarr", tmp_path / "late.zarr"])
