import asyncio
import itertools
import json
import math
import multiprocessing
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from zarr.core.sync import sync
from zarr.storage import LocalStore

from rmtnet import store
from rmtnet.store import MatrixSpec, RunLocked, RunWriter, lock
from rmtnet.store.arrays import consolidate
from rmtnet.store.schema import SCHEMA_KEY, chunk_shape, decode, encode

IP1 = MatrixSpec("ip1", (1, 3, 4), np.dtype("float32"), out_features=3, in_features=4)
SPARSE = MatrixSpec("s", (2, 2, 5), np.dtype("float64"), "block_sparse", 6, 15, (2, 0), (0, 1))
SPECS = [IP1, SPARSE]
AWKWARD = [
    "step",
    "a/b",
    "x@1",
    "gate_in",
    "ip1_block_row",
    "zarr.json",
    "..",
    ".",
    "%41",
    "Ĝewicht 重",
    "__x",
    "__x_in",
]
AWKWARD += ["_", "STEP", "c", "ip1_Block_Row", "a\\b", " ", "ip1"]


def rows_at(steps, specs=SPECS):
    """Layer -> (T, block, out, in): weights that depend on nothing but the step."""
    return {
        spec.name: np.stack(
            [np.random.default_rng([step, k]).normal(size=spec.shape).astype(spec.dtype) for step in steps]
        )
        for k, spec in enumerate(specs)
    }


def new_run(path, specs=SPECS, steps=()):
    writer = RunWriter.create(path, {"seed": 3})
    writer.declare(specs)
    if steps:
        writer.append(steps, rows_at(steps, specs))
        writer.append_metrics(steps, {"loss": np.array(steps) / 2})
        writer.commit()
    return writer


def weights_of(path):
    """What plain xarray sees."""
    return xr.open_zarr(path, group="weights", chunks=None).load()


def metrics_of(path):
    return xr.open_zarr(path, group="metrics", chunks=None).load()


def assert_holds(path, steps, specs=SPECS):
    """Plain xarray and rmtnet read exactly the rows of these steps."""
    weights = weights_of(path)
    assert_array_equal(weights["step"], steps)
    run = store.open_run(path)
    if steps:
        for name, rows in rows_at(steps, specs).items():
            assert_array_equal(weights[name], rows)
            assert_array_equal(run[name], rows)


# --- plain xarray reads what was written


def test_plain_xarray_reads_dims_coords_attributes_and_values_bit_for_bit(tmp_path):
    path = tmp_path / "run.zarr"
    rows = rows_at([0, 5, 7])
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], dtype="float32")
    rows["ip1"].flat[: len(odd)] = odd
    with new_run(path) as writer:
        writer.append([0, 5, 7], rows)
        writer.append_metrics([5], {"loss": np.array([0.25])})
        writer.commit()
    weights = weights_of(path)
    assert weights["ip1"].dims == ("step", "ip1_block", "ip1_out", "ip1_in")
    assert weights["ip1"].dtype == np.float32 and weights["s"].dtype == np.float64
    assert weights["ip1"].values.tobytes() == rows["ip1"].tobytes()
    assert weights["s"].values.tobytes() == rows["s"].tobytes()
    assert weights["step"].dtype == np.int64 and weights["step"].values.tolist() == [0, 5, 7]
    assert weights["step"].attrs["long_name"] == "optimizer steps done"
    assert_array_equal(weights["s_block_row"], SPARSE.block_row)
    assert_array_equal(weights["s_block_col"], SPARSE.block_col)
    assert set(weights.variables) == {"step", "ip1", "s", "s_block_row", "s_block_col"}
    assert weights["s"].attrs | {"form": "block_sparse", "blocks": 2, "out_features": 6} == weights["s"].attrs
    tree = xr.open_datatree(path, engine="zarr", chunks=None)
    assert tree.attrs == {SCHEMA_KEY: 2, "seed": 3}
    assert tree["weights/ip1"].values.tobytes() == rows["ip1"].tobytes()
    assert tree["metrics/loss"].values.tolist() == [0.25] and tree["metrics/step"].values.tolist() == [5]


def test_dask_reads_a_layer_whose_rows_span_chunks(tmp_path):
    path = tmp_path / "run.zarr"
    spec = MatrixSpec("wide", (1, 300, 5000), np.dtype("float64"))
    rows = np.random.default_rng(0).normal(size=(2, 1, 300, 5000))
    with new_run(path, [spec]) as writer:
        writer.append([1, 2], {"wide": rows})
        writer.commit()
    assert len(list((path / "weights/wide").glob("c.0.*"))) > 1
    assert_array_equal(store.open_run(path)["wide"], rows)


def test_open_run_gives_the_four_plain_dims_and_positions(tmp_path):
    new_run(tmp_path / "b1.zarr", steps=[0, 3]).close()
    run = store.open_run(tmp_path / "b1.zarr")
    assert run.name == "b1" and list(run) == ["ip1", "s"] and len(run) == 2 and run.attrs["seed"] == 3
    assert run["s"].dims == ("step", "block", "out", "in") and run["s"].name == "s"
    assert run["s"]["block_row"].values.tolist() == [2, 0]
    assert run.steps.values.tolist() == [0, 3]
    with pytest.raises(KeyError, match="no layer 'ip2'; recorded are ip1, s"):
        run["ip2"]


def test_an_open_run_holds_what_was_committed_when_it_was_opened(tmp_path):
    with new_run(tmp_path / "run.zarr", steps=[0]) as writer:
        run = store.open_run(tmp_path / "run.zarr")
        assert run["ip1"].sizes["step"] == 1
        writer.append([4], rows_at([4]))
        assert run["ip1"].sizes["step"] == 1
        writer.commit()
        assert run["ip1"].sizes["step"] == 1
        assert store.open_run(tmp_path / "run.zarr")["ip1"].sizes["step"] == 2


# --- names

names = st.one_of(
    st.text(min_size=1, max_size=20),
    st.lists(
        st.sampled_from([*AWKWARD, "_in", "_block_row", "_step", "%", "@", "/", "1", "."]), min_size=1, max_size=4
    ).map("".join),
)
SUFFIXES = ("_block", "_out", "_in", "_step", "_order", "_block_row", "_block_col", "_block_height", "_block_width")


@given(names)
def test_decode_inverts_encode(name):
    assert decode(encode(name)) == name


@given(names, names)
def test_no_name_collides_with_what_the_schema_adds_to_another(one, other):
    added = {encode(other) + suffix for suffix in SUFFIXES} | {"step", "zarr.json", ".", ".."}
    assert encode(one).lower() not in {variable.lower() for variable in added}
    assert (encode(one) == encode(other)) == (one == other)


@given(names)
def test_variable_names_are_legal_zarr_nodes(name):
    assert not set(encode(name)) & set("/\\@")
    for variable in (encode(name), encode(name) + "_block_row"):
        assert not variable.startswith("__") and variable.strip(".")


def test_awkward_names_survive_a_store(tmp_path):
    layers = [name for name in AWKWARD if name not in ("STEP", "ip1_Block_Row")]
    specs = [
        MatrixSpec(name, (2, 1, 2), np.dtype("f4"), "block_sparse", 2, 4, (0, k), (k, 0))
        for k, name in enumerate(layers)
    ]
    with new_run(tmp_path / "run.zarr", specs) as writer:
        writer.append([1], rows_at([1], specs))
        writer.append_metrics([1], {name: np.array([float(k)]) for k, name in enumerate(layers)})
        writer.commit()
        assert sorted(writer.metrics()) == sorted(layers)
    run = store.open_run(tmp_path / "run.zarr")
    assert sorted(run) == sorted(layers)
    for k, name in enumerate(layers):
        assert_array_equal(run[name], rows_at([1], specs)[name])
        assert run[name]["block_row"].values.tolist() == [0, k]
        assert run.metrics["%73tep" if name == "step" else name].item() == k
        assert run.forms(name) == [name]


def test_names_that_differ_only_in_case_are_refused(tmp_path):
    with RunWriter.create(tmp_path / "run.zarr") as writer:
        with pytest.raises(ValueError, match="'A' and 'a' differ only in case"):
            writer.declare([MatrixSpec("A", (1, 2, 2), np.dtype("f4")), MatrixSpec("a", (1, 2, 2), np.dtype("f4"))])
        with pytest.raises(ValueError, match="'Loss' and 'loss' differ only in case"):
            writer.append_metrics([0], {"Loss": np.zeros(1), "loss": np.zeros(1)})
        with pytest.raises(ValueError, match="needs a name"):
            writer.append_metrics([0], {"": np.zeros(1)})


# --- chunks


@given(
    st.tuples(st.integers(1, 500), st.integers(1, 2000), st.integers(1, 20_000_000)).filter(
        lambda shape: math.prod(shape) <= 100e6 / 4
    ),
    st.sampled_from([4, 8]),
)
def test_chunks_hold_1_to_16_mb_or_4096_steps(shape, itemsize):
    chunk = chunk_shape(shape, itemsize)
    size = math.prod(chunk) * itemsize
    assert all(1 <= part <= whole for part, whole in zip(chunk[1:], shape, strict=True))
    assert size <= 16e6
    assert size >= 1e6 or chunk == (4096, *shape)


# --- crashes: the k-th change of the disk, and all after it, do not happen

somewhere_or_anywhere = pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])


CHANGES = [
    *((LocalStore, name) for name in ("set", "set_if_not_exists", "delete", "delete_dir")),
    *((os, name) for name in ("replace", "rename", "pwritev", "ftruncate")),
    *((Path, name) for name in ("write_text", "unlink")),
    (shutil, "rmtree"),
]


class Crash(BaseException):
    pass


async def no_other_task():
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


def crashes(monkeypatch, operation, stride=1):
    """Call ``operation`` again and again, dying at every ``stride``-th change of the disk; yields after each death."""

    def dying(original, ticks):
        def wrapped(*args, **options):
            if next(ticks) >= 0:
                raise Crash
            return original(*args, **options)

        return wrapped

    for k in itertools.count(1, stride):
        ticks = itertools.count(-k)
        with monkeypatch.context() as patch:
            for owner, name in CHANGES:
                patch.setattr(owner, name, dying(getattr(owner, name), ticks))
            try:
                operation()
            except Crash:
                died = True
            else:
                died = False
            # What zarr's own thread still has under way must die too.
            sync(no_other_task())
        yield k
        if not died:
            return


@somewhere_or_anywhere
def test_after_a_crash_anywhere_in_an_append_readers_see_whole_commits_and_the_writer_goes_on(
    tmp_path, monkeypatch, stride
):
    new_run(tmp_path / "template.zarr", steps=[0, 1]).close()
    path = tmp_path / "run.zarr"

    def append():
        shutil.copytree(tmp_path / "template.zarr", path, dirs_exist_ok=False)
        with RunWriter(path) as writer:
            writer.append([2, 3, 4], rows_at([2, 3, 4]))
            writer.append_metrics([2, 3, 4], {"loss": np.array([1, 1.5, 2]), "late": np.array([7.0, 8.0, 9.0])})
            writer.commit()

    seen = set()
    for _ in crashes(monkeypatch, append, stride):
        steps = weights_of(path)["step"].values.tolist()
        assert steps in ([0, 1], [0, 1, 2, 3, 4])
        seen.add(len(steps))
        assert_holds(path, steps)
        metrics = metrics_of(path)
        assert metrics["step"].values.tolist() == steps
        assert_array_equal(metrics["loss"], np.array(steps) / 2)
        assert set(metrics.data_vars) == ({"loss"} if len(steps) == 2 else {"loss", "late"})
        with RunWriter(path) as writer:
            assert_holds(path, steps)
            writer.append([10, 11], rows_at([10, 11]))
            writer.append_metrics([10, 11], {"other": np.array([3.0, 4.0])})
            writer.commit()
        assert_holds(path, [*steps, 10, 11])
        metrics = metrics_of(path)
        assert_array_equal(metrics["other"], [*[np.nan] * len(steps), 3, 4])
        assert np.isnan(metrics["loss"][-2:]).all()
        assert "late" not in metrics or np.isnan(metrics["late"][-2:]).all()
        shutil.rmtree(path)
    assert seen == {2, 5}


@somewhere_or_anywhere
def test_a_crash_anywhere_in_creation_leaves_nothing_or_a_whole_run(tmp_path, monkeypatch, stride):
    path = tmp_path / "run.zarr"

    def create():
        with suppress(FileNotFoundError):
            path.rename(tmp_path / f"done-{len(list(tmp_path.iterdir()))}")
        RunWriter.create(path, {"seed": 3}).close()

    for k in crashes(monkeypatch, create, stride):
        if path.exists():
            assert store.open_run(path).attrs["seed"] == 3
            assert len(store.open_run(path)) == 0
            path.rename(tmp_path / f"whole-{k}")
        new_run(path, steps=[0]).close()
        assert_holds(path, [0])
        path.rename(tmp_path / f"made-{k}")
    assert k > 5


@somewhere_or_anywhere
def test_a_crash_anywhere_in_declaring_leaves_a_run_that_can_be_declared(tmp_path, monkeypatch, stride):
    path = tmp_path / "run.zarr"

    def declare():
        shutil.rmtree(path, ignore_errors=True)
        with RunWriter.create(path) as writer:
            writer.declare(SPECS)

    for _ in crashes(monkeypatch, declare, stride):
        if path.exists():
            assert list(store.open_run(path)) in ([], ["ip1", "s"])
            weights_of(path)
            with RunWriter(path) as writer:
                writer.declare(SPECS)
                writer.append([6], rows_at([6]))
                writer.commit()
            assert_holds(path, [6])


@somewhere_or_anywhere
def test_a_crash_anywhere_in_a_rewind_loses_no_row(tmp_path, monkeypatch, stride):
    steps = [0, 1, 2, 3, 4]
    new_run(tmp_path / "template.zarr", [IP1], steps).close()
    folder = tmp_path / "runs"
    path = folder / "run.zarr"

    def rewind():
        shutil.copytree(tmp_path / "template.zarr", path)
        with RunWriter(path) as writer:
            writer.rewind(2)

    for _ in crashes(monkeypatch, rewind, stride):
        left = weights_of(path)["step"].values.tolist()
        assert left in (steps, [0, 1, 2])
        assert_holds(path, left, [IP1])
        copies = sorted(folder.glob("*superseded*.zarr"))
        assert copies or left == steps
        for copy in copies:
            assert_holds(copy, [3, 4], [IP1])
        with RunWriter(path) as writer:
            writer.rewind(2)
            assert_holds(path, [0, 1, 2], [IP1])
            writer.append([9], rows_at([9], [IP1]))
            writer.append_metrics([9], {"other": np.array([1.0])})
            writer.commit()
        assert_holds(path, [0, 1, 2, 9], [IP1])
        assert np.isnan(metrics_of(path)["loss"][-1])
        shutil.rmtree(folder)


@somewhere_or_anywhere
def test_a_crash_anywhere_in_overwriting_never_mixes_two_runs(tmp_path, monkeypatch, stride):
    new_run(tmp_path / "template.zarr", steps=[0, 1]).close()
    folder = tmp_path / "runs"
    path = folder / "run.zarr"

    def overwrite():
        shutil.copytree(tmp_path / "template.zarr", path)
        RunWriter.create(path, {"seed": 4}, overwrite=True).close()

    for _ in crashes(monkeypatch, overwrite, stride):
        if path.exists():
            run = store.open_run(path)
            assert (run.attrs["seed"], list(run)) in ((3, ["ip1", "s"]), (4, []))
        RunWriter.create(path, {"seed": 5}, overwrite=True).close()
        assert store.open_run(path).attrs["seed"] == 5
        shutil.rmtree(folder)


def test_rows_whose_write_failed_are_written_by_the_next_attempt(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    writer = new_run(path, steps=[0, 1])

    def append():
        writer.append([2, 3], rows_at([2, 3]))
        writer.append_metrics([2, 3], {"loss": np.array([1, 1.5]), "new": np.array([5.0, 6.0])})
        writer.commit()

    *_, attempts = crashes(monkeypatch, append)
    assert attempts > 10
    assert_holds(path, [0, 1, 2, 3])
    assert_array_equal(metrics_of(path)["new"], [np.nan, np.nan, 5, 6])
    writer.close()


# --- rows


@pytest.mark.parametrize(
    "steps, rows, message",
    [
        ([1], rows_at([1]), "steps must ascend; the run ends at .*1.*, got .1."),
        ([4, 3], rows_at([4, 3]), "steps must ascend"),
        ([], rows_at([1]), "steps must ascend"),
        ([2], {"ip1": rows_at([2])["ip1"]}, "a row must hold the layers .'ip1', 's'., got .'ip1'."),
        ([2], {**rows_at([2]), "x": np.zeros((1, 1, 1, 1))}, "a row must hold the layers"),
        ([2], {**rows_at([2]), "ip1": np.zeros((1, 1, 1, 4))}, r"'ip1' holds rows of \(1, 3, 4\)"),
        ([2, 3], rows_at([2]), "2 steps cannot take an array of"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_leave_no_trace(tmp_path, steps, rows, message):
    path = tmp_path / "run.zarr"
    with new_run(path, steps=[0, 1]) as writer:
        with pytest.raises(ValueError, match=message):
            writer.append(steps, rows)
        writer.append([5], rows_at([5]))
        writer.commit()
    assert_holds(path, [0, 1, 5])


def test_a_closed_writer_writes_no_more(tmp_path):
    writer = new_run(tmp_path / "run.zarr", steps=[0])
    writer.close()
    with pytest.raises(ValueError, match="this writer is closed"):
        writer.append([1], rows_at([1]))


@pytest.mark.parametrize(
    "spec, message",
    [
        (MatrixSpec("ip1", (1, 4, 4), np.dtype("f4")), "resume with the same model"),
        (MatrixSpec("ip1", (1, 3, 4), np.dtype("f8")), "dense .1, 3, 4. float64 in the model: resume with the same"),
        (MatrixSpec("ip1", (1, 3, 4), np.dtype("f4"), "block_diagonal"), "block_diagonal .* in the model"),
        (MatrixSpec("ip2", (1, 3, 4), np.dtype("f4")), "the run records .'ip1', 's'., not .'ip2', 's'."),
    ],
)
def test_a_resumed_run_refuses_another_model(tmp_path, spec, message):
    with new_run(tmp_path / "run.zarr", steps=[0]) as writer:
        writer.declare(SPECS)
        with pytest.raises(ValueError, match=message):
            writer.declare([spec, SPARSE])


def test_a_resumed_run_refuses_blocks_at_other_places(tmp_path):
    moved = MatrixSpec("s", (2, 2, 5), np.dtype("float64"), "block_sparse", 6, 15, (2, 1), (0, 1))
    with new_run(tmp_path / "run.zarr", steps=[0]) as writer, pytest.raises(ValueError, match="other places"):
        writer.declare([IP1, moved])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"form": "diagonal"}, "form of layer 'x' must be one of dense, block_diagonal, block_sparse, got 'diagonal'"),
        ({"shape": (1, 0, 3)}, "must be .block, out, in., none empty"),
        ({"shape": (2, 3, 3)}, "2 blocks but another number of block positions"),
    ],
)
def test_a_spec_checks_itself(options, message):
    with pytest.raises(ValueError, match=message):
        MatrixSpec(**{"name": "x", "shape": (1, 2, 3), "dtype": np.dtype("f4"), **options})


# --- rewind


def test_rewind_keeps_the_later_rows_in_a_run_of_their_own(tmp_path):
    path = tmp_path / "run.zarr"
    with new_run(path, steps=[0, 2, 4, 6]) as writer:
        assert writer.rewind(6) is None and writer.rewind(99) is None
        first = writer.rewind(3)
        assert_holds(path, [0, 2])
        writer.append([3, 5], rows_at([3, 5]))
        writer.commit()
        second = writer.rewind(2)
        assert writer.rewind(-1).name == "run.superseded-3.zarr"
    assert [copy.name for copy in (first, second)] == ["run.superseded-1.zarr", "run.superseded-2.zarr"]
    assert_holds(first, [4, 6])
    assert_holds(second, [3, 5])
    assert_holds(path, [])
    run = store.open_run(first)
    assert run.attrs["superseded"] == "run.superseded-1.zarr" and run.attrs["seed"] == 3
    assert run["s"]["block_row"].values.tolist() == [2, 0]
    assert run.metrics["loss"].values.tolist() == [2, 3]


def test_rewind_does_not_copy_what_was_never_committed(tmp_path):
    with new_run(tmp_path / "run.zarr", steps=[0, 2, 4]) as writer:
        writer.append([5], rows_at([5]))
        assert_holds(writer.rewind(2), [4])
        writer.commit()
    assert_holds(tmp_path / "run.zarr", [0, 2])


# --- metrics


def test_a_late_metric_is_nan_before_it_came_and_same_step_values_join(tmp_path):
    path = tmp_path / "run.zarr"
    with RunWriter.create(path) as writer:
        writer.append_metrics([0, 1], {"loss": np.array([3.0, 2.0])})
        writer.commit()
        writer.append_metrics([1, 2], {"accuracy": np.array([0.5, 0.6])})
        writer.commit()
        writer.append_metrics([2], {"loss": np.array([1.0])})
        writer.commit()
    metrics = metrics_of(path)
    assert metrics["step"].values.tolist() == [0, 1, 2]
    assert_array_equal(metrics["loss"], [3, 2, 1])
    assert_array_equal(metrics["accuracy"], [np.nan, 0.5, 0.6])


def test_a_new_metric_does_not_publish_rows_that_are_not_committed(tmp_path):
    path = tmp_path / "run.zarr"
    with new_run(path, steps=[0]) as writer:
        writer.append([1], rows_at([1]))
        writer.append_metrics([1], {"new": np.array([1.0])})
        assert_holds(path, [0])
        assert "new" not in metrics_of(path)
        writer.commit()
        assert_holds(path, [0, 1])


def test_several_forms_of_a_layer_are_listed_in_order(tmp_path):
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0, 1]).close()
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    for form in ("ip1@10", "ip1@2", "ip1@1"):
        late = root.create_array(
            f"weights/{form}", shape=(1, 1, 2, 2), dtype="f4", attributes={"form": "dense"},
            dimension_names=(f"{form}_step", f"{form}_block", f"{form}_out", f"{form}_in"),
        )  # fmt: skip
        late[:] = 7
        steps = root.create_array(f"weights/{form}_step", shape=(1,), dtype="int64", dimension_names=(f"{form}_step",))
        steps[:] = 5
    consolidate(root)
    run = store.open_run(path)
    assert run.forms("ip1") == ["ip1@0", "ip1@1", "ip1@2", "ip1@10"]
    with pytest.raises(KeyError, match="several forms: choose one of ip1@0, ip1@1, ip1@2, ip1@10"):
        run["ip1"]
    assert run["ip1@0"].sizes["step"] == 2
    assert run["ip1@2"].dims == ("step", "block", "out", "in") and (run["ip1@2"] == 7).all()


# --- one writer


def hold(path, pipe):
    writer = RunWriter(path)
    pipe.send(os.getpid())
    pipe.recv()
    writer.close()


def test_a_second_writer_is_refused_until_the_first_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WAIT", 0.2)
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0]).close()
    processes = multiprocessing.get_context("forkserver")
    here, there = processes.Pipe()
    holder = processes.Process(target=hold, args=(path, there), daemon=True)
    holder.start()
    pid = here.recv()
    with pytest.raises(RunLocked, match=f"run.zarr: pid {pid} on {socket.gethostname()} is writing this run"):
        RunWriter(path)
    with pytest.raises(RunLocked):
        RunWriter.create(path, overwrite=True)
    assert_holds(path, [0])
    holder.kill()
    holder.join()
    RunWriter(path).close()


# --- what is no run


def test_an_existing_run_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0]).close()
    with pytest.raises(FileExistsError, match="choose mode='resume' or mode='overwrite'"):
        RunWriter.create(path)
    assert_holds(path, [0])
    RunWriter.create(path, overwrite=True).close()
    assert list(store.open_run(path)) == []


def test_overwriting_never_deletes_what_is_no_run(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    zarr.create_group(tmp_path / "other.zarr").create_array("x", shape=(1,), dtype="f4")
    new_run(tmp_path / "run.zarr", steps=[0]).close()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "run.zarr")
    (tmp_path / "dangling.zarr").symlink_to(tmp_path / "nowhere")
    for path in (folder, folder / "chapter.txt", *map(tmp_path.joinpath, ("other.zarr", "link.zarr", "dangling.zarr"))):
        with pytest.raises(FileExistsError, match="is no rmtnet run: not overwritten"):
            RunWriter.create(path, overwrite=True)
    assert (folder / "chapter.txt").read_text() == "years of work"
    assert (tmp_path / "other.zarr/x/zarr.json").exists()
    assert_holds(tmp_path / "link.zarr", [0])


def test_what_is_no_run_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run"):
        store.open_run(tmp_path / "nothing.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a run is a zarr folder, this is a file"):
        store.open_run(tmp_path / "file")
    with pytest.raises(ValueError, match=r"it holds no zarr\.json"):
        store.open_run(tmp_path)


GROUP = {"node_type": "group", "zarr_format": 3}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"3", b"\xff\xfe\x00", b"[" * 100_000, b'{"attributes": 1}',
        json.dumps({**GROUP, "attributes": {}}).encode(),
        json.dumps({**GROUP, "attributes": {SCHEMA_KEY: 1}}).encode(),
        json.dumps({**GROUP, "attributes": {SCHEMA_KEY: 1}, "consolidated_metadata": {"metadata": []}}).encode(),
        json.dumps(
            {**GROUP, "attributes": {SCHEMA_KEY: 1}, "consolidated_metadata": {"metadata": {"weights/a": 1}}}
        ).encode(),
    ],
)  # fmt: skip
def test_a_hostile_zarr_json_is_no_run(tmp_path, content):
    path = tmp_path / "run.zarr"
    path.mkdir()
    (path / "zarr.json").write_bytes(content)
    for door in (store.open_run, RunWriter):
        with pytest.raises(ValueError, match=r"run.zarr: no rmtnet run \(its zarr.json is not one that rmtnet wrote\)"):
            door(path)


@pytest.mark.parametrize("version", [3, 10**30, 0, "two", [1]])
def test_another_schema_is_refused(tmp_path, version):
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0]).close()
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"][SCHEMA_KEY] = version
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(ValueError, match="but this rmtnet reads up to 2: upgrade rmtnet"):
        store.open_run(path)


def test_a_truncated_chunk_is_one_line_that_names_run_and_layer(tmp_path):
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0, 8]).close()
    [chunk] = (path / "weights/ip1").glob("c.*")
    chunk.write_bytes(chunk.read_bytes()[:-5])
    run = store.open_run(path)
    for weight in (run["ip1"], run["ip1"].isel(step=1)):
        with pytest.raises(ValueError, match=r"^.*run.zarr: layer 'ip1' cannot be read between steps . and 8") as error:
            store.load(weight, path, "layer 'ip1'")
        assert "\n" not in str(error.value)
    assert_array_equal(store.load(run["s"], path, "layer 's'"), rows_at([0, 8])["s"])


def test_a_damaged_step_coordinate_is_one_line(tmp_path):
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0, 8]).close()
    (path / "weights/step/c.0").write_bytes(b"")
    with pytest.raises(ValueError, match=r"run\.zarr: group 'weights' cannot be read, the run is damaged"):
        store.open_run(path)["ip1"]


def test_a_commit_cut_short_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    writer = new_run(path, steps=[0])
    writer.append([4], rows_at([4]))

    def cut_short(self, text, *_, **__):
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", cut_short)
    with pytest.raises(OSError, match="No space left"):
        writer.commit()
    monkeypatch.undo()
    assert store.open_run(path).steps.values.tolist() == [0]
    writer.close()
    RunWriter(path).close()


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "run.zarr"
    new_run(path, steps=[0, 8]).close()
    [chunk] = (path / "weights/ip1").glob("c.*")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match="layer 'ip1' cannot be read between steps 0 and 8, a chunk is damaged"):
        store.load(store.open_run(path)["ip1"], path, "layer 'ip1'")


def test_the_schema_is_no_attribute_to_give(tmp_path):
    with pytest.raises(ValueError, match="must not hold 'rmtnet_schema'"):
        RunWriter.create(tmp_path / "run.zarr", {SCHEMA_KEY: 7})
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize("trick", ["name", "link"])
def test_a_writer_of_a_hostile_run_touches_nothing_outside(tmp_path, trick):
    path, other = tmp_path / "run.zarr", tmp_path / "other"
    new_run(path, steps=[0]).close()
    (other / "keep").mkdir(parents=True)
    (other / "keep" / "letter").write_text("dear")
    root = json.loads((path / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    if trick == "name":
        nodes["../other"] = {"node_type": "group", "zarr_format": 3, "attributes": {}}
    else:
        nodes["spectra"] = {"node_type": "group", "zarr_format": 3, "attributes": {}}
        (path / "spectra").symlink_to(other)
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(ValueError, match=r"is no name of a group|leads out of the run"):
        RunWriter(path)
    assert (other / "keep" / "letter").read_text() == "dear"
