"""What every way of pruning has in common."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rmtnet.pruning.units import Units

Value = float | Callable[[int], float]
"""A number, or a function of the step, such as a ramp."""


@dataclass(frozen=True)
class Removal:
    """What was removed from a layer at a step."""

    step: int
    layer: str
    count: int
    """Weights that were not 0."""
    l1: float
    """Sum of their magnitudes."""
    share: float
    """Of their squares in those of the whole weight: what the Frobenius norm lost."""


class Pruner:
    """Prunes a model while an optimizer trains it; made by calling a recipe with both.

    Add :meth:`penalty` to the loss, and call :meth:`step` after the optimizer's step.  What was removed is held at 0 by
    a hook of the optimizer, for as long as the pruner is attached to it.

    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, units: Sequence[Units] = ()):
        self.model, self._units = model, list(units)
        self._removals: list[Removal] = []
        self._step = 0
        self._hooks: list[Any] = []
        self.attach(optimizer)

    @property
    def units(self) -> list[Units]:
        """What can be removed, layer by layer."""
        return self._units

    @property
    def removals(self) -> list[Removal]:
        """What was removed, in its order."""
        return self._removals

    @property
    def layers(self) -> list[nn.Module]:
        """The layers that it prunes or has a penalty for."""
        return [units.module for units in self.units]

    @property
    def replaced(self) -> list[nn.Module]:
        """Those of them that it will replace."""
        return []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with another optimizer, as where ASGD takes over from SGD."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch optimizer, got {type(optimizer).__name__}")
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for units in self.units:
            weight = units.module.get_parameter("weight")
            if weight.requires_grad and id(weight) not in held:
                raise ValueError(f"the weight of {units.name} is in no group of the optimizer: is it another model's?")
        self.detach()
        self.optimizer = optimizer
        self._hooks = [optimizer.register_step_post_hook(self._enforce)]

    def detach(self) -> None:
        """Watch the optimizer no more: removed weights may grow again."""
        for hook in self._hooks:
            hook.remove()

    def penalty(self) -> torch.Tensor:
        """What is to be added to the loss now: 0-dim."""
        return self._nothing()

    def step(self, step: int) -> None:
        """Remove what is due when ``step`` optimizer steps are done."""
        self._step = step

    def statistics(self) -> dict[str, float]:
        """For each layer ``<name>.sparsity``, and ``<name>.alive``, a number of weights."""
        found: dict[str, float] = {}
        for units in self.units:
            size = units.module.get_parameter("weight").numel()
            alive = int(units.alive.sum()) * (size // units.alive.numel())
            found |= {f"{units.name}.sparsity": 1 - alive / size, f"{units.name}.alive": float(alive)}
        return found

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs; the masks are with the model."""
        removals = [
            [removal.step, removal.layer, removal.count, removal.l1, removal.share] for removal in self.removals
        ]
        return {"step": self._step, "removals": removals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state; then load those of the model and the optimizer."""
        self._step = state["step"]
        self._removals = [Removal(*values) for values in state["removals"]]

    def _nothing(self) -> torch.Tensor:
        return torch.zeros((), device=next(self.model.parameters()).device)

    def _enforce(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        for units in self.units:
            units.enforce(optimizer)

    def _remove(self, units: Units, dead: torch.Tensor) -> None:
        """Remove units for good, and note it."""
        dead = dead & units.alive
        if not bool(dead.any()):
            return
        before = units.module.get_parameter("weight").detach().clone()
        units.remove(dead)
        units.enforce(self.optimizer)  # in averages too
        self._note(units, before)

    def _note(self, units: Units, before: torch.Tensor) -> None:
        """Keep what was removed since a copy of the weight was taken."""
        after = units.module.get_parameter("weight").detach()
        lost, whole = (before - after).double(), float(before.double().square().sum())
        count = int(torch.count_nonzero(before) - torch.count_nonzero(after))
        share = float(lost.square().sum()) / whole if whole else 0.0
        self._removals.append(Removal(self._step, units.name, count, float(lost.abs().sum()), share))


Recipe = Callable[[nn.Module, torch.optim.Optimizer], Pruner]
"""How to prune: a frozen dataclass of numbers, called with a model and its optimizer."""


@dataclass(frozen=True)
class Combined:
    """Several recipes at once, such as a penalty and what removes the weights that it made small.

    Raises
    ------
    ValueError
        If a layer that :class:`BlockDiagonalPruning` will replace is another recipe's too.

    Examples
    --------
    >>> Combined((GroupLasso(1e-4), GradualPruning(linear(100, 900, final=0.8))))  # doctest: +SKIP
    """

    recipes: Sequence[Recipe]

    def __post_init__(self) -> None:
        if not self.recipes or not all(callable(recipe) for recipe in self.recipes):
            raise TypeError(f"recipes must be recipes of pruning, one at least, got {self.recipes!r}")

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Pruner:
        return _Several(model, optimizer, self.recipes)


class _Several(Pruner):
    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, recipes: Sequence[Recipe]):
        self.pruners = [recipe(model, optimizer) for recipe in recipes]
        for one, other in itertools.permutations(self.pruners, 2):
            if both := set(one.replaced) & set(other.layers):
                names = [name for name, module in model.named_modules() if module in both]
                raise ValueError(
                    f"{names[0]} is replaced by block layers: no other recipe can prune it, name its layers"
                )
        super().__init__(model, optimizer)

    @property
    def units(self) -> list[Units]:
        return [units for pruner in self.pruners for units in pruner.units]

    @property
    def removals(self) -> list[Removal]:
        found = [removal for pruner in self.pruners for removal in pruner.removals]
        return sorted(found, key=lambda removal: removal.step)

    @property
    def layers(self) -> list[nn.Module]:
        return [layer for pruner in self.pruners for layer in pruner.layers]

    @property
    def replaced(self) -> list[nn.Module]:
        return [layer for pruner in self.pruners for layer in pruner.replaced]

    def _enforce(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """The pruners do."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        super().attach(optimizer)
        for pruner in self.pruners:
            pruner.attach(optimizer)

    def detach(self) -> None:
        super().detach()
        for pruner in self.pruners:
            pruner.detach()

    def penalty(self) -> torch.Tensor:
        return torch.stack([pruner.penalty() for pruner in self.pruners]).sum()

    def step(self, step: int) -> None:
        for pruner in self.pruners:
            pruner.step(step)

    def statistics(self) -> dict[str, float]:
        return {name: value for pruner in self.pruners for name, value in pruner.statistics().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"pruners": [pruner.state_dict() for pruner in self.pruners]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for pruner, own in zip(self.pruners, state["pruners"], strict=True):
            pruner.load_state_dict(own)


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer has left out its step, for GradScaler found infinite gradients."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def value_at(value: Value, step: int) -> float:
    """The value at a step."""
    return float(value(step)) if callable(value) else value


def check_not_negative(name: str, value: Value) -> None:
    """A ValueError unless a number is at least 0 and finite; at all steps, of a ramp."""
    ends = (getattr(value, "initial", 0.0), getattr(value, "final", 0.0)) if callable(value) else (value,)
    for end in ends:
        if not isinstance(end, int | float) or not 0 <= end < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {end!r}")


def check_steps(**steps: int) -> None:
    """A ValueError unless they are whole numbers of at least 0."""
    for name, value in steps.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be a whole number of steps, at least 0, got {value!r}")
