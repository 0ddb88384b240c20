"""Group lasso: the sum of the L2 norms of blocks, which draws whole blocks to 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rmtnet.pruning.gradual import check_units
from rmtnet.pruning.penalties import block_norms, cells
from rmtnet.pruning.pruner import Pruner, check_not_negative, was_skipped
from rmtnet.pruning.units import check_divides, plain_weight, prunable, select


@dataclass(frozen=True)
class GroupLasso:
    """Add ``alpha sum_i ||W_i||_2``, over the blocks of all layers, to the loss.

    With a ``limit`` k it is the constrained form, ``alpha max(sum_i ||W_i||_2 - k, 0)``.

    It removes nothing: combine it with what does, as in ``Combined((GroupLasso(1e-4), GradualPruning(...)))``.

    Raises
    ------
    ValueError
        If a number is out of its range, a name matches no layer, blocks do not divide a layer, or it holds NaN.

    References
    ----------
    Paper B (group lasso and its constrained form); Parikh and Boyd, Proximal algorithms (2014), section 6.5.4.
    """

    alpha: float
    layers: Sequence[str] | None = None
    """Names or globs; None is all that have blocks."""
    block: tuple[int, int] | None = None
    """Rows and columns of the blocks of dense layers; block-sparse ones have their own."""
    limit: float | None = None
    """Of the constrained form, k: below it there is no penalty."""
    proximal: bool = False
    """Shrink the norm of each block after the optimizer's step, by the rate times ``alpha``, instead of having a
    gradient: blocks become 0 exactly.  A hook of the optimizer does it."""

    def __post_init__(self) -> None:
        check_not_negative("alpha", self.alpha)
        if self.limit is not None:
            check_not_negative("limit", self.limit)
        check_units("blocks", self.block)

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Pruner:
        layers = select(model, self.layers, prunable("blocks", self.block))
        for name, module in layers.items():
            weight = plain_weight(name, module)
            if weight.ndim == 2 and self.block is not None:
                check_divides(name, weight, self.block)
            elif weight.ndim == 2:
                raise ValueError(f"{name} is no block-sparse layer: give the size of its blocks, as in block=(32, 32)")
        return _Lasso(model, optimizer, self, layers)


class _Lasso(Pruner):
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: GroupLasso,
        layers: Mapping[str, nn.Module],
    ):
        self._recipe, self._layers, self._due = recipe, layers, False
        super().__init__(model, optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        super().attach(optimizer)
        self._hooks.append(optimizer.register_step_pre_hook(self._before_step))

    def _before_step(self, *_: object) -> None:
        # torch calls hooks twice where a class's step calls its parent's: the weights are shrunk once.
        self._due = self._recipe.proximal

    def penalty(self) -> torch.Tensor:
        total = torch.stack([self._norms(module).sum() for module in self._layers.values()]).sum()
        if self._recipe.limit is not None:
            total = torch.relu(total - self._recipe.limit)
        value = self._recipe.alpha * total
        return value.detach() if self._recipe.proximal else value

    @property
    def layers(self) -> list[nn.Module]:
        return list(self._layers.values())

    @torch.no_grad()
    def _enforce(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        due, self._due = self._due, False
        if not due or was_skipped(optimizer):
            return
        norms = {name: self._norms(module) for name, module in self._layers.items()}
        widths = {name: self._recipe.alpha * self._rate(module) for name, module in self._layers.items()}
        share = 1.0 if self._recipe.limit is None else _share(norms, widths, self._recipe.limit)
        for name, module in self._layers.items():
            # A block of norm 0 stays 0.
            left = torch.relu(1 - share * widths[name] / norms[name].clamp(min=torch.finfo(norms[name].dtype).tiny))
            weight = module.get_parameter("weight")
            if weight.ndim == 3:
                weight.mul_(left[:, None, None])
            else:
                cells(weight, self._block).mul_(left[:, None, :, None])

    def statistics(self) -> dict[str, float]:
        """For each layer the share of its blocks that are 0."""
        return {
            f"{name}.zero_blocks": float((self._norms(module) == 0).double().mean())
            for name, module in self._layers.items()
        }

    @property
    def _block(self) -> tuple[int, int]:
        assert self._recipe.block is not None
        return self._recipe.block

    def _norms(self, module: nn.Module) -> torch.Tensor:
        """Those of removed blocks are 0."""
        weight, mask = module.get_parameter("weight"), module._buffers.get("weight_mask")
        norms = block_norms(weight if mask is None else weight * mask, None if weight.ndim == 3 else self._block)
        kept = module._buffers.get("kept")
        return norms if kept is None else norms.masked_fill(~kept, 0.0)

    def _rate(self, module: nn.Module) -> float:
        weight = module.get_parameter("weight")
        if not weight.requires_grad:
            return 0.0
        for group in self.optimizer.param_groups:
            if any(parameter is weight for parameter in group["params"]):
                return float(group["lr"])
        return 0.0


def _share(norms: Mapping[str, torch.Tensor], widths: Mapping[str, float], limit: float) -> float:
    """The least u in [0, 1] for which the norms, each less u times its width, sum to the limit at most; else 1."""
    values = torch.cat([each.reshape(-1) for each in norms.values()]).double()
    steps = torch.cat([torch.full_like(each, widths[name]).reshape(-1) for name, each in norms.items()]).double()
    if not bool((steps > 0).any()) or float(values.sum()) <= limit:
        return 0.0
    reach = values / steps
    order = reach.argsort(descending=True)
    meeting = (values[order].cumsum(0) - limit) / steps[order].cumsum(0)
    last = int((reach[order] >= meeting).nonzero().max())
    return min(float(meeting[last]), 1.0)
