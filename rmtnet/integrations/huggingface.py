"""Record what a Hugging Face Trainer trains.

>>> from rmtnet.integrations.huggingface import RecorderCallback
>>> trainer = Trainer(model, arguments, train_dataset=dataset, callbacks=[RecorderCallback("runs/tiny.zarr")])
"""

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rmtnet.record import Recorder

_STATE = "rmtnet"


class RecorderCallback(TrainerCallback):
    """A :class:`~rmtnet.record.Recorder` from the start of the training to its end.

    It counts the optimizer's steps, takes the numbers that the Trainer logs, knows the epoch, and commits before each
    checkpoint.  A training that goes on from a checkpoint goes on with its run at the step of that checkpoint, with
    ``mode="resume"``.  The Trainer does not tell its callbacks of an exception: to train on in the same process after
    one, call :meth:`close`.

    Parameters
    ----------
    path : the run's folder
    options : those of the Recorder: layers, when, what, mode, attributes, ...
    """

    def __init__(self, path: str | Path, **options: Any):
        self.path = path
        self.options = options
        self.recorder: Recorder | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()
        self.recorder = Recorder(kwargs["model"], self.path, **self.options)
        self.recorder.epoch = state.epoch
        self.recorder.attach(kwargs["optimizer"], step=_step(state))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.recorder:
            self.recorder.epoch = _epoch_after(args, state, kwargs["train_dataloader"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._before_saving(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._before_saving(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.recorder:
            self.recorder.log(**{name: x for name, x in kwargs["logs"].items() if isinstance(x, int | float)})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the run, if it is open."""
        if self.recorder:
            self.recorder.close()
            self.recorder = None

    def _before_saving(self, state: TrainerState, control: TrainerControl) -> None:
        if self.recorder and control.should_save:
            self.recorder.flush()
            states: Any = state.stateful_callbacks
            states[_STATE] = {"attributes": {"step": self.recorder.step}}


def _step(state: TrainerState) -> int:
    """Steps done, from a checkpoint its own count: the Trainer also counts those that a gradient scaler skipped."""
    states: Any = state.stateful_callbacks
    step: int = states.get(_STATE, {}).get("attributes", {}).get("step", state.global_step)
    return step


def _epoch_after(args: TrainingArguments, state: TrainerState, batches: Any) -> float:
    """The epoch when the step that begins is done; the last one of an epoch may have fewer batches."""
    epoch = state.epoch or 0.0
    try:
        step = args.gradient_accumulation_steps / len(batches)
    except TypeError:  # an iterable dataset: the Trainer takes all steps for one epoch
        step = 1 / args.max_steps
    return min(epoch + step, math.floor(epoch + 1e-6) + 1)
