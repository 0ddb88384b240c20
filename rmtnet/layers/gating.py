"""Gates of dynamic layers: which blocks of a weight matrix an input opens, and by how much each counts."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from rmtnet.layers import dynamic_products as products


def rank_gates(values: Tensor, opened: Tensor | int) -> Tensor:
    """The largest values, each divided by the mean over all gates; the others are 0.

    Values that are not positive count as a tiny positive number.  So exactly ``opened`` gates are not 0 whatever the
    values are, and if none is positive, the first ones are open, all equally, without a gradient.

    Parameters
    ----------
    values : (..., gates)
    opened : how many are open, a 0-dim tensor or a number; of equal values the first ones

    Returns
    -------
    (..., gates), at least float32, with a mean of 1

    References
    ----------
    Block-wise dynamic sparseness, eq. 1.

    Examples
    --------
    >>> rank_gates(torch.tensor([3.0, -1.0, 1.0, 1.0]), 2)
    tensor([3., 0., 1., 0.])
    >>> rank_gates(torch.tensor([-3.0, -1.0, -1.0]), 2)
    tensor([1.5000, 1.5000, 0.0000])
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    gates = products.choose(values.detach(), torch.as_tensor(opened, device=values.device))
    if not products.needs_gradient(values):
        return gates
    kept = values.clamp(min=products.LEAST[values.dtype]) * (gates != 0)
    return kept / kept.mean(-1, keepdim=True)


class Gate(nn.Module):
    """What every gate has: how many of its blocks are open.

    Attributes
    ----------
    open_blocks : () int64, a buffer, so that nothing is compiled anew when it changes
    """

    open_blocks: Tensor

    def __init__(self, in_features: int, blocks: int, sparsity: float, device: Any = None):
        super().__init__()
        for name, size in (("in_features", in_features), ("blocks", blocks)):
            if size < 1:
                raise ValueError(f"{name} of a gate must be at least 1, got {size}")
        self.in_features, self.blocks = in_features, blocks
        self.register_buffer("open_blocks", torch.tensor(self.count(sparsity), device=device))

    def count(self, sparsity: float) -> int:
        """How many blocks are open at a sparsity: its complement, rounded, and at least one."""
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity, the fraction of closed blocks, must lie in [0, 1), got {sparsity}")
        return max(1, round((1 - sparsity) * self.blocks))

    @property
    def sparsity(self) -> float:
        """The fraction of blocks that are closed."""
        return 1 - self.open_blocks.item() / self.blocks

    def set_sparsity(self, sparsity: float) -> None:
        """Close as many blocks as come nearest to this fraction, but never all."""
        self.open_blocks.fill_(self.count(sparsity))

    def extra_repr(self) -> str:
        opened = "?" if self.open_blocks.is_meta else self.open_blocks.item()
        return f"in_features={self.in_features}, blocks={self.blocks}, open={opened}"

    def _network(self, outputs: int, hidden: int | None, options: dict[str, Any]) -> None:
        """One linear layer, after a hidden one with ReLU if that is wanted."""
        if hidden is not None and hidden < 1:
            raise ValueError(f"the gate's hidden layer needs at least 1 unit, got {hidden}")
        self.hidden = None if hidden is None else nn.Linear(self.in_features, hidden, **options)
        self.linear = nn.Linear(hidden or self.in_features, outputs, **options)

    def features(self, input: Tensor) -> Tensor:
        """What the last linear layer is applied to."""
        return input if self.hidden is None else self.hidden(input).relu()


class RankGate(Gate):
    """The largest values of a linear layer with ReLU, divided by their mean over all gates.

    Parameters
    ----------
    in_features : inputs of the gate network
    blocks : number of gates
    sparsity : the fraction of closed blocks, in [0, 1)
    hidden : units of a hidden layer with ReLU, by default none

    References
    ----------
    Block-wise dynamic sparseness, eq. 1.

    Examples
    --------
    >>> gate = RankGate(8, 16, sparsity=0.75)
    >>> gates = gate(torch.ones(3, 8))
    >>> (gates > 0).sum(-1)
    tensor([4, 4, 4])
    """

    def __init__(
        self,
        in_features: int,
        blocks: int,
        sparsity: float = 0.5,
        *,
        hidden: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(in_features, blocks, sparsity, device)
        self._network(blocks, hidden, {"device": device, "dtype": dtype})

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., blocks), not negative, with a mean of 1; exactly ``open_blocks`` are not 0."""
        return rank_gates(self.linear(self.features(input)), self.open_blocks)


class SoftmaxGate(Gate):
    """A sum of softmaxes, one for each open block; in evaluation each opens its largest entry only.

    That is what training tends to as the temperature falls.  Two softmaxes may open the same block, so in evaluation
    at most ``open_blocks`` are open; in training all are.  A layer of m blocks needs heads for all that are ever open,
    ``heads * m`` values for each input: for small layers.

    Parameters
    ----------
    in_features, blocks, hidden : as for :class:`RankGate`
    sparsity : in [0, 1); the number of heads is that of the blocks it leaves open, so later it can only rise
    temperature : by which the values are divided, greater than 0

    References
    ----------
    Block-wise dynamic sparseness, eq. 2.
    """

    temperature: Tensor

    def __init__(
        self,
        in_features: int,
        blocks: int,
        sparsity: float = 0.5,
        *,
        temperature: float = 1.0,
        hidden: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(in_features, blocks, sparsity, device)
        self.heads = super().count(sparsity)
        self._network(self.heads * blocks, hidden, {"device": device, "dtype": dtype})
        self.register_buffer("temperature", torch.tensor(_checked_temperature(temperature), device=device))

    def count(self, sparsity: float) -> int:
        opened = super().count(sparsity)
        if opened > getattr(self, "heads", opened):
            least = 1 - self.heads / self.blocks
            raise ValueError(f"the gate has heads for a sparsity of {least:g} or more, got {sparsity}")
        return opened

    def set_temperature(self, temperature: float) -> None:
        """A new temperature, greater than 0."""
        self.temperature.fill_(_checked_temperature(temperature))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., blocks), not negative, with a mean of 1."""
        values = self.linear(self.features(input)).unflatten(-1, (self.heads, self.blocks))
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        if self.training:
            shares = torch.softmax(values / self.temperature.to(values.dtype), -1)
        else:
            shares = nn.functional.one_hot(values.argmax(-1), self.blocks).to(values.dtype)
        used = torch.arange(self.heads, device=values.device) < self.open_blocks
        return (shares * used[:, None]).sum(-2) * (self.blocks / self.open_blocks)


def _checked_temperature(temperature: float) -> float:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and greater than 0, got {temperature}")
    return float(temperature)


def set_sparsity(model: nn.Module, sparsity: float) -> None:
    """Set the fraction of closed blocks of every gate in a model: call it with a schedule's value at each step.

    Examples
    --------
    >>> from rmtnet.pruning.schedules import linear
    >>> schedule = linear(350, 450, final=0.5)  # epochs
    >>> model = nn.Sequential(RankGate(8, 16, sparsity=0))
    >>> set_sparsity(model, schedule(400))
    >>> model[0].sparsity
    0.25
    """
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    if not gates:
        raise ValueError("the model has no gates")
    for gate in gates:
        gate.set_sparsity(sparsity)


def set_temperature(model: nn.Module, temperature: float) -> None:
    """Set the temperature of every :class:`SoftmaxGate` in a model, as :func:`set_sparsity` does the sparsity."""
    gates = [module for module in model.modules() if isinstance(module, SoftmaxGate)]
    if not gates:
        raise ValueError("the model has no softmax gates")
    for gate in gates:
        gate.set_temperature(temperature)
