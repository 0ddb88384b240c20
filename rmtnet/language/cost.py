"""What a model costs for each word, and how sparse it is."""

from typing import Any

from torch import nn

from rmtnet.layers.dynamic import DynamicBlockSparseLinear


def multiplications(model: nn.Module) -> int:
    """Multiplications of one word with the linear maps of a model: open blocks, their gates' networks, weights left.

    Embedding and scores are none of them.

    Examples
    --------
    >>> layer = DynamicBlockSparseLinear(64, 64, block=16, sparsity=0.5)  # 16 gates of 64 inputs
    >>> multiplications(layer) == 64 * 64 // 2 + 16 * 64
    True
    """
    return sum(_multiplied(module) for module in model.modules())


def sparsity(model: nn.Module) -> float:
    """Share of the weights of linear maps that is closed or removed; gates' networks are none of them."""
    dynamic = [module for module in model.modules() if isinstance(module, DynamicBlockSparseLinear)]
    gates = {part for layer in dynamic for part in layer.gate.modules()}
    maps = [module for module in model.modules() if module not in gates]
    whole = sum(_size(module) for module in maps)
    return 1 - sum(map(_multiplied, maps)) / whole if whole else 0.0


def _multiplied(module: Any) -> int:
    """Of the module alone, without those in it."""
    if isinstance(module, DynamicBlockSparseLinear):
        return int(module.gate.open_blocks) * module.weight[0].numel()
    if hasattr(module, "kept"):
        return int(module.kept.sum()) * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        mask = module._buffers.get("weight_mask")
        return module.weight.numel() if mask is None else int(mask.sum())
    return 0


def _size(module: Any) -> int:
    """Weights of the module as a whole matrix."""
    known = isinstance(module, nn.Linear | DynamicBlockSparseLinear) or hasattr(module, "kept")
    return module.in_features * module.out_features if known else 0
