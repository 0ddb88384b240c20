"""The quasi-recurrent network: products over a window of inputs, and a pooling that alone runs over time."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmtnet.layers.recurrent.pooling import linear_scan
from rmtnet.layers.recurrent.sequences import (
    SequenceLayer,
    check_probabilities,
    check_shape,
    check_sizes,
    with_dropped_weights,
)


class QRNNState(NamedTuple):
    """What a QRNN carries from one stretch of a sequence to the next, of each direction of each layer."""

    c: Tensor
    """(num_layers * directions, batch, hidden_size)"""
    inputs: tuple[Tensor, ...]
    """(window - 1, batch, features) each: the last inputs, oldest first."""

    def detach(self) -> Self:
        """The same numbers without their history."""
        return type(self)(self.c.detach(), tuple(each.detach() for each in self.inputs))


class QRNN(SequenceLayer):
    """Quasi-recurrent network with fo-pooling, in the place of :class:`torch.nn.LSTM`.

    A layer makes z = tanh, f = sigmoid and o = sigmoid of one linear map of its last ``window`` inputs, and pools:
    ``c[t] = f[t] * c[t - 1] + (1 - f[t]) * z[t]``, ``h[t] = o[t] * c[t]``.  So f is the share that is kept, as in the
    paper; the f of the public pytorch-qrnn is ours for the negative of its map.

    The linear maps are ``linears.0``, ``linears.1``, ..., layer by layer, in each the direction back in time second.
    Their outputs are z, f and o one below another, their inputs those of the step, then those of the step before.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As in :class:`torch.nn.LSTM`.
    window : inputs that a step sees, its own and those before it; of each layer if a sequence
        Before the first step there are zeros, as in the paper, or the state.
    zoneout : probability
        While training, each entry of c stays as it was with this probability; in evaluation 1 - f is scaled by
        ``1 - zoneout``.
    output_gate : whether there is an o; without it h = c (f-pooling)
    linear : ``linear(in_features, out_features, bias=...)`` makes each map
        :class:`torch.nn.Linear`, or ``partial(DynamicBlockSparseLinear, block=128, sparsity=0.5)``.
    weight_drop : probability
        DropConnect: while training, each weight of the maps is zero with this probability, others are scaled up.
    device, dtype : given to ``linear`` if they are not None

    Raises
    ------
    ValueError
        If a size or window is below 1, there are not as many windows as layers, or a probability lies outside [0, 1].

    References
    ----------
    Bradbury, Merity, Xiong and Socher, Quasi-Recurrent Neural Networks, ICLR 2017, section 2 (fo-pooling) and
    2.1 (zoneout).

    Examples
    --------
    >>> qrnn = QRNN(512, 1536, num_layers=2, window=(2, 1))
    >>> outputs, state = qrnn(torch.zeros(7, 3, 512))
    >>> outputs, state = qrnn(torch.zeros(5, 3, 512), state)  # the sequence goes on
    >>> outputs.shape, state.c.shape, state.inputs[0].shape
    (torch.Size([5, 3, 1536]), torch.Size([2, 3, 1536]), torch.Size([1, 3, 512]))
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
        *,
        window: int | Sequence[int] = 1,
        zoneout: float = 0.0,
        output_gate: bool = True,
        linear: Callable[..., nn.Module] = nn.Linear,
        weight_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_probabilities(dropout=dropout, zoneout=zoneout, weight_drop=weight_drop)
        if dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} stands between layers, and there is one only", stacklevel=2)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional, self.output_gate = batch_first, bidirectional, output_gate
        self.dropout, self.zoneout, self.weight_drop = float(dropout), float(zoneout), float(weight_drop)
        self.window = (window,) * num_layers if isinstance(window, int) else tuple(window)
        if len(self.window) != num_layers or min(self.window) < 1:
            raise ValueError(f"window must be at least 1, one for each of {num_layers} layers, got {window}")
        options = {name: each for name, each in (("device", device), ("dtype", dtype)) if each is not None}
        gates = 3 if output_gate else 2
        self.linears = nn.ModuleList(
            linear(window * width, gates * hidden_size, bias=bias, **options) for window, width in self._maps()
        )

    def _maps(self) -> list[tuple[int, int]]:
        """Window and input features of each direction of each layer."""
        directions = 1 + self.bidirectional
        widths = [self.input_size] + [directions * self.hidden_size] * (self.num_layers - 1)
        return [each for each in zip(self.window, widths, strict=True) for _ in range(directions)]

    def _run(self, data: Tensor, batch_sizes: Tensor | None, hx: QRNNState | None) -> tuple[Tensor, QRNNState]:
        valid = None
        if batch_sizes is not None:
            data, valid = _padded(data, batch_sizes)
        state = self._initial(data, hx)
        directions, cells, inputs = 1 + self.bidirectional, [], []
        for layer in range(self.num_layers):
            if layer:
                data = functional.dropout(data, self.dropout, self.training)
            outputs = []
            for back in range(directions):
                k = layer * directions + back
                turned = _turned(data, valid) if back else data
                hidden, c, last = self._direction(k, turned, valid, state.c[k], state.inputs[k])
                outputs.append(_turned(hidden, valid) if back else hidden)
                cells.append(c)
                inputs.append(last)
            data = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        return data if valid is None else data[valid], QRNNState(torch.stack(cells), tuple(inputs))

    def _initial(self, data: Tensor, hx: QRNNState | None) -> QRNNState:
        """Checked, or zeros."""
        batch, maps = data.shape[1], self._maps()
        if hx is None:
            inputs = (data.new_zeros(window - 1, batch, width) for window, width in maps)
            return QRNNState(data.new_zeros(len(maps), batch, self.hidden_size), tuple(inputs))
        check_shape("c", hx[0], (len(maps), batch, self.hidden_size))
        if len(hx[1]) != len(maps):
            raise RuntimeError(f"initial inputs must be {len(maps)} tensors, one for each direction, got {len(hx[1])}")
        for each, (window, width) in zip(hx[1], maps, strict=True):
            check_shape("inputs", each, (window - 1, batch, width))
        return QRNNState(*hx)

    def _direction(
        self, k: int, data: Tensor, valid: Tensor | None, c: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of one direction of a layer, its last c and its last inputs."""
        window, steps = len(before) + 1, len(data)
        if window > 1:
            longer = torch.cat([before.to(data.dtype), data])
            before = _last(longer, window - 1, valid)
            data = torch.cat([longer[start : start + steps] for start in range(window - 1, -1, -1)], -1)
        z, f, *o = self._gates(k, data, valid).chunk(3 if self.output_gate else 2, -1)
        kept = self._zoned_out(f.sigmoid())
        if valid is not None:
            kept = torch.where(valid[..., None], kept, 1)
        z = z.tanh()
        states = linear_scan(kept, torch.addcmul(z, kept, z, value=-1), c.to(z.dtype))
        hidden = states[1:]
        return hidden * o[0].sigmoid() if o else hidden, states[-1], before

    def _gates(self, k: int, source: Tensor, valid: Tensor | None) -> Tensor:
        """The linear map; of packed sequences their steps only, so that a layer that counts its inputs counts those."""
        linear = with_dropped_weights(self.linears[k], self.weight_drop)
        gates = linear(source if valid is None else source[valid])
        return gates if valid is None else _scattered(gates, valid)

    def _zoned_out(self, f: Tensor) -> Tensor:
        """The share that is kept, more of it by zoneout."""
        if not self.zoneout:
            return f
        if not self.training:
            return 1 - (1 - self.zoneout) * (1 - f)
        return torch.where(torch.rand_like(f) < self.zoneout, 1, f)

    def extra_repr(self) -> str:
        names = ("num_layers", "batch_first", "dropout", "bidirectional", "window", "zoneout", "output_gate")
        values = (f"{name}={getattr(self, name)}" for name in (*names, "weight_drop"))
        return ", ".join((f"{self.input_size}, {self.hidden_size}", *values))


def _padded(rows: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Packed rows as (time, batch, features), and which of its steps there are, (time, batch) bool."""
    batch = torch.arange(int(batch_sizes[0]))
    valid = (batch < batch_sizes[:, None]).to(rows.device)
    return _scattered(rows, valid), valid


def _scattered(rows: Tensor, valid: Tensor) -> Tensor:
    """(rows, features) -> (time, batch, features), zero where there is no step."""
    return rows.new_zeros(*valid.shape, rows.shape[-1]).index_put((valid,), rows)


def _turned(data: Tensor, valid: Tensor | None) -> Tensor:
    """Each sequence from its last step to its first; what follows a sequence stays behind it."""
    if valid is None:
        return data.flip(0)
    steps = torch.arange(len(data), device=data.device)[:, None]
    order = (valid.sum(0) - 1 - steps) % len(data)
    return data.take_along_dim(order[..., None], 0)


def _last(data: Tensor, number: int, valid: Tensor | None) -> Tensor:
    """The last steps of each sequence, of data that begin with as many others."""
    if valid is None:
        return data[-number:]
    steps = valid.sum(0) + torch.arange(number, device=data.device)[:, None]
    return data.take_along_dim(steps[..., None], 0)
