"""Replacing pruned layers by smaller ones that give the same outputs, in a model and in its optimizer."""

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import prune

from rmtnet.layers.block_diagonal import BlockDiagonalLinear
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.layers.swapping import leave_fast_paths
from rmtnet.pruning.exchange import Cut, Exchange, check_parameters, cut_parameter, exchange
from rmtnet.pruning.penalties import cells, diagonal_blocks
from rmtnet.pruning.units import assign, check_divides, check_not_wrapped

Form = int | tuple[int, int] | None
_LEAST_CELL = 16
"""Weights; smaller blocks are slower than the dense product."""


def pack(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    layers: str | Iterable[str] | Mapping[str, Form] | None = None,
) -> list[str]:
    """Replace pruned linear layers by block layers, and block-sparse ones by those of the blocks they have left.

    The outputs stay the same, files get smaller, products faster.  A linear layer whose weights are alive in b equal
    diagonal blocks, and nowhere else, becomes :class:`rmtnet.layers.BlockDiagonalLinear`; else a
    :class:`rmtnet.layers.BlockSparseLinear` of the largest blocks that are alive or dead as a whole.  Forward and
    backward hooks of the layers stay.

    In a form that is asked for, blocks may hold removed weights.  They begin at 0, without momentum, and are trained.

    Parameters
    ----------
    model : changed in place; pruned by this package or by :mod:`torch.nn.utils.prune`
    optimizer : changed in place: groups keep their order, what is known of a weight (momentum, moments, averages) is
        cut as the weight is, hooks stay
    layers : names or globs of layers to pack; or a mapping of them to their form, a number of diagonal blocks or the
        size (rows, columns) of blocks, of which those with a weight alive are kept.  None is all that take half the
        room or less: linear layers of which at most half is left, and block-sparse ones with removed blocks; what
        cannot be replaced (the model itself, a subclass of linear layers such as the out_proj of attention) is left as
        it is.

    Returns
    -------
    names of the layers that were packed

    Raises
    ------
    ValueError
        If a name matches no pruned layer, a named layer has no block structure or live weights outside the form asked
        for, it cannot be replaced, its weight is shared or has hooks, or the optimizer keeps something that cannot be
        cut.  Nothing is changed then.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 4))
    >>> model[0].register_buffer("weight_mask", torch.eye(2).bool().repeat_interleave(2, 0).repeat_interleave(2, 1))
    >>> pack(model), type(model[0]).__name__
    (['0'], 'BlockDiagonalLinear')
    """
    check_not_wrapped(model)
    forms = _forms(model, layers)
    packings = {name: _packing(name, model.get_submodule(name), form) for name, form in forms.items()}
    if layers is not None and (stuck := [name for name, packing in packings.items() if packing is None]):
        raise ValueError(f"{stuck[0]} has no dead blocks of {_LEAST_CELL} weights or more: it cannot be packed")
    found = {name: packing for name, packing in packings.items() if packing and (layers is not None or packing.gains)}
    exchanges = [each for packing in found.values() for each in packing.exchanges]
    check_parameters(model, [each.old for each in exchanges])
    if optimizer is not None:
        exchange(optimizer, exchanges)
    for name, packing in found.items():
        old = model.get_submodule(name)
        _move_hooks(old, packing.layer)
        _put(model, old, packing.layer)
    leave_fast_paths(model, {packing.layer for packing in found.values()})
    return list(found)


def check_replaceable(name: str, module: nn.Module) -> None:
    """A ValueError for a layer that no block layer can take the place of."""
    if trouble := _trouble(name, module):
        raise ValueError(f"{name} {trouble}".lstrip())


def _trouble(name: str, module: nn.Module) -> str:
    if name in ("", "_orig_mod"):  # of a compiled layer
        return "the model is the layer itself, which nothing can replace: put it in a Sequential"
    if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
        return f"is a {type(module).__name__}, whose owner reads the weight as a matrix: leave it out"
    return ""


def _forms(model: nn.Module, layers: str | Iterable[str] | Mapping[str, Form] | None) -> dict[str, Form]:
    """Name -> form of the layers that ``layers`` means."""
    if layers is None:
        pruned = [(name, module) for name, module in model.named_modules() if _is_pruned(module)]
        return dict.fromkeys(name for name, module in pruned if not _trouble(name, module))
    names = [layers] if isinstance(layers, str) else layers
    found: dict[str, Form] = assign(model, names if isinstance(names, Mapping) else dict.fromkeys(names), _is_pruned)
    for name in found:
        check_replaceable(name, model.get_submodule(name))
    return found


class _Packing(NamedTuple):
    layer: nn.Module
    exchanges: list[Exchange]
    gains: bool
    """Whether it is done where nobody asked for the layer by name."""


def _is_pruned(module: nn.Module) -> bool:
    if isinstance(module, BlockSparseLinear):
        return True
    return isinstance(module, nn.Linear) and "weight_mask" in module._buffers


def _packing(name: str, module: Any, form: Form) -> _Packing | None:
    """How a layer is packed; None if it has no structure that can be."""
    if isinstance(module, BlockSparseLinear):
        return _fewer_blocks(name, module)
    mask = _mask(name, module)
    if isinstance(form, int):
        return _block_diagonal(name, module, _checked(name, mask, form))
    if form is not None:
        check_divides(name, mask, form)
        return _block_sparse(name, module, form)
    block = _coarsest(mask)
    grid = cells(mask, block)[:, 0, :, 0]
    if grid.shape[0] == grid.shape[1] > 1 and torch.equal(grid, torch.eye(len(grid), dtype=torch.bool).to(grid)):
        return _block_diagonal(name, module, len(grid))
    return _block_sparse(name, module, block) if math.prod(block) >= _LEAST_CELL and grid.numel() > 1 else None


def _mask(name: str, module: Any) -> torch.Tensor:
    """Which weights of a layer are alive; torch's own pruning has it as zeros and ones."""
    mask: torch.Tensor = module.weight_mask
    if mask.shape != module.weight.shape or not bool(((mask == 0) | (mask == 1)).all()):
        wanted = f"bool and {tuple(module.weight.shape)} as its weight is"
        raise ValueError(f"the weight_mask of {name} must be {wanted}, got {mask.dtype} {tuple(mask.shape)}")
    if not bool(mask.any()):
        raise ValueError(f"no weight of {name} is alive: its weight_mask is all False")
    return mask


def _coarsest(mask: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of the largest equal blocks of which each is alive or dead as a whole."""
    rows, columns = (
        math.gcd(len(each), *(1 + (each[1:] != each[:-1]).any(1).nonzero().flatten()).tolist())
        for each in (mask, mask.T)
    )
    return rows, columns


def _checked(name: str, mask: torch.Tensor, blocks: int) -> int:
    if any(size % blocks for size in mask.shape):
        raise ValueError(
            f"{blocks} blocks do not divide the {mask.shape[0]} outputs and {mask.shape[1]} inputs of {name}"
        )
    outside = int(mask.sum() - diagonal_blocks(mask, blocks).sum())
    if outside:
        raise ValueError(f"{name} has {outside} weights alive off the {blocks} diagonal blocks: remove them first")
    return blocks


def _block_diagonal(name: str, module: Any, blocks: int) -> _Packing:
    with _untouched_rng(module):
        layer = BlockDiagonalLinear(module.in_features, module.out_features, blocks, bias=False, **_kind(module))
    return _packed(name, module, layer, lambda tensor: diagonal_blocks(tensor, blocks).clone())


def _block_sparse(name: str, module: Any, block: tuple[int, int]) -> _Packing:
    grid = cells(module.weight_mask, block).any(3).any(1)
    with _untouched_rng(module):
        layer = BlockSparseLinear(module.in_features, module.out_features, grid, bias=False, **_kind(module))
    return _packed(name, module, layer, lambda tensor: cells(tensor, block).transpose(1, 2)[grid])


def _fewer_blocks(name: str, module: BlockSparseLinear) -> _Packing | None:
    kept = module.kept
    if bool(kept.all()):
        return None
    if not bool(kept.any()):
        raise ValueError(f"no block of {name} is left")
    grid = torch.zeros(module.grid, dtype=torch.bool, device=kept.device)
    grid[module.block_row[kept], module.block_col[kept]] = True
    with _untouched_rng(module):
        layer = BlockSparseLinear(module.in_features, module.out_features, grid, bias=False, **_kind(module))
    return _packed(name, module, layer, lambda tensor: tensor[kept])


def _packed(name: str, module: Any, layer: Any, cut: Cut) -> _Packing:
    """Fill a layer with the parameters of the one it replaces."""
    exchanges = []
    for own, how in (("weight", cut), ("bias", torch.clone)):
        pruned = f"{own}_orig" in module._parameters  # by torch.nn.utils.prune
        old = module._parameters.get(f"{own}_orig" if pruned else own)
        if old is None:
            continue
        if pruned or own == "weight":
            how = _alive(how, module._buffers.get(f"{own}_mask"))
            exchanges.append(Exchange(name, old, cut_parameter(old, how), how))
            old = exchanges[-1].new
        setattr(layer, own, old)
    gains = hasattr(module, "kept") or 2 * layer.weight.numel() <= module.weight.numel()
    return _Packing(layer.train(module.training), exchanges, gains)


def _alive(cut: Cut, mask: torch.Tensor | None) -> Cut:
    """Cut what is alive: momentum of removed weights would revive them."""
    return cut if mask is None else lambda tensor: cut(tensor * mask)


def _kind(module: Any) -> dict[str, Any]:
    return {"device": module.weight.device, "dtype": module.weight.dtype}


def _untouched_rng(module: Any) -> AbstractContextManager[None]:
    """Layers draw weights when they are made: what the training draws next must not depend on it."""
    device = module.weight.device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Forward and backward hooks, with the handles that remove them; not the one by which torch makes a weight."""
    for key, hook in list(old._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod):
            del old._forward_pre_hooks[key]
    for name, hooks in vars(old).items():
        if name.startswith(("_forward_", "_backward_", "_is_full_backward_hook")):
            vars(new)[name] = hooks


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module wherever the model has it."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
