"""A linear layer that skips blocks of its weight matrix, other ones for each input."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any, Self

import torch
from torch import Tensor, nn

from rmtnet.layers import dynamic_products as products
from rmtnet.layers.block_sparse import check_finite, cut, draw_by_fan_in, scattered
from rmtnet.layers.gating import Gate, RankGate, SoftmaxGate

GATES = {"relu": RankGate, "softmax": SoftmaxGate}


class DynamicBlockSparseLinear(nn.Module):
    """A linear layer of which each input opens some blocks: ``(G(h) * W) h + bias``, one gate for each block.

    Closed blocks have a gate of 0; without gradients they are not multiplied where that is faster.  The mean over all
    gates is 1 for every input.  Weights and bias start as those of :class:`torch.nn.Linear` do.

    Parameters
    ----------
    in_features, out_features : multiples of the block's sides
    block : its side, or (outputs, inputs)
    sparsity : the fraction of closed blocks, in [0, 1); :meth:`set_sparsity` changes it
    gate : "relu" (:class:`~rmtnet.layers.gating.RankGate`), "softmax" (:class:`~rmtnet.layers.gating.SoftmaxGate`), or
        a gate, which several layers may share and whose own sparsity holds
    gate_features : how many inputs the gate looks at, the first ones; all by default
    gate_hidden : units of a hidden layer of the gate, by default none

    Attributes
    ----------
    weight : (R * C, r, c), the blocks row by row of the grid
    bias : (out_features,) or None
    block_row, block_col : (R * C,) int64, place of each block on the grid
    gate : maps (..., gate_features) to gates (..., R * C)
    count_open : whether forward counts which gates are open, for :attr:`open_fraction`

    Raises
    ------
    ValueError
        If the blocks do not divide the layer, the sparsity is outside [0, 1), or the gate does not fit.

    References
    ----------
    Block-wise dynamic sparseness, section 3.

    Examples
    --------
    >>> layer = DynamicBlockSparseLinear(256, 512, block=64, sparsity=0.75)
    >>> layer.weight.shape, layer(torch.ones(3, 256)).shape
    (torch.Size([32, 64, 64]), torch.Size([3, 512]))
    >>> (layer.gates(torch.ones(3, 256)) > 0).sum(-1)
    tensor([8, 8, 8])
    """

    bias: nn.Parameter | None
    block_row: Tensor
    block_col: Tensor
    _opened: Tensor
    _inputs: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        block: int | tuple[int, int] = 128,
        sparsity: float = 0.5,
        bias: bool = True,
        *,
        gate: str | Gate = "relu",
        gate_features: int | None = None,
        gate_hidden: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        height, width = _block_size(in_features, out_features, block)
        self.in_features, self.out_features = in_features, out_features
        self.grid = rows, columns = out_features // height, in_features // width
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(rows * columns, height, width, **options))
        self.bias = nn.Parameter(torch.empty(out_features, **options)) if bias else None
        place = torch.arange(rows * columns, device=device)
        self.register_buffer("block_row", place // columns)
        self.register_buffer("block_col", place % columns)
        self.register_buffer("_opened", torch.zeros_like(place), persistent=False)
        self.register_buffer("_inputs", torch.zeros((), dtype=torch.int64, device=device), persistent=False)
        self.count_open = False
        self.gate = _made_gate(gate, in_features, rows * columns, sparsity, gate_features, gate_hidden, options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias anew; the gate stays as it is."""
        draw_by_fan_in(self.weight, self.bias, self.block_row, self.grid[0])

    @property
    def sparsity(self) -> float:
        """The fraction of blocks that are closed."""
        return self.gate.sparsity

    def set_sparsity(self, sparsity: float) -> None:
        """Close as many blocks as come nearest to this fraction, but never all."""
        self.gate.set_sparsity(sparsity)

    def gates(self, gate_input: Tensor) -> Tensor:
        """Gates (..., R * C) of inputs (..., at least gate_features), of which the gate sees the first ones."""
        gates: Tensor = self.gate(self._seen(gate_input))
        return gates

    def _seen(self, gate_input: Tensor) -> Tensor:
        wanted, there = self.gate.in_features, gate_input.shape[-1]
        if there < wanted:
            raise ValueError(f"the gate needs {wanted} features, got an input of {tuple(gate_input.shape)}")
        return gate_input if there == wanted else gate_input[..., :wanted]

    def forward(self, input: Tensor, gate_input: Tensor | None = None, *, gates: Tensor | None = None) -> Tensor:
        """(..., in_features) -> (..., out_features).

        Parameters
        ----------
        input : (..., in_features)
        gate_input : (..., at least gate_features), what the gates are made of, by default the input
        gates : (..., R * C), made already, as where layers share them
        """
        if input.shape[-1:] != (self.in_features,):
            raise ValueError(f"the input's last axis must be {self.in_features}, got {tuple(input.shape)}")
        gate_input = input if gate_input is None else gate_input
        gate = self.gate
        if gates is None and self._takes_one_call(gate, input):
            features, last = gate.features(self._seen(gate_input)), gate.linear
            return products.rank_gated_linear(
                input, features, last.weight, last.bias, gate.open_blocks, self.weight, self.bias
            )
        gates = self.gates(gate_input) if gates is None else gates
        if self.count_open:
            self._count(gates)
        return products.gated_linear(input, self.weight, gates, self.bias)

    def _takes_one_call(self, gate: Gate, input: Tensor) -> bool:
        """Whether nobody asks for the gates, nor for gradients."""
        return not (
            torch.is_grad_enabled()
            or type(gate) is not RankGate
            or self.count_open
            or (not input.is_meta and torch.is_autocast_enabled(input.device.type))
            or _hooked(gate)
            or _hooked(gate.linear)
        )

    def effective_weight(self, gate_input: Tensor) -> Tensor:
        """The matrix that an input (at least gate_features,) is multiplied with, (out_features, in_features)."""
        blocks = self.gates(gate_input).to(self.weight.dtype)[:, None, None] * self.weight
        return scattered(blocks, self.block_row, self.block_col, self.grid)

    @torch.no_grad()
    def _count(self, gates: Tensor) -> None:
        self._opened += (gates != 0).flatten(0, -2).sum(0)
        self._inputs += gates.numel() // gates.shape[-1]

    def reset_open_count(self) -> None:
        """Begin to count anew which gates are open."""
        self._opened.zero_()
        self._inputs.zero_()

    @property
    def open_fraction(self) -> Tensor:
        """(R, C), the share of the inputs counted so far for which each gate was open; NaN before the first."""
        return (self._opened / self._inputs).view(self.grid)

    def extra_repr(self) -> str:
        _, height, width = self.weight.shape
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"blocks={self.grid[0]} x {self.grid[1]} of {height} x {width}, bias={self.bias is not None}"
        )

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, block: int | tuple[int, int] = 128, sparsity: float = 0.5, **gate_options: Any
    ) -> Self:
        """The blocks of a dense layer (copied), with a new gate; its options as for the layer."""
        check_finite(linear)
        weight, bias = linear.weight, linear.bias
        options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype, **gate_options}
        layer = cls(linear.in_features, linear.out_features, block, sparsity, bias is not None, **options)
        with torch.no_grad():
            layer.weight.copy_(cut(weight, layer.block_row, layer.block_col, layer.grid))
            if layer.bias is not None:
                layer.bias.copy_(bias)
        return layer

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """The map with all gates at 1, as a dense layer."""
        weight, bias = self.weight, self.bias
        dense: nn.Linear = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        dense.weight.copy_(scattered(weight, self.block_row, self.block_col, self.grid))
        if bias is not None:
            dense.bias.copy_(bias)
        return dense


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def counting_open(model: nn.Module) -> Iterator[None]:
    """Count anew, in every dynamic layer of a model, which gates are open.

    Examples
    --------
    >>> layer = DynamicBlockSparseLinear(4, 4, block=2, sparsity=0.5)
    >>> with counting_open(layer):
    ...     _ = layer(torch.ones(10, 4))
    >>> layer.open_fraction.mean()
    tensor(0.5000)
    """
    layers = [module for module in model.modules() if isinstance(module, DynamicBlockSparseLinear)]
    before = [layer.count_open for layer in layers]
    for layer in layers:
        layer.reset_open_count()
        layer.count_open = True
    try:
        yield
    finally:
        for layer, counted in zip(layers, before, strict=True):
            layer.count_open = counted


def _block_size(in_features: int, out_features: int, block: int | tuple[int, int]) -> tuple[int, int]:
    height, width = block if isinstance(block, Sequence) else (index(block), index(block))
    for name, size, side in (("in_features", in_features, width), ("out_features", out_features, height)):
        if size < 1 or side < 1:
            raise ValueError(f"{name} and the block's side must be at least 1, got {size} and {side}")
        if size % side:
            raise ValueError(f"blocks must divide the layer: {side} does not divide {name} = {size}")
    return height, width


def _made_gate(
    gate: str | Gate,
    in_features: int,
    blocks: int,
    sparsity: float,
    features: int | None,
    hidden: int | None,
    options: dict[str, Any],
) -> Gate:
    if isinstance(gate, Gate):
        if features is not None or hidden is not None:
            raise ValueError("gate_features and gate_hidden are for a new gate, not for one that is there already")
        if gate.blocks != blocks:
            raise ValueError(f"the layer has {blocks} blocks, but its gate is for {gate.blocks}")
        return gate
    if gate not in GATES:
        raise ValueError(f"gate must be a Gate or one of {', '.join(map(repr, GATES))}, got {gate!r}")
    if features is not None and not 1 <= features <= in_features:
        raise ValueError(f"gate_features must lie between 1 and in_features = {in_features}, got {features}")
    made: Gate = GATES[gate](features or in_features, blocks, sparsity, hidden=hidden, **options)
    return made
