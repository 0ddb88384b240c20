"""Taking removed outputs out of a layer, and out of the one that reads them."""

from collections.abc import Iterable

import torch
from torch import nn

from rmtnet.pruning.exchange import Exchange, check_parameters, cut_parameter, exchange
from rmtnet.pruning.units import plain_weight


def pack_nodes(
    model: nn.Module, pairs: Iterable[tuple[str, str]], optimizer: torch.optim.Optimizer | None = None
) -> dict[str, int]:
    """Make linear layers smaller by the outputs that pruning has removed, and those that read them by these inputs.

    Between the two there must be nothing but functions of each node by itself that leave 0 at 0 (ReLU, dropout).

    Parameters
    ----------
    model : changed in place
    pairs : names of consecutive linear layers, as (("ip1", "ip2"),)
    optimizer : changed in place, as by :func:`pack`

    Returns
    -------
    number of outputs left, for the first layer of each pair

    Raises
    ------
    ValueError
        If a layer is none of the model's linear ones, the sizes of a pair do not fit, no output is left, or one without
        weights still has a bias.  The pairs before it are packed then.
    """
    return {first: _pack_pair(model, first, second, optimizer) for first, second in pairs}


def _pack_pair(model: nn.Module, first: str, second: str, optimizer: torch.optim.Optimizer | None) -> int:
    layer, reader = _linear(model, first), _linear(model, second)
    if layer.out_features != reader.in_features:
        raise ValueError(f"{second} must read the {layer.out_features} outputs of {first}, it has {reader.in_features}")
    mask = layer._buffers.get("weight_mask")
    alive = torch.ones_like(layer.weight[:, 0], dtype=torch.bool) if mask is None else mask.any(1)
    if not bool(alive.any()):
        raise ValueError(f"no output of {first} is left")
    if layer.bias is not None and bool(layer.bias.detach()[~alive].any()):
        raise ValueError(f"an output of {first} without weights has a bias: unit='outputs' removes both")
    places = alive.nonzero().flatten().to(layer.weight.device)
    exchanges = [
        *_cut(layer, first, "weight", places, 0),
        *_cut(layer, first, "bias", places, 0),
        *_cut(reader, second, "weight", places, 1),
    ]
    check_parameters(model, [each.old for each in exchanges])
    if optimizer is not None:
        exchange(optimizer, exchanges)
    for module in (layer, reader):
        _put(module, exchanges)
    layer.out_features = reader.in_features = len(places)
    return len(places)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    found = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name not in found:
        raise ValueError(f"no linear layer is named {name!r}; there are {', '.join(found)}")
    plain_weight(name, found[name])
    return found[name]


def _cut(module: nn.Linear, layer: str, name: str, places: torch.Tensor, dim: int) -> list[Exchange]:
    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.index_select(dim, places)

    old = module._parameters[name]
    return [] if old is None else [Exchange(layer, old, cut_parameter(old, cut), cut)]


def _put(module: nn.Linear, exchanges: Iterable[Exchange]) -> None:
    for each in exchanges:
        for name in ("weight", "bias"):
            if module._parameters[name] is each.old:
                module._parameters[name] = each.new
                mask = module._buffers.get(f"{name}_mask")
                if mask is not None:
                    module._buffers[f"{name}_mask"] = each.cut(mask)
