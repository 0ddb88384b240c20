"""Making weights small, removing them for good, and packing what is left into block layers.

A recipe is a frozen dataclass of numbers; called with a model and its optimizer it gives a pruner.  The loop adds the
pruner's penalty to the loss, and calls its step after the optimizer's:

    pruner = BlockDiagonalPruning({"ip1": 100}, dense=15, pruning=350, alpha=1e-3, threshold=1e-3)(model, optimizer)
    for step in range(1, 1001):
        loss = functional.cross_entropy(model(images), labels) + pruner.penalty()
        ...
        optimizer.step()
        pruner.step(step)
"""

from rmtnet.pruning.gradual import GradualPruning, RandomPruning
from rmtnet.pruning.lasso import GroupLasso
from rmtnet.pruning.nodes import pack_nodes
from rmtnet.pruning.packing import pack
from rmtnet.pruning.penalties import block_norms, l1, l2, off_block_l1
from rmtnet.pruning.permutation import BlockPermutation, block_permutation, hidden_permutation, permute_hidden
from rmtnet.pruning.pruner import Combined, Pruner, Recipe, Removal
from rmtnet.pruning.schedules import Ramp, cubic, linear
from rmtnet.pruning.threshold import BlockDiagonalPruning, PenaltyPruning

__all__ = [
    "BlockDiagonalPruning",
    "BlockPermutation",
    "Combined",
    "GradualPruning",
    "GroupLasso",
    "PenaltyPruning",
    "Pruner",
    "Ramp",
    "RandomPruning",
    "Recipe",
    "Removal",
    "block_norms",
    "block_permutation",
    "cubic",
    "hidden_permutation",
    "l1",
    "l2",
    "linear",
    "off_block_l1",
    "pack",
    "pack_nodes",
    "permute_hidden",
]
