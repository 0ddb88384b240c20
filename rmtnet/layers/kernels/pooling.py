"""The scan over time as a Triton program. Loaded at the first launch, never before: it needs Triton."""

# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

TILE = 128


def scan(decay: Tensor, update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    """See :func:`rmtnet.layers.recurrent.pooling.linear_scan`."""
    steps, features = len(update), initial.numel()
    states = update.new_empty(steps + 1, *update.shape[1:])
    way = (-features, (steps - 1) * features, steps * features) if reverse else (features, 0, 0)
    linear_scan[-(-features // TILE),](
        *(each.contiguous() for each in (decay, update, initial)), states, steps, features, *way, TILE=TILE, num_warps=1
    )
    return states


@triton.jit
def linear_scan(decay, update, initial, states, steps, features, ahead, first, start, TILE: tl.constexpr):
    """All steps of a tile of features: updates from row ``first`` on, states from ``start`` on, ``ahead`` a step."""
    col = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = col < features
    state = tl.load(initial + col, mask=inside, other=0.0).to(tl.float32)
    take, put = col + first, col + start
    tl.store(states + put, state.to(states.dtype.element_ty), mask=inside)
    # The stages keep the loads of the next steps under way.
    for _ in tl.range(0, steps, num_stages=4):
        factor = tl.load(decay + take, mask=inside, other=0.0).to(tl.float32)
        added = tl.load(update + take, mask=inside, other=0.0).to(tl.float32)
        state = factor * state + added
        take += ahead
        put += ahead
        tl.store(states + put, state.to(states.dtype.element_ty), mask=inside)
