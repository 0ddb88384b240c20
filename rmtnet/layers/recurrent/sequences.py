"""What torch's recurrent layers take and give: batches or single sequences, time or batch first, packed or not."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence


class SequenceLayer(nn.Module):
    """Brings every form of input to (time, batch, features), and what comes out of :meth:`_run` back into that form.

    A state is any nest of tuples of tensors whose last axis but one is the batch.
    """

    batch_first: bool
    input_size: int

    def _run(self, data: Tensor, batch_sizes: Tensor | None, hx: Any) -> tuple[Tensor, Any]:
        """All layers, on (time, batch, features), or on packed (rows, features) with their batch sizes."""
        raise NotImplementedError

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """As :meth:`torch.nn.LSTM.forward`.

        Parameters
        ----------
        input : (time, batch, input_size), with ``batch_first`` (batch, time, input_size); (time, input_size) or packed
        hx : the state before the first step; zeros if None

        Returns
        -------
        The last layer's outputs in the form of the input, and the state after the last step in the form of ``hx``.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        if input.ndim not in (2, 3):
            raise ValueError(f"input must have 2 or 3 axes or be packed, got {input.ndim}")
        if input.ndim == 2:
            output, state = self._checked(input[:, None], None, _each(lambda part: part.unsqueeze(-2), hx))
            return output[:, 0], _each(lambda part: part.squeeze(-2), state)
        if self.batch_first:
            output, state = self._checked(input.transpose(0, 1), None, hx)
            return output.transpose(0, 1), state
        return self._checked(input, None, hx)

    def _packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Sorted on the way in, in the caller's order on the way out."""
        data, batch_sizes, order, back = input
        output, state = self._checked(data, batch_sizes, _taken(hx, order))
        return PackedSequence(output, batch_sizes, order, back), _taken(state, back)

    def _checked(self, data: Tensor, batch_sizes: Tensor | None, hx: Any) -> tuple[Tensor, Any]:
        if data.shape[-1] != self.input_size:
            raise RuntimeError(f"input must have {self.input_size} features, got {data.shape[-1]}")
        if data.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return self._run(data, batch_sizes, hx)


def _each(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The state with each of its tensors changed."""
    if state is None or isinstance(state, Tensor):
        return state if state is None else change(state)
    parts = [_each(change, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def _taken(state: Any, order: Tensor | None) -> Any:
    """The sequences of a batch in another order."""
    return state if order is None else _each(lambda part: part.index_select(-2, order), state)


def with_dropped_weights(layer: nn.Module, share: float) -> Callable[[Tensor], Tensor]:
    """The layer with a share of its weights at zero, the others scaled up: one draw for all calls of what returns."""
    if not (share and layer.training):
        return layer
    weights = {"weight": functional.dropout(cast(Tensor, layer.weight), share)}
    return lambda input: functional_call(layer, weights, (input,))


def initial_state(data: Tensor, shape: tuple[int, ...], hx: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """h and c of an LSTM before the first step: those given, checked as torch does it, or zeros."""
    if hx is None:
        zeros = data.new_zeros(shape)
        return zeros, zeros
    for name, state in zip("hc", hx, strict=True):
        check_shape(name, state, shape)
    return hx


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a state of another shape."""
    if tensor.shape != torch.Size(shape):
        raise RuntimeError(f"initial {name} must be {shape}, got {tuple(tensor.shape)}")


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_probabilities(**probabilities: float) -> None:
    """Refuse what is no probability."""
    for name, probability in probabilities.items():
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} must be a probability in [0, 1], got {probability}")
