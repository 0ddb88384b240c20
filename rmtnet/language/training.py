"""Training a declared language model, recorded, and going on where it stopped."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rmtnet import checkpoints
from rmtnet.datasets.text import Text, load_text
from rmtnet.language.cost import multiplications, sparsity
from rmtnet.language.optimizer import NTASGD
from rmtnet.language.study import LanguageStudy
from rmtnet.language.text import columns, perplexity, perplexity_of, windows
from rmtnet.layers.gating import set_sparsity
from rmtnet.networks.language import Output, State
from rmtnet.record import Recorder
from rmtnet.schedules import at
from rmtnet.store import open_run

_CHECKPOINT_SECONDS = 60.0
_COMMIT_SECONDS = 10.0


class LanguageTraining:
    """A language model, its optimizer, its pruner and its text at one window of a study.

    Attributes
    ----------
    epoch : epochs done
    step : optimizer steps done
    """

    _windows: list[tuple[int, int]]
    _window: int
    _loss: float
    _state: State | None

    def __init__(self, study: LanguageStudy):
        self.study = study
        text = _text(study)
        self.train, self.valid, self.test = (
            columns(words, batch).to(study.device)
            for words, batch in (
                (text.train, study.batch), (text.valid, study.valid_batch), (text.test, study.test_batch),
            )
        )  # fmt: skip
        torch.manual_seed(study.seed)
        self.model: nn.Module = study.network(len(text.vocabulary)).to(study.device)
        make = study.optimizer or functools.partial(NTASGD, nonmono=study.nonmono)
        self.optimizer = make(self.model.parameters(), lr=study.rate, weight_decay=study.weight_decay)
        self.pruner = study.pruning(self.model, self.optimizer) if study.pruning else None
        self.step = self.epoch = 0
        self._best: dict[str, Any] | None = None
        self._begin_epoch()

    @property
    def done(self) -> float:
        """Epochs done, with the share of the present one."""
        return self.epoch + self._window / len(self._windows)

    def advance(self) -> float:
        """Train on one window; returns its cross-entropy."""
        start, size = self._windows[self._window]
        self.model.train()
        self.optimizer.zero_grad()
        output = self.model(self.train[start : start + size], self._state)
        following = self.train[start + 1 : start + 1 + size]
        loss = functional.cross_entropy(output.scores.flatten(0, 1), following.flatten())
        (loss + self._penalties(output)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.study.clip)
        factor = self.study.decay(self.epoch) if self.study.decay else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.study.rate * factor * size / self.study.bptt
        self.optimizer.step()
        self._state = _each(torch.Tensor.detach, output.state)
        self.step, self._window = self.step + 1, self._window + 1
        told = loss.item()
        self._loss += told * size
        return told

    def end_epoch(self) -> dict[str, float]:
        """What is told of the epoch whose last window was trained on, and the next one begins."""
        self.epoch += 1
        found = {"epoch": float(self.epoch), "train_perplexity": perplexity_of(self._loss / (len(self.train) - 1))}
        if self.pruner:
            self.pruner.step(self.epoch)
        if self.study.sparsity:
            set_sparsity(self.model, self.study.sparsity(self.epoch))
        found |= {"sparsity": sparsity(self.model), "multiplications": float(multiplications(self.model))}
        with self._averaged():
            found |= self._perplexities()
        if isinstance(self.optimizer, NTASGD):
            self.optimizer.judge(math.log(found["valid_perplexity"]))
        self._begin_epoch()
        return found

    def _averaged(self) -> AbstractContextManager[None]:
        """While the weights are their means, if there are any."""
        return self.optimizer.mean_weights() if isinstance(self.optimizer, NTASGD) else nullcontext()

    def _perplexities(self) -> dict[str, float]:
        """Of the validation text, and where it is due of the test text: at the end with the best weights."""
        study, last = self.study, self.epoch == self.study.epochs
        found = {"valid_perplexity": perplexity(self.model, self.valid, study.bptt)}
        if study.best_from is not None and self.epoch >= study.best_from:
            self._keep_best(found["valid_perplexity"])
        if last and self._best is not None:
            with self._best_weights():
                test = perplexity(self.model, self.test, study.bptt)
            return {**found, "test_perplexity": test, "best_epoch": float(self._best["epoch"])}
        if last or study.test(self.epoch):
            found["test_perplexity"] = perplexity(self.model, self.test, study.bptt)
        return found

    def _keep_best(self, valid: float) -> None:
        if self._best is None or valid < self._best["valid_perplexity"]:
            weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self._best = {"epoch": self.epoch, "valid_perplexity": valid, "model": weights}

    @contextmanager
    def _best_weights(self) -> Iterator[None]:
        assert self._best is not None
        before = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self._best["model"])
        try:
            yield
        finally:
            self.model.load_state_dict(before)

    @property
    def at_end_of_epoch(self) -> bool:
        return self._window == len(self._windows)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs to go on, of kinds that torch reads with ``weights_only``."""
        return {
            "study": self.study.to_json(),
            "step": self.step,
            "epoch": self.epoch,
            "window": self._window,
            "loss": self._loss,
            "hidden": self._state,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict() if self.pruner else {},
            "best": self._best,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave; a ValueError if it is of another model."""
        try:
            if self.pruner:
                self.pruner.load_state_dict(state["pruner"])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            cause = " ".join(str(error).split())
            what = f"the checkpoint of {self.study.name!r} does not fit its model ({cause})"
            raise ValueError(f"{what}: choose another folder with -o") from error
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
        self.step, self.epoch, self._best = state["step"], state["epoch"], state.get("best")
        self._begin_epoch()
        self._window, self._loss = state["window"], state["loss"]
        if state["hidden"] is not None:
            self._state = _each(lambda part: part.to(self.study.device), state["hidden"])

    def _begin_epoch(self) -> None:
        if self.study.sparsity:
            set_sparsity(self.model, self.study.sparsity(self.epoch))
        rng = np.random.default_rng([self.study.seed, self.epoch]) if self.study.vary else None
        self._windows = list(windows(len(self.train), self.study.bptt, rng))
        self._window, self._loss, self._state = 0, 0.0, None

    def _penalties(self, output: Output) -> torch.Tensor:
        """AR, TAR and the pruner's."""
        study = self.study
        total: torch.Tensor = study.activation_penalty * output.dropped.pow(2).mean()
        if len(output.raw) > 1:
            total = total + study.slowness_penalty * output.raw.diff(dim=0).pow(2).mean()
        return total + self.pruner.penalty() if self.pruner else total


def _each(change: Callable[[torch.Tensor], torch.Tensor], state: State) -> State:
    """A state with each of its tensors changed, in plain tuples: what torch reads with ``weights_only``."""
    return change(state) if isinstance(state, torch.Tensor) else tuple(_each(change, part) for part in state)


# The runs of a grid share their text.
_load = functools.lru_cache(maxsize=1)(load_text)


def _text(study: LanguageStudy) -> Text:
    if isinstance(study.corpus, str):
        return _load(study.corpus)
    text = study.corpus()
    if not isinstance(text, Text):
        raise TypeError(f"the corpus function of study {study.name!r} must give a Text, got {type(text).__name__}")
    return text


def steps_done(study: LanguageStudy, folder: Path) -> int:
    """Epochs of ``study`` that need no repeating: those of its checkpoint, or all if the store has the last one.

    Raises
    ------
    ValueError
        If the folder holds a run of that name of another study.
    """
    state = checkpoints.load(study, folder)
    if state is not None:
        return min(int(state["epoch"]), study.epochs)
    path = checkpoints.store_path(study, folder)
    if not path.exists():
        return 0
    run = open_run(path)
    checkpoints.check_same_study(study, str(run.attrs.get("study", "{}")), path)
    done = "epoch" in run.metrics and bool((run.metrics["epoch"] >= study.epochs).any())
    return study.epochs if done else 0


def run(study: LanguageStudy, folder: Path, *, progress: Callable[[float, float], None] | None = None) -> Path:
    """Train ``study`` to its end, from its checkpoint if there is one, and return the path of its store.

    Parameters
    ----------
    folder : where ``<name>.zarr`` and ``<name>.checkpoint.pt`` are
    progress : called after every window with the epochs done, a fraction within one, and the loss

    Raises
    ------
    ValueError, OSError
        If the text cannot be had, the folder cannot be written, or it holds a run of another study.
    FloatingPointError
        If the loss stops being a finite number.
    """
    path = checkpoints.store_path(study, folder)
    if steps_done(study, folder) >= study.epochs:
        return path
    state = checkpoints.load(study, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        training = LanguageTraining(study)
        if state is not None:
            training.restore(state)
        recorder = Recorder(
            training.model,
            path,
            layers=study.layers,
            when=at(),
            what=study.what,
            mode="resume" if path.exists() else "x",
            attributes={"study": study.to_json(), "seed": study.seed},
            commit_seconds=_COMMIT_SECONDS,
        )
        with recorder.attach(training.optimizer, step=training.step):
            _train(training, recorder, checkpoints.checkpoint_path(study, folder), progress)
    return path


def _train(
    training: LanguageTraining,
    recorder: Recorder,
    checkpoint: Path,
    progress: Callable[[float, float], None] | None,
) -> None:
    study, saved = training.study, time.monotonic()
    if training.step == 0 and study.record(0):
        recorder.observe()
    while training.epoch < study.epochs:
        loss = training.advance()
        if not math.isfinite(loss):
            raise FloatingPointError(f"{recorder.path}: the loss is {loss} at step {training.step}: lower the rate")
        recorder.log(loss=loss)
        if training.at_end_of_epoch:
            recorder.log(**training.end_epoch())
            if study.record(training.epoch) or training.epoch == study.epochs:
                recorder.observe()
        if training.epoch == study.epochs or time.monotonic() - saved > _CHECKPOINT_SECONDS:
            recorder.flush()
            checkpoints.save(training.state(), checkpoint)
            saved = time.monotonic()
        if progress:
            progress(training.done, loss)
