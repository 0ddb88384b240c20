import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtnet.schedules import at, every, log_spaced

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
    ],
)
def test_a_schedule_refuses_what_it_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
