"""What a schedule is asked with, what it is, and how two are combined."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import and_, or_
from types import MappingProxyType
from typing import Any, Self

_NONE_LOGGED: Mapping[str, float] = MappingProxyType({})


class Moment(int):
    """The number of optimizer steps done, and what else is known at that moment.

    It is that number, so that a plain ``step -> bool`` can be asked with it.

    Attributes
    ----------
    step : optimizer steps done
    epoch : passes over the data done, a fraction within one; None where nobody counts them
    seconds : wall time since the recorder was attached
    metrics : name -> the last value that was logged
    """

    epoch: float | None
    seconds: float
    metrics: Mapping[str, float]

    def __new__(
        cls,
        step: int,
        *,
        epoch: float | None = None,
        seconds: float = 0.0,
        metrics: Mapping[str, float] = _NONE_LOGGED,
    ) -> Self:
        moment = super().__new__(cls, step)
        moment.epoch, moment.seconds, moment.metrics = epoch, seconds, metrics
        return moment

    @property
    def step(self) -> int:
        return int(self)


class Schedule(ABC):
    """Whether a moment is due.  ``a | b`` is due when either is, ``a & b`` when both are; both are always asked."""

    @property
    def needs_agreement(self) -> bool:
        """Whether the processes of one training may answer differently, so that one must decide for all."""
        return False

    @abstractmethod
    def __call__(self, moment: int) -> bool: ...

    def state(self) -> Any:
        """What it remembers, as JSON has it; None if nothing."""
        return None

    def restore(self, state: Any) -> None:
        """Remember what an equal schedule had as its :meth:`state`; None changes nothing.

        Raises
        ------
        ValueError
            If the state is that of another schedule.
        """
        if state is not None:
            raise self.misfit(state)

    def __or__(self, other: Callable[[Moment], bool]) -> "Schedule":
        return _Combined(self, as_schedule(other), "|")

    def __and__(self, other: Callable[[Moment], bool]) -> "Schedule":
        return _Combined(self, as_schedule(other), "&")

    def misfit(self, state: Any) -> ValueError:
        """The error for a state that this schedule cannot have had."""
        return ValueError(f"{self}: cannot go on from the state {state!r}, which is that of another schedule")


def as_schedule(when: Callable[[Moment], bool]) -> Schedule:
    """A schedule as it is; any other callable as one without memory, whose answer needs agreement.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    if isinstance(when, Schedule):
        return when
    if not callable(when):
        raise TypeError(f"when must be a schedule or a function of the step, got {when!r}")
    return Rule(when, getattr(when, "__name__", repr(when)), agreement=True)


@dataclass(frozen=True, repr=False)
class Rule(Schedule):
    """A schedule without memory: a function of the moment, and the text that makes it."""

    due: Callable[[Moment], bool]
    text: str
    agreement: bool = False

    @property
    def needs_agreement(self) -> bool:
        return self.agreement

    def __call__(self, moment: int) -> bool:
        return bool(self.due(as_moment(moment)))

    def __deepcopy__(self, memo: object) -> "Rule":
        return self  # it remembers nothing, and its function may belong to something large

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class _Combined(Schedule):
    first: Schedule
    second: Schedule
    sign: str

    @property
    def needs_agreement(self) -> bool:
        return self.first.needs_agreement or self.second.needs_agreement

    def __call__(self, moment: int) -> bool:
        # Not `or`: a schedule with memory must see every moment.
        return (or_ if self.sign == "|" else and_)(self.first(moment), self.second(moment))

    def state(self) -> Any:
        states = [self.first.state(), self.second.state()]
        return None if states == [None, None] else states

    def restore(self, state: Any) -> None:
        if state is None:
            return
        if not (isinstance(state, list) and len(state) == 2):
            raise self.misfit(state)
        self.first.restore(state[0])
        self.second.restore(state[1])

    def __repr__(self) -> str:
        return f"{self.first} | {self.second}" if self.sign == "|" else f"({self.first}) & ({self.second})"


def as_moment(moment: int) -> Moment:
    return moment if isinstance(moment, Moment) else Moment(moment)
