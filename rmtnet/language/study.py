"""Declaring how a language model is trained, and what is recorded."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from rmtnet.datasets.text import Text
from rmtnet.fingerprint import text
from rmtnet.pruning import Recipe
from rmtnet.schedules import Schedule, every


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageStudy:
    """One training run of a language model.  A study file sets ``study`` to one of these, or to a list of them.

    The defaults are those of AWD-LSTM on WikiText-2 (its reference implementation).

    Raises
    ------
    ValueError, TypeError
        If a field is out of its range or of the wrong kind.

    Examples
    --------
    >>> study = LanguageStudy(name="baseline", network=AWDLSTM, corpus="wikitext-2", epochs=100)
    """

    unit: ClassVar[str] = "epoch"
    """What ``iterations`` counts."""

    name: str
    """The run is recorded in ``<name>.zarr``."""
    network: Callable[[int], nn.Module]
    """Builds the model for a number of words; torch is seeded before."""
    corpus: str | Callable[[], Text]
    """A name that :func:`rmtnet.datasets.text.load_text` knows, or a function that gives the text."""
    epochs: int
    batch: int = 80
    """Columns that the training text is cut into."""
    bptt: int = 70
    """Mean length of the windows that gradients go back through."""
    rate: float = 30.0
    """Of a window of mean length; that of others is in proportion to their length."""
    optimizer: Callable[..., Optimizer] | None = None
    """Called with the weights, ``lr`` and ``weight_decay``, as :class:`torch.optim.Adam` is; None is NT-ASGD."""
    decay: Callable[[int], float] | None = None
    """Epochs done -> what the rate is multiplied with; None is 1."""
    vary: bool = True
    """Whether windows are of random length, as AWD-LSTM's are."""
    weight_decay: float = 1.2e-6
    clip: float = 0.25
    """Gradients are scaled down to this norm."""
    nonmono: int = 5
    """The weights are averaged once the validation loss has not improved for so many epochs (NT-ASGD)."""
    activation_penalty: float = 2.0
    """AR: times the mean square of the last layer's outputs after dropout."""
    slowness_penalty: float = 1.0
    """TAR: times the mean square of the change of the last layer's outputs from word to word."""
    pruning: Recipe | None = None
    """A recipe of :mod:`rmtnet.pruning`; its steps are epochs."""
    sparsity: Callable[[int], float] | None = None
    """Epochs done -> share of gates that are closed in dynamic layers, such as a ramp of :mod:`rmtnet.pruning`."""
    best_from: int | None = None
    """The last test is of the weights that tell the validation text best after this epoch or a later one.

    None: of the last weights.  Where sparsity rises, the epoch from which on it does not.
    """
    valid_batch: int = 10
    test_batch: int = 1
    seed: int = 0
    layers: Sequence[str] | None = None
    """Names or globs of the layers to record; None is all."""
    record: Schedule = every(10)
    """After which epochs they are recorded (also after the last)."""
    what: Sequence[str] = ("weights",)
    """What is recorded of them, as :class:`rmtnet.record.Recorder` has it."""
    test: Schedule = every(10)
    """After which epochs the perplexity of the test text is logged (also after the last)."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name must be a plain file name, got {self.name!r}")
        least = {"epochs": 1, "batch": 1, "bptt": 5, "nonmono": 1, "valid_batch": 1, "test_batch": 1, "seed": 0}
        for field, smallest in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                raise ValueError(f"{field} must be a whole number of at least {smallest}, got {value!r}")
        if self.best_from is not None and not 1 <= self.best_from <= self.epochs:
            raise ValueError(f"best_from must be an epoch from 1 to {self.epochs}, got {self.best_from!r}")
        for field in ("rate", "clip"):
            _check_number(field, getattr(self, field), "positive", lambda value: value > 0)
        for field in ("weight_decay", "activation_penalty", "slowness_penalty"):
            _check_number(field, getattr(self, field), "0 or more", lambda value: value >= 0)
        self._check_kinds()

    def _check_kinds(self) -> None:
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a name such as 'cpu' or 'cuda', got {self.device!r}")
        if not (isinstance(self.corpus, str) or callable(self.corpus)):
            raise TypeError(f"corpus must be a name or a function that gives Text, got {self.corpus!r}")
        for field in ("network", "record", "test", "optimizer", "decay", "sparsity"):
            if getattr(self, field) is None and field in ("optimizer", "decay", "sparsity"):
                continue
            if not callable(getattr(self, field)):
                raise TypeError(f"{field} must be callable, got {getattr(self, field)!r}")
        if self.pruning is not None and not callable(self.pruning):
            raise TypeError(f"pruning must be a recipe of rmtnet.pruning or None, got {self.pruning!r}")

    @property
    def iterations(self) -> int:
        """The length of the run, as :class:`rmtnet.study.Study` has it: epochs."""
        return self.epochs

    @functools.cached_property
    def described(self) -> dict[str, str]:
        """Every field as text, to keep with the run and to compare with on resume; taken once, as it was declared."""
        return {field.name: text(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        return json.dumps(self.described)


def _check_number(field: str, value: Any, kind: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value) or value == float("inf"):
        raise ValueError(f"{field} must be a number, {kind}, got {value!r}")
