"""Putting another parameter, cut from the old one, in an optimizer's hands: groups, state and hooks stay."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

Cut = Callable[[torch.Tensor], torch.Tensor]


class Exchange(NamedTuple):
    """A parameter that takes the place of another one."""

    name: str
    old: nn.Parameter
    new: nn.Parameter
    cut: Cut
    """A tensor of the old shape -> one of the new shape."""


def cut_parameter(old: nn.Parameter, cut: Cut) -> nn.Parameter:
    """A parameter cut from another one, with its gradient."""
    new = nn.Parameter(cut(old.detach()), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = cut(old.grad)
    return new


def check_parameters(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """A ValueError if one of the parameters to be exchanged belongs to two modules, or has hooks."""
    owned = [
        (parameter, f"{path}.{name}")
        for path, module in model.named_modules()
        for name, parameter in module._parameters.items()
    ]
    for each in parameters:
        names = [name for parameter, name in owned if parameter is each]
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} are one parameter: a layer that shares its weight is not packed")
        if each._backward_hooks or each._post_accumulate_grad_hooks:
            raise ValueError(f"{names[0]} has hooks, which would be lost: register them after the packing")


_UNFIT = {
    "LBFGS": "keeps one vector of all parameters, from which none can be cut",
    "Adafactor": "keeps sums over rows and columns of a weight, from which those of its blocks cannot be cut",
    "Muon": "trains matrices only, and the weight of a block layer is a stack of them",
}
"""Optimizers of torch that blocks cannot be put in the hands of while they train."""


def check_optimizer(optimizer: torch.optim.Optimizer, kinds: Iterable[str] = tuple(_UNFIT)) -> None:
    """A ValueError if it is of a kind that cannot go on with block layers."""
    for name in kinds:
        kind = getattr(torch.optim, name, None)  # older torch has no Muon
        if kind is not None and isinstance(optimizer, kind):
            raise ValueError(f"{name} {_UNFIT[name]}: take another optimizer")


def exchange(optimizer: torch.optim.Optimizer, exchanges: Sequence[Exchange]) -> None:
    """Replace parameters in an optimizer, in place; what it remembers of them is cut as they were.

    Raises
    ------
    ValueError
        If it remembers something that cannot be cut; nothing is replaced then.
    """
    stacks = any(each.new.ndim > 2 for each in exchanges)
    check_optimizer(optimizer, ("LBFGS", "Muon") if stacks else ("LBFGS",))
    states = {each: _cut_state(optimizer, each) for each in exchanges if each.old in optimizer.state}
    new = {id(each.old): each.new for each in exchanges}
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(parameter), parameter) for parameter in group["params"]]
    for each, state in states.items():
        del optimizer.state[each.old]
        optimizer.state[each.new] = state


def _cut_state(optimizer: torch.optim.Optimizer, each: Exchange) -> dict[str, Any]:
    return {key: _cut_value(optimizer, each, key, value) for key, value in optimizer.state[each.old].items()}


def _cut_value(optimizer: torch.optim.Optimizer, each: Exchange, key: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.shape == each.old.shape:
        return each.cut(value)
    if (
        (isinstance(value, torch.Tensor) and value.numel() == 1)
        or value is None
        or isinstance(value, int | float | str)
    ):
        return value
    kind = f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    raise ValueError(
        f"{type(optimizer).__name__} keeps {key!r} of {each.name}, {kind}, which cannot be cut as the weight of shape "
        f"{tuple(each.old.shape)} is: make a new optimizer"
    )
