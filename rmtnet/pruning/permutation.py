"""Which order of a trained layer's outputs and inputs is closest to diagonal blocks, before it is pruned to them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.float64]
Order = NDArray[np.int64]
_ROUNDS = 100
_PATIENCE = 8


@dataclass(frozen=True, eq=False)
class BlockPermutation:
    """``weight[rows][:, columns]`` is close to equal diagonal blocks."""

    rows: torch.Tensor
    columns: torch.Tensor
    off_block: float
    """Share of the mass that is off the blocks in this order."""
    identity: float
    """The same in the order that there was."""

    @property
    def saved(self) -> float:
        """Share of the mass that pruning to the blocks spares, thanks to the order."""
        return self.identity - self.off_block


def block_permutation(
    weight: torch.Tensor,
    blocks: int,
    *,
    norm: int = 2,
    fixed: str | None = None,
    starts: int = 2,
    seed: int = 0,
) -> BlockPermutation:
    """The order of outputs and inputs in which most of a dense weight lies in ``blocks`` equal diagonal blocks.

    Outputs are assigned to blocks, as many to each, with the inputs held, then inputs with the outputs held, each time
    at the optimum (a linear assignment), until nothing is gained.  It begins at the identity, which the result is never
    worse than, and at spectral co-clusterings; the best end counts.

    Parameters
    ----------
    weight : (out, in)
    norm : what mass is: 1 for magnitudes, 2 for their squares
    fixed : "rows" or "columns", which keep their order: one assignment then is the optimum
    starts : number of co-clusterings, drawn with ``seed``

    Raises
    ------
    ValueError
        If the blocks do not divide the weight, it is not a finite matrix, or an argument is none of its choices.

    References
    ----------
    Dhillon, Co-clustering documents and words using bipartite spectral graph partitioning (2001); Damle, Minden and
    Ying, Simple, direct and efficient multi-way spectral clustering (2019).

    Examples
    --------
    >>> weight = torch.eye(4)[[2, 0, 3, 1]]
    >>> found = block_permutation(weight, 2)
    >>> found.identity, found.off_block
    (0.5, 0.0)
    """
    mass = _mass(weight, norm)
    _check(mass, blocks)
    if fixed not in (None, "rows", "columns") or starts < 0:
        raise ValueError(f"fixed must be 'rows', 'columns' or None, and starts not negative, got {fixed!r}, {starts}")
    rows, columns = (np.arange(size) // (size // blocks) for size in mass.shape)
    before = _inside(mass, rows, columns)
    if fixed == "rows":
        columns = _assigned(_by_block(mass.T, rows, blocks))
    elif fixed == "columns":
        rows = _assigned(_by_block(mass, columns, blocks))
    else:
        rng = np.random.default_rng(seed)
        begun = [columns, *(_spectral(mass, blocks, rng) for _ in range(starts))]
        ends = [_alternated(mass, start, blocks) for start in begun]
        rows, columns = max(ends, key=lambda end: _inside(mass, *end))
        rows, columns = _repaired(mass, rows, columns, blocks, rng)
    whole = float(mass.sum()) or 1.0
    shares = (1 - _inside(mass, rows, columns) / whole, 1 - before / whole)
    return BlockPermutation(_order(rows), _order(columns), *shares)


def hidden_permutation(
    first: torch.Tensor, second: torch.Tensor, blocks: tuple[int, int], *, norm: int = 2
) -> torch.Tensor:
    """The order of the nodes between two layers in which most of both lies in their diagonal blocks.

    The inputs of the first and the outputs of the second keep their order, so this is one linear assignment, and the
    optimum.  Of each layer the share of its mass counts.

    Parameters
    ----------
    first, second : (hidden, in) and (out, hidden)
    blocks : numbers of blocks of the two

    Returns
    -------
    (hidden,) for :func:`permute_hidden`
    """
    from scipy.optimize import linear_sum_assignment

    masses = [_mass(first, norm), _mass(second, norm).T]
    if len(masses[0]) != len(masses[1]):
        raise ValueError(
            f"the second layer must read the first's {len(masses[0])} outputs, it has {len(masses[1])} inputs"
        )
    gain = np.zeros((len(masses[0]),) * 2)
    for mass, count in zip(masses, blocks, strict=True):
        _check(mass, count)
        ends = np.arange(mass.shape[1]) // (mass.shape[1] // count)
        gain += np.repeat(_by_block(mass, ends, count), len(mass) // count, axis=1) / (mass.sum() or 1.0)
    nodes, places = linear_sum_assignment(gain, maximize=True)
    return torch.from_numpy(nodes[np.argsort(places)])


@torch.no_grad()
def permute_hidden(
    first: nn.Module, second: nn.Module, order: torch.Tensor, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Put the nodes between two layers into another order; the network computes the same.

    Between them there must be nothing but functions of each node by itself (ReLU, dropout), or pooling and flattening
    of whole channels.

    Parameters
    ----------
    first, second : linear or convolutional (ungrouped) layers; changed in place, with their masks
    order : permutation of the first's outputs
    optimizer : what it remembers of their weights is permuted too
    """
    check_consecutive(first, second)
    weight = first.get_parameter("weight")
    order = order.to(weight.device)
    if not torch.equal(order.sort().values, torch.arange(len(weight), device=order.device)):
        raise ValueError(f"order must be a permutation of the {len(weight)} outputs")
    for tensor in (*_tensors(first, "weight", optimizer), *_tensors(first, "bias", optimizer)):
        tensor.copy_(tensor[order])
    for tensor in _tensors(second, "weight", optimizer):
        tensor.copy_(tensor.unflatten(1, (len(weight), -1))[:, order].flatten(1, 2))


def check_consecutive(first: nn.Module, second: nn.Module) -> None:
    """A ValueError unless the second layer may read the outputs of the first, a node or channel after another."""
    outputs, inputs = len(first.get_parameter("weight")), second.get_parameter("weight").shape[1]
    if getattr(first, "groups", 1) > 1 or getattr(second, "groups", 1) > 1:
        raise ValueError("grouped convolutions cannot be permuted")
    if inputs % outputs:
        raise ValueError(f"the second layer's {inputs} inputs are no multiple of the first's {outputs} outputs")


def _tensors(module: nn.Module, name: str, optimizer: torch.optim.Optimizer | None) -> list[torch.Tensor]:
    """A parameter, its gradient and mask, and what an optimizer remembers of it, entry by entry."""
    parameter = module._parameters.get(name)
    if parameter is None:
        return []
    state: dict[str, Any] = optimizer.state[parameter] if optimizer and parameter in optimizer.state else {}
    others = [parameter.grad, module._buffers.get(f"{name}_mask"), *state.values()]
    return [
        parameter,
        *(other for other in others if isinstance(other, torch.Tensor) and other.shape == parameter.shape),
    ]


def _mass(weight: torch.Tensor, norm: int) -> Floats:
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, got {norm!r}")
    found: Floats = np.asarray(torch.as_tensor(weight).detach().double().abs().cpu()) ** norm
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"weight must be a finite matrix (out, in), got shape {found.shape}")
    return found


def _check(mass: Floats, blocks: int) -> None:
    if blocks < 1 or any(size % blocks for size in mass.shape):
        raise ValueError(f"blocks must divide both sides of the weight: {blocks}, {mass.shape[0]} x {mass.shape[1]}")


def _order(blocks: Order) -> torch.Tensor:
    return torch.from_numpy(np.argsort(blocks, kind="stable"))


def _inside(mass: Floats, rows: Order, columns: Order) -> float:
    return float(mass[rows[:, None] == columns].sum())


def _by_block(mass: Floats, columns: Order, blocks: int) -> Floats:
    """(row, block) mass of each row in the columns of each block."""
    return mass @ np.eye(blocks)[columns]


def _assigned(gain: Floats) -> Order:
    """(row,) block of each row, as many in each, with the greatest sum of ``gain`` (row, block)."""
    from scipy.optimize import linear_sum_assignment

    size, blocks = gain.shape
    places = linear_sum_assignment(np.repeat(gain, size // blocks, axis=1), maximize=True)[1]
    found: Order = places // (size // blocks)
    return found


def _alternated(mass: Floats, columns: Order, blocks: int) -> tuple[Order, Order]:
    inside = -1.0
    for _ in range(_ROUNDS):
        rows = _assigned(_by_block(mass, columns, blocks))
        columns = _assigned(_by_block(mass.T, rows, blocks))
        if (now := _inside(mass, rows, columns)) <= inside * (1 + 1e-12):
            break
        inside = now
    return rows, columns


def _repaired(mass: Floats, rows: Order, columns: Order, blocks: int, rng: np.random.Generator) -> tuple[Order, Order]:
    """Blocks with the least mass, which may be halves of two, are clustered anew as long as something is gained."""
    rows, columns, failures = rows.copy(), columns.copy(), 0
    while failures < _PATIENCE:
        held = np.bincount(rows, (mass * (rows[:, None] == columns)).sum(1), blocks)
        weak = np.argsort(held)[: max(2, blocks // 2 ** (1 + failures % 4))]
        places = np.flatnonzero(np.isin(rows, weak)), np.flatnonzero(np.isin(columns, weak))
        part = mass[np.ix_(*places)]
        end = _alternated(part, _spectral(part, len(weak), rng), len(weak))
        failures += 1
        if _inside(part, *end) > held[weak].sum() * (1 + 1e-12):
            rows[places[0]], columns[places[1]], failures = weak[end[0]], weak[end[1]], 0
    return _alternated(mass, columns, blocks)


def _spectral(mass: Floats, blocks: int, rng: np.random.Generator) -> Order:
    """(column,) block of each column, as many in each, from the leading singular vectors.

    The centres are columns that are far from one another, which a pivoted QR picks from a random half of them.
    """
    from scipy.linalg import qr

    tiny = np.finfo(float).tiny
    rows, columns = (1 / np.sqrt(np.maximum(mass.sum(axis), tiny)) for axis in (1, 0))
    vectors = np.linalg.svd(rows[:, None] * mass * columns, full_matrices=False)[2][:blocks].T
    points = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), tiny)
    picked = rng.permutation(len(points))[: max(blocks, len(points) // 2)]
    centres = picked[qr(points[picked].T, mode="r", pivoting=True)[1][:blocks]]
    return _assigned(points @ points[centres].T)
