"""Caffe's conventions that the papers trained under and torch does not share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


def xavier_uniform_(weight: torch.Tensor, fan_in: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill ``weight`` in place with Caffe's Xavier law: uniform, mean 0, variance ``1 / fan_in``.

    Of a block layer the fan-in is the block's, so that b blocks start with b times the dense layer's variance.

    References
    ----------
    Caffe, ``XavierFiller`` (its default normalises by the fan-in alone, unlike Glorot and Bengio, 2010, eq. 16).
    """
    bound = (3 / fan_in) ** 0.5
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with Caffe's momentum buffer, and its "inv" and "multistep" rate policies.

    At iteration t the rate is ``lr (1 + gamma t)^-power``, a tenth of it for each of ``drops`` that t has reached.  The
    buffer holds rate x gradient,
    ``V <- momentum V + rate_t (G + weight_decay W)`` and ``W <- W - V``, so that a falling rate acts at once on new
    gradients only.  torch's buffer holds the gradient, ``v = V / rate_t``: the same iteration when its momentum is
    scaled by ``rate_(t-1) / rate_t``, as is done here.

    Parameters
    ----------
    params : parameters or parameter groups, as of :class:`torch.optim.SGD`
    lr : rate at iteration 0; a group may have its own
    momentum, weight_decay : as in Caffe; weight decay acts on biases too
    gamma, power : of the rate policy; gamma = 0 keeps the rate fixed
    drops : iterations from which the rate is a tenth of what it was

    References
    ----------
    Caffe, ``SGDSolver::ComputeUpdateValue`` and the rate policies in ``SGDSolver::GetLearningRate``.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        gamma: float = 0.0,
        power: float = 0.0,
        drops: Sequence[int] = (),
    ):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        for group in self.param_groups:
            if not group["lr"] > 0:
                raise ValueError(f"lr must be positive, got {group['lr']}")
            group.update(gamma=gamma, power=power, drops=list(drops), iteration=0)
        # Not by overriding step: torch would call other hooks twice, for the class and for its parent.
        self.register_step_pre_hook(_set_rates)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Copies and unpickled optimizers come without hooks.
        if _set_rates not in self._optimizer_step_pre_hooks.values():
            self.register_step_pre_hook(_set_rates)


_POLICY = ("gamma", "power", "drops", "iteration")


def _set_rates(optimizer: torch.optim.Optimizer, *_: object) -> None:
    policy = {key: optimizer.param_groups[0][key] for key in _POLICY}
    for group in optimizer.param_groups:
        # A group that was added later follows the policy of the first.
        group.update(policy)
        group.setdefault("base_lr", group["lr"])
        group.setdefault("base_momentum", group["momentum"])
        if group["lr"] != group.get("policy_lr", group["lr"]):
            raise ValueError(
                "caffe.SGD sets its own rates: give it gamma, power or drops in place of a torch scheduler"
            )
        rate = group["base_lr"] * (1 + group["gamma"] * group["iteration"]) ** -group["power"]
        rate *= 0.1 ** sum(group["iteration"] >= drop for drop in group["drops"])
        group["momentum"] = group["base_momentum"] * group["lr"] / rate
        group["lr"] = group["policy_lr"] = rate
        group["iteration"] += 1


@dataclass(frozen=True, kw_only=True)
class Solver:
    """Recipe of an optimizer: called with a model it gives the :class:`SGD` of Caffe's solver files.

    The defaults are those of Caffe's LeNet example (paper A, LeNet-5): rate 0.01, momentum 0.9, weight decay 5e-4,
    rate policy ``0.01 (1 + 1e-4 t)^-0.75``, bias rate twice the weights'.
    """

    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    gamma: float = 1e-4
    power: float = 0.75
    bias_rate: float = 2.0
    """Rate of the biases over that of the weights."""
    drops: tuple[int, ...] = ()
    """Iterations from which the rate is a tenth of what it was."""

    def __call__(self, model: nn.Module) -> SGD:
        named = dict(model.named_parameters())
        biases = [parameter for name, parameter in named.items() if "bias" in name.split(".")[-1]]
        weights = [parameter for name, parameter in named.items() if "bias" not in name.split(".")[-1]]
        groups = [{"params": weights, "lr": self.rate}, {"params": biases, "lr": self.rate * self.bias_rate}]
        return SGD(
            [group for group in groups if group["params"]],
            lr=self.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            gamma=self.gamma,
            power=self.power,
            drops=self.drops,
        )
