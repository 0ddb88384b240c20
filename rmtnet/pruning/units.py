"""What is removed from a layer as a whole: a weight, an output, a block."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from rmtnet.pruning.penalties import block_norms, cells

T = TypeVar("T")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
UNITS = ("weights", "outputs", "blocks")


class Units(Protocol):
    """The removable units of one layer; their tensors have one shape."""

    name: str
    module: nn.Module

    @property
    def alive(self) -> torch.Tensor:
        """Bool."""

    def norms(self) -> torch.Tensor:
        """L2 norm of each."""

    def remove(self, dead: torch.Tensor) -> None:
        """Set those units to 0 for good."""

    def enforce(self, optimizer: torch.optim.Optimizer) -> None:
        """Set what was removed to 0 again: momentum moves it, and averages remember it."""


class Masked:
    """Units of a layer that keeps a dense weight and, in the buffer ``weight_mask``, which entries are alive.

    Parameters
    ----------
    cell : rows and columns of a unit of the weight seen as (out, in * kernel); None is a whole row, an output, which
        its bias goes with
    """

    def __init__(self, name: str, module: nn.Module, cell: tuple[int, int] | None = (1, 1)):
        self.name, self.module = name, module
        self._cell = cell
        check_divides(name, plain_weight(name, module).flatten(1), self.cell)
        add_mask(module, "weight")
        if cell is None and getattr(module, "bias", None) is not None:
            add_mask(module, "bias")

    @property
    def cell(self) -> tuple[int, int]:
        # pack_nodes makes rows shorter.
        return self._cell or (1, self.module.get_parameter("weight")[0].numel())

    @property
    def alive(self) -> torch.Tensor:
        mask = self.module.get_buffer("weight_mask").flatten(1)
        return mask if self.cell == (1, 1) else cells(mask, self.cell).any(3).any(1)

    def norms(self) -> torch.Tensor:
        weight = self.module.get_parameter("weight").detach().flatten(1)
        return weight.abs() if self.cell == (1, 1) else block_norms(weight, self.cell)

    def remove(self, dead: torch.Tensor) -> None:
        for name, left in self._masks(~dead):
            mask = self.module.get_buffer(f"{name}_mask")
            mask.logical_and_(left.reshape(mask.shape))
            clear(self.module.get_parameter(name), mask)

    def _masks(self, left: torch.Tensor) -> Iterable[tuple[str, torch.Tensor]]:
        yield "weight", left.repeat_interleave(self.cell[0], 0).repeat_interleave(self.cell[1], 1)
        if self._cell is None and "bias_mask" in self.module._buffers:
            yield "bias", left[:, 0]

    def enforce(self, optimizer: torch.optim.Optimizer) -> None:
        for name in ("weight", "bias"):
            if (mask := self.module._buffers.get(f"{name}_mask")) is not None:
                clear(parameter := self.module.get_parameter(name), mask)
                for average in averages(optimizer, parameter):
                    clear(average, mask)


class Blocks:
    """The blocks of a block-sparse layer."""

    def __init__(self, name: str, module: Any):
        self.name, self.module = name, module
        plain_weight(name, module)

    @property
    def alive(self) -> torch.Tensor:
        kept: torch.Tensor = self.module.kept
        return kept

    def norms(self) -> torch.Tensor:
        return block_norms(self.module.weight.detach())

    def remove(self, dead: torch.Tensor) -> None:
        self.module.remove_blocks(dead)

    def enforce(self, optimizer: torch.optim.Optimizer) -> None:
        kept = self.alive[:, None, None]
        for tensor in (self.module.weight, *averages(optimizer, self.module.weight)):
            clear(tensor, kept)


def units_of(name: str, module: nn.Module, kind: str, block: tuple[int, int] | None) -> Units:
    """The units of a layer.

    Raises
    ------
    ValueError
        If the layer cannot be cut in such units.
    """
    if kind == "blocks" and hasattr(module, "remove_blocks"):
        return Blocks(name, module)
    if kind == "blocks" and block is None:
        raise ValueError(f"{name} is no block-sparse layer: give the size of its blocks, as in block=(32, 32)")
    return Masked(name, module, {"weights": (1, 1), "outputs": None, "blocks": block}[kind])


def prunable(kind: str, block: tuple[int, int] | None = None) -> Callable[[nn.Module], bool]:
    """Whether a layer has units of that kind."""
    if kind == "blocks":
        dense: tuple[type[nn.Module], ...] = () if block is None else (nn.Linear,)
        return lambda module: hasattr(module, "remove_blocks") or isinstance(module, dense)
    return lambda module: isinstance(module, (nn.Linear, *CONVOLUTIONS))


def select(
    model: nn.Module, layers: str | Iterable[str] | None, suitable: Callable[[nn.Module], bool]
) -> dict[str, nn.Module]:
    """The suitable layers that ``layers`` names: names or globs of layers, or of what holds them; None is all.

    Raises
    ------
    ValueError
        If a name matches nothing (the message lists those there are), or there is no suitable layer.
    """
    patterns = ["*"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    known = _suitable(model, suitable)
    return {name: known[name] for name in assign(model, dict.fromkeys(patterns), suitable)}


def assign(model: nn.Module, rules: Mapping[str, T], suitable: Callable[[nn.Module], bool]) -> dict[str, T]:
    """The value that ``rules`` (names or globs -> values) has for each suitable layer it names; the first rule counts.

    Raises
    ------
    ValueError
        As :func:`select`.
    """
    names = list(_suitable(model, suitable))
    if not names:
        raise ValueError(f"{type(model).__name__} has no layer that can be pruned this way")
    if not rules:
        raise ValueError("layers names no layer; leave it out to prune all")
    for pattern in rules:
        if not any(_matches(name, pattern) for name in names):
            raise ValueError(f"no layer to prune matches {pattern!r}; there are {', '.join(names)}")
    found = {name: [value for pattern, value in rules.items() if _matches(name, pattern)] for name in names}
    return {name: values[0] for name, values in found.items() if values}


def check_not_wrapped(model: nn.Module) -> None:
    """A ValueError for what keeps copies or buckets of a model's parameters, which are to be replaced."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"{type(model).__name__} holds on to its parameters: pack the module, then wrap it anew")


def _suitable(model: nn.Module, suitable: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return {
        name.replace("_orig_mod.", "").replace("_orig_mod", ""): module
        for name, module in model.named_modules()
        if suitable(module)
    }


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def plain_weight(name: str, module: nn.Module) -> nn.Parameter:
    """The weight of a layer that can be pruned.

    Raises
    ------
    ValueError
        If it is made from other parameters, has no shape yet, or holds NaN or infinity.
    """
    weight = module._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"the weight of {name} is made from other parameters: remove that (as prune.remove does) first"
        )
    if isinstance(weight, nn.UninitializedParameter):
        raise ValueError(f"{name} has no shape yet: run the model once before it is pruned")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"the weight of {name} holds NaN or infinity: did training diverge?")
    return weight


def check_divides(name: str, matrix: torch.Tensor, block: tuple[int, int]) -> None:
    """A ValueError unless blocks of that size make up a layer's (out, in)."""
    for side, size, axis in zip(block, matrix.shape, ("outputs", "inputs"), strict=True):
        if size % side:
            raise ValueError(f"blocks of {block[0]} x {block[1]} do not divide the {size} {axis} of {name}")


def add_mask(module: nn.Module, name: str) -> None:
    """A buffer that says which entries of a parameter are alive, all at first; one that is there stays."""
    if f"{name}_mask" not in module._buffers:
        module.register_buffer(f"{name}_mask", torch.ones_like(module.get_parameter(name), dtype=torch.bool))


@torch.no_grad()
def clear(tensor: torch.Tensor, mask: torch.Tensor) -> None:
    """Set to 0 where the mask is False."""
    tensor.mul_(mask.view(torch.uint8))  # torch multiplies by bools four times more slowly


def averages(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[torch.Tensor]:
    """Averages over steps that an optimizer keeps of a parameter, to be used in its place (ASGD)."""
    average = optimizer.state[parameter].get("ax") if parameter in optimizer.state else None
    return [] if average is None else [average]
