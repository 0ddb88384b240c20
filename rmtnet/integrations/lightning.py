"""Record what a Lightning Trainer trains.

>>> from rmtnet.integrations.lightning import RecorderCallback
>>> trainer = Trainer(callbacks=[RecorderCallback("runs/b10.zarr", when=every(10))])
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtnet.record import Recorder

# Lightning comes under two names, whose classes do not mix: the one that the training script uses.
if TYPE_CHECKING or "pytorch_lightning" not in sys.modules or "lightning.pytorch" in sys.modules:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    from pytorch_lightning import Callback, LightningModule, Trainer


class RecorderCallback(Callback):
    """A :class:`~rmtnet.record.Recorder` from the start of the training to its end, however it ends.

    It counts every step of every optimizer of the module, takes the metrics that the module logs, knows the epoch, and
    commits before each checkpoint.  A training that goes on from a checkpoint (``ckpt_path``) goes on with its run at
    the step of that checkpoint, with ``mode="resume"``.

    Parameters
    ----------
    path : the run's folder
    options : those of the Recorder: layers, when, what, mode, attributes, ...
    """

    def __init__(self, path: str | Path, **options: Any):
        self.path = path
        self.options = options
        self.recorder: Recorder | None = None
        self._step: int | None = None
        self._forwarded: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not on_fit_start, which comes before a checkpoint's optimizers and counters are back.
        goes_on = trainer.global_step > 0 and self._step is not None
        step = self._step if goes_on else trainer.global_step
        # Those of the validation that checks the code beforehand do not count.
        self._forwarded = dict(trainer.logged_metrics)
        self.recorder = Recorder(pl_module, self.path, **self.options)
        self.recorder.epoch = float(trainer.current_epoch)
        self.recorder.attach(trainer.optimizers, step=step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.recorder:
            # Of the step that this batch leads to; of endless data only the number of passes is known.
            self.recorder.epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._forward(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forward(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # What was logged at the end of the epoch before: the module's own hook runs after its callbacks'.
        self._forward(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forward(trainer)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.recorder:
            self.recorder.flush()

    @property
    def state_key(self) -> str:
        # A training may have several recorders.
        return f"{type(self).__qualname__}[{self.path}]"

    def state_dict(self) -> dict[str, Any]:
        # The recorder's own count: Lightning also counts the steps that a gradient scaler skipped.
        return {"step": self.recorder.step if self.recorder else self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]

    def _forward(self, trainer: Trainer) -> None:
        """Log what was logged since the last time; Lightning keeps a metric's last value for ever."""
        logged = dict(trainer.logged_metrics)
        new = {name: value for name, value in logged.items() if value is not self._forwarded.get(name)}
        if self.recorder and new:
            self.recorder.log(**new)
        self._forwarded = logged

    def _close(self) -> None:
        if self.recorder:
            self._step = self.recorder.step
            self.recorder.close()
            self.recorder = None
