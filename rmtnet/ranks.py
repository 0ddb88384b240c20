"""The processes of one training, as torch.distributed has them: who writes, who decides, sharded tensors made whole.

Without torch.distributed every function does what a single process needs: nothing.  With it, :func:`led`,
:func:`agreed` and :func:`whole` are collective: all ranks call them, in the same order.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import distributed

T = TypeVar("T")
# Weakly: a group that outlives its destruction aborts the process at its end.
_channels: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def is_distributed() -> bool:
    """Whether this process is one of several of a training."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_leader() -> bool:
    """Whether this process is the one that writes: rank 0, or the only one."""
    return not is_distributed() or distributed.get_rank() == 0


def led(action: Callable[[], T]) -> T:
    """What ``action`` gives on rank 0, on every rank; it runs nowhere else.

    Raises
    ------
    Exception
        On rank 0 what the action raised.
    RuntimeError
        On the other ranks, with the text of it: none waits for a rank that has stopped.
    """
    if not is_distributed():
        return action()
    outcome: list[Any] = [None, ""]
    failure: Exception | None = None
    if is_leader():
        try:
            outcome[0] = action()
        except Exception as error:
            failure, outcome[1] = error, f"rank 0 failed: {type(error).__name__}: {error}"
    distributed.broadcast_object_list(outcome, src=0, group=_channel())
    if outcome[1]:
        raise failure or RuntimeError(outcome[1])
    result: T = outcome[0]
    return result


def agreed(decision: bool) -> bool:
    """Rank 0's decision, on every rank."""
    return led(lambda: decision)


def whole(tensor: torch.Tensor, *, keep: bool = True) -> torch.Tensor | None:
    """A sharded tensor (DTensor) gathered from all ranks, detached; any other tensor as it is, detached.

    Parameters
    ----------
    keep : whether this rank wants it; where it does not the result is None and what was gathered is freed
    """
    detached = tensor.detach()
    gather: Callable[[], torch.Tensor] | None = getattr(detached, "full_tensor", None)
    full = detached if gather is None else gather()
    return full if keep else None


def _channel() -> Any:
    """A group of all ranks that sends from host memory: a decision must not wait for what the GPU has queued."""
    world = distributed.group.WORLD
    if distributed.get_backend(world) == "gloo":
        return world
    if world not in _channels:
        _channels[world] = distributed.new_group(backend="gloo")
    return _channels[world]
