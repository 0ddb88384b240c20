import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtnet.schedules import Moment, as_schedule, at, each_epoch, each_seconds, every, log_spaced, while_falling

schedules = st.one_of(
    st.integers(1, 50).map(every),
    st.lists(st.integers(0, 300), max_size=5).map(lambda steps: at(*steps)),
    st.builds(
        lambda per, until: log_spaced(per_decade=per, until=until), st.integers(1, 20), st.none() | st.integers(1, 300)
    ),
)


def due(schedule, stop=300):
    return {step for step in range(stop) if schedule(step)}


def test_every_and_at_are_due_when_they_say():
    assert due(every(50)) == {0, 50, 100, 150, 200, 250}
    assert due(at(7, 0, 7)) == {0, 7}
    assert due(at()) == set()


@given(schedules, schedules)
def test_or_is_the_union_and_and_the_intersection(one, other):
    assert due(one | other) == due(one) | due(other)
    assert due(one & other) == due(one) & due(other)


@given(schedules, schedules, schedules)
def test_the_text_of_a_schedule_makes_it_again(one, other, third):
    for schedule in (one, one | other, one & other, (one | other) & third, one | other & third):
        again = eval(repr(schedule), {"every": every, "at": at, "log_spaced": log_spaced})
        assert due(again) == due(schedule)


@pytest.mark.parametrize("schedule", [each_epoch(2), each_seconds(0.5), while_falling("val/loss", by=1e-3, over=20)])
def test_the_text_of_a_schedule_with_memory_makes_it_again(schedule):
    again = eval(
        repr(schedule), {"each_epoch": each_epoch, "each_seconds": each_seconds, "while_falling": while_falling}
    )
    assert vars(again) == vars(schedule) and type(again) is type(schedule)


@given(st.integers(1, 30))
def test_log_spaced_is_the_rounded_powers(per_decade):
    powers = {round(10 ** (k / per_decade)) for k in range(5 * per_decade)}
    assert due(log_spaced(per_decade=per_decade), 10_000) == {0} | {step for step in powers if step < 10_000}


def test_log_spaced_holds_far_out():
    assert all(log_spaced(per_decade=3)(10**k) for k in range(19))
    assert not log_spaced(per_decade=3)(10**18 + 10**17)


def test_log_spaced_ends_at_until():
    assert due(log_spaced(per_decade=1, until=100), 2000) == {0, 1, 10, 100}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: every(0), "every: steps must be a whole number of at least 1, got 0"),
        (lambda: at(3, -1), "at: steps must not be negative, got -1"),
        (lambda: log_spaced(per_decade=0), "log_spaced: per_decade must be at least 1, got 0"),
        (lambda: each_epoch(0.5), "each_epoch: n must be a whole number of at least 1, got 0.5"),
        (lambda: each_seconds(0), "each_seconds: seconds must be positive, got 0"),
        (lambda: each_seconds(math.nan), "each_seconds: seconds must be positive, got nan"),
        (lambda: while_falling(by=0), "while_falling: by must be positive, got 0"),
        (
            lambda: while_falling(by=1, over=1),
            "while_falling: over must be a whole number of steps of at least 2, got 1",
        ),
    ],
)
def test_a_schedule_refuses_what_it_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_neither_a_schedule_nor_a_function_is_refused():
    for make in (lambda: as_schedule(10), lambda: every(10) | 3):
        with pytest.raises(TypeError, match="when must be a schedule or a function of the step, got"):
            make()


# --- moments


def test_a_moment_is_the_number_of_steps_and_knows_more():
    moment = Moment(7, epoch=1.5, seconds=3.0, metrics={"loss": 0.1})
    assert moment == 7 and moment % 2 == 1 and moment.step == 7 and type(moment.step) is int
    assert (moment.epoch, moment.seconds, moment.metrics["loss"]) == (1.5, 3.0, 0.1)
    assert (Moment(3).epoch, Moment(3).seconds, dict(Moment(3).metrics)) == (None, 0.0, {})


def test_a_plain_function_is_asked_with_the_whole_moment():
    assert due(as_schedule(lambda step: step in (3, 4)) & every(2)) == {4}
    low = every(2) & (lambda moment: moment.metrics.get("loss", 9) < 1)
    assert [low(Moment(k, metrics={"loss": 2 - k / 2})) for k in range(6)] == [False] * 4 + [True, False]
    assert type(as_schedule(lambda step: np.bool_(True))(0)) is bool


def test_agreement_is_needed_for_what_ranks_may_see_differently():
    assert not (every(3) | at(1) & log_spaced()).needs_agreement
    for schedule in (each_epoch(), each_seconds(1), while_falling(by=0.1), as_schedule(lambda step: True)):
        assert schedule.needs_agreement
        assert (every(3) | schedule).needs_agreement and (schedule & every(3)).needs_agreement


# --- memory


@given(st.integers(1, 3), st.integers(1, 30), st.integers(1, 5))
def test_each_epoch_is_due_at_the_ends_of_epochs(n, steps_per_epoch, epochs):
    schedule = each_epoch(n)
    # The fractions as a loop adds them up, rounding errors and all.
    moments, epoch = [Moment(0)], 0.0
    for step in range(1, epochs * steps_per_epoch + 1):
        epoch += 1 / steps_per_epoch
        moments.append(Moment(step, epoch=epoch))
    assert {int(m) for m in moments if schedule(m)} == set(range(0, epochs * steps_per_epoch + 1, n * steps_per_epoch))


def test_each_epoch_says_when_nobody_counts_epochs():
    schedule = each_epoch()
    assert schedule(Moment(0))
    with pytest.raises(ValueError, match=r"each_epoch\(1\): the epoch is not known: set recorder.epoch in the loop"):
        schedule(Moment(1))


def test_each_seconds_keeps_its_distance():
    schedule = each_seconds(10)
    seconds = [0, 4, 9.9, 10, 19, 25, 34.9, 35]
    assert [schedule(Moment(k, seconds=s)) for k, s in enumerate(seconds)] == [
        *(True, False, False, True, False, True, False, True)
    ]


def test_the_clock_of_a_resumed_run_goes_on_from_where_it_stood():
    first, second = each_seconds(10), each_seconds(10)
    for k, s in enumerate([0.0, 10.0, 17.0]):
        first(Moment(k, seconds=s))
    second.restore(json.loads(json.dumps(first.state())))
    assert [second(Moment(k, seconds=s)) for k, s in enumerate([0.0, 2.0, 3.0, 12.0, 13.0], start=2)] == [
        *(False, False, True, False, True)
    ]


def fall_by_polyfit(values, over):
    """Relative fall per step of the discounted least-squares line, by numpy."""
    ages = np.arange(len(values))[::-1]
    weights = (1 - 1 / over) ** ages
    slope = np.polyfit(-ages, values, 1, w=np.sqrt(weights))[0]
    return -slope / abs(np.average(values, weights=weights))


@given(st.integers(5, 40), st.integers(0, 2**32 - 1), st.sampled_from([1, -1]))
def test_while_falling_is_the_weighted_line_of_numpy(over, seed, sign):
    random = np.random.default_rng(seed)
    values = sign * (2 + np.cumsum(random.normal(size=4 * over)) * 0.01 + np.linspace(1, 0, 4 * over))
    falls = np.array([fall_by_polyfit(values[: k + 1], over) for k in range(over, 4 * over)])
    by = abs(np.median(falls))
    schedule = while_falling(by=by, over=over)
    answers = [schedule(Moment(k, metrics={"loss": value})) for k, value in enumerate(values)]
    assert all(answers[:over])
    clear = np.abs(falls - by) > 1e-9
    assert clear.sum() > over
    np.testing.assert_array_equal(np.array(answers[over:])[clear], falls[clear] > by)


def test_while_falling_stops_where_an_exponential_decay_becomes_slower():
    # exp(-r step) with r = 2e-3 until step 1000 and 2e-4 after it: by = 1e-3 lies between.
    rates = np.where(np.arange(3000) < 1000, 2e-3, 2e-4)
    loss = np.exp(-np.cumsum(rates))
    schedule = while_falling(by=1e-3, over=50)
    answers = np.array([schedule(Moment(k, metrics={"loss": x})) for k, x in enumerate(loss)])
    assert answers[:1000].all() and not answers[1200:].any()


def test_a_loss_that_stands_still_or_is_no_number_is_not_falling():
    schedule = while_falling(by=1e-12, over=5)
    falling = [schedule(Moment(k, metrics={"loss": max(10 - k, 3.0)})) for k in range(200)]
    assert all(falling[:8]) and not any(falling[190:])
    assert not schedule(Moment(200, metrics={"loss": math.nan}))
    assert not schedule(Moment(201, metrics={"loss": math.inf}))
    assert all(map(math.isfinite, schedule.state()))


def test_a_metric_that_is_never_logged_is_named():
    schedule = while_falling("los", by=0.1, over=3)
    assert all(schedule(Moment(k, metrics={"loss": 1.0})) for k in range(3))
    with pytest.raises(ValueError, match="'los' was not logged in the first 3 steps; logged was: loss"):
        schedule(Moment(3, metrics={"loss": 1.0}))


def test_a_metric_that_is_not_logged_again_yet_after_a_restart_is_no_error():
    first, second = while_falling(by=0.01, over=3), while_falling(by=0.01, over=3)
    for k in range(10):
        first(Moment(k, metrics={"loss": 10.0 - k}))
    second.restore(first.state())
    assert second(Moment(9))
    # From an earlier step than that of the state.
    assert second(Moment(5, metrics={"loss": 5.0})) in (True, False)
    assert all(map(math.isfinite, second.state()))


def moments(seed, stop=200):
    random = np.random.default_rng(seed)
    seconds, loss = np.cumsum(random.exponential(size=stop)), np.exp(np.cumsum(random.normal(-0.01, 0.02, stop)))
    return [
        Moment(k, epoch=k / 30, seconds=s, metrics={"loss": x})
        for k, (s, x) in enumerate(zip(seconds, loss, strict=True))
    ]


def with_memory():
    return (each_epoch() | every(50)) | each_seconds(5) & while_falling(by=0.01, over=10)


@given(st.integers(0, 2**32 - 1), st.integers(1, 199))
def test_a_run_that_is_resumed_records_what_an_uninterrupted_one_does(seed, stop):
    whole, before, after = with_memory(), with_memory(), with_memory()
    expected = [whole(moment) for moment in moments(seed)]
    answers = [before(moment) for moment in moments(seed)[:stop]]
    after.restore(json.loads(json.dumps(before.state())))
    # The clock of the resumed run starts when the first one stopped.
    start = moments(seed)[stop - 1].seconds
    answers += [
        after(Moment(m.step, epoch=m.epoch, seconds=m.seconds - start, metrics=m.metrics)) for m in moments(seed)[stop:]
    ]
    assert answers == expected
    assert len(set(expected)) == 2


def test_a_combination_asks_both_sides_so_that_none_misses_a_moment():
    for combine in (lambda a, b: a | b, lambda a, b: a & b):
        for reverse in (False, True):
            clock, falling = each_seconds(5), while_falling(by=0.01, over=10)
            alone = copy.deepcopy(falling)
            both = combine(falling, clock) if reverse else combine(clock, falling)
            for moment in moments(1):
                both(moment)
                alone(moment)
            assert falling.state() == alone.state()


def test_a_schedule_that_is_part_of_two_is_asked_once_a_step():
    clock, alone = each_seconds(5), each_seconds(5)
    both = clock & clock
    assert [both(moment) for moment in moments(2)] == [alone(moment) for moment in moments(2)]


def test_a_schedule_without_memory_has_no_state():
    assert (every(3) | at(5) & log_spaced()).state() is None
    (every(3) | at(5)).restore(None)
    assert each_epoch().state() is None


@pytest.mark.parametrize(
    "schedule, state",
    [
        (every(3), [1]),
        (each_epoch(), {"epochs": 1}),
        (each_epoch(), [1, 2]),
        (each_seconds(3), ["soon"]),
        (each_seconds(3), [math.nan]),
        (each_seconds(3), [10**400]),
        (while_falling(by=0.1), [1.0]),
        (every(3) | each_epoch(), [1.0]),
        (every(3) | each_epoch(), [[1.0], None]),
    ],
)
def test_a_state_of_another_schedule_is_refused(schedule, state):
    with pytest.raises(ValueError, match=r"cannot go on from the state .*, which is that of another schedule"):
        schedule.restore(state)
