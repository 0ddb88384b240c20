import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from torch import nn

from rmtnet import checkpoints, store, training
from rmtnet.caffe import Solver
from rmtnet.cli import main
from rmtnet.datasets import Images
from rmtnet.pruning import BlockDiagonalPruning
from rmtnet.record import Recorder
from rmtnet.schedules import every
from rmtnet.study import Study, load_studies

STEPS = 200
# Dropout needs torch's generator, batch norm its buffers, Caffe's optimizer its momentum and its iteration.
STUDY = """
import os, signal
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from rmtnet import training
from rmtnet.datasets import Images
from rmtnet.schedules import every
from rmtnet.study import Study

training._CHECKPOINT_SECONDS = 0.02
training._COMMIT_SECONDS = 0.02
done = {{"steps": 0}}


def images():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (150, 1, 4, 4), dtype=np.uint8)
    labels = (pixels.reshape(150, -1)[:, :8].mean(1) > 127).astype(np.int64)
    return Images("synthetic", "here", pixels[:100], labels[:100], pixels[100:], labels[100:])


def network():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 2)
    )


def loss(scores, labels):
    done["steps"] += torch.is_grad_enabled()
    if done["steps"] == int(os.environ["STOP"]):
        exec(os.environ["HOW"])
    return functional.cross_entropy(scores, labels)


study = Study(
    name="mlp", network=network, dataset=images, iterations={steps}, batch=16, loss=loss, seed=3,
    record=every(2), evaluate=every(25),
)
"""


def study_file(path, stop=0, how="pass", steps=STEPS):
    """Write the study; where it stops is told by the environment, for an edited study would be another one."""
    os.environ.update(STOP=str(stop), HOW=how)
    path.write_text(STUDY.format(steps=steps))
    return path


@pytest.fixture(autouse=True)
def study_files_patch_only_their_test(monkeypatch):
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", training._CHECKPOINT_SECONDS)
    monkeypatch.setattr(training, "_COMMIT_SECONDS", training._COMMIT_SECONDS)


def trained(folder, file):
    [study] = load_studies(file)
    path = training.run(study, folder)
    return store.open_run(path), torch.load(folder / "mlp.checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_CHECKPOINT_SECONDS", 15.0)
        patch.setattr(training, "_COMMIT_SECONDS", 10.0)
        folder = tmp_path_factory.mktemp("uninterrupted")
        return trained(folder, study_file(folder / "study.py"))


def assert_same_training(found, expected):
    run, state = found
    expected_run, expected_state = expected
    assert state["step"] == expected_state["step"] == STEPS
    assert list(state["model"]) == list(expected_state["model"])
    for name, tensor in expected_state["model"].items():
        assert torch.equal(state["model"][name], tensor), name
    assert torch.equal(state["rng"], expected_state["rng"])
    for k, momentum in expected_state["optimizer"]["state"].items():
        assert torch.equal(state["optimizer"]["state"][k]["momentum_buffer"], momentum["momentum_buffer"])
    assert state["optimizer"]["param_groups"] == expected_state["optimizer"]["param_groups"]
    assert state["optimizer"]["param_groups"][0]["iteration"] == STEPS
    assert run.steps.values.tolist() == list(range(0, STEPS + 1, 2))
    for layer in ("1", "5"):
        assert run[layer].values.tobytes() == expected_run[layer].values.tobytes()
        assert len(np.unique(run[layer].values[:, 0, 0, 0])) > STEPS / 4
    assert run.metrics.load().identical(expected_run.metrics.load())
    assert run.metrics["step"].values.tolist() == list(range(STEPS + 1))
    assert run.metrics["accuracy"].notnull().sum() == STEPS / 25 + 1


def test_a_training_killed_by_kill_9_ends_as_the_uninterrupted_one(tmp_path, uninterrupted):
    file = study_file(tmp_path / "study.py", stop=137, how="os.kill(os.getpid(), signal.SIGKILL)")
    command = [sys.executable, "-c", "from rmtnet.cli import main; main()", "train", file, "-o", tmp_path / "runs"]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    step = torch.load(tmp_path / "runs/mlp.checkpoint.pt", weights_only=True)["step"]
    assert 0 < step <= 136
    assert training.steps_done(load_studies(file)[0], tmp_path / "runs") == step
    study_file(file)
    result = CliRunner().invoke(main, ["train", str(file), "-o", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "runs/mlp.zarr")
    assert f"goes on from step {step}" in result.stderr
    assert_same_training(trained(tmp_path / "runs", file), uninterrupted)


@pytest.mark.parametrize("error", ["ArithmeticError", "KeyboardInterrupt"])
def test_a_training_stopped_by_an_exception_ends_as_the_uninterrupted_one(tmp_path, uninterrupted, error):
    file = study_file(tmp_path / "study.py", stop=91, how=f"raise {error}")
    with pytest.raises(eval(error)):
        trained(tmp_path, file)
    # All that was observed is there, and moves aside where the training goes on from before it.
    assert store.open_run(tmp_path / "mlp.zarr").metrics["step"].values.tolist() == list(range(91))
    study_file(file)
    assert_same_training(trained(tmp_path, file), uninterrupted)


def test_a_training_killed_before_its_first_checkpoint_begins_anew(tmp_path, uninterrupted, monkeypatch):
    file = study_file(tmp_path / "study.py", stop=30, how="training._CHECKPOINT_SECONDS = 99; raise ArithmeticError")
    [study] = load_studies(file)
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 99)
    with pytest.raises(ArithmeticError):
        training.run(study, tmp_path)
    assert not (tmp_path / "mlp.checkpoint.pt").exists()
    assert training.steps_done(study, tmp_path) == 0
    study_file(file)
    assert_same_training(trained(tmp_path, file), uninterrupted)
    assert store.open_run(tmp_path / "mlp.superseded-1.zarr").steps.values.tolist() == list(range(2, 30, 2))


# --- small trainings


def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 1, 2, 2), dtype=np.uint8)
    labels = rng.integers(0, 2, 40)
    return Images("random", "here", pixels[:30], labels[:30], pixels[30:], labels[30:])


def network():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))


def wider_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))


def small(**fields):
    options = {"name": "small", "network": network, "dataset": images, "iterations": 6, "batch": 8, "record": every(1)}
    return Study(**{**options, **fields})


def test_a_finished_training_is_not_done_again(tmp_path):
    seen = []
    path = training.run(small(), tmp_path, progress=lambda step, loss: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6] and path == tmp_path / "small.zarr"
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    training.run(small(), tmp_path, progress=lambda step, loss: seen.append(step))
    assert len(seen) == 6
    assert before == {file: file.stat().st_mtime_ns for file in path.rglob("*")}


def test_a_finished_run_without_its_checkpoint_is_finished(tmp_path):
    training.run(small(), tmp_path)
    (tmp_path / "small.checkpoint.pt").unlink()
    assert training.steps_done(small(), tmp_path) == 6


def test_more_iterations_go_on_where_fewer_ended(tmp_path):
    training.run(small(), tmp_path / "two")
    run = store.open_run(training.run(small(iterations=10), tmp_path / "two"))
    once = store.open_run(training.run(small(iterations=10), tmp_path / "one"))
    assert_array_equal(run["2"], once["2"])
    assert run.steps.values.tolist() == list(range(11))


def test_the_last_step_is_recorded_whatever_the_schedule(tmp_path):
    run = store.open_run(training.run(small(record=lambda step: step == 2), tmp_path))
    assert run.steps.values.tolist() == [2, 6]


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    training.run(small(), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_the_recorded_rows_are_an_ordinary_training(tmp_path):
    """The same steps, written out with torch alone."""
    study = small(network=wider_network, optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.1), iterations=5)
    data, order = images(), training.DataOrder(30, 8, 0)
    torch.manual_seed(0)
    model = wider_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected, losses = [model[1].weight.detach().clone()], []
    for step in range(5):
        batch = order(step)
        scores = model(torch.from_numpy(data.train_images[batch]).float() / 256)
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(data.train_labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(model[1].weight.detach().clone())
        losses.append(loss.item())
    run = store.open_run(training.run(study, tmp_path))
    assert_array_equal(run["1"][:, 0], torch.stack(expected))
    assert run.metrics["loss"].values[1:].tolist() == losses
    scores = model(torch.from_numpy(data.test_images).float() / 256)
    accuracy = (scores.argmax(1).numpy() == data.test_labels).mean()
    assert run.metrics["accuracy"].values[-1] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"batch": 4}, "of another study .batch is 8, now 4.: choose another folder with -o"),
        ({"seed": 9}, "seed is 0, now 9"),
        ({"network": wider_network}, "network is network, now wider_network"),
        ({"record": every(2)}, r"record is every\(1\), now every\(2\)"),
        ({"layers": ["2"]}, "layers is None, now "),
    ],
)
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_folder_with_another_study_is_refused_naming_the_field(tmp_path, fields, message, checkpoint):
    training.run(small(), tmp_path)
    if not checkpoint:
        (tmp_path / "small.checkpoint.pt").unlink()
    for door in (training.run, training.steps_done):
        with pytest.raises(ValueError, match=message):
            door(small(**fields), tmp_path)


def test_a_run_that_no_study_made_is_refused(tmp_path):
    Recorder(network(), tmp_path / "small.zarr").close()
    with pytest.raises(ValueError, match=r"small\.zarr is of another study"):
        training.run(small(), tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_a_damaged_checkpoint_says_what_to_do(tmp_path, damage):
    training.run(small(), tmp_path)
    checkpoint = tmp_path / "small.checkpoint.pt"
    if damage == "other":
        torch.save({"weights": torch.ones(2)}, checkpoint)
    else:
        content = checkpoint.read_bytes()
        checkpoint.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"hello"}[damage])
    message = r"small\.checkpoint\.pt: no checkpoint that can be read; delete it to train anew"
    with pytest.raises(ValueError, match=message):
        training.run(small(iterations=8), tmp_path)
    checkpoint.unlink()
    run = store.open_run(training.run(small(iterations=8), tmp_path))
    assert run.steps.values.tolist() == list(range(9))
    assert store.open_run(tmp_path / "small.superseded-1.zarr").steps.values.tolist() == list(range(1, 7))


def test_a_checkpoint_whose_run_is_gone_says_what_to_do(tmp_path):
    path = training.run(small(), tmp_path)
    path.rename(tmp_path / "elsewhere.zarr")
    for door in (training.run, training.steps_done):
        with pytest.raises(ValueError, match="the run of this checkpoint is gone; delete the checkpoint to train anew"):
            door(small(), tmp_path)


def test_a_network_whose_code_changed_is_refused_in_one_line(tmp_path, monkeypatch):
    training.run(small(), tmp_path)

    def changed():
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2), nn.Linear(2, 2))

    changed.__qualname__ = "network"
    with pytest.raises(ValueError, match="checkpoint of 'small' does not fit its network or optimizer") as error:
        training.run(small(network=changed, iterations=8), tmp_path)
    assert "\n" not in str(error.value)
    assert store.open_run(tmp_path / "small.zarr").steps.values.tolist() == list(range(7))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here: .") as error:
        training.run(small(device=device), tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_rows(tmp_path):
    study = small(loss=lambda scores, labels: scores.sum() * (float("nan") if done(study_steps) == 4 else 1))
    study_steps = []

    def done(steps):
        steps.append(torch.is_grad_enabled())
        return sum(steps)

    with pytest.raises(FloatingPointError, match=r"small\.zarr: the loss is nan at step 4: lower the rate"):
        training.run(study, tmp_path)
    run = store.open_run(tmp_path / "small.zarr")
    assert run.steps.values.tolist() == [0, 1, 2, 3, 4]
    assert run.metrics["loss"].notnull().sum() == 3


# --- the order of the data

orders = st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32))


@given(orders, st.integers(1, 5))
def test_every_epoch_has_each_sample_once_also_where_a_batch_spans_two(order, epochs):
    size, batch, _ = order
    steps = -(-epochs * size // batch)
    samples = np.concatenate([training.DataOrder(*order)(step) for step in range(steps)])
    assert len(samples) == steps * batch
    for epoch in range(epochs):
        assert sorted(samples[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(orders, st.lists(st.integers(0, 200), min_size=1, max_size=10))
def test_a_batch_does_not_depend_on_what_was_asked_before(order, steps):
    asked = training.DataOrder(*order)
    for step in steps:
        assert_array_equal(asked(step), training.DataOrder(*order)(step))


def test_epochs_and_seeds_have_orders_of_their_own():
    epochs = [training.DataOrder(1000, 1000, seed)(epoch) for seed in (0, 1) for epoch in range(3)]
    # Two independent orders agree in 1 place on average, in 10 or more with probability below 1e-6.
    agree = [(one == other).sum() for k, one in enumerate(epochs) for other in epochs[:k]]
    assert max(agree) < 10


def test_the_study_is_kept_with_the_run(tmp_path):
    run = store.open_run(training.run(small(seed=4), tmp_path))
    assert run.attrs["study"] == small(seed=4).to_json()
    assert run.attrs["seed"] == 4
    assert dataclasses.replace(small(), seed=4).described["seed"] == "4"


def test_a_run_that_ends_before_its_checkpoint_is_refused(tmp_path):
    training.run(small(iterations=4), tmp_path)
    older = tmp_path / "older"
    shutil.copytree(tmp_path / "small.zarr", older)
    training.run(small(iterations=8), tmp_path)
    shutil.rmtree(tmp_path / "small.zarr")
    older.rename(tmp_path / "small.zarr")
    with pytest.raises(
        ValueError, match=r"small\.zarr ends at step 4, before its checkpoint at 8: put the whole run back"
    ):
        training.run(small(iterations=12), tmp_path)


def test_the_store_is_committed_before_the_checkpoint_is_written(tmp_path, monkeypatch):
    committed = []

    def save(state, path):
        committed.append(max(store.open_run(tmp_path / "small.zarr").metrics["step"].values))
        assert committed[-1] == state["step"]

    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("rmtnet.checkpoints.save", save)
    training.run(small(iterations=4), tmp_path)
    assert committed == [1, 2, 3, 4]


# --- pixels, training accuracy


def test_the_mean_training_image_is_subtracted_before_the_scale(tmp_path):
    data, seen = images(), []

    def looking():
        model = wider_network()
        model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        return model

    training.run(small(network=looking, centre=True, pixel_scale=0.5, iterations=1, evaluate=every(9)), tmp_path)
    mean = data.train_images.astype(float).mean(0)
    batch = data.train_images[training.DataOrder(30, 8, 0)(0)]
    first, _, step, last = seen
    np.testing.assert_allclose(first, (data.train_images[:8] - mean) / 2, atol=1e-5)
    np.testing.assert_allclose(step, (batch - mean) / 2, atol=1e-5)
    # Of the training images, also where the test images are classified.
    np.testing.assert_allclose(last, (data.test_images - mean) / 2, atol=1e-5)


@pytest.mark.parametrize(("asked", "count"), [(10, 10), (1000, 30)])
def test_the_accuracy_on_training_images_is_logged_when_asked_for(tmp_path, asked, count):
    data = images()
    study = small(network=wider_network, evaluate_train=asked, iterations=4, evaluate=every(2))
    run = store.open_run(training.run(study, tmp_path))
    assert run.metrics["train_accuracy"].notnull().values.tolist() == [True, False, True, False, True]
    model = wider_network()
    model.load_state_dict(torch.load(tmp_path / "small.checkpoint.pt", weights_only=True)["model"])
    chosen = np.arange(count) * 30 // count
    scores = model(torch.from_numpy(data.train_images[chosen]).float() / 256).argmax(1).numpy()
    assert run.metrics["train_accuracy"].values[-1] == pytest.approx((scores == data.train_labels[chosen]).mean())


# --- pruning


def prunable_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


BLOCKS = BlockDiagonalPruning({"1": 2}, dense=2, pruning=3, alpha=0.05, threshold=1e-3)


def pruned(**fields):
    return small(network=prunable_network, iterations=12, pruning=BLOCKS, evaluate=every(1), **fields)


def off_blocks(weights):
    """Weights of 6 x 4 matrices that are off two diagonal blocks, (step, 12)."""
    return np.concatenate([weights[:, :3, 2:].reshape(-1, 6), weights[:, 3:, :2].reshape(-1, 6)], axis=1)


def test_a_pruned_training_is_the_same_steps_written_out(tmp_path):
    """Dense, pruning and block diagonal phase with torch alone, on a dense weight and a mask."""
    run = store.open_run(training.run(pruned(), tmp_path))
    data, order = images(), training.DataOrder(30, 8, 0)
    torch.manual_seed(0)
    model = prunable_network()
    optimizer = Solver()(model)
    weight, mask, off = model[1].weight, torch.ones(6, 4), torch.ones(6, 4)
    off[:3, :2] = off[3:, 2:] = 0
    states, losses = [weight.detach().clone()], []
    for step in range(12):
        batch = order(step)
        scores = model(torch.from_numpy(data.train_images[batch]).float() / 256)
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(data.train_labels[batch]))
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + (0.05 * (weight * off).abs().sum() if 2 <= step < 5 else 0)).backward()
        optimizer.step()
        with torch.no_grad():
            if 2 < step + 1 <= 5:
                mask[(weight.abs() <= 1e-3) & (off > 0)] = 0
            if step + 1 >= 5:
                mask[off > 0] = 0
            weight.mul_(mask)
        states.append(weight.detach().clone())
    expected = torch.stack(states).numpy()
    dense, blocks = (run[name] for name in run.forms("1"))
    assert (dense.shape[1:], blocks.shape[1:]) == ((1, 6, 4), (2, 3, 2))
    assert dense.step.values.tolist() == list(range(6)) and blocks.step.values.tolist() == list(range(5, 13))
    # A row holds what was removed before its step as 0; what its step removes is still there.
    removed = (expected[:5] == 0) & (expected[1:6] == 0)
    assert not dense[1:, 0].values[removed].any()
    np.testing.assert_allclose(np.where(expected[:6] == 0, 0, dense[:, 0]), expected[:6], atol=1e-6)
    inside = np.stack([expected[5:, :3, :2], expected[5:, 3:, 2:]], axis=1)
    np.testing.assert_allclose(blocks, inside, atol=1e-6)
    assert not off_blocks(expected[5:]).any() and off_blocks(expected[:3]).all()
    np.testing.assert_allclose(run.metrics["loss"].values[1:], losses, rtol=1e-5)
    assert run.metrics["1.sparsity"].values[[0, -1]].tolist() == [0, 0.5]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_a_pruned_training_goes_on_where_it_stopped(tmp_path, monkeypatch, stop):
    once = store.open_run(training.run(pruned(), tmp_path / "once"))

    def interrupt(step, loss):
        if step == stop:
            raise Stopped

    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    with pytest.raises(Stopped):
        training.run(pruned(), tmp_path / "twice", progress=interrupt)
    twice = store.open_run(training.run(pruned(), tmp_path / "twice"))
    assert once.forms("1") == twice.forms("1") == ["1@0", "1@1"]
    for name in once.forms("1"):
        assert_array_equal(once[name], twice[name])
    assert once.metrics.load().identical(twice.metrics.load())


def test_a_pruning_that_does_not_fit_the_network_is_blamed_on_the_study(tmp_path):
    wrong = BlockDiagonalPruning({"ip1": 2}, dense=2, pruning=3, alpha=0.05, threshold=1e-3)
    with pytest.raises(ValueError, match=r"the pruning of study 'small' fails: .*'ip1'"):
        training.run(small(pruning=wrong), tmp_path)


def test_a_field_that_an_older_rmtnet_did_not_have_was_at_its_default(tmp_path):
    described = json.dumps({name: text for name, text in small().described.items() if name != "centre"})
    checkpoints.check_same_study(small(), described, tmp_path)
    with pytest.raises(ValueError, match="centre is False, now True"):
        checkpoints.check_same_study(small(centre=True), described, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_training_on_a_gpu_is_that_of_the_cpu(tmp_path):
    runs = [store.open_run(training.run(pruned(device=device), tmp_path / device)) for device in ("cpu", "cuda")]
    for name in ("1@0", "1@1", "3"):
        np.testing.assert_allclose(runs[0][name], runs[1][name], atol=1e-4)
    for name in ("loss", "accuracy", "1.sparsity"):
        np.testing.assert_allclose(runs[0].metrics[name], runs[1].metrics[name], atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_loss_that_is_no_number_ends_a_training_on_a_gpu_too(tmp_path):
    study = small(loss=lambda scores, labels: scores.sum() * float("nan"), device="cuda", iterations=200)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1: lower the rate"):
        training.run(study, tmp_path)
