"""Schedules of the number of steps alone."""

import math

from rmtnet.schedules.base import Rule, Schedule


def every(steps: int) -> Schedule:
    """Every ``steps`` steps, step 0 included."""
    if steps < 1 or steps != int(steps):
        raise ValueError(f"every: steps must be a whole number of at least 1, got {steps}")
    return Rule(lambda step: step % steps == 0, f"every({steps})")


def at(*steps: int) -> Schedule:
    """At these steps only."""
    if any(step < 0 for step in steps):
        raise ValueError(f"at: steps must not be negative, got {min(steps)}")
    chosen = frozenset(steps)
    return Rule(lambda step: step in chosen, f"at({', '.join(map(str, steps))})")


def log_spaced(*, per_decade: int = 10, until: int | None = None) -> Schedule:
    """Step 0, then about ``per_decade`` steps in every factor of 10: 1, 2, 3, ... 10, 13, 16, 20, 25, ...

    Parameters
    ----------
    until : the last step that may be due; None for no end
    """
    if per_decade < 1:
        raise ValueError(f"log_spaced: per_decade must be at least 1, got {per_decade}")

    def due(step: int) -> bool:
        if step < 1 or (until is not None and step > until):
            return step == 0
        near = round(per_decade * math.log10(step))
        return any(round(10 ** (k / per_decade)) == step for k in (near - 1, near, near + 1))

    end = "" if until is None else f", until={until}"
    return Rule(due, f"log_spaced(per_decade={per_decade}{end})")
