import shutil
import threading
import time
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_array_equal
from torch import nn

from rmtnet import record, store
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.schedules import at, every
from rmtnet.store import RunWriter
from rmtnet.writer import work

# A thread starts at once; what differs for a process is tested in test_writer.py.
Recorder = partial(record.Recorder, process=False)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        return self.attn(x, x, x)[0]


class Gated(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, 3)

    def forward(self, x):
        return self.rnn(x)[0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(self.encoder(x))


def grouped(weight):
    return weight.reshape(2, len(weight) // 2, -1)


def transposed(weight):
    return weight.reshape(2, 2, 3, 5).transpose(0, 2, 1, 3).reshape(2, 3, 10)


def parts(name, letters, rows):
    return {f"{name}.{x}": (name, lambda w, k=k: w[None, rows * k : rows * (k + 1)]) for k, x in enumerate(letters)}


# model, input, layer -> (name in the state dict, its array as (block, out, in)): by hand, from torch's documentation
MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3)), (5, 4), {"0": ("0.weight", lambda w: w[None])}),
    "block_diagonal": (
        lambda: nn.Sequential(BlockDiagonalLinear(4, 6, 2)), (5, 4), {"0": ("0.weight", lambda w: w)},
    ),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3)), (2, 4, 5, 5), {"0": ("0.weight", lambda w: w.reshape(1, 6, 36))},
    ),
    "grouped": (lambda: nn.Sequential(nn.Conv1d(4, 6, 5, groups=2)), (2, 4, 8), {"0": ("0.weight", grouped)}),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 5, groups=2)), (2, 4, 8), {"0": ("0.weight", transposed)},
    ),
    "lstm": (lambda: Gated(nn.LSTM), (5, 2, 4), parts("rnn.weight_hh_l0", "ifgo", 3)),
    "gru": (lambda: Gated(nn.GRU), (5, 2, 4), parts("rnn.weight_ih_l0", "rzn", 3)),
    "attention": (Attention, (5, 2, 4), parts("attn.in_proj_weight", "qkv", 4)),
    "tied": (Tied, (5, 4), {"encoder": ("encoder.weight", lambda w: w[None])}),
    "bfloat16": (lambda: nn.Sequential(nn.Linear(4, 3)).bfloat16(), (5, 4), {"0": ("0.weight", lambda w: w[None])}),
    "float64": (lambda: nn.Sequential(nn.Linear(4, 3)).double(), (5, 4), {"0": ("0.weight", lambda w: w[None])}),
    "compiled": (
        lambda: torch.compile(nn.Sequential(nn.Linear(4, 3)), backend="eager"), (5, 4),
        {"0": ("_orig_mod.0.weight", lambda w: w[None])},
    ),
}  # fmt: skip


def state(model):
    return {
        name: (tensor.double() if tensor.dtype == torch.float64 else tensor.float()).numpy().copy()
        for name, tensor in model.state_dict().items()
    }


def train(model, optimizer, inputs, steps=1, after=lambda: None):
    """An ordinary loop that knows nothing of a recorder."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        after()


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    return model, torch.optim.SGD(model.parameters(), 0.1), torch.randn(5, 4)


def steps_of(path):
    return store.open_run(path).steps.values.tolist()


@pytest.mark.parametrize("kind", MODELS)
def test_the_rows_are_the_weights_after_each_step_bit_for_bit(tmp_path, kind):
    torch.manual_seed(0)
    make, shape, layers = MODELS[kind]
    model = make()
    inputs = torch.randn(shape, dtype=next(model.parameters()).dtype)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    states = [state(model)]
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, inputs, 4, after=lambda: states.append(state(model)))
    dataset = xr.open_zarr(tmp_path / "run.zarr", group="weights", chunks=None)
    assert dataset["step"].values.tolist() == [0, 1, 2, 3, 4]
    recorded = store.open_run(tmp_path / "run.zarr")
    for layer, (parameter, blocks) in layers.items():
        expected = np.stack([blocks(values[parameter]) for values in states])
        assert np.abs(np.diff(expected, axis=0)).min(axis=(1, 2, 3)).max() > 0, "the weights must change"
        assert recorded[layer].values.tobytes() == expected.tobytes()
        assert recorded[layer].dtype == expected.dtype
    assert dataset.attrs == {} and recorded.attrs["device"] == "cpu"
    assert "decoder" not in recorded


def test_rows_say_where_they_come_from(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2).bfloat16())
    with Recorder(model, tmp_path / "run.zarr", attributes={"seed": 3}) as recorder:
        recorder.observe()
    run = store.open_run(tmp_path / "run.zarr")
    expected = {"form": "block_diagonal", "blocks": 2, "out_features": 6, "in_features": 36, "torch_name": "0.weight"}
    expected |= {"original_shape": "6x2x3x3", "dtype_original": "bfloat16", "module_type": "Conv2d"}
    assert run["0"].attrs == run["0"].attrs | expected
    assert run.attrs["seed"] == 3 and run.attrs["torch_version"] == version("torch")


def test_rows_are_those_that_are_due_and_the_first_is_before_training(tmp_path):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr", layers=["0"], when=every(3) | at(7)).attach(optimizer):
        train(model, optimizer, inputs, 8)
    assert steps_of(tmp_path / "run.zarr") == [0, 3, 6, 7]


class Clipped(torch.optim.SGD):
    """An optimizer that does something after its parent's step."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.clamp_(-0.1, 0.1)


def test_an_optimizer_that_calls_its_parents_step_does_one_step(tmp_path):
    model, parent, inputs = small()
    optimizer = Clipped(model.parameters(), 0.1)
    assert type(parent) is torch.optim.SGD  # torch calls the hooks twice only after one of these was made
    states = [state(model)["0.weight"]]
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, inputs, 3, after=lambda: states.append(state(model)["0.weight"]))
    run = store.open_run(tmp_path / "run.zarr")
    assert run.steps.values.tolist() == [0, 1, 2, 3]
    assert_array_equal(run["0"][:, 0], states)


def test_a_step_that_failed_is_not_counted(tmp_path):
    model, optimizer, inputs = small()

    def failing():
        raise RuntimeError("out of memory")

    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step(failing)
        train(model, optimizer, inputs, 2)
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2]


def test_observe_adds_a_step_that_is_not_due_once(tmp_path):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr", when=at(0)).attach(optimizer) as recorder:
        train(model, optimizer, inputs, 2)
        recorder.observe()
        before = state(model)["0.weight"]
        with torch.no_grad():
            model[0].weight.add_(1)
        recorder.observe()
    assert steps_of(tmp_path / "run.zarr") == [0, 2]
    assert_array_equal(store.open_run(tmp_path / "run.zarr")["0"][-1, 0], before)


def test_metrics_belong_to_the_steps_done_so_far(tmp_path):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        recorder.log(accuracy=0.1)
        for step in range(1, 4):
            train(model, optimizer, inputs)
            recorder.log(loss=torch.tensor(step / 2))
            if step == 2:
                recorder.flush()
                recorder.log(accuracy=0.9, **{"val/loss": 5})
    metrics = store.open_run(tmp_path / "run.zarr").metrics
    assert metrics["step"].values.tolist() == [0, 1, 2, 3]
    assert_array_equal(metrics["loss"], [np.nan, 0.5, 1, 1.5])
    assert_array_equal(metrics["accuracy"], [0.1, np.nan, 0.9, np.nan])
    assert_array_equal(metrics["val/loss"], [np.nan, np.nan, 5, np.nan])


@pytest.mark.parametrize("metrics, message", [({"Loss": 1.0}, "'loss' and 'Loss' differ only"), ({"": 1.0}, "a name")])
def test_a_bad_name_of_a_metric_is_refused_where_it_is_logged(tmp_path, metrics, message):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        recorder.log(loss=1.0)
        with pytest.raises(ValueError, match=message):
            recorder.log(**metrics)
        train(model, optimizer, inputs)
    assert steps_of(tmp_path / "run.zarr") == [0, 1]
    assert list(store.open_run(tmp_path / "run.zarr").metrics) == ["loss"]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"layers": ["ip1"]}, ValueError, "no layer matches 'ip1'; this model has 0"),
        ({"layers": []}, ValueError, "layers names no layer"),
        ({"mode": "w"}, ValueError, "mode must be 'x', 'resume' or 'overwrite', got 'w'"),
        ({"what": ("activations",)}, ValueError, "what must be among weights, gradients, .*, got"),
        ({"mode": "resume"}, FileNotFoundError, "no such run"),
    ],
)
def test_a_recorder_refuses_before_it_touches_the_disk(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        Recorder(small()[0], tmp_path / "run.zarr", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_model_does_not_cost_the_older_run(tmp_path):
    model, optimizer, _ = small()
    Recorder(model, tmp_path / "run.zarr").attach(optimizer).close()
    with pytest.raises(ValueError, match="'A' and 'a' differ only in case"):
        Recorder(nn.ModuleDict({"A": nn.Linear(2, 2), "a": nn.Linear(2, 2)}), tmp_path / "run.zarr", mode="overwrite")
    assert steps_of(tmp_path / "run.zarr") == [0]


def test_an_existing_run_needs_a_mode(tmp_path):
    model, optimizer, _ = small()
    Recorder(model, tmp_path / "run.zarr").attach(optimizer).close()
    with pytest.raises(FileExistsError, match="choose mode='resume' or mode='overwrite'"):
        Recorder(model, tmp_path / "run.zarr")
    Recorder(model, tmp_path / "run.zarr", mode="overwrite").close()
    assert steps_of(tmp_path / "run.zarr") == []


def test_a_resumed_training_goes_on_from_an_earlier_step(tmp_path, caplog):
    path = tmp_path / "run.zarr"
    model, optimizer, inputs = small()
    with Recorder(model, path).attach(optimizer) as recorder:
        for step in range(1, 6):
            train(model, optimizer, inputs)
            recorder.log(loss=step)
    first = store.open_run(path)["0"].values
    with Recorder(model, path, mode="resume") as recorder:
        recorder.log(accuracy=1.0)
        recorder.attach(optimizer, step=3)
        assert "its later rows are kept in run.superseded-1.zarr" in caplog.text
        recorder.log(accuracy=0.3)
        train(model, optimizer, inputs)
        after = state(model)["0.weight"]
    run = store.open_run(path)
    assert run.steps.values.tolist() == [0, 1, 2, 3, 4]
    assert_array_equal(run["0"][:4], first[:4])
    assert_array_equal(run["0"][4, 0], after)
    assert_array_equal(run.metrics["loss"], [1, 2, 3, np.nan][: run.metrics.sizes["step"]])
    assert_array_equal(run.metrics["accuracy"], [np.nan, np.nan, 0.3])
    left = store.open_run(tmp_path / "run.superseded-1.zarr")
    assert left.steps.values.tolist() == [4, 5]
    assert_array_equal(left["0"], first[4:])
    assert left.metrics["accuracy"].values[-1] == 1.0


def test_a_resumed_run_may_not_go_on_with_another_model(tmp_path):
    model, optimizer, _ = small()
    Recorder(model, tmp_path / "run.zarr").attach(optimizer).close()
    for other in (nn.Sequential(nn.Linear(4, 2)), nn.Sequential(nn.Linear(4, 3)).double()):
        with pytest.raises(ValueError, match="resume with the same model"):
            Recorder(other, tmp_path / "run.zarr", mode="resume")
    Recorder(model, tmp_path / "run.zarr", mode="resume").close()


class Stop(BaseException):
    pass


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, Stop])
def test_an_exception_in_the_loop_keeps_all_that_was_observed(tmp_path, kind):
    model, optimizer, inputs = small()
    with pytest.raises(kind), Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        train(model, optimizer, inputs, 3)
        recorder.log(loss=2.5)
        raise kind
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2, 3]
    assert store.open_run(tmp_path / "run.zarr").metrics["loss"].values.tolist() == [2.5]
    train(model, optimizer, inputs)
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2, 3]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("method", ["send", "recv"])
def test_ctrl_c_in_a_flush_loses_nothing(tmp_path, monkeypatch, caplog, method, moment):
    model, optimizer, inputs = small()
    states = [state(model)["0.weight"]]
    original = getattr(Connection, method)

    def interrupted(connection, *args):
        if threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(Connection, method, original)
            if moment == "after":
                original(connection, *args)
            raise KeyboardInterrupt
        return original(connection, *args)

    with pytest.raises(KeyboardInterrupt), Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        for step in range(1, 5):
            train(model, optimizer, inputs)
            states.append(state(model)["0.weight"])
            recorder.log(loss=step, **({"late": step} if step == 4 else {}))
            if step == 2:
                recorder.flush()
        monkeypatch.setattr(Connection, method, interrupted)
        recorder.flush()
    run = store.open_run(tmp_path / "run.zarr")
    assert run.steps.values.tolist() == [0, 1, 2, 3, 4]
    assert_array_equal(run["0"][:, 0], states)
    assert run.metrics["loss"].values.tolist() == [1, 2, 3, 4]
    assert_array_equal(run.metrics["late"], [np.nan, np.nan, np.nan, 4])


def full(*args, **options):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("method", ["append_variables", "append_metrics", "commit"])
def test_a_full_disk_is_reported_once_and_earlier_commits_stay(tmp_path, monkeypatch, caplog, method):
    model, optimizer, inputs = small()
    monkeypatch.setattr(work, "_RETRY", 0.01)
    recorder = Recorder(model, tmp_path / "run.zarr").attach(optimizer)
    with pytest.raises(OSError, match="No space left"), recorder:
        train(model, optimizer, inputs, 2)
        recorder.log(loss=1.0)
        recorder.flush()
        monkeypatch.setattr(RunWriter, method, full)
        train(model, optimizer, inputs, 2)
        recorder.log(loss=2.0)
        recorder.flush()
    assert [line for line in caplog.messages if "died" not in line] == [], "the loop's error says it all"
    monkeypatch.undo()
    recorder.close()
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2]
    Recorder(model, tmp_path / "run.zarr", mode="resume").close()


@pytest.mark.parametrize("target", ["os.replace", "os.pwritev", "pathlib.Path.write_text"])
def test_what_a_full_disk_refused_is_written_when_there_is_room_again(tmp_path, monkeypatch, target):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        train(model, optimizer, inputs, 2)
        recorder.log(loss=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            for _ in range(2):
                with pytest.raises(OSError, match="No space left"):
                    recorder.flush()
        assert steps_of(tmp_path / "run.zarr") == []
        train(model, optimizer, inputs)
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2, 3]
    assert store.open_run(tmp_path / "run.zarr").metrics["loss"].values.tolist() == [1.0]


def test_a_full_disk_at_the_end_of_a_loop_is_raised(tmp_path, monkeypatch):
    model, optimizer, _ = small()
    monkeypatch.setattr(work, "_RETRY", 0.01)
    with pytest.raises(OSError, match="No space left"), Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        monkeypatch.setattr(RunWriter, "commit", full)
    RunWriter(tmp_path / "run.zarr").close()


def until(condition, action=lambda: None, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        action()
        time.sleep(0.002)


def test_a_disk_that_fills_ends_the_training_with_the_steps_that_it_concerns(tmp_path, monkeypatch):
    model, optimizer, inputs = small()
    with (
        pytest.raises(record.WriterFailed, match=r"steps \d+ to \d+ cannot be written: No space left"),
        Recorder(model, tmp_path / "run.zarr", commit_seconds=0).attach(optimizer),
    ):
        monkeypatch.setattr(RunWriter, "commit", full)
        for _ in range(10_000):
            train(model, optimizer, inputs)
            time.sleep(0.001)


def test_a_training_that_is_to_go_on_drops_what_has_no_room_says_so_once_and_records_on(tmp_path, monkeypatch, caplog):
    model = nn.Sequential(nn.Linear(300, 300))  # 360 kB a step, in a ring of 1 MB
    optimizer, inputs = torch.optim.SGD(model.parameters(), 0.1), torch.randn(2, 300)
    monkeypatch.setattr(work, "_RETRY", 0.01)
    options = {"on_error": "warn", "commit_seconds": 0, "buffer_bytes": 2**20}
    with Recorder(model, tmp_path / "run.zarr", **options).attach(optimizer) as recorder:
        train(model, optimizer, inputs, 3)
        recorder.flush()
        with monkeypatch.context() as patch:
            patch.setattr(RunWriter, "commit", full)
            until(lambda: recorder.dropped > 3, lambda: train(model, optimizer, inputs))
        recorder.flush()
        train(model, optimizer, inputs, 2)
        last = recorder.step
    assert len([line for line in caplog.messages if "No space left" in line]) == 1
    steps = steps_of(tmp_path / "run.zarr")
    assert steps[:4] == [0, 1, 2, 3] and steps[-1] == last
    assert len(steps) == last + 1 - recorder.dropped


def test_a_vanished_folder_does_not_come_back_as_rubbish(tmp_path):
    model, optimizer, inputs = small()
    with (
        pytest.raises(OSError, match=r"run\.zarr"),
        Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder,
    ):
        train(model, optimizer, inputs, 2)
        shutil.rmtree(tmp_path / "run.zarr")
        recorder.flush()
    assert not (tmp_path / "run.zarr").exists()


def test_closing_twice_does_nothing_and_a_closed_recorder_is_not_attached_again(tmp_path):
    model, optimizer, _ = small()
    recorder = Recorder(model, tmp_path / "run.zarr").attach(optimizer)
    recorder.close()
    recorder.close()
    with pytest.raises(ValueError, match="is closed"):
        recorder.attach(optimizer)
    assert steps_of(tmp_path / "run.zarr") == [0]


def test_an_attached_recorder_goes_on_with_another_optimizer(tmp_path):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        train(model, optimizer, inputs, 2)
        other = torch.optim.Adam(model.parameters())
        recorder.attach(other)
        train(model, other, inputs, 2)
        optimizer.step()
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2, 3, 4]


def test_an_optimizer_of_another_model_is_noticed(tmp_path, caplog):
    model, optimizer, _ = small()
    with Recorder(model, tmp_path / "own.zarr").attach(optimizer):
        assert caplog.text == ""
    with Recorder(model, tmp_path / "run.zarr").attach(small()[1]):
        assert "none of the recorded layers is trained by this optimizer" in caplog.text


def test_an_attach_that_fails_gives_the_run_back(tmp_path):
    model, optimizer, _ = small()
    Recorder(model, tmp_path / "run.zarr").close()

    def when(step):
        raise KeyError("loss")

    with pytest.raises(KeyError):
        Recorder(model, tmp_path / "run.zarr", mode="resume", when=when).attach(optimizer)
    Recorder(model, tmp_path / "run.zarr", mode="resume").close()


def test_a_resumed_run_says_what_it_no_longer_records(tmp_path, caplog):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr", what=("weights", "updates")).attach(optimizer):
        train(model, optimizer, inputs, 1)
    Recorder(model, tmp_path / "run.zarr", mode="resume").close()
    assert "holds updates too, which are not recorded from here on" in caplog.text


def test_a_run_that_this_process_writes_already_is_refused_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(store.lock, "_WAIT", 0.1)
    model, _, _ = small()
    with Recorder(model, tmp_path / "run.zarr"), pytest.raises(store.RunLocked, match="close its other recorder"):
        Recorder(model, tmp_path / "run.zarr", mode="resume")


def test_a_negative_step_is_refused(tmp_path):
    model, optimizer, _ = small()
    with Recorder(model, tmp_path / "run.zarr") as recorder, pytest.raises(ValueError, match="must not be negative"):
        recorder.attach(optimizer, step=-1)


def test_a_closed_recorder_takes_nothing_and_says_so(tmp_path):
    model, optimizer, _ = small()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer) as recorder:
        pass
    for action in (recorder.observe, lambda: recorder.log(loss=1.0)):
        with pytest.raises(ValueError, match="is closed: nothing more is recorded"):
            action()


@pytest.mark.parametrize("value", ["abc", torch.ones(3), None])
def test_a_metric_that_is_no_number_is_named(tmp_path, value):
    model, optimizer, _ = small()
    recorder = Recorder(model, tmp_path / "run.zarr").attach(optimizer)
    with recorder, pytest.raises(ValueError, match="metric 'loss' must be one number, got"):
        recorder.log(loss=value)


def test_a_resumed_recorder_goes_on_where_the_run_ends(tmp_path):
    model, optimizer, inputs = small()
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        train(model, optimizer, inputs, 3)
    with Recorder(model, tmp_path / "run.zarr", mode="resume").attach(optimizer):
        train(model, optimizer, inputs, 2)
    assert steps_of(tmp_path / "run.zarr") == [0, 1, 2, 3, 4, 5]
    assert list(tmp_path.glob("*superseded*")) == []


def test_only_a_module_can_be_recorded(tmp_path):
    with pytest.raises(TypeError, match="model must be a torch module, got str"):
        Recorder("model", tmp_path / "run.zarr")


def test_many_small_layers_take_little_room(tmp_path):
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(20)))
    Recorder(model, tmp_path / "run.zarr").attach(torch.optim.SGD(model.parameters(), lr=0.1)).close()
    size = sum(path.stat().st_size for path in (tmp_path / "run.zarr").rglob("*") if path.is_file())
    # Not a chunk of 4 MB each: the empty rest of it shrinks to nothing.
    assert size < 20 * 64_000
