"""When to record: what is asked after every optimizer step, with the moment that training has reached.

>>> when = log_spaced(per_decade=3, until=1000) | every(500)
>>> [step for step in range(2001) if when(step)]
[0, 1, 2, 5, 10, 22, 46, 100, 215, 464, 500, 1000, 1500, 2000]

A schedule of steps alone may be asked in any order.  One with memory (``each_epoch``, ``each_seconds``,
``while_falling``) is asked once after every step, in order; asked again at the same step it answers the same.
"""

from rmtnet.schedules.base import Moment, Schedule, as_schedule
from rmtnet.schedules.memory import each_epoch, each_seconds, while_falling
from rmtnet.schedules.steps import at, every, log_spaced

__all__ = [
    "Moment",
    "Schedule",
    "as_schedule",
    "at",
    "each_epoch",
    "each_seconds",
    "every",
    "log_spaced",
    "while_falling",
]
