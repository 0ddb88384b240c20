"""The LSTM whose input and recurrent weights are dense blocks."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.layers.recurrent.passes import Direction, State, run_layer
from rmtnet.layers.recurrent.sequences import SequenceLayer, check_probabilities, check_sizes, initial_state

_SETTINGS = (
    *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"),
)


class BlockSparseLSTM(SequenceLayer):
    """:class:`torch.nn.LSTM` whose weights are dense blocks: those of input and recurrence, of all four gates.

    Arguments, inputs, outputs and the start are those of :class:`torch.nn.LSTM`; what is added comes after them by
    name.  Each weight is a :class:`~rmtnet.layers.BlockSparseLinear` under the name that torch gives it
    (``weight_ih_l0``, ``weight_hh_l0``, ..., gates i, f, g, o one below another, ``bias_ih_l0`` as its bias), so
    blocks are removed, penalised, packed and recorded as those of any block layer.

    A layer is run in one of two ways with equal results: torch's fused LSTM on the weights as dense matrices, or a loop
    over the steps that multiplies stored blocks only.  The loop is taken on a CPU where it is faster (at most 25 % of
    the blocks stored, and a hidden size of 512 or more), and under ``torch.compile`` and ``torch.export``, which do not
    take the fused one.  It has no gradients of gradients.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As in :class:`torch.nn.LSTM`.
    proj_size : 0; projections are not offered
    block : r, or (r, c)
        Rows and columns of a block.  Both divide ``hidden_size``, and c divides ``input_size``; 50 suits the 400 and
        1150 of AWD-LSTM.  None: each gate's matrix is one block, a dense LSTM.
    mask : matrix name -> (4 * hidden_size / r, inputs / c) bool
        Which blocks there are, as ``{"weight_hh_l0": grid}``; all blocks of a matrix that is not named.
    weight_drop : probability
        DropConnect: while training, each recurrent weight is zero with this probability, and the others are scaled by
        ``1 / (1 - weight_drop)``; one draw for all steps of a forward pass.

    Raises
    ------
    ValueError
        If the block does not divide a size, a mask has another shape or an unknown name, a probability lies outside
        [0, 1], a size is below 1, or ``proj_size`` is not 0.

    References
    ----------
    Learning block-sparse networks, the AWD-LSTM model; weight drop: Merity, Keskar and Socher, ICLR 2018, section 2.

    Examples
    --------
    >>> lstm = BlockSparseLSTM(400, 1150, block=50, mask={"weight_hh_l0": torch.rand(92, 23) < 0.2})
    >>> lstm.weight_ih_l0.weight.shape, lstm(torch.ones(7, 2, 400))[0].shape
    (torch.Size([736, 50, 50]), torch.Size([7, 2, 1150]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        block: int | tuple[int, int] | None = None,
        mask: Mapping[str, Any] | None = None,
        weight_drop: float = 0.0,
    ):
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if proj_size:
            raise ValueError(f"proj_size must be 0: a BlockSparseLSTM has no projections, got {proj_size}")
        check_probabilities(dropout=dropout, weight_drop=weight_drop)
        if dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} stands between layers, and there is one only", stacklevel=2)
        self.input_size, self.hidden_size, self.num_layers, self.bias = input_size, hidden_size, num_layers, bias
        self.batch_first, self.dropout, self.bidirectional = batch_first, float(dropout), bidirectional
        self.proj_size, self.weight_drop = proj_size, float(weight_drop)
        self.block = (block, block) if isinstance(block, int) else block
        self._check_block()
        grids = self._grids(mask or {})
        for name, width in self._widths().items():
            matrix = BlockSparseLinear(width, 4 * hidden_size, grids[name], bias=bias, device=device, dtype=dtype)
            self.add_module(name, matrix)
        self.reset_parameters()

    @property
    def _suffixes(self) -> tuple[str, ...]:
        """What torch puts behind the names of each direction."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def _widths(self) -> dict[str, int]:
        """Inputs of each matrix, in torch's order."""
        widths = {}
        for layer in range(self.num_layers):
            inputs = len(self._suffixes) * self.hidden_size if layer else self.input_size
            for suffix in self._suffixes:
                widths[f"weight_ih_l{layer}{suffix}"] = inputs
                widths[f"weight_hh_l{layer}{suffix}"] = self.hidden_size
        return widths

    def _check_block(self) -> None:
        if self.block is None:
            return
        height, width = self.block
        for part, name, size in (
            (height, "hidden_size", self.hidden_size),
            (width, "hidden_size", self.hidden_size),
            (width, "input_size", self.input_size),
        ):
            if part < 1 or size % part:
                raise ValueError(f"block must divide {name}: {part} of {height} x {width} does not divide {size}")

    def _grids(self, mask: Mapping[str, Any]) -> dict[str, Tensor]:
        """The mask of each matrix, checked against the block."""
        widths = self._widths()
        if unknown := set(mask) - set(widths):
            raise ValueError(f"mask names {', '.join(sorted(unknown))}; the matrices are {', '.join(widths)}")
        grids = {}
        for name, inputs in widths.items():
            height, width = self.block or (self.hidden_size, inputs)
            shape = (4 * self.hidden_size // height, inputs // width)
            grids[name] = torch.as_tensor(mask[name]) if name in mask else torch.ones(shape, dtype=torch.bool)
            if grids[name].shape != shape:
                found = tuple(grids[name].shape)
                raise ValueError(f"mask of {name} must be {shape} for blocks of {height} x {width}, got {found}")
        return grids

    def reset_parameters(self) -> None:
        """Draw all weights and biases anew, as :class:`torch.nn.LSTM` does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for matrix in self._matrices().values():
            for parameter in matrix.parameters():
                nn.init.uniform_(parameter, -bound, bound)
            with torch.no_grad():
                matrix.weight.mul_(matrix.kept[:, None, None])

    def flatten_parameters(self) -> None:
        """Nothing, there for models that call it on an LSTM: dense matrices are made at every pass."""

    def _run(self, data: Tensor, batch_sizes: Tensor | None, hx: State | None) -> tuple[Tensor, State]:
        suffixes = self._suffixes
        batch = data.shape[1] if batch_sizes is None else int(batch_sizes[0])
        h, c = initial_state(data, (self.num_layers * len(suffixes), batch, self.hidden_size), hx)
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                data = functional.dropout(data, self.dropout, self.training)
            place = slice(layer * len(suffixes), (layer + 1) * len(suffixes))
            directions = [self._direction(layer, suffix) for suffix in suffixes]
            data, final = run_layer(directions, data, batch_sizes, (h[place], c[place]))
            finals.append(final)
        return data, (torch.cat([h for h, _ in finals]), torch.cat([c for _, c in finals]))

    def _direction(self, layer: int, suffix: str) -> Direction:
        """Matrices of one direction, weights dropped while training."""
        input, recurrent = (getattr(self, f"weight_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
        return Direction(input, recurrent, functional.dropout(recurrent.weight, self.weight_drop, self.training))

    @classmethod
    def from_lstm(
        cls,
        lstm: nn.LSTM,
        block: int | tuple[int, int] | None = None,
        mask: Mapping[str, Any] | None = None,
        weight_drop: float = 0.0,
    ) -> Self:
        """The blocks of a dense LSTM that the masks keep (copied); weights off them are dropped."""
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"lstm must be a torch.nn.LSTM, got {type(lstm).__name__}")
        settings = {name: getattr(lstm, name) for name in _SETTINGS}
        layer = cls(**settings, device="meta", block=block, mask=mask, weight_drop=weight_drop)
        for name, grid in layer._grids(mask or {}).items():
            weight = getattr(lstm, name)
            linear = nn.Linear(weight.shape[1], weight.shape[0], lstm.bias, device="meta")
            linear.weight = weight
            if lstm.bias:
                linear.bias = getattr(lstm, name.replace("weight", "bias"))
            layer.add_module(name, BlockSparseLinear.from_linear(linear, grid))
        return layer.train(lstm.training)

    @torch.no_grad()
    def to_lstm(self) -> nn.LSTM:
        """The same map as a dense LSTM, without weight drop, with zeros where no block is kept."""
        like = next(self.parameters())
        settings = {name: getattr(self, name) for name in _SETTINGS}
        # Not drawn: looking at a layer must not change the random numbers that a training draws next.
        lstm = nn.LSTM(**settings, device="meta", dtype=like.dtype).to_empty(device=like.device)
        for name, matrix in self._matrices().items():
            dense = matrix.to_dense()
            getattr(lstm, name).copy_(dense.weight)
            if self.bias:
                getattr(lstm, name.replace("weight", "bias")).copy_(dense.bias)
        return lstm.train(self.training)

    def _matrices(self) -> dict[str, BlockSparseLinear]:
        return {name: self.get_submodule(name) for name in self._widths()}  # type: ignore[misc]

    def extra_repr(self) -> str:
        names = (*_SETTINGS[2:-1], "block", "weight_drop")
        return ", ".join(
            (f"{self.input_size}, {self.hidden_size}", *(f"{name}={getattr(self, name)}" for name in names))
        )
