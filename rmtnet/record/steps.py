"""Optimizer steps as hooks see them."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch


def optimizers_of(given: Any) -> list[torch.optim.Optimizer]:
    """The optimizers that step: without the wrappers that Accelerate and Lightning put round them.

    Raises
    ------
    TypeError
        If one is no optimizer.
    """
    found = []
    for optimizer in given if isinstance(given, Sequence) else [given]:
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch optimizer, or several, got {type(optimizer).__name__}")
        found.append(optimizer)
    return found


class Steps:
    """Calls ``before`` and ``after`` round each step of some optimizers, and ``with_gradients`` before it changes them.

    With a closure that is after its first evaluation, at the weights that the step begins with.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        before: Callable[[], None],
        with_gradients: Callable[[], None],
        after: Callable[[], None],
    ):
        self._before, self._with_gradients, self._after = before, with_gradients, after
        self._hooks = [
            hook
            for optimizer in optimizers
            for hook in (
                optimizer.register_step_pre_hook(self._pre),
                optimizer.register_step_post_hook(self._post),
            )
        ]

    def remove(self) -> None:
        """Watch no more."""
        for hook in self._hooks:
            hook.remove()

    def _pre(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if _is_inner(optimizer):
            return None
        self._before()
        # The hook gets the arguments with the optimizer as the first.
        own, *given = args
        closure = given[0] if given else kwargs.get("closure")
        if closure is None:
            self._with_gradients()
            return None
        told = iter([self._with_gradients])

        def evaluate() -> Any:
            loss = closure()
            next(told, lambda: None)()
            return loss

        return ((own, evaluate, *given[1:]), kwargs) if given else (args, {**kwargs, "closure": evaluate})

    def _post(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not _is_inner(optimizer) and not _was_skipped(optimizer):
            self._after()


def _is_inner(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is the step of a parent class within its child's: torch calls the hooks for both."""
    hooked = [kind for kind in type(optimizer).__mro__ if "hooked" in vars(vars(kind).get("step", lambda: None))]
    if len(hooked) < 2:
        return False
    # Every class's step is wrapped by the same function of torch.
    wrapper, running = type(optimizer).step.__code__, 0
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        running += frame.f_code is wrapper and frame.f_locals.get("self") is optimizer
    return running > 1


def _was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer found infinite gradients: GradScaler leaves the skipping to it."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, torch.Tensor) and bool(found)
