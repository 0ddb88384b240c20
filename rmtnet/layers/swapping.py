"""Putting block layers into a model that has linear ones."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from rmtnet.layers.block_diagonal import BlockDiagonalLinear
from rmtnet.layers.block_sparse import BlockSparseLinear

Make = int | torch.Tensor | Callable[[nn.Linear], nn.Module]


def swap_linear(model: nn.Module, layers: Mapping[str, Make]) -> dict[str, nn.Module]:
    """Replace linear layers of a model, in place, by block layers.

    The new layers keep device, dtype, training mode and which parameters are trained. A layer that the model uses twice
    is replaced once and stays shared. Make the optimizer after the swap: it would hold the old parameters else.

    Parameters
    ----------
    model : any module that contains :class:`torch.nn.Linear`
    layers : for names or globs of layers, what comes in their place
        A number of blocks (:class:`BlockDiagonalLinear` of the layer's diagonal blocks), a mask of blocks
        (:class:`BlockSparseLinear` of the blocks it keeps), or a function of the old layer. A glob means the linear
        layers that it matches.

    Returns
    -------
    The new layers by name.

    Raises
    ------
    TypeError
        If a name belongs to another kind of module, or what is made is no module.
    ValueError
        If a name matches nothing (the message lists the linear layers there are) or a layer matches two; if a layer
        shares its weight, makes it from other tensors, has hooks, or is read by its parent as a tensor.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> swap_linear(model, {"0": 4})
    {'0': BlockDiagonalLinear(in_features=8, out_features=8, blocks=4, bias=True)}
    """
    chosen = {name: layers[pattern] for name, pattern in _matched(model, list(layers)).items()}
    old = {name: model.get_submodule(name) for name in chosen}
    _check_alone(model, old)
    new = {name: _made(name, old[name], make) for name, make in chosen.items()}
    for name, layer in new.items():
        _replace(model, old[name], layer)
    leave_fast_paths(model, set(new.values()))
    return new


def _matched(model: nn.Module, patterns: list[str]) -> dict[str, str]:
    """Name of each layer to swap -> the pattern that asks for it; a shared layer under its first name."""
    first_names = {module: name for name, module in model.named_modules()}
    found: dict[str, str] = {}
    for pattern in patterns:
        named = {n: m for n, m in model.named_modules(remove_duplicate=False) if n and fnmatchcase(n, pattern)}
        linear = dict.fromkeys(first_names[module] for module in named.values() if isinstance(module, nn.Linear))
        if not linear:
            raise _no_linear(model, pattern, named)
        for name in linear:
            if found.setdefault(name, pattern) != pattern:
                raise ValueError(f"{name} matches both {found[name]!r} and {pattern!r}")
    return found


def _no_linear(model: nn.Module, pattern: str, named: Mapping[str, nn.Module]) -> Exception:
    if named:
        kinds = ", ".join(f"{name} ({type(module).__name__})" for name, module in named.items())
        return TypeError(f"{pattern!r} matches no nn.Linear but {kinds}")
    names = [name for name, module in model.named_modules() if name and isinstance(module, nn.Linear)]
    return ValueError(f"no layer matches {pattern!r}; the linear layers are {', '.join(names) or 'none'}")


def _check_alone(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Refuse layers whose weight is not simply theirs."""
    owners: dict[nn.Parameter, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append(f"{path}.{name}".strip("."))
    for name, layer in layers.items():
        trouble = _trouble(layer)
        if trouble:
            raise ValueError(f"{name} {trouble}")
        for parameter in layer.parameters():
            if len(owners[parameter]) > 1:
                raise ValueError(f"{' and '.join(owners[parameter])} are one parameter: a block layer cannot share it")


def _trouble(layer: nn.Module) -> str:
    """Why a linear layer cannot be swapped as it is, and the cure; empty if it can."""
    if "weight" not in layer._parameters:
        return "makes its weight from other tensors (parametrised or pruned): remove that first, which keeps the value"
    if "weight_mask" in layer._buffers:
        return "is masked: rmtnet.pruning.pack turns it into a block layer"
    if isinstance(layer, nn.LazyLinear):
        return "has no shape yet: run the model once before"
    if type(layer) is not nn.Linear:
        return f"is a {type(layer).__name__}, whose owner reads the weight as a matrix: leave it out"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return "has hooks, which would be lost: register them after the swap"
    return ""


def _made(name: str, linear: nn.Module, make: Make) -> nn.Module:
    assert isinstance(linear, nn.Linear)
    try:
        layer = _block_layer(linear, make)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(layer, nn.Module):
        raise TypeError(f"what is made of {name} must be a module, got {type(layer).__name__}")
    for own, parameter in layer.named_parameters(recurse=False):
        like = getattr(linear, own, None)
        if isinstance(like, nn.Parameter):
            parameter.requires_grad_(like.requires_grad)
    return layer.train(linear.training)


def _block_layer(linear: nn.Linear, make: Make) -> nn.Module:
    if isinstance(make, int):
        return BlockDiagonalLinear.from_linear(linear, make)
    if callable(make) and not isinstance(make, torch.Tensor):
        return make(linear)
    return BlockSparseLinear.from_linear(linear, make)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever the model has ``old``."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def leave_fast_paths(model: nn.Module, layers: set[nn.Module]) -> None:
    """In eval mode torch's encoders read their linear layers' weights as matrices: switch that off where layers are."""
    for module in model.modules():
        if not layers.isdisjoint(module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # "not known": no fast path
            elif isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
