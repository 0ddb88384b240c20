"""What is recorded besides weights, and how: each against copies taken beside the recorder."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn.utils import prune

from rmtnet import record, store
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.schedules import at, each_epoch, each_seconds, every

Recorder = partial(record.Recorder, process=False)


class Copies:
    """Weights and gradients of a training, by step, taken by hand."""

    def __init__(self, model, optimizer, inputs, layer="0"):
        self.model, self.optimizer, self.inputs = model, optimizer, inputs
        self.parameter = lambda: model.get_submodule(layer).weight
        self.weights, self.gradients = [self.now()], []

    def now(self):
        return self.parameter().detach().numpy().copy()

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(self.inputs).square().mean().backward()
            self.gradients.append(self.parameter().grad.numpy().copy())
            self.optimizer.step()
            self.weights.append(self.now())


def small(optimizer=torch.optim.Adam, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return Copies(model, optimizer(model.parameters(), 0.1, **options), torch.randn(8, 6))


def group(path, name):
    return xr.open_zarr(path, group=name, chunks=None)


def test_gradients_and_updates_of_a_step_are_those_that_follow_its_weights(tmp_path):
    training = small()
    what = ("weights", "gradients", "updates")
    with Recorder(training.model, tmp_path / "run.zarr", layers=["0"], what=what).attach(training.optimizer):
        training.train(5)
    weights, gradients, updates = (group(tmp_path / "run.zarr", name) for name in what)
    assert_array_equal(weights["step"], np.arange(6))
    assert_array_equal(gradients["step"], np.arange(5))
    assert_array_equal(updates["step"], np.arange(5))
    assert_array_equal(gradients["0"][:, 0], training.gradients)
    assert_array_equal(updates["0"][:, 0], np.diff(training.weights, axis=0))


def test_moments_are_those_of_the_variance_budget(tmp_path):
    from rmtnet.budget import variance_budget

    training = small()
    with Recorder(training.model, tmp_path / "run.zarr", layers=["0"], what="moments").attach(training.optimizer):
        training.train(6)
    found = group(tmp_path / "run.zarr", "moments")
    weight = np.array(training.weights, dtype=np.float64)
    budget = variance_budget(weight[:, None])
    assert_allclose(found["0_var_w"], budget.variance, rtol=1e-13)
    assert_allclose(found["0_var_dw"], budget.update_variance, rtol=1e-12)
    assert_allclose(2 * found["0_cov_w_dw"], budget.covariance_term, rtol=1e-9)
    gradient = np.array(training.gradients, dtype=np.float64).reshape(6, -1)
    assert_allclose(found["0_var_g"], gradient.var(axis=1), rtol=1e-12)
    products = [np.cov(w.ravel(), g, ddof=0)[0, 1] for w, g in zip(weight[:-1], gradient, strict=True)]
    assert_allclose(found["0_cov_w_g"], products, rtol=1e-9)


@pytest.mark.parametrize("buffer_bytes", [128 * 2**20, 2**20], ids=["in the writer", "streamed"])
def test_spectra_and_norms_are_those_of_the_weights(tmp_path, buffer_bytes):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(400, 300), BlockDiagonalLinear(300, 40, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    what = ("weights", "spectra", "norms")
    with Recorder(model, tmp_path / "run.zarr", what=what, buffer_bytes=buffer_bytes).attach(optimizer):
        for _ in range(3):
            with torch.no_grad():
                model[0].weight.mul_(1.5)
            optimizer.step()
    weights, spectra, norms = (group(tmp_path / "run.zarr", name) for name in what)
    assert spectra["0"].dims == ("step", "0_block", "0_order") and spectra["1"].shape == (4, 5, 8)
    for layer in ("0", "1"):
        assert_allclose(spectra[layer], np.linalg.svd(weights[layer].values.astype(float))[1], rtol=1e-5)
        assert_allclose(norms[layer], np.sqrt((weights[layer].astype(float) ** 2).sum(axis=(1, 2, 3))), rtol=1e-12)


def test_a_diverged_training_goes_on_being_recorded(tmp_path):
    training = small()
    what = ("weights", "spectra", "norms", "moments")
    with Recorder(training.model, tmp_path / "run.zarr", what=what).attach(training.optimizer):
        training.train(1)
        with torch.no_grad():
            training.model[0].weight.fill_(np.nan)
        training.train(2)
    spectra = group(tmp_path / "run.zarr", "spectra")
    assert spectra.sizes["step"] == 4
    assert np.isfinite(spectra["0"][:2]).all() and np.isnan(spectra["0"][2:]).all()


def test_a_layer_without_gradient_has_none(tmp_path):
    training = small()
    training.model[2].weight.requires_grad_(False)
    with Recorder(training.model, tmp_path / "run.zarr", what=("gradients", "moments")).attach(training.optimizer):
        training.train(2)
    gradients, moments = (group(tmp_path / "run.zarr", name) for name in ("gradients", "moments"))
    assert np.isnan(gradients["2"]).all() and np.isfinite(gradients["0"]).all()
    assert np.isnan(moments["2_var_g"]).all() and (moments["2_var_w"] > 0).all() and (moments["2_var_dw"] == 0).all()


# --- schedules


def test_layers_may_have_schedules_of_their_own(tmp_path):
    training = small()
    when = {"0": every(2), "*": at(3)}
    what = ("weights", "gradients")
    with Recorder(training.model, tmp_path / "run.zarr", when=when, what=what).attach(training.optimizer):
        training.train(5)
    weights = group(tmp_path / "run.zarr", "weights")
    assert weights["0_step"].values.tolist() == [0, 2, 4] and weights["2_step"].values.tolist() == [3]
    assert_array_equal(weights["0"][:, 0], training.weights[::2])
    assert group(tmp_path / "run.zarr", "gradients")["0_step"].values.tolist() == [0, 2, 4]
    assert store.open_run(tmp_path / "run.zarr")["2"]["step"].values.tolist() == [3]
    with Recorder(training.model, tmp_path / "run.zarr", when=when, what=what, mode="resume").attach(
        training.optimizer, step=5
    ):
        training.train(1)
    assert store.open_run(tmp_path / "run.zarr")["0"]["step"].values.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(
    "when, message",
    [
        ({"0": every(1)}, "no schedule for layer '2'"),
        ({"0": every(1), "*": every(2), "nix*": every(1)}, "no layer matches 'nix\\*'; recorded are 0, 2"),
    ],
)
def test_schedules_that_do_not_fit_the_layers_are_refused(tmp_path, when, message):
    with pytest.raises(ValueError, match=message):
        Recorder(small().model, tmp_path / "run.zarr", when=when)


def test_what_a_schedule_remembers_goes_on_in_a_resumed_run(tmp_path):
    training = small()
    path = tmp_path / "run.zarr"
    with Recorder(training.model, path, when=each_seconds(1000)).attach(training.optimizer):
        training.train(3)
    with Recorder(training.model, path, when=each_seconds(1000), mode="resume").attach(training.optimizer, step=3):
        training.train(3)
    assert store.open_run(path).steps.values.tolist() == [0]


def test_a_schedule_sees_metrics_and_epoch(tmp_path):
    training = small()
    asked = []

    def when(moment):
        asked.append((moment.step, moment.metrics.get("loss"), moment.epoch))
        return moment.metrics.get("loss", 0) > 1

    with Recorder(training.model, tmp_path / "run.zarr", when=when).attach(training.optimizer) as recorder:
        for step in range(3):
            recorder.log(loss=step, epoch=step / 2)
            training.train(1)
    assert asked == [(0, None, None), (1, 0, 0), (2, 1, 0.5), (3, 2, 1)]
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [3]


# --- forms


def packed(model):
    """A model whose first layer goes on as two blocks on its diagonal."""
    weight = model[0].weight.detach()
    model[0] = BlockDiagonalLinear(6, 4, 2)
    with torch.no_grad():
        model[0].weight.copy_(torch.stack([weight[:2, :3], weight[2:4, 3:]]))


def test_a_layer_that_changes_its_form_goes_on_as_another_one(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "run.zarr"
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, path, what=("weights", "spectra", "updates")).attach(optimizer) as recorder:
        for step in range(1, 7):
            if step == 4:
                packed(model)
            optimizer.step()
        before_close = recorder.step
    assert before_close == 6
    run = store.open_run(path)
    assert run.forms("0") == ["0@0", "0@1"]
    assert run["0@0"]["step"].values.tolist() == [0, 1, 2, 3] and run["0@0"].shape[1:] == (1, 4, 6)
    assert run["0@1"]["step"].values.tolist() == [3, 4, 5, 6] and run["0@1"].shape[1:] == (2, 2, 3)
    assert run["1"]["step"].values.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert_array_equal(run["0@1"][-1], model[0].weight.detach())
    weights = group(path, "weights")
    assert weights["0"].dims[0] == "0_step" and weights["1"].dims[0] == "step"
    assert group(path, "spectra")["0@1"].shape == (4, 2, 2)
    # A training that goes on with the packed model, and one that goes back to before it was packed.
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, path, what=("weights", "spectra", "updates"), mode="resume").attach(optimizer, step=6):
        optimizer.step()
    assert store.open_run(path)["0@1"]["step"].values.tolist() == [3, 4, 5, 6, 7]
    dense = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(dense.parameters(), 0.1)
    with Recorder(dense, path, what=("weights", "spectra", "updates"), mode="resume").attach(optimizer, step=2):
        optimizer.step()
    run = store.open_run(path)
    assert run["0@0"]["step"].values.tolist() == [0, 1, 2, 3] and run["1"]["step"].values.tolist() == [0, 1, 2, 3]
    assert run["0@1"].sizes["step"] == 0


def test_what_replaces_a_layer_is_recorded_from_where_it_begins(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    what = ("weights", "updates", "moments")
    with Recorder(model, tmp_path / "run.zarr", what=what).attach(optimizer):
        optimizer.step()
        before = model[0].weight.detach().numpy().copy()
        packed(model)
        after = model[0].weight.detach().numpy().copy()
        optimizer.step()
    run = store.open_run(tmp_path / "run.zarr")
    assert run["0@0"]["step"].values.tolist() == [0, 1] and run["0@1"]["step"].values.tolist() == [1, 2]
    assert_array_equal(run["0@0"][1, 0], before)
    assert_array_equal(run["0@1"][0], after)
    # The step after the change is told of the new form alone.
    assert run.updates["0@0"]["step"].values.tolist() == [0] and run.updates["0@1"]["step"].values.tolist() == [1]


@pytest.mark.parametrize("moment", ["before", "while"])
@pytest.mark.parametrize("way", ["prune", "weight_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_weight_made_in_the_forward_pass_is_recorded_as_it_is_used(tmp_path, way, moment):
    training = small(torch.optim.SGD)
    layer, used = training.model[0], {}

    def change():
        if way == "prune":
            prune.l1_unstructured(layer, "weight", 0.5)
        else:
            nn.utils.weight_norm(layer)
        training.optimizer.param_groups[0]["params"] = list(training.model.parameters())

    def use(module, *_):
        used[recorder.step] = module.weight.detach().clone()

    layer.register_forward_hook(use)
    if moment == "before":
        change()
    what = ("weights", "gradients", "updates", "moments")
    with Recorder(training.model, tmp_path / "run.zarr", layers=["0"], what=what).attach(
        training.optimizer
    ) as recorder:
        for step in range(6):
            if step == 3 and moment == "while":
                change()
            training.optimizer.zero_grad()
            training.model(training.inputs).square().mean().backward()
            training.optimizer.step()
    run = store.open_run(tmp_path / "run.zarr")
    first = 0 if moment == "before" else 4  # the change comes after the row of step 3
    for step in range(first, 6):
        assert_array_equal(run["0"].sel(step=step)[0], used[step])
        if step < 5:
            assert_allclose(run.updates["0"].sel(step=step)[0], used[step + 1] - used[step], atol=1e-7)
            assert run.moments["0"]["var_dw"].sel(step=step) > 0
    gradients = run.gradients["0"].sel(step=slice(first, None))
    if way == "prune":
        assert np.isfinite(gradients).all() and ((gradients == 0).mean() == 0.5)
    else:
        assert np.isnan(gradients).all()


def test_a_layer_that_can_have_no_gradient_is_named(tmp_path, caplog):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr", what="gradients").attach(optimizer):
        pass
    assert "0: made from other parameters, it has no gradient" in caplog.text


def test_an_epoch_schedule_goes_on_in_a_resumed_run(tmp_path):
    training = small()
    path = tmp_path / "run.zarr"
    for mode, start in (("x", 0), ("resume", 6)):
        with Recorder(training.model, path, when=each_epoch(), mode=mode).attach(
            training.optimizer, step=start
        ) as recorder:
            for step in range(start, start + 6):
                recorder.epoch = (step + 1) / 4
                training.train(1)
    assert store.open_run(path).steps.values.tolist() == [0, 4, 8, 12]


def test_a_parameter_of_another_shape_is_another_form(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        optimizer.step()
        model[0].weight = nn.Parameter(torch.ones(2, 4))
        optimizer.step()
    run = store.open_run(tmp_path / "run.zarr")
    assert run["0@0"].sizes["step"] == 2 and run["0@1"].shape == (1, 1, 2, 4)


def test_a_layer_that_is_gone_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gone = pytest.raises(ValueError, match="layer '1' is gone from the model at step 0; there are 0")
    with gone, Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        model[1] = nn.Identity()
        optimizer.step()
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [0]


def test_replaced_numbers_of_the_same_layer_are_followed(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr").attach(optimizer):
        model.load_state_dict({"0.weight": torch.full((3, 4), 7.0), "0.bias": torch.zeros(3)}, assign=True)
        optimizer.step()
    assert (store.open_run(tmp_path / "run.zarr")["0"][1] == 7).all()


# --- codecs


@pytest.mark.parametrize("buffer_bytes", [128 * 2**20, 2**20], ids=["buffered", "streamed"])
@pytest.mark.parametrize("codec", store.CODECS)
def test_every_codec_gives_back_the_bits(tmp_path, codec, buffer_bytes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 300), nn.Linear(300, 40))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    taken = []
    options = {"codec": codec, "buffer_bytes": buffer_bytes}
    for mode in ("x", "resume"):
        with Recorder(model, tmp_path / "run.zarr", mode=mode, **options).attach(optimizer) as recorder:
            for step in range(21):
                if mode == "x" or step:
                    taken.append([layer.weight.detach().numpy().copy() for layer in model])
                with torch.no_grad():
                    for layer in model:
                        layer.weight.add_(torch.randn_like(layer.weight), alpha=1e-3)
                if step < 20:
                    optimizer.step()
                if step == 5:
                    recorder.flush()
    run = store.open_run(tmp_path / "run.zarr")
    for layer, values in zip(("0", "1"), zip(*taken, strict=True), strict=True):
        assert run[layer].shape[0] == 41 and len(values) == 41
        assert run[layer].values[:, 0].tobytes() == np.array(values).tobytes()


@pytest.mark.parametrize("precision, bits", [("float16", 10), ("bfloat16", 7), ("bitround:12", 12)])
def test_a_precision_rounds_to_nearest(tmp_path, precision, bits):
    training = small()
    with Recorder(training.model, tmp_path / "run.zarr", precision=precision).attach(training.optimizer):
        training.train(2)
    run = store.open_run(tmp_path / "run.zarr")
    exact = np.array(training.weights)
    error = np.abs(run["0"].values[:, 0].astype(float) - exact) / np.abs(exact)
    assert error.max() <= 2.0 ** -(bits + 1) and error.max() > 2.0 ** -(bits + 3)
    if precision == "bfloat16":
        assert_array_equal(run["0"][:, 0], torch.tensor(exact).bfloat16().float())
    assert run["0"].attrs["precision"] == precision
    with pytest.raises(ValueError, match="precision"):
        Recorder(training.model, tmp_path / "run.zarr", mode="resume")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"codec": "gzip"}, "codec must be 'none', 'lz4', 'zstd' or 'delta', got 'gzip'"),
        ({"precision": "int8"}, "precision must be 'float16', 'bfloat16' or 'bitround:<bits>'"),
        ({"precision": "bitround:0"}, "with 1 to 22 bits, got 'bitround:0'"),
        ({"buffer_bytes": 5}, "buffer_bytes must be a whole number of at least 1048576, got 5"),
        ({"commit_seconds": None}, "commit_seconds must not be negative, got None"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'warn'"),
        ({"sync": "always"}, "sync must be 'never', 'close' or 'commit'"),
        ({"what": ()}, "what must be among"),
        ({"when": 7}, "when must be a schedule"),
    ],
)
def test_an_argument_that_is_none_of_its_choices_is_named(tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Recorder(small().model, tmp_path / "run.zarr", **options)
    assert list(tmp_path.iterdir()) == []


# --- memory


def test_a_stall_is_counted_and_the_ring_keeps_its_bound(tmp_path):
    model = nn.Sequential(nn.Linear(500, 300))  # 600 kB a row, in a ring of 1 MB
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr", buffer_bytes=2**20).attach(optimizer) as recorder:
        for _ in range(20):
            optimizer.step()
        assert recorder._link.ring.size == 2**20
    assert recorder.stalls > 0 and recorder.stalled_seconds > 0
    assert store.open_run(tmp_path / "run.zarr").steps.size == 21


@pytest.mark.parametrize("sync", ["never", "close", "commit"])
def test_files_are_forced_to_the_disk_when_asked(tmp_path, monkeypatch, sync):
    import os

    forced = []
    original = os.fsync
    monkeypatch.setattr("os.fsync", lambda file: (forced.append(os.readlink(f"/proc/self/fd/{file}")), original(file)))
    training = small()
    path = tmp_path / "run.zarr"
    with Recorder(training.model, path, sync=sync).attach(training.optimizer) as recorder:
        training.train(2)
        forced.clear()
        recorder.flush()
        assert any("/c." in file for file in forced) == (sync == "commit")
    if sync == "never":
        assert forced == []
        return
    chunks = {str(file) for file in (path / "weights").rglob("c.*")}
    assert chunks <= set(forced) and any(".commit" in file for file in forced)


# --- what an outside reading found


def test_a_run_whose_layers_share_their_steps_is_not_resumed_with_schedules_for_each(tmp_path):
    training = small()
    with Recorder(training.model, tmp_path / "run.zarr").attach(training.optimizer):
        training.train(3)
    with pytest.raises(ValueError, match="resume with one schedule for all, not one for"):
        Recorder(training.model, tmp_path / "run.zarr", when={"0": every(1), "2": every(3)}, mode="resume")
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("what", ["spectra", "norms", "moments", "weights"])
def test_steps_of_their_own_and_forms_are_known_to_a_resumed_run_whatever_it_holds(tmp_path, what):
    torch.manual_seed(0)
    path = tmp_path / "run.zarr"
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, path, what=what, when={"*": every(1)}).attach(optimizer):
        for step in range(6):
            if step == 3:
                packed(model)
            optimizer.step()
    with Recorder(model, path, what=what, mode="resume") as recorder:
        assert recorder.step == (5 if what == "moments" else 6)
        recorder.attach(optimizer, step=6)
        optimizer.step()
    assert not list(tmp_path.glob("*superseded*"))
    found = group(path, what)
    last = 6 if what == "moments" else 7
    assert found["0@1_step"].values.tolist() == list(range(3, last + 1)) and found["1_step"].values[-1] == last


@pytest.mark.parametrize(
    "kind, options",
    [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True}), (torch.optim.LBFGS, {"max_iter": 3})],
)
def test_gradients_are_those_that_the_step_began_with_whatever_the_optimizer_does_to_them(tmp_path, kind, options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer, inputs, expected = kind(model.parameters(), lr=0.1, **options), torch.randn(8, 6), []

    def closure():
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    with Recorder(model, tmp_path / "run.zarr", layers=["0"], what="gradients").attach(optimizer):
        for _ in range(4):
            closure()
            expected.append(model[0].weight.grad.numpy().copy())
            optimizer.step(closure) if kind is torch.optim.LBFGS else optimizer.step()
    assert_array_equal(group(tmp_path / "run.zarr", "gradients")["0"][:, 0], expected)


class Trainer:
    def __init__(self):
        self.file, self.now = open("/dev/null"), False  # noqa: SIM115  cannot be copied

    def due(self, step):
        return self.now


def test_a_schedule_may_be_a_method_of_something_that_changes(tmp_path):
    training, trainer = small(), Trainer()
    with Recorder(training.model, tmp_path / "run.zarr", when=trainer.due).attach(training.optimizer):
        for step in range(4):
            trainer.now = step % 2 == 1
            training.train(1)
    trainer.file.close()
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [2, 4]


def test_another_precision_in_mid_run_is_another_form(tmp_path):
    training = small(torch.optim.SGD)
    with Recorder(training.model, tmp_path / "run.zarr", layers=["0"]).attach(training.optimizer):
        training.train(1)
        training.model.double()
        training.inputs = training.inputs.double()
        training.train(1)
    run = store.open_run(tmp_path / "run.zarr")
    assert run["0@1"].dtype == np.float64
    assert_array_equal(run["0@1"][-1, 0], training.weights[-1])


def test_a_shape_that_changes_between_steps_with_updates_is_another_form(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr", what=("weights", "updates", "gradients")).attach(optimizer):
        optimizer.step()
        model[0].weight = nn.Parameter(torch.ones(2, 4))
        optimizer.step()
    run = store.open_run(tmp_path / "run.zarr")
    assert run["0@1"]["step"].values.tolist() == [1, 2] and run.updates["0@1"]["step"].values.tolist() == [1]


def test_a_new_form_that_could_not_be_made_is_made_at_a_later_step(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, tmp_path / "run.zarr", on_error="warn").attach(optimizer) as recorder:
        optimizer.step()
        packed(model)
        with monkeypatch.context() as patch:

            def full(*args, **options):
                raise OSError(28, "No space left on device")

            patch.setattr(store.RunWriter, "declare", full)
            optimizer.step()
        assert recorder.dropped > 0
        optimizer.step()
    run = store.open_run(tmp_path / "run.zarr")
    assert run["0@0"]["step"].values[-1] == 1 and run["0@1"]["step"].values[-1] == 3
    assert_array_equal(run["0@1"][-1], model[0].weight.detach())


def test_two_writers_never_meet_where_a_folder_was_moved(tmp_path):
    first, second = small(), small()
    old = Recorder(first.model, tmp_path / "run.zarr").attach(first.optimizer)
    (tmp_path / "run.zarr").rename(tmp_path / "old.zarr")
    with Recorder(second.model, tmp_path / "run.zarr").attach(second.optimizer):
        second.train(2)
        with pytest.raises(OSError, match="moved or removed"):
            old.flush()
    with pytest.raises(OSError):
        old.close()
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [0, 1, 2]


def test_a_child_process_is_told_that_the_recorder_is_not_its_own(tmp_path, monkeypatch):
    training = small()
    with Recorder(training.model, tmp_path / "run.zarr").attach(training.optimizer) as recorder:
        monkeypatch.setattr("os.getpid", lambda: -1)
        for action in (recorder.observe, recorder.flush, lambda: recorder.log(loss=1.0)):
            with pytest.raises(ValueError, match="belongs to process"):
                action()
        monkeypatch.undo()
        training.train(1)
    assert store.open_run(tmp_path / "run.zarr").steps.values.tolist() == [0, 1]


# --- older runs


def test_a_run_of_the_first_schema_is_read_and_goes_on(tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(Path(__file__).with_name("golden") / "schema1.zarr", path)
    run = store.open_run(path)
    assert run.attrs["rmtnet_schema"] == 1 and run.steps.values.tolist() == [0, 2, 4]
    assert (run["ip1"][1] == 2).all() and (run["ip2"][2] == 4).all() and run["ip2"].shape == (3, 2, 2, 3)
    assert run.metrics["loss"].values.tolist() == [0, 0.5, 1, 1.5, 2]
    model = nn.ModuleDict({"ip1": nn.Linear(4, 3), "ip2": BlockDiagonalLinear(6, 4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = run["ip1"].values
    with Recorder(model, path, when=every(2), mode="resume").attach(optimizer, step=4) as recorder:
        for _ in range(4):
            optimizer.step()
            recorder.log(loss=7.0)
    run = store.open_run(path)
    assert run.steps.values.tolist() == [0, 2, 4, 6, 8]
    assert_array_equal(run["ip1"][:3], before)
    assert_array_equal(run["ip1"][4, 0], model["ip1"].weight.detach())
    assert run.metrics["loss"].values.tolist() == [0, 0.5, 1, 1.5, 7, 7, 7, 7]


# --- a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_from_a_gpu_are_those_of_their_step_whatever_follows(tmp_path, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 10)).to("cuda", dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    inputs = torch.randn(64, 1024, device="cuda", dtype=dtype)
    taken, gradients = [model[0].weight.detach().float().cpu()], []
    what = ("weights", "gradients", "spectra", "moments")
    with record.Recorder(model, tmp_path / "run.zarr", what=what).attach(optimizer) as recorder:
        for _ in range(20):
            optimizer.zero_grad(set_to_none=False)
            model(inputs).square().mean().backward()
            gradients.append(model[0].weight.grad.float().cpu())
            optimizer.step()
            taken.append(model[0].weight.detach().float().cpu())
            with torch.no_grad():
                model[0].weight.add_(0.0)
            recorder.log(loss=1.0)
    run = store.open_run(tmp_path / "run.zarr")
    assert_array_equal(run["0"][:, 0], torch.stack(taken))
    assert_array_equal(run.gradients["0"][:, 0], torch.stack(gradients))
    assert_allclose(run.spectra["0"][3, 0], np.linalg.svd(taken[3].double().numpy())[1], rtol=1e-4)
