"""The LSTM whose weights are gated block by block by what they multiply."""

import math
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.layers.recurrent.sequences import (
    SequenceLayer,
    check_probabilities,
    check_sizes,
    initial_state,
    with_dropped_weights,
)

State = tuple[Tensor, Tensor]


class DynamicBlockSparseLSTM(SequenceLayer):
    """:class:`torch.nn.LSTM` with block-wise dynamic sparseness: x gates the input weights, h the recurrent ones.

    Arguments, inputs, outputs and the start are those of :class:`torch.nn.LSTM`; what is added comes after them by
    name.  Each weight is a :class:`~rmtnet.layers.DynamicBlockSparseLinear` under the name that torch gives it
    (``weight_ih_l0``, ``weight_hh_l0``, ..., gates i, f, g, o one below another, ``bias_ih_l0`` as its bias), with one
    gate for each block of the whole matrix.  At inference blocks whose gates are closed are skipped.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As in :class:`torch.nn.LSTM`.
    proj_size : 0; projections are not offered
    block : r, or (r, c)
        Rows and columns of a block: r divides ``4 * hidden_size``, c divides ``input_size`` and ``hidden_size``.
    sparsity : share of gates that are closed, in [0, 1); :func:`rmtnet.layers.gating.set_sparsity` changes it
    weight_drop : probability
        DropConnect: while training, each recurrent weight is zero with this probability, and the others are scaled by
        ``1 / (1 - weight_drop)``; one draw for all steps of a forward pass.
    **gating
        ``gate``, ``gate_features`` and ``gate_hidden`` of each :class:`~rmtnet.layers.DynamicBlockSparseLinear`.

    Raises
    ------
    ValueError
        If the block does not divide a size, a probability lies outside [0, 1], a size is below 1, or ``proj_size`` is
        not 0.

    References
    ----------
    Hadifar, Deleu, Develder and Demeester, Block-wise dynamic sparseness, sections 3 and 4.2.2.

    Examples
    --------
    >>> lstm = DynamicBlockSparseLSTM(512, 512, num_layers=2, block=128, sparsity=0.75)
    >>> lstm.weight_hh_l1.weight.shape, lstm(torch.ones(7, 2, 512))[0].shape
    (torch.Size([64, 128, 128]), torch.Size([7, 2, 512]))
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
        block: int | tuple[int, int] = 128,
        sparsity: float = 0.5,
        weight_drop: float = 0.0,
        **gating: Any,
    ):
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_probabilities(dropout=dropout, weight_drop=weight_drop)
        if proj_size:
            raise ValueError(f"proj_size must be 0: a DynamicBlockSparseLSTM has no projections, got {proj_size}")
        if dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} stands between layers, and there is one only", stacklevel=2)
        self.input_size, self.hidden_size, self.num_layers, self.bias = input_size, hidden_size, num_layers, bias
        self.batch_first, self.dropout, self.bidirectional = batch_first, float(dropout), bidirectional
        self.weight_drop = float(weight_drop)
        options = {"bias": bias, "device": device, "dtype": dtype, **gating}
        for layer in range(num_layers):
            inputs = (1 + bidirectional) * hidden_size if layer else input_size
            for suffix in self._suffixes:
                for kind, width in (("ih", inputs), ("hh", hidden_size)):
                    matrix = DynamicBlockSparseLinear(width, 4 * hidden_size, block, sparsity, **options)
                    self.add_module(f"weight_{kind}_l{layer}{suffix}", matrix)
        self.reset_parameters()

    @property
    def _suffixes(self) -> tuple[str, ...]:
        """What torch puts behind the names of each direction."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def reset_parameters(self) -> None:
        """Draw all weights and biases anew, as :class:`torch.nn.LSTM` does; gates as their layers do."""
        bound = 1 / math.sqrt(self.hidden_size)
        for matrix in self.children():
            cast(DynamicBlockSparseLinear, matrix).reset_parameters()
            for parameter in matrix.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing, there for models that call it on an LSTM."""

    def _run(self, data: Tensor, batch_sizes: Tensor | None, hx: State | None) -> tuple[Tensor, State]:
        sizes = [data.shape[1]] * len(data) if batch_sizes is None else batch_sizes.tolist()
        h, c = initial_state(data, (self.num_layers * len(self._suffixes), sizes[0], self.hidden_size), hx)
        rows = data.reshape(-1, data.shape[-1])
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                rows = functional.dropout(rows, self.dropout, self.training)
            outputs = []
            for back, suffix in enumerate(self._suffixes):
                input, recurrent = (getattr(self, f"weight_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
                state = h[len(finals)], c[len(finals)]
                hidden, final = self._direction(input, recurrent, rows, sizes, state, back == 1)
                outputs.append(hidden)
                finals.append(final)
            rows = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        last_h, last_c = zip(*finals, strict=True)
        return rows.view(*data.shape[:-1], rows.shape[-1]), (torch.stack(last_h), torch.stack(last_c))

    def _direction(
        self, input: nn.Module, recurrent: nn.Module, rows: Tensor, sizes: list[int], state: State, reverse: bool
    ) -> tuple[Tensor, State]:
        """One direction of a layer: inputs of all steps in one product, then step by step."""
        h, c = state
        added = input(rows).split(sizes)
        fed_back = with_dropped_weights(recurrent, self.weight_drop)
        hidden = []
        for gates in reversed(added) if reverse else added:
            size = len(gates)
            new_h, new_c = _cell(gates + fed_back(h[:size]), c[:size])
            hidden.append(new_h)
            # Shorter sequences have ended, or not begun from behind: theirs stay.
            h, c = (new_h, new_c) if size == len(h) else (torch.cat([new_h, h[size:]]), torch.cat([new_c, c[size:]]))
        return torch.cat(hidden[::-1] if reverse else hidden), (h, c)

    def extra_repr(self) -> str:
        names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "weight_drop")
        return ", ".join(
            (f"{self.input_size}, {self.hidden_size}", *(f"{each}={getattr(self, each)}" for each in names))
        )


def _cell(gates: Tensor, c: Tensor) -> State:
    """h and c after a step, from the sum of what comes into its four gates."""
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
