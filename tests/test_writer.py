"""The process that writes: nothing is lost when it, the trainer or both are killed."""

import contextlib
import multiprocessing
import os
import signal
import time
from random import Random

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_array_equal
from torch import nn

from rmtnet import store
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.record import Recorder, WriterFailed

SHAPES = {"0": (1, 30, 40), "1": (5, 4, 6), "2": (1, 300, 500)}
LARGE = {"buffer_bytes": 2**20}  # a ring into which a row of layer 2 does not fit twice


def weights_at(step, shape):
    return np.random.default_rng([step, *shape]).normal(size=shape).astype("float32")


def network():
    return nn.Sequential(nn.Linear(40, 30), BlockDiagonalLinear(30, 20, 5), nn.Linear(500, 300))


def set_weights(model, step):
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.from_numpy(weights_at(step, tuple(layer.weight.shape))))


def committed(path):
    """The last step that plain xarray sees in both groups, after a check that all before it are as they were."""
    weights = xr.open_zarr(path, group="weights", chunks=None)
    metrics = xr.open_zarr(path, group="metrics", chunks=None)
    last = int(weights["step"].max().item()) if weights.sizes["step"] else -1
    steps = np.arange(last + 1)
    assert_array_equal(weights["step"], steps)
    for name, shape in SHAPES.items():
        for step in steps:
            expected = weights_at(step, shape if shape[0] > 1 else shape[1:]).reshape(shape)
            assert_array_equal(weights[name][step], expected, err_msg=f"{name} at {step}")
    # Between the hook's return and the log of its step a kill may come.
    assert (np.diff(metrics["step"]) > 0).all() and metrics["step"].max(initial=0) <= max(last, 0)
    if metrics.sizes["step"]:
        assert_array_equal(metrics["loss"], metrics["step"] / 2)
    return last


def record_until_killed(path, mode, done, writer, options):
    """Train with weights that tell the step; ``done`` is the last step whose hook has returned."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    recorder = Recorder(model, path, mode=mode, **options)
    last = max(0, recorder.step)
    set_weights(model, last)
    try:
        with recorder.attach(optimizer, step=last):
            writer.value = recorder._link.child.pid
            done.value = last
            for step in range(last + 1, 10**9):
                set_weights(model, step)
                optimizer.step()
                done.value = step
                recorder.log(loss=step / 2)
                writer.value = recorder._link.child.pid
    except KeyboardInterrupt:
        pass


class Training:
    """A training in a process of its own."""

    def __init__(self, path, options):
        processes = multiprocessing.get_context("forkserver")
        self.done, self.writer = processes.Value("q", -1), processes.Value("q", 0)
        mode = "resume" if path.exists() else "x"
        arguments = (path, mode, self.done, self.writer, options)
        self.process = processes.Process(target=record_until_killed, args=arguments)
        self.process.start()

    def wait(self, steps):
        start = self.done.value
        end = time.monotonic() + 60
        while self.done.value < max(start, 0) + steps:
            assert self.process.is_alive() and time.monotonic() < end
            time.sleep(0.002)

    def kill(self, number):
        os.kill(self.process.pid, number)
        self.process.join()

    def kill_writer(self):
        with contextlib.suppress(ProcessLookupError):  # killed before, and the training has not noticed
            os.kill(self.writer.value, signal.SIGKILL)


def wait_for_the_writer(path):
    with store.RunWriter(path):
        pass


TRIALS = [pytest.param(2, id="quick"), pytest.param(60, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("options", [{}, {"codec": "none"}, {"codec": "delta"}, LARGE], ids=str)
@pytest.mark.parametrize("trials", TRIALS)
def test_when_the_trainer_is_killed_no_step_whose_hook_returned_is_lost(tmp_path, trials, options):
    path, random = tmp_path / "run.zarr", Random(0)
    for _ in range(trials):
        training = Training(path, options)
        training.wait(random.randrange(1, 60))
        time.sleep(random.uniform(0, 0.05))
        training.kill(signal.SIGKILL)
        wait_for_the_writer(path)
        assert committed(path) in (training.done.value, training.done.value + 1)
    assert not list(tmp_path.glob("*superseded*"))


@pytest.mark.parametrize("options", [{}, LARGE], ids=str)
@pytest.mark.parametrize("trials", TRIALS)
def test_when_the_writer_is_killed_another_one_goes_on_and_nothing_is_lost(tmp_path, trials, options):
    path, random = tmp_path / "run.zarr", Random(1)
    for _ in range(-(-trials // 3)):
        training = Training(path, options)
        for _ in range(3):
            training.wait(random.randrange(1, 40))
            time.sleep(random.uniform(0, 0.05))
            training.kill_writer()
        training.wait(20)
        training.kill(signal.SIGINT)
        assert training.process.exitcode == 0
        assert committed(path) in (training.done.value, training.done.value + 1)


@pytest.mark.parametrize("trials", TRIALS)
def test_when_both_are_killed_what_was_committed_stays_and_recording_goes_on(tmp_path, trials):
    path, random = tmp_path / "run.zarr", Random(2)
    reached = -1
    for _ in range(trials):
        training = Training(path, {"commit_seconds": 0.01})
        training.wait(random.randrange(1, 60))
        time.sleep(random.uniform(0, 0.05))
        training.kill_writer()
        training.kill(signal.SIGKILL)
        wait_for_the_writer(path)
        last = committed(path)
        assert reached <= last <= training.done.value + 1
        reached = last
    assert not list(tmp_path.glob("*superseded*"))


def test_ctrl_c_at_any_moment_loses_nothing(tmp_path):
    random = Random(3)
    for trial in range(3):
        training = Training(tmp_path / f"{trial}.zarr", {})
        training.wait(random.randrange(1, 40))
        time.sleep(random.uniform(0, 0.05))
        training.kill(signal.SIGINT)
        assert training.process.exitcode == 0
        # The interrupt may have come after a row was taken and before its step was done.
        assert committed(tmp_path / f"{trial}.zarr") in (training.done.value, training.done.value + 1)


def test_a_forked_child_neither_records_nor_ends_the_recording(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        child = os.fork()
        if child == 0:
            optimizer.step()
            recorder.close()
            recorder._link.close()  # as at the end of an interpreter
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        optimizer.step()
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [0, 1]


def test_a_writer_that_cannot_start_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WriterFailed, match="the process that writes it died"):
        Recorder(nn.Sequential(nn.Linear(4, 3)), tmp_path / "run.zarr")


def test_where_no_process_can_be_started_a_thread_writes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sys.executable", "/no/such/python")
    model = nn.Sequential(nn.Linear(4, 3))
    with Recorder(model, tmp_path / "run.zarr").attach(torch.optim.SGD(model.parameters(), 0.1)):
        pass
    assert "no process can be started" in caplog.text
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [0]
