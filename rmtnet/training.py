"""Training a declared study, recorded, and going on where it stopped."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmtnet import checkpoints, datasets
from rmtnet.pruning import Pruner
from rmtnet.record import Recorder
from rmtnet.schedules import at
from rmtnet.store import open_run
from rmtnet.study import Study

_CHECKPOINT_SECONDS = 15.0
_COMMIT_SECONDS = 10.0
_TEST_BATCH = 1000
_STEPS_UNSEEN = 50
"""Steps between two looks at the loss on a GPU: each look waits for all that the GPU has queued."""


class DataOrder:
    """Which samples make the batch of a step: endless epochs, each a permutation of its own, without gaps.

    It depends on nothing but its arguments, so a resumed training sees the order it would have seen.

    Parameters
    ----------
    size : number of samples
    batch : samples a step
    seed : of the permutations
    """

    def __init__(self, size: int, batch: int, seed: int):
        self.size, self.batch, self.seed = size, batch, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._drawn)

    def __call__(self, step: int) -> NDArray[np.int64]:
        """(batch,) indices of step ``step``, the first being 0."""
        epochs, positions = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), self.size)
        order = np.empty(self.batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            order[epochs == epoch] = self._permutation(int(epoch))[positions[epochs == epoch]]
        return order

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)


class Training:
    """A network, its optimizer and its data at one step of a study."""

    def __init__(self, study: Study):
        self.study = study
        _check_device(study.device)
        images = _images(study)
        as_tensors = functools.partial(map, lambda array: torch.from_numpy(array).to(study.device))
        self.images, self.labels = as_tensors((images.train_images, images.train_labels))
        self.test_images, self.test_labels = as_tensors((images.test_images, images.test_labels))
        # In float64: float32 sums of 50,000 pixels go wrong in the fifth digit.
        mean = images.train_images.mean(0, dtype=np.float64) if study.centre else np.zeros(1)
        self.mean = torch.from_numpy(mean).to(study.device, torch.float32)
        self.order = DataOrder(len(self.labels), study.batch, study.seed)
        torch.manual_seed(study.seed)
        with _blamed_on(study, "network"):
            self.model = study.network().to(study.device)
        with _blamed_on(study, "network or loss, on a first batch,"), torch.no_grad():
            first = slice(study.batch)
            study.loss(self.model.eval()(self._pixels(self.images[first])), self.labels[first])
        with _blamed_on(study, "optimizer"):
            self.optimizer = study.optimizer(self.model)
        self.step = 0
        self.pruner: Pruner | None = None
        if study.pruning:
            with _blamed_on(study, "pruning"):
                self.pruner = study.pruning(self.model, self.optimizer)

    def advance(self) -> torch.Tensor:
        """Do one optimizer step; returns the loss of its batch, without what a pruner adds to it."""
        samples = torch.from_numpy(self.order(self.step)).to(self.study.device)
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.study.loss(self.model(self._pixels(self.images[samples])), self.labels[samples])
        (loss + self.pruner.penalty() if self.pruner else loss).backward()
        self.optimizer.step()
        self.step += 1
        if self.pruner:
            self.pruner.step(self.step)
        return loss.detach()

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the test images, on training images if asked for, and the pruner's statistics."""
        metrics = {"accuracy": self._accuracy(self.test_images, self.test_labels)}
        if asked := min(self.study.evaluate_train, len(self.labels)):
            # Evenly spread: some datasets are sorted by class.
            chosen = torch.arange(asked, device=self.labels.device) * len(self.labels) // asked
            metrics["train_accuracy"] = self._accuracy(self.images[chosen], self.labels[chosen])
        return metrics | (self.pruner.statistics() if self.pruner else {})

    @torch.no_grad()
    def _accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Fraction of images that are classified right."""
        self.model.eval()
        batches = zip(images.split(_TEST_BATCH), labels.split(_TEST_BATCH), strict=True)
        right = [(self.model(self._pixels(part)).argmax(1) == known).sum() for part, known in batches]
        return int(torch.stack(right).sum()) / len(labels)

    def shapes(self) -> list[torch.Size]:
        """Of all parameters: others, once a pruner has packed the model."""
        return [parameter.shape for parameter in self.model.parameters()]

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs to go on, of kinds that torch reads with ``weights_only``."""
        return {
            "study": self.study.to_json(),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": self.pruner.state_dict() if self.pruner else {},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave; a ValueError if it is of another network or optimizer."""
        try:
            if self.pruner:
                # First: it packs the model again, and changes the optimizer with it.
                self.pruner.load_state_dict(state["pruner"])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            what = f"the checkpoint of {self.study.name!r} does not fit its network or optimizer"
            cause = " ".join(str(error).split())
            raise ValueError(f"{what} ({cause}): choose another folder with -o") from error
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
        self.step = state["step"]

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() - self.mean) * self.study.pixel_scale


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


# The sisters of a grid share their images.
_load = functools.lru_cache(maxsize=1)(datasets.load)


def _images(study: Study) -> datasets.Images:
    if isinstance(study.dataset, str):
        return _load(study.dataset)
    with _blamed_on(study, "dataset function"):
        images = study.dataset()
        if not isinstance(images, datasets.Images):
            raise TypeError(f"it must give rmtnet.datasets.Images, got {type(images).__name__}")
    return images


@contextmanager
def _blamed_on(study: Study, what: str) -> Iterator[None]:
    """What the study's own code raises is told as the study's, not as a failure of ours."""
    try:
        yield
    except Exception as error:
        cause = " ".join(str(error).split())
        raise ValueError(f"the {what} of study {study.name!r} fails: {type(error).__name__}: {cause}") from error


def steps_done(study: Study, folder: Path) -> int:
    """Steps of ``study`` that need no repeating: those of its checkpoint, or all if the store has the last one.

    Raises
    ------
    ValueError
        If the folder holds a run of that name of another study.
    """
    return _steps_done(study, folder, checkpoints.load(study, folder))


def _steps_done(study: Study, folder: Path, state: dict[str, Any] | None) -> int:
    if state is not None:
        return min(int(state["step"]), study.iterations)
    path = checkpoints.store_path(study, folder)
    if not path.exists():
        return 0
    run = open_run(path)
    checkpoints.check_same_study(study, str(run.attrs.get("study", "{}")), path)
    logged = run.metrics["step"].values
    return study.iterations if len(logged) and logged[-1] >= study.iterations else 0


def run(study: Study, folder: Path, *, progress: Callable[[int, float], None] | None = None) -> Path:
    """Train ``study`` to its end, from its checkpoint if there is one, and return the path of its store.

    Parameters
    ----------
    folder : where ``<name>.zarr`` and ``<name>.checkpoint.pt`` are
    progress : called after every step with the steps done and the last loss that was looked at

    Raises
    ------
    ValueError, OSError
        If the data cannot be had, the folder cannot be written, or it holds a run of another study.
    FloatingPointError
        If the loss stops being a finite number.
    """
    path = checkpoints.store_path(study, folder)
    state = checkpoints.load(study, folder)
    if _steps_done(study, folder, state) >= study.iterations:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        training = Training(study)
        if state is not None:
            training.restore(state)
        recorder = Recorder(
            training.model,
            path,
            layers=study.layers,
            when=at(study.iterations) | study.record,
            what=study.what,
            mode="resume" if path.exists() else "x",
            attributes={"study": study.to_json(), "seed": study.seed},
            commit_seconds=_COMMIT_SECONDS,
        )
        with recorder.attach(training.optimizer, step=training.step):
            _train(training, recorder, checkpoints.checkpoint_path(study, folder), progress)
    return path


def _train(
    training: Training, recorder: Recorder, checkpoint: Path, progress: Callable[[int, float], None] | None
) -> None:
    study, saved = training.study, time.monotonic()
    unseen = 1 if training.labels.device.type == "cpu" else _STEPS_UNSEEN
    if training.step == 0 and study.evaluate(0):
        recorder.log(**training.evaluate())
    while training.step < study.iterations:
        shapes = training.shapes()
        loss = training.advance()
        if training.shapes() != shapes:
            # Packed: its new form begins here, for a training that goes on from here knows no other.
            recorder.observe()
        last = training.step == study.iterations
        if last or training.step % unseen == 0 or training.step == 1:
            seen = loss.item()
            if not np.isfinite(seen):
                raise FloatingPointError(f"{recorder.path}: the loss is {seen} at step {training.step}: lower the rate")
        recorder.log(loss=loss)
        if last or study.evaluate(training.step):
            recorder.log(**training.evaluate())
        if last or time.monotonic() - saved > _CHECKPOINT_SECONDS:
            recorder.flush()
            checkpoints.save(training.state(), checkpoint)
            saved = time.monotonic()
        if progress:
            progress(training.step, seen)
