"""Steps by number or word."""

import numpy as np
from numpy.typing import NDArray


def choose_steps(recorded: NDArray[np.int64], chosen: str | None) -> NDArray[np.int64]:
    """The recorded steps that ``chosen`` names: ``0,100,last`` one by one, ``first:1000`` from one to another.

    Raises
    ------
    ValueError
        If the text is not of that form or names a step that was not recorded.
    """
    if len(recorded) == 0 or chosen is None:
        return recorded
    words = {"first": int(recorded[0]), "last": int(recorded[-1])}
    try:
        if ":" in chosen:
            start, stop = (words[end] if end in words else int(end) if end else None for end in chosen.split(":"))
            return recorded[
                (recorded >= (words["first"] if start is None else start))
                & (recorded <= (words["last"] if stop is None else stop))
            ]
        steps = sorted({words[word] if word in words else int(word) for word in chosen.split(",")})
    except ValueError:
        raise ValueError(f"steps must be like 0,100,last or first:1000, got {chosen!r}") from None
    if missing := [step for step in steps if step not in recorded]:
        there = f"{len(recorded)} steps from {words['first']} to {words['last']}"
        raise ValueError(f"step {missing[0]} was not recorded; there are {there}")
    return np.array(steps, dtype=np.int64)
