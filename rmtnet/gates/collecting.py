"""Taking down which gates of a model are open, input by input."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rmtnet import checks

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def collecting_gates(
    model: "nn.Module", *, limit: int = 10_000, values: bool = False
) -> Iterator[dict[str, NDArray[Any]]]:
    """Collect the gates of every dynamic layer of a model while inputs run through it.

    Parameters
    ----------
    model : with modules that have a :class:`rmtnet.layers.gating.Gate` as ``gate``
    limit : the first so many inputs of each layer are kept, for each a byte a gate (with ``values`` four)
    values : whether to keep the gates themselves, not only whether they are open

    Yields
    ------
    dict, filled when the context ends
        Layer's name -> (input, gate) bool, or float32 with ``values``.  Rows are in the order in which the gate saw
        them; those of further axes, as time, one after another.  Layers that share a gate share the array.

    Raises
    ------
    ValueError
        If the model has no gates.

    Examples
    --------
    >>> with collecting_gates(model) as patterns:
    ...     model(images)
    >>> patterns["hidden5"].mean(axis=0)  # share of the images for which each gate is open
    """
    limit = checks.count(limit, "limit")
    names = _gates(model)
    if not names:
        raise ValueError("the model has no dynamic layers, whose gates could be collected")
    kept = {gate: _Kept(limit, values) for gate in names.values()}
    collected: dict[str, NDArray[Any]] = {}
    with ExitStack() as hooks:
        for gate, own in kept.items():
            hooks.callback(gate.register_forward_hook(own.take).remove)
        yield collected
    whole = {gate: own.whole(gate.blocks) for gate, own in kept.items()}
    collected.update({name: whole[gate] for name, gate in names.items()})


def _gates(model: "nn.Module") -> "dict[str, Any]":
    """Name of the layer -> its gate."""
    from rmtnet.layers.gating import Gate

    return {
        name.rpartition(".")[0]: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Gate)
    }


class _Kept:
    """The first inputs of one gate."""

    def __init__(self, limit: int, values: bool):
        self.room, self.values = limit, values
        self.parts: list[NDArray[Any]] = []

    def take(self, module: "nn.Module", inputs: Any, gates: "Tensor") -> None:
        rows = gates.detach().reshape(-1, gates.shape[-1])[: self.room]
        self.room -= len(rows)
        if len(rows):
            self.parts.append((rows.float() if self.values else rows != 0).cpu().numpy())

    def whole(self, blocks: int) -> NDArray[Any]:
        dtype = np.float32 if self.values else np.bool_
        return np.concatenate([np.empty((0, blocks), dtype), *self.parts])
