"""How sparse, or how strict, at which step: pure functions of the step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A value that goes from ``initial`` to ``final`` between two steps and never beyond.

    At step t it is ``final + (initial - final) (1 - (t - begin) / (end - begin))^power``, with t rounded down to a
    multiple of ``every`` after ``begin``; before ``begin`` it is ``initial``, from ``end`` on ``final``.

    Raises
    ------
    ValueError
        If it ends before it begins, or a number is out of its range.
    """

    begin: int
    end: int
    initial: float = 0.0
    final: float = 1.0
    every: int = 1
    power: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"a ramp must not end before it begins, nor begin before 0: {self.begin} to {self.end}")
        for name in ("every", "power"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("initial", "final"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")

    def __call__(self, step: int) -> float:
        if step >= self.end:
            return self.final
        steps = (step - self.begin) // self.every * self.every
        if steps <= 0:
            return self.initial
        done = steps / (self.end - self.begin)
        return self.final + (self.initial - self.final) * (1 - done) ** self.power


def linear(begin: int, end: int, *, initial: float = 0.0, final: float = 1.0, every: int = 1) -> Ramp:
    """From ``initial`` to ``final`` along a straight line.

    Paper B has the sparsity after epoch t rise as ``rho_t = a (t - 1) + b``: ``begin`` is the end of the first epoch,
    ``every`` an epoch, ``initial`` b.

    >>> [linear(100, 300, final=0.8, every=100)(step) for step in (0, 199, 200, 300, 999)]
    [0.0, 0.0, 0.4, 0.8, 0.8]
    """
    return Ramp(begin=begin, end=end, initial=initial, final=final, every=every)


def cubic(begin: int, end: int, *, initial: float = 0.0, final: float = 1.0, every: int = 1) -> Ramp:
    """Automated gradual pruning (AGP): ``s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3``.

    References
    ----------
    Zhu and Gupta, To prune, or not to prune (2017), eq. 1; n dt is ``end - begin``, dt is ``every``.

    >>> [cubic(0, 100, final=0.8)(step) for step in (0, 50, 100)]
    [0.0, 0.7000000000000001, 0.8]
    """
    return Ramp(begin=begin, end=end, initial=initial, final=final, every=every, power=3)
