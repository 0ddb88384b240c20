"""Schedules that answer from what they were asked before."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rmtnet.schedules.base import Moment, Schedule, as_moment


def each_epoch(n: int = 1) -> Schedule:
    """The first moment, then the first step that completes ``n`` more epochs.

    Asked after step 0 at a moment without an epoch it raises ValueError.
    """
    if n < 1 or n != int(n):
        raise ValueError(f"each_epoch: n must be a whole number of at least 1, got {n}")
    return _EachEpoch(n)


def each_seconds(seconds: float) -> Schedule:
    """The first moment, then the first step that ends at least so many seconds of wall time after the last due one.

    Time between two runs of a resumed training does not count.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"each_seconds: seconds must be positive, got {seconds}")
    return _EachSeconds(seconds)


def while_falling(metric: str = "loss", *, by: float, over: int = 100) -> Schedule:
    """While a metric falls faster than the fraction ``by`` of its size a step.

    A line is fitted to the metric by least squares, the value of k steps ago weighted by (1 - 1/over)^k (discounted
    least squares; Brown, Smoothing, Forecasting and Prediction of Discrete Time Series, 1963).  A moment is due while
    minus its slope exceeds ``by`` times the absolute weighted mean: of a decay exp(-r step) with r << 1/over, while
    r > by.  The first ``over`` steps, too few to judge by, are due.  A value that is not finite is not due and not
    fitted.  A metric that is logged every L steps stands still between: choose ``over`` several times L.

    Parameters
    ----------
    metric : name under which it is logged; it should keep its sign
    by : relative fall per step, e.g. 1e-4: one per cent in a hundred steps
    over : steps that the fit looks back

    Raises
    ------
    ValueError
        If an argument is none of its choices; when asked, if the metric was not logged in the first ``over`` steps.
    """
    if not 0 < by < math.inf:
        raise ValueError(f"while_falling: by must be positive, got {by}")
    if over < 2 or over != int(over):
        raise ValueError(f"while_falling: over must be a whole number of steps of at least 2, got {over}")
    return _WhileFalling(metric, by, over)


@dataclass(repr=False, eq=False)
class _Memory(Schedule):
    """A schedule that answers from what it was asked before; ``memory`` is its state, so many ``numbers``."""

    numbers: ClassVar[int] = 1
    memory: list[float] | None = field(default=None, init=False)
    _asked: tuple[int, bool] | None = field(default=None, init=False)

    @property
    def needs_agreement(self) -> bool:
        return True

    @abstractmethod
    def _due(self, moment: Moment) -> bool: ...

    def __call__(self, moment: int) -> bool:
        # Asked twice at a step, say as a part of two combinations, it must count that step once.
        if self._asked is None or self._asked[0] != moment:
            self._asked = int(moment), self._due(as_moment(moment))
        return self._asked[1]

    def state(self) -> list[float] | None:
        return self.memory

    def restore(self, state: Any) -> None:
        if state is None:
            return
        if not (isinstance(state, list) and len(state) == self.numbers and all(map(_finite, state))):
            raise self.misfit(state)
        self.memory, self._asked = list(state), None


@dataclass(repr=False, eq=False)
class _EachEpoch(_Memory):
    n: int

    def _due(self, moment: Moment) -> bool:
        if moment.epoch is None and moment > 0:
            if self._asked is None and self.memory is not None:
                return False  # a resumed run, whose loop has told nothing yet
            raise ValueError(f"{self}: the epoch is not known: set recorder.epoch in the loop")
        # A fraction of an epoch that was added up may end a rounding below the whole.
        periods = math.floor((moment.epoch or 0) / self.n + 1e-6)
        # Fewer than before where a training goes on from an earlier step.
        due = self.memory != [periods]
        self.memory = [periods]
        return due

    def __repr__(self) -> str:
        return f"each_epoch({self.n})"


@dataclass(repr=False, eq=False)
class _EachSeconds(_Memory):
    """``memory`` is the time waited since the last due moment: a clock that a resumed run can go on with."""

    seconds: float
    _since: float = field(default=0.0, init=False)

    def _due(self, moment: Moment) -> bool:
        waited = moment.seconds - self._since
        due = self.memory is None or waited >= self.seconds
        if due:
            self._since, waited = moment.seconds, 0.0
        self.memory = [waited]
        return due

    def restore(self, state: Any) -> None:
        super().restore(state)
        if self.memory:
            self._since = -self.memory[0]

    def __repr__(self) -> str:
        return f"each_seconds({self.seconds})"


@dataclass(repr=False, eq=False)
class _WhileFalling(_Memory):
    """``memory``: the last step asked, how many were, the weighted sums 1, t, t^2, x, t x (t = 0 at that step)."""

    numbers: ClassVar[int] = 7
    metric: str
    by: float
    over: int

    def _due(self, moment: Moment) -> bool:
        value = moment.metrics.get(self.metric)
        self._remember(moment, value)
        _, asked, one, t, tt, x, tx = self.memory or []
        if asked <= self.over:
            return True
        if value is None and not one:
            logged = ", ".join(moment.metrics) or "nothing"
            raise ValueError(
                f"{self}: {self.metric!r} was not logged in the first {self.over} steps; logged was: {logged}"
            )
        # The slope is (one tx - t x) / (one tt - t^2), the mean x / one; the denominator is positive.
        if value is not None and not math.isfinite(value):
            return False
        return (t * x - one * tx) * one > self.by * abs(x) * (one * tt - t * t)

    def _remember(self, moment: Moment, value: float | None) -> None:
        last, asked, one, t, tt, x, tx = self.memory or [moment.step, 0, 0.0, 0.0, 0.0, 0.0, 0.0]
        # Not negative where a training goes on from an earlier step than its schedule.
        past = max(0, moment.step - last)
        old = (1 - 1 / self.over) ** past
        one, t, tt, x, tx = (
            *(old * one, old * (t - past * one), old * (tt - 2 * past * t + past**2 * one)),
            *(old * x, old * (tx - past * x)),
        )
        if value is not None and math.isfinite(value):
            # The new value is at t = 0.
            one, x = one + 1, x + value
        self.memory = [moment.step, asked + 1, one, t, tt, x, tx]

    def __repr__(self) -> str:
        return f"while_falling({self.metric!r}, by={self.by}, over={self.over})"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300
