"""Ways of training, as their libraries do it: steps are counted right, rows are the states bit for bit."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rmtnet import store
from rmtnet.record import Recorder
from rmtnet.schedules import each_epoch, each_seconds, every

pytestmark = [
    # Of frameworks, about their own surroundings.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def small(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_rows(path, states):
    """The run holds the states of steps 0, 1, ..., each recorded once."""
    run = store.open_run(path)
    assert run.steps.values.tolist() == list(range(len(states)))
    for layer in run:
        name = run[layer].attrs["torch_name"]
        expected = torch.stack([values[name] for values in states]).numpy()
        assert (expected[1:] != expected[:-1]).any(), "the weights must change"
        assert run[layer].values.tobytes() == expected.tobytes(), layer
    return run


# --- optimizers


def test_a_closure_that_lbfgs_calls_often_is_one_step(path):
    model, inputs = small(), torch.randn(20, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=7)
    calls, states = [], [state(model)]

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - inputs[:, :1]).square().mean()
        loss.backward()
        calls.append(loss.item())
        return loss

    with Recorder(model, path).attach(optimizer):
        for _ in range(3):
            optimizer.step(closure)
            states.append(state(model))
    assert len(calls) > 10
    assert_rows(path, states)


def test_every_step_of_two_optimizers_counts(path):
    model, inputs = small(), torch.randn(20, 4)
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.Adam(model[2].parameters(), lr=0.1)
    states = [state(model)]
    with Recorder(model, path).attach([first, second]):
        for _ in range(3):
            model(inputs).square().mean().backward()
            for optimizer in (first, second):
                optimizer.step()
                states.append(state(model))
            model.zero_grad()
    assert len(states) == 7
    assert_rows(path, states)


def test_a_step_that_the_gradient_scaler_skips_is_not_counted(path):
    model, inputs = small(), torch.randn(20, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    states = [state(model)]
    with Recorder(model, path).attach(optimizer):
        for k in range(5):
            optimizer.zero_grad()
            scaler.scale(model(inputs).square().mean()).backward()
            if k in (1, 2):
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            if k not in (1, 2):
                states.append(state(model))
    assert len(states) == 4
    assert_rows(path, states)


def test_accumulated_gradients_are_one_step_and_a_scheduler_is_none(path):
    model, inputs = small(), torch.randn(24, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    states = [state(model)]
    with Recorder(model, path).attach(optimizer):
        for _ in range(4):
            for batch in inputs.split(8):
                (model(batch).square().mean() / 3).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            states.append(state(model))
    assert optimizer.param_groups[0]["lr"] < 1e-6
    assert_rows(path, states)


# --- models


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.place = nn.Parameter(torch.randn(1, 4, 8))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        return self.head(self.encoder(self.patches(images).flatten(2).mT + self.place).mean(1))


class Tagger(nn.Module):
    """Input and output embedding tied, as in language models."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.out = nn.Embedding(6, 4), nn.LSTM(4, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.lstm(self.embed(tokens))[0])


ENCODER = [
    f"encoder.layers.{k}.{part}"
    for k in (0, 1)
    for part in (*(f"self_attn.in_proj_weight.{x}" for x in "qkv"), "self_attn.out_proj", "linear1", "linear2")
]
GATES = [f"lstm.{weight}_l0.{gate}" for weight in ("weight_ih", "weight_hh") for gate in "ifgo"]
MODELS = {
    "vision transformer": (VisionTransformer, lambda: torch.randn(5, 1, 8, 8), ["patches", "place", *ENCODER, "head"]),
    "tied and gated": (Tagger, lambda: torch.randint(6, (7, 3)), ["embed", *GATES]),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_each_matrix_of_a_model_has_its_name_and_its_values(path, kind, compiled):
    make, data, names = MODELS[kind]
    torch.manual_seed(0)
    model, inputs = make(), data()
    trained = torch.compile(model, backend="eager") if compiled else model
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.1)
    states = [state(model)]
    with Recorder(trained, path).attach(optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            trained(inputs).square().mean().backward()
            optimizer.step()
            states.append(state(model))
    run = store.open_run(path)
    assert sorted(run) == sorted(names)
    for name in names:
        stem, _, part = name.rpartition(".")
        packed = part in set("qkvifgo")
        key = stem if packed else name if name in states[0] else f"{name}.weight"
        whole = torch.stack([s[key] for s in states])
        whole = whole[:, 0] if name == "place" else whole.flatten(2)
        # Torch's documents: the rows of in_proj_weight are q, k, v, those of an LSTM's weights i, f, g, o.
        letters = "qkv" if "attn" in name else "ifgo"
        expected = whole.chunk(len(letters), 1)[letters.index(part)] if packed else whole
        assert run[name].values[:, 0].tobytes() == expected.contiguous().numpy().tobytes()
    if kind == "tied and gated":
        assert run["embed"].attrs["tied_to"] == "out"


# --- Lightning


def lightning():
    return pytest.importorskip("lightning.pytorch", reason="needs lightning: pip install 'rmtnet[lightning]'")


def data(rows=32, batch=8):
    torch.manual_seed(1)
    inputs = torch.randn(rows, 4)
    return DataLoader(TensorDataset(inputs, inputs[:, :1] * inputs[:, 1:2]), batch_size=batch)


def lightning_module(optimizers=1):
    pl = lightning()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small()
            self.automatic_optimization = optimizers == 1
            self.states, self.losses = [], []

        def on_train_start(self):
            # A module's hook runs after those of the callbacks.
            self.states = [state(self)]

        def training_step(self, batch, index):
            loss = (self.net(batch[0]) - batch[1]).square().mean()
            self.log("loss", loss, on_step=True, on_epoch=True)
            self.log("constant", 2.0)
            self.losses.append(loss.item())
            if not self.automatic_optimization:
                self.manual_backward(loss)
                for optimizer in self.optimizers():
                    optimizer.step()
                    optimizer.zero_grad()
                    self.states.append(state(self))
            return loss

        def optimizer_step(self, *args, **options):
            super().optimizer_step(*args, **options)
            self.states.append(state(self))

        def validation_step(self, batch, index):
            self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

        def on_train_epoch_end(self):
            self.log("epochs_done", float(self.current_epoch + 1))

        def configure_optimizers(self):
            made = [torch.optim.Adam(layer.parameters(), lr=0.05) for layer in (self.net[0], self.net[2])]
            return torch.optim.Adam(self.parameters(), lr=0.05) if optimizers == 1 else made

    return Module()


def lightning_trainer(folder, callback, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "default_root_dir": folder}
    return lightning().Trainer(callbacks=callback, **(quiet | options))


def callback(path, **options):
    lightning()
    from rmtnet.integrations.lightning import RecorderCallback

    return RecorderCallback(path, **options)


def test_a_lightning_training_is_recorded_with_its_metrics(path, tmp_path):
    module = lightning_module()
    lightning_trainer(tmp_path, callback(path), max_epochs=3).fit(module, data(), data())
    assert len(module.states) == 13
    run = assert_rows(path, module.states)
    metrics = run.metrics
    assert metrics["step"].values.tolist() == list(range(1, 13))
    assert_array_equal(metrics["loss_step"], np.float32(module.losses))
    assert_array_equal(metrics["constant"], np.full(12, 2.0))
    # Logged once an epoch: there and nowhere else.
    means = np.float32(module.losses).reshape(3, 4).mean(1)
    np.testing.assert_allclose(metrics["loss_epoch"].values[3::4], means, rtol=1e-6)
    assert_array_equal(metrics["epochs_done"].values[3::4], [1, 2, 3])
    for name in ("loss_epoch", "epochs_done", "val/loss"):
        assert_array_equal(np.flatnonzero(np.isfinite(metrics[name])), [3, 7, 11], err_msg=name)
    inputs, targets = next(iter(data(batch=32)))
    final = (module.net(inputs) - targets).square().mean().item()
    assert metrics["val/loss"].values[-1] == pytest.approx(final, rel=1e-5)


def test_accumulated_batches_of_lightning_are_one_step(path, tmp_path):
    module = lightning_module()
    # Five batches, two a step: the third step of an epoch has one.
    trainer = lightning_trainer(tmp_path, callback(path), max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(module, data(rows=40))
    assert trainer.global_step == 6
    run = store.open_run(path)
    assert run.steps.values.tolist() == list(range(7))
    assert_array_equal(run["net.0"][-1, 0], module.net[0].weight.detach())


def test_both_optimizers_of_a_lightning_module_count(path, tmp_path):
    module = lightning_module(optimizers=2)
    trainer = lightning_trainer(tmp_path, callback(path), max_epochs=2)
    trainer.fit(module, data())
    assert trainer.global_step == 16
    assert_rows(path, module.states)


@pytest.mark.parametrize("accumulate, due", [(1, [0, 4, 8, 12]), (3, [0, 2, 4, 6])])
def test_a_lightning_training_knows_its_epoch(path, tmp_path, accumulate, due):
    recording = callback(path, when=each_epoch())
    trainer = lightning_trainer(tmp_path, recording, max_epochs=3, accumulate_grad_batches=accumulate)
    trainer.fit(lightning_module(), data())
    assert store.open_run(path).steps.values.tolist() == due


def test_a_failed_lightning_training_keeps_what_was_recorded_and_lets_go_of_the_run(path, tmp_path):
    class Failing(lightning().Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        lightning_trainer(tmp_path, [callback(path), Failing()], max_epochs=1).fit(lightning_module(), data())
    assert store.open_run(path).steps.values.tolist() == [0, 1, 2]
    Recorder(lightning_module(), path, mode="resume").close()


def test_a_lightning_training_goes_on_from_its_checkpoint(path, tmp_path):
    whole = lightning_module()
    lightning_trainer(tmp_path, callback(tmp_path / "whole.zarr"), max_epochs=3).fit(whole, data())
    first = lightning_module()
    trainer = lightning_trainer(tmp_path, callback(path), max_epochs=2)
    trainer.fit(first, data())
    trainer.save_checkpoint(tmp_path / "2.ckpt")
    # The run went on beyond the checkpoint before the training died.
    with Recorder(first, path, mode="resume").attach(trainer.optimizers[0]):
        trainer.optimizers[0].step()
    second = lightning_module()
    trainer = lightning_trainer(tmp_path, callback(path, mode="resume"), max_epochs=3)
    trainer.fit(second, data(), ckpt_path=tmp_path / "2.ckpt", weights_only=False)
    assert_rows(path, whole.states)
    assert store.open_run(tmp_path / "run.superseded-1.zarr").steps.values.tolist() == [9]


def test_the_step_of_a_checkpoint_is_the_recorders_where_lightning_counts_skipped_ones(path, tmp_path):
    from rmtnet.integrations.lightning import RecorderCallback

    recording = callback(path)
    module = lightning_module()
    trainer = lightning_trainer(tmp_path, recording, max_epochs=1)

    class Skipping(type(trainer.strategy.precision_plugin)):
        """A precision plugin that skips the second step, as the scaler does: the optimizer is not called."""

        steps = 0

        def optimizer_step(self, optimizer, model, closure, **options):
            self.steps += 1
            return closure() if self.steps == 2 else super().optimizer_step(optimizer, model, closure, **options)

    trainer.strategy.precision_plugin = Skipping()
    trainer.fit(module, data())
    trainer.save_checkpoint(tmp_path / "1.ckpt")
    assert trainer.global_step == 4 and recording.state_dict() == {"step": 3}
    resumed = RecorderCallback(path, mode="resume")
    trainer = lightning_trainer(tmp_path, resumed, max_epochs=2)
    trainer.fit(lightning_module(), data(), ckpt_path=tmp_path / "1.ckpt", weights_only=False)
    assert store.open_run(path).steps.values.tolist() == list(range(8))
    assert not list(tmp_path.glob("*superseded*"))


def test_the_run_is_committed_before_each_checkpoint(path, tmp_path):
    module, seen = lightning_module(), []

    class Reader(lightning().Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            seen.append((trainer.global_step, store.open_run(path).steps.values.tolist()[-1]))

    saver = lightning().callbacks.ModelCheckpoint(tmp_path / "saved", every_n_train_steps=3)
    callbacks = [callback(path), Reader(), saver]
    lightning_trainer(tmp_path, callbacks, max_epochs=2, enable_checkpointing=True).fit(module, data())
    assert [step for step, _ in seen] == [last for _, last in seen] and len(seen) >= 2


def test_two_recorders_of_one_lightning_training_are_told_apart(tmp_path):
    first, second = callback(tmp_path / "a.zarr", layers=["net.0"]), callback(tmp_path / "b.zarr", when=every(2))
    trainer = lightning_trainer(tmp_path, [first, second], max_epochs=1)
    trainer.fit(lightning_module(), data())
    assert list(store.open_run(tmp_path / "a.zarr")) == ["net.0"]
    assert store.open_run(tmp_path / "b.zarr").steps.values.tolist() == [0, 2, 4]


def test_a_callback_serves_a_second_training_from_its_beginning(path, tmp_path):
    recording = callback(path, mode="overwrite")
    for _ in range(2):
        module = lightning_module()
        lightning_trainer(tmp_path, recording, max_epochs=1).fit(module, data())
        assert_rows(path, module.states)


def test_lightning_under_its_older_name_is_served_too(path):
    pytest.importorskip("pytorch_lightning")
    code = f"""
import pytorch_lightning as pl, torch
from rmtnet.integrations.lightning import RecorderCallback
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        return self.net(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     accelerator="cpu", callbacks=[RecorderCallback({str(path)!r})])
trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert store.open_run(path).steps.values.tolist() == [0, 1, 2]


DISTRIBUTED = """
import sys, torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from rmtnet.integrations.lightning import RecorderCallback

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.states = torch.nn.Linear(4, 3), []
    def keep(self):
        self.states.append(self.net.weight.detach().clone())
    def on_train_start(self):
        self.keep()
    def training_step(self, batch, index):
        return (self.net(batch) - batch[:, :3].flip(1)).square().mean()
    def on_train_batch_end(self, *_):
        self.keep()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

if __name__ == "__main__":
    seed_everything(0)
    module, data = Module(), torch.randn(32, 4)
    trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      accelerator="cpu", devices=2, strategy="ddp", callbacks=[RecorderCallback("run.zarr")])
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    if trainer.is_global_zero:
        torch.save(torch.stack(module.states), "states.pt")
"""


@pytest.mark.slow
def test_two_processes_of_lightning_record_one_run(path, tmp_path):
    lightning()
    (tmp_path / "script.py").write_text(DISTRIBUTED)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    # Gloo's threads sometimes abort a data-parallel process at its very end, with no recorder too (torch 2.13).
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr
    states = torch.load(tmp_path / "states.pt", weights_only=True)
    assert len(states) == 9
    assert store.open_run(path)["net"].values[:, 0].tobytes() == states.numpy().tobytes()


# --- Hugging Face


class Regression(nn.Module):
    """A model as the Trainer wants it: it gives its loss."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, inputs, labels):
        return {"loss": (self.net(inputs) - labels).square().mean()}


def examples(rows=32):
    torch.manual_seed(1)
    return [{"inputs": x, "labels": x[:1] * x[1:2]} for x in torch.randn(rows, 4)]


def witness(states):
    """A callback that copies the state after each step; the Trainer's own way."""
    from transformers import TrainerCallback

    class Witness(TrainerCallback):
        def on_train_begin(self, args, state_, control, model, **_):
            states.append(state(model))

        def on_optimizer_step(self, args, state_, control, model, **_):
            states.append(state(model))

    return Witness()


def huggingface_trainer(folder, path, states=None, model=None, before=(), mode="x", when=None, **options):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'rmtnet[huggingface]'")
    from rmtnet.integrations.huggingface import RecorderCallback

    usual = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 0.05, "logging_steps": 2}
    usual |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3}
    arguments = transformers.TrainingArguments(str(folder), **(usual | options))
    recording = RecorderCallback(path, mode=mode, when=when or every(1))
    callbacks = [*before, recording, witness([] if states is None else states)]
    trainer = transformers.Trainer(model or Regression(), arguments, None, examples(), examples(), callbacks=callbacks)
    return trainer, recording


def test_a_hugging_face_training_is_recorded_with_what_it_logs(path, tmp_path):
    states = []
    trainer, _ = huggingface_trainer(tmp_path, path, states, eval_strategy="epoch")
    trainer.train()
    assert len(states) == 9
    metrics = assert_rows(path, states).metrics
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "loss" in entry}
    assert list(logged) == [2, 4, 6, 8]
    for name in ("loss", "grad_norm", "learning_rate", "epoch"):
        values = metrics[name].sel(step=list(logged)).values
        assert_array_equal(values, [entry[name] for entry in logged.values()], err_msg=name)
    assert np.isfinite(metrics["eval_loss"].values).sum() == 2
    trainer.evaluate()


@pytest.mark.parametrize("accumulate, due", [(1, [0, 4, 8, 12]), (3, [0, 2, 4, 6])])
def test_a_hugging_face_training_knows_its_epoch(path, tmp_path, accumulate, due):
    options = {"gradient_accumulation_steps": accumulate, "num_train_epochs": 3}
    trainer, _ = huggingface_trainer(tmp_path, path, when=each_epoch(), **options)
    trainer.train()
    assert store.open_run(path).steps.values.tolist() == due


def test_the_epoch_that_a_schedule_sees_is_the_trainers_after_the_step(path, tmp_path):
    from transformers import TrainerCallback

    seen, known = [], []

    class Watching(TrainerCallback):
        def on_optimizer_step(self, args, state_, control, **_):
            seen.append(recording.recorder.epoch)

        def on_step_end(self, args, state_, control, **_):
            known.append(state_.epoch)

    options = {"gradient_accumulation_steps": 3, "num_train_epochs": 3}
    trainer, recording = huggingface_trainer(tmp_path, path, before=[Watching()], **options)
    trainer.train()
    assert known == [0.75, 1, 1.75, 2, 2.75, 3]
    assert seen == pytest.approx(known)


def test_a_hugging_face_training_goes_on_from_its_checkpoint(path, tmp_path):
    whole, first, second = [], [], []
    options = {"save_strategy": "steps", "save_steps": 3}
    huggingface_trainer(tmp_path / "whole", tmp_path / "whole.zarr", whole)[0].train()
    huggingface_trainer(tmp_path / "parts", path, first, **options)[0].train()
    trainer, _ = huggingface_trainer(tmp_path / "parts", path, second, mode="resume", **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    assert len(second) == 6
    assert_rows(path, whole)
    assert store.open_run(tmp_path / "run.superseded-1.zarr").steps.values.tolist() == [4, 5, 6, 7, 8]


def test_the_step_of_a_checkpoint_is_the_recorders_where_the_trainer_counts_skipped_ones(path, tmp_path):
    from transformers import TrainerCallback

    class Skipping(TrainerCallback):
        """Skips the second step, as a gradient scaler does: the optimizer is not called."""

        def on_pre_optimizer_step(self, args, state_, control, optimizer, **_):
            if state_.global_step == 1:
                optimizer.optimizer.step = lambda closure=None: None
            else:
                vars(optimizer.optimizer).pop("step", None)

    options = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    huggingface_trainer(tmp_path, path, before=[Skipping()], **options)[0].train()
    assert store.open_run(path).steps.values.tolist() == list(range(8))
    trainer, _ = huggingface_trainer(tmp_path, path, mode="resume", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert store.open_run(path).steps.values.tolist() == list(range(8))
    assert store.open_run(tmp_path / "run.superseded-1.zarr").steps.values.tolist() == [3, 4, 5, 6, 7]


def test_a_hugging_face_training_that_failed_can_be_closed_and_repeated(path, tmp_path):
    class Failing(Regression):
        calls = 0

        def forward(self, inputs, labels):
            self.calls += 1
            if self.calls == 4:
                raise RuntimeError("out of memory")
            return super().forward(inputs, labels)

    trainer, recording = huggingface_trainer(tmp_path, path, model=Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    recording.close()
    assert store.open_run(path).steps.values.tolist() == [0, 1, 2, 3]
    huggingface_trainer(tmp_path, path, mode="overwrite")[0].train()
    assert store.open_run(path).steps.values.tolist() == list(range(9))


# --- Accelerate


@pytest.mark.parametrize("attach_to", [lambda optimizer: optimizer, lambda optimizer: optimizer.optimizer])
def test_a_loop_with_accelerate_counts_the_inner_optimizers_steps(path, attach_to):
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate: pip install 'rmtnet[huggingface]'")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, data())
    states = [state(model)]
    with Recorder(model, path).attach(attach_to(optimizer)):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward((model(inputs) - targets).square().mean())
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                states.append(state(model))
    assert len(states) == 3
    assert_rows(path, states)


# --- schedules


def test_a_schedule_of_the_loss_sees_what_was_logged(path):
    model, inputs = small(), torch.randn(20, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    low = every(1) & (lambda moment: moment.metrics.get("loss", 9.0) < 0.5)
    with Recorder(model, path, when=low).attach(optimizer) as recorder:
        for k in range(8):
            model(inputs).square().mean().backward()
            optimizer.step()
            recorder.log(loss=1 - k / 8)
    # Step 7 is asked about while the last loss is that of step 6, 1 - 5/8.
    assert store.open_run(path).steps.values.tolist() == [7, 8]


def test_a_schedule_belongs_to_its_run_and_goes_on_with_it(path, tmp_path):
    model, inputs = small(), torch.randn(20, 4)
    when = each_epoch()

    def train(recorder, epochs):
        for epoch in epochs:
            recorder.epoch = epoch
            model(inputs).square().mean().backward()
            optimizer.step()

    for name in ("run", "other"):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Recorder(model, tmp_path / f"{name}.zarr", when=when).attach(optimizer) as recorder:
            train(recorder, [0.5, 1.0, 1.5])
        assert store.open_run(tmp_path / f"{name}.zarr").steps.values.tolist() == [0, 2]
    assert when.state() is None, "the recorder asks a copy"
    recorder = Recorder(model, path, when=when, mode="resume")
    recorder.epoch = 1.5
    with recorder.attach(optimizer, step=3):
        train(recorder, [1.75, 2.0])
    assert store.open_run(path).steps.values.tolist() == [0, 2, 5]


def test_a_schedule_of_wall_time_is_given_the_time(path, monkeypatch):
    import time

    model, inputs, now = small(), torch.randn(20, 4), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(model, path, when=each_seconds(10)).attach(optimizer):
        for _ in range(6):
            now[0] += 4
            model(inputs).square().mean().backward()
            optimizer.step()
    assert store.open_run(path).steps.values.tolist() == [0, 3, 6]
