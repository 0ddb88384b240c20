"""Penalty pruning: an L1 or L2 penalty draws weights to 0, and those under a threshold are removed for good."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rmtnet.pruning.exchange import check_optimizer, check_parameters
from rmtnet.pruning.gradual import check_kept, lowest
from rmtnet.pruning.packing import check_replaceable, pack
from rmtnet.pruning.penalties import diagonal_blocks
from rmtnet.pruning.permutation import check_consecutive, hidden_permutation, permute_hidden
from rmtnet.pruning.pruner import Pruner, Value, check_not_negative, check_steps, value_at, was_skipped
from rmtnet.pruning.region import Region
from rmtnet.pruning.units import (
    Masked,
    Units,
    assign,
    averages,
    check_not_wrapped,
    clear,
    plain_weight,
    prunable,
    select,
)


@dataclass(frozen=True, kw_only=True)
class PenaltyPruning:
    """Unstructured ("traditional") pruning by the penalty method.

    While more than ``begin`` and at most ``end`` optimizer steps are done the loss gains ``alpha`` times the L1 norm
    of the weights, or half their squared L2 norm, and after each step what has a magnitude of at most ``threshold`` is
    0 and stays so.  Then the layers train on.

    Raises
    ------
    ValueError
        If a number is out of its range, a name matches no layer, or a layer holds NaN.

    References
    ----------
    Paper A, section 4 ("traditional pruning"); Han et al., Learning both weights and connections (2015).
    """

    alpha: Value
    threshold: Value
    end: int
    begin: int = 0
    norm: int = 1
    layers: Sequence[str] | None = None
    """Names or globs of linear and convolutional layers; None is all, or those of ``kept``."""
    kept: Mapping[str, int] | None = None
    """Layer -> number of weights that are alive in the end: the largest ones, however large the others are."""
    measure: bool = False
    """Whether what each threshold removes is measured, as :class:`Removal`; it takes twice the time."""

    def __post_init__(self) -> None:
        _check(self.alpha, self.threshold)
        check_steps(begin=self.begin, end=self.end)
        if self.end <= self.begin:
            raise ValueError(f"pruning must end after it begins, got begin={self.begin}, end={self.end}")
        if self.norm not in (1, 2):
            raise ValueError(f"norm must be 1 or 2, got {self.norm!r}")

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Pruner:
        layers = select(model, self.kept if self.layers is None else self.layers, prunable("weights"))
        units = [Masked(name, module) for name, module in layers.items()]
        kept = assign(model, self.kept, prunable("weights")) if self.kept else {}
        for each in units:
            check_kept(each, kept.get(each.name))
        regions = {each.name: (each, Region(each.module, self.norm)) for each in units}
        return _Unstructured(model, optimizer, self, regions, range(self.begin, self.end), kept=kept)


@dataclass(frozen=True)
class BlockDiagonalPruning:
    """Iterative pruning of linear layers to block diagonal ones (IP-BDIP): dense, pruning, then block diagonal.

    For the ``dense`` first optimizer steps nothing happens.  For the next ``pruning`` ones the loss gains ``alpha``
    times the L1 norm of the weights off the blocks, and after each step those with a magnitude of at most ``threshold``
    are 0 and stay so.  Then all weights off the blocks are removed and the layers are replaced by
    :class:`rmtnet.layers.BlockDiagonalLinear`, in the optimizer too, which goes on with its state.

    Raises
    ------
    ValueError
        If a number is out of its range, a name matches no linear layer, blocks do not divide it, it holds NaN, or it
        cannot be packed (see :func:`pack`), the optimizer with it.

    References
    ----------
    Paper A, section 3 (method 2).

    Examples
    --------
    >>> from rmtnet.networks import LeNet5
    >>> model = LeNet5()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> pruner = BlockDiagonalPruning({"ip1": 100, "ip2": 10}, dense=0, pruning=1, alpha=1e-3, threshold=1e-3)(
    ...     model, optimizer
    ... )
    >>> pruner.step(1)
    >>> model.ip1.weight.shape
    torch.Size([100, 5, 8])
    """

    blocks: Mapping[str, int]
    """Name or glob of layers -> number of blocks."""
    dense: int
    pruning: int
    alpha: Value
    threshold: Value
    measure: bool = False
    """Whether what each threshold removes is measured, as :class:`Removal`; it takes twice the time."""
    reorder: Sequence[tuple[str, str]] = ()
    """Pairs of consecutive layers: the nodes between them are put in the order that is closest to the blocks of both,
    by :func:`hidden_permutation`, when the dense phase ends.  The network computes the same."""

    def __post_init__(self) -> None:
        _check(self.alpha, self.threshold)
        check_steps(dense=self.dense, pruning=self.pruning)
        if self.pruning < 1:
            raise ValueError("pruning must be at least 1 step, got 0: for no pruning phase begin with block layers")
        if self.reorder and not self.dense:
            raise ValueError("reorder needs a dense phase: the order of weights that have not been trained is chance")
        for name, blocks in self.blocks.items():
            if not isinstance(blocks, int) or blocks < 2:
                raise ValueError(f"blocks of {name} must be a whole number of at least 2, got {blocks!r}")

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Pruner:
        check_not_wrapped(model)
        blocks = assign(model, self.blocks, _is_linear)
        layers = select(model, self.blocks, _is_linear)
        for name, module in layers.items():
            check_replaceable(name, module)
            for side in ("in_features", "out_features"):
                if getattr(module, side) % blocks[name]:
                    raise ValueError(
                        f"{blocks[name]} blocks do not divide the {getattr(module, side)} {side} of {name}"
                    )
        for pair in self.reorder:
            if missing := [name for name in pair if name not in layers]:
                raise ValueError(f"reorder: {missing[0]} gets no blocks; pairs are of {', '.join(layers)}")
            check_consecutive(*(layers[name] for name in pair))
        check_parameters(model, [plain_weight(name, module) for name, module in layers.items()])
        regions = {name: (Masked(name, module), Region(module, blocks=blocks[name])) for name, module in layers.items()}
        phase = range(self.dense, self.dense + self.pruning)
        return _BlockDiagonal(model, optimizer, self, regions, phase, blocks=blocks)


class _Phase(Pruner):
    """A penalty and a threshold between two steps.

    Hooks of the optimizer add the gradient of the penalty to the weights' and apply the threshold: autograd and passes
    of their own over the weights would take several times as long.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: PenaltyPruning | BlockDiagonalPruning,
        regions: Mapping[str, tuple[Masked, Region]],
        phase: range,
    ):
        self._recipe, self._regions, self._phase = recipe, regions, phase
        super().__init__(model, optimizer, [units for units, _ in regions.values()])

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        super().attach(optimizer)
        self._hooks.append(optimizer.register_step_pre_hook(self._before_step))

    def penalty(self) -> torch.Tensor:
        if self._step not in self._phase:
            return self._nothing()
        values = [region.value() for _, region in self._regions.values()]
        return value_at(self._recipe.alpha, self._step) * torch.stack(values).sum()

    def step(self, step: int) -> None:
        before, self._step = self._step, step
        if before < self._phase.stop <= step:
            self._finish()
            self._regions = {}

    def _before_step(self, optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> Any:
        if self._step not in self._phase:
            return None
        own, *given = arguments
        closure = given[0] if given else named.get("closure")
        if closure is None:
            self._add_gradients(optimizer)
            return None

        def evaluated() -> Any:
            loss = closure()
            self._add_gradients(optimizer)
            return loss

        return ((own, evaluated, *given[1:]), named) if given else (arguments, {**named, "closure": evaluated})

    def _add_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        # A fused optimizer is given gradients that are still scaled, and their scale.
        scale = getattr(optimizer, "grad_scale", None)
        alpha = value_at(self._recipe.alpha, self._step) * (1.0 if scale is None else float(scale))
        for _, region in self._regions.values():
            region.add_gradient(alpha)

    def _enforce(self, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        if self._step < self._phase.start or was_skipped(optimizer):
            return
        if self._step not in self._phase:
            super()._enforce(optimizer)
            return
        threshold = value_at(self._recipe.threshold, self._step + 1)
        for units, region in self._regions.values():
            weight = units.module.get_parameter("weight")
            before = weight.detach().clone() if self._recipe.measure else None
            self._shrink(units, region, threshold)
            for average in averages(optimizer, weight):
                clear(average, units.module.get_buffer("weight_mask"))
            if before is not None:
                self._note(units, before)

    def _shrink(self, units: Masked, region: Region, threshold: float) -> None:
        region.shrink(threshold)

    def _finish(self) -> None:
        raise NotImplementedError


class _Unstructured(_Phase):
    def __init__(self, *arguments: Any, kept: Mapping[str, int]):
        super().__init__(*arguments)
        self._kept = kept

    def _shrink(self, units: Masked, region: Region, threshold: float) -> None:
        if units.name not in self._kept:
            region.shrink(threshold)
            return
        enough = region.count_above(threshold) >= self._kept[units.name]
        region.shrink(threshold if enough else 0.0)

    def _finish(self) -> None:
        for units in self.units:
            if units.name in self._kept:
                self._remove(units, lowest(units, units.alive.numel() - self._kept[units.name]))


class _BlockDiagonal(_Phase):
    _recipe: BlockDiagonalPruning

    def __init__(self, *arguments: Any, blocks: Mapping[str, int]):
        self.blocks, self.packed = blocks, False
        super().__init__(*arguments)

    @property
    def replaced(self) -> list[nn.Module]:
        return self.layers

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.packed:
            check_optimizer(optimizer)
        super().attach(optimizer)

    def step(self, step: int) -> None:
        if self._step < self._phase.start <= step:
            self._reorder()
        super().step(step)

    def _reorder(self) -> None:
        for pair in self._recipe.reorder:
            first, second = (self._regions[name][0].module for name in pair)
            weights = first.get_parameter("weight"), second.get_parameter("weight")
            order = hidden_permutation(*weights, (self.blocks[pair[0]], self.blocks[pair[1]]))
            permute_hidden(first, second, order, self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "packed": self.packed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.packed and not state["packed"]:
            raise ValueError("the state is of a model before it was packed: load it into a new model")
        if state["packed"] and not self.packed:
            for units in self.units:
                units.remove(self._off_blocks(units))
            self._pack()
        super().load_state_dict(state)

    def statistics(self) -> dict[str, float]:
        found = super().statistics()
        for name, blocks in self.blocks.items() if self.packed else ():
            alive = self.model.get_submodule(name).get_parameter("weight").numel()
            found |= {f"{name}.sparsity": 1 - 1 / blocks, f"{name}.alive": float(alive)}
        return found

    def _off_blocks(self, units: Units) -> torch.Tensor:
        found = torch.ones_like(units.alive)
        diagonal_blocks(found, self.blocks[units.name]).zero_()
        return found

    def _finish(self) -> None:
        for units in self.units:
            self._remove(units, self._off_blocks(units))
        self._pack()

    def _pack(self) -> None:
        pack(self.model, self.optimizer, self.blocks)
        self.packed, self._units = True, []
        self.detach()


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _check(alpha: Value, threshold: Value) -> None:
    check_not_negative("alpha", alpha)
    check_not_negative("threshold", threshold)
