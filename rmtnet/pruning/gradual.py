"""Pruning to a sparsity: the units of lowest norm, along a schedule; or units drawn at random, at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rmtnet.pruning.pruner import Pruner
from rmtnet.pruning.schedules import Ramp
from rmtnet.pruning.units import UNITS, Units, assign, prunable, select, units_of

SCOPES = ("layer", "model")


@dataclass(frozen=True)
class GradualPruning:
    """Remove the units of lowest L2 norm for good, as many as a schedule says.

    With ``unit="weights"`` and a cubic schedule this is automated gradual pruning (AGP); with "blocks" and a linear one
    the gradual block pruning of paper B; with "outputs" node pruning, of whole outputs with their biases.

    Raises
    ------
    ValueError
        If a number is out of its range, a name matches no layer, blocks do not divide a layer or nothing would be left.

    Examples
    --------
    >>> from rmtnet.pruning import cubic, linear
    >>> agp = GradualPruning(cubic(0, 1000, final=0.9, every=100))
    >>> nodes = GradualPruning(linear(100, 900, every=100), "outputs", kept={"ip1": 2})
    """

    sparsity: Ramp
    """Fraction removed at a step."""
    unit: str = "weights"
    """weights, outputs or blocks."""
    layers: Sequence[str] | None = None
    """Names or globs; None is all that have such units, or those of ``kept``."""
    kept: Mapping[str, int] | None = None
    """Layer -> number of units that are left in the end; the final sparsity follows from it."""
    block: tuple[int, int] | None = None
    """Rows and columns of the blocks of dense layers; block-sparse ones have their own."""
    scope: str = "layer"
    """Where the lowest are found: in each "layer", or in all of the "model", of which each layer keeps one at least."""

    def __post_init__(self) -> None:
        check_units(self.unit, self.block)
        if self.scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {self.scope!r}")
        if not isinstance(self.sparsity, Ramp):
            raise TypeError(f"sparsity must be a ramp, such as linear(0, 1000, final=0.8), got {self.sparsity!r}")
        check_sparsity(self.sparsity.initial)
        if self.kept is None:
            check_sparsity(self.sparsity.final)
            if self.sparsity.initial > self.sparsity.final:
                raise ValueError(f"sparsity cannot fall, from {self.sparsity.initial} to {self.sparsity.final}")
        elif self.scope == "model":
            raise ValueError("kept tells how many units each layer keeps: leave out scope='model'")

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Pruner:
        suitable = prunable(self.unit, self.block)
        layers = select(model, self.kept if self.layers is None else self.layers, suitable)
        units = [units_of(name, module, self.unit, self.block) for name, module in layers.items()]
        kept = assign(model, self.kept, suitable) if self.kept else {}
        for each in units:
            check_kept(each, kept.get(each.name))
            if self.scope == "layer":
                _check_ramp(each, self._ramp(each, kept))
        if self.scope == "model":
            return _GradualTogether(model, optimizer, units, self.sparsity)
        return _Gradual(model, optimizer, units, {each.name: self._ramp(each, kept) for each in units})

    def _ramp(self, units: Units, kept: Mapping[str, int]) -> Ramp:
        """That of one layer."""
        if units.name not in kept:
            return self.sparsity
        return dataclasses.replace(self.sparsity, final=1 - kept[units.name] / units.alive.numel())


@dataclass(frozen=True)
class RandomPruning:
    """Remove units that are drawn at random, before training begins ("pre-pruning").

    Parameters are those of :class:`GradualPruning`; ``seed`` draws the units.
    """

    sparsity: float
    unit: str = "blocks"
    layers: Sequence[str] | None = None
    block: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_units(self.unit, self.block)
        check_sparsity(self.sparsity)

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Pruner:
        layers = select(model, self.layers, prunable(self.unit, self.block))
        units = [units_of(name, module, self.unit, self.block) for name, module in layers.items()]
        for each in units:
            check_share(each, self.sparsity)
        return _Random(model, optimizer, self, units)


class _Gradual(Pruner):
    """Prunes each layer along its own ramp."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, units: Sequence[Units], ramps: Mapping[str, Ramp]
    ):
        super().__init__(model, optimizer, units)
        self._ramps = ramps
        self._sizes = {each.name: each.alive.numel() for each in units}
        self._removed = dict.fromkeys(self._sizes, 0)

    def step(self, step: int) -> None:
        self._step = step
        for units in self.units:
            ramp, size = self._ramps[units.name], self._sizes[units.name]
            due = round(ramp(step) * size)
            if step >= ramp.begin and due > self._removed[units.name]:
                packed = size - units.alive.numel()  # by pack_nodes
                self._remove(units, lowest(units, due - packed))
                self._removed[units.name] = due

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sizes": dict(self._sizes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sizes |= state.get("sizes", {})
        self._removed = dict.fromkeys(self._sizes, 0)  # the masks of the model that is loaded may be older


class _GradualTogether(Pruner):
    """Prunes all layers along one ramp."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, units: Sequence[Units], ramp: Ramp):
        super().__init__(model, optimizer, units)
        self._ramp, self._removed = ramp, 0
        self._size = sum(each.alive.numel() for each in units)
        if (left := self._size - round(ramp.final * self._size)) < len(units):
            raise ValueError(
                f"sparsity {ramp.final} leaves {left} of {self._size} units, and each of {len(units)} layers keeps one"
            )

    def step(self, step: int) -> None:
        self._step, due = step, round(self._ramp(step) * self._size)
        if step < self._ramp.begin or due <= self._removed:
            return
        scores = [_scores(units).reshape(-1) for units in self.units]
        for each in scores:
            each[each.argmax()] = torch.inf
        sizes = [each.numel() for each in scores]
        packed = self._size - sum(sizes)  # by pack_nodes
        dead = _lowest(torch.cat(scores), due - packed)
        for units, each in zip(self.units, dead.split(sizes), strict=True):
            self._remove(units, each.view(units.alive.shape))
        self._removed = due

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._size, self._removed = state.get("size", self._size), 0


class _Random(Pruner):
    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: RandomPruning, units: Sequence[Units]
    ):
        super().__init__(model, optimizer, units)
        generator = torch.Generator().manual_seed(recipe.seed)
        for each in units:
            alive = each.alive
            order = torch.randperm(alive.numel(), generator=generator).view(alive.shape).to(alive.device)
            self._remove(each, order < round(recipe.sparsity * alive.numel()))


def lowest(units: Units, count: int) -> torch.Tensor:
    """Which units are the ``count`` of lowest norm; those that are removed come first."""
    scores = _scores(units)
    return _lowest(scores.reshape(-1), count).view(scores.shape)


def _scores(units: Units) -> torch.Tensor:
    return units.norms().masked_fill(~units.alive, -1.0)


def _lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Bool, True for the ``count`` lowest; of equal ones the first."""
    if count < 1:
        return torch.zeros_like(scores, dtype=torch.bool)
    last = scores.float().kthvalue(count).values if scores.dtype.itemsize < 4 else scores.kthvalue(count).values
    equal, below = scores == last, scores < last
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))


def check_units(unit: str, block: tuple[int, int] | None) -> None:
    """A ValueError unless there are such units."""
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if block is not None and (unit != "blocks" or len(block) != 2 or min(block) < 1):
        raise ValueError(f"block must be (rows, columns) of a block, with unit='blocks', got {block!r}")


def check_sparsity(*shares: float) -> None:
    """A ValueError unless they are in [0, 1)."""
    for share in shares:
        if not 0 <= share < 1:
            raise ValueError(f"sparsity, the fraction removed, must lie in [0, 1), got {share!r}")


def check_share(units: Units, sparsity: float) -> None:
    """A ValueError if so large a sparsity leaves nothing of a layer."""
    size = units.alive.numel()
    if round(sparsity * size) >= size:
        raise ValueError(f"sparsity {sparsity} leaves nothing of {units.name}, which has {size} units")


def _check_ramp(units: Units, ramp: Ramp) -> None:
    """A ValueError if it leaves nothing of a layer, or goes down: what is removed stays so."""
    check_share(units, ramp.final)
    size = units.alive.numel()
    first, last = round(ramp.initial * size), round(ramp.final * size)
    if first > last:
        raise ValueError(f"sparsity cannot fall: {first} units of {units.name} are removed first, {last} in the end")


def check_kept(units: Units, kept: int | None) -> None:
    """A ValueError unless a layer has so many units."""
    size = units.alive.numel()
    if kept is not None and not (isinstance(kept, int) and 1 <= kept <= size):
        raise ValueError(f"kept of {units.name} must be a whole number from 1 to its {size} units, got {kept!r}")
