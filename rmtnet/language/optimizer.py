"""Stochastic gradient descent that averages its weights once the validation loss no longer falls: NT-ASGD."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer


class NTASGD(Optimizer):
    """Plain SGD, and from the trigger on the mean of the weights after every step since: averaged SGD.

    Before the trigger it does what :class:`torch.optim.SGD` does, after it what :class:`torch.optim.ASGD` does (with
    ``lambd=0``), but that the rate of a step is the group's ``lr`` at that step; ASGD's is that of the step before,
    which is wrong where the rate follows the length of a window.

    Parameters
    ----------
    params : as in every optimizer of torch
    lr : the rate
    weight_decay : added to the gradient, times the weight
    nonmono : :meth:`judge` triggers when the loss exceeds the least of all but the last ``nonmono`` losses before

    Raises
    ------
    ValueError
        If ``lr`` is not positive, ``weight_decay`` negative, or ``nonmono`` below 1.

    References
    ----------
    Merity, Keskar and Socher, Regularizing and Optimizing LSTM Language Models, ICLR 2018, algorithm 1.
    """

    def __init__(self, params: Iterable[Any], lr: float, *, weight_decay: float = 0.0, nonmono: int = 5):
        if not lr > 0 or not weight_decay >= 0 or nonmono < 1:
            given = f"lr={lr}, weight_decay={weight_decay}, nonmono={nonmono}"
            raise ValueError(f"lr must be positive, weight_decay not negative, nonmono at least 1, got {given}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "averaged": None})
        self.nonmono = nonmono
        self.losses: list[float] = []
        """What :meth:`judge` was told."""

    @property
    def averages(self) -> bool:
        """Whether the trigger has come."""
        return self.param_groups[0]["averaged"] is not None

    def judge(self, loss: float) -> None:
        """Tell the validation loss; begins to average if it has not improved for ``nonmono`` times."""
        before = self.losses[: -self.nonmono]
        if not self.averages and before and loss > min(before):
            for group in self.param_groups:
                group["averaged"] = 0
        self.losses.append(loss)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; what ``closure``, if any, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            decayed = torch._foreach_add([weight.grad for weight in weights], weights, alpha=group["weight_decay"])
            torch._foreach_add_(weights, decayed, alpha=-group["lr"])
            if group["averaged"] is not None:
                group["averaged"] += 1
                self._average(weights, group["averaged"])
        return loss

    @contextmanager
    def mean_weights(self) -> Iterator[None]:
        """The weights are their means for as long; as they are before the trigger."""
        weights = [weight for weight in self.state if "ax" in self.state[weight]]
        before = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight in weights:
                    weight.copy_(self.state[weight]["ax"])
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(weights, before, strict=True):
                    weight.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "losses": list(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "losses"})
        self.losses = list(state_dict["losses"])

    def _average(self, weights: list[torch.Tensor], averaged: int) -> None:
        for weight in weights:
            if "ax" not in self.state[weight]:
                self.state[weight]["ax"] = weight.detach().clone()
        means = [self.state[weight]["ax"] for weight in weights]
        torch._foreach_lerp_(means, weights, 1 / averaged)
