import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtnet.ring import Ring


def taken(ring, record):
    return record.kind, record.step, record.layout, bytes(record.payload)


@given(st.lists(st.tuples(st.integers(0, 1900), st.booleans()), max_size=60))
def test_what_is_put_comes_out_whole_in_order_and_once(parts):
    ring, expected, found, position = Ring.create(4096), [], [], 0
    try:
        for number, (size, drain) in enumerate(parts):
            payload = np.random.default_rng(number).bytes(size)
            while (room := ring.reserve(1, number, 7, size)) is None:
                records = list(ring.records(position))
                found += [taken(ring, record) for record in records]
                position = records[-1].end
                ring.free(position)
            room[:] = np.frombuffer(payload, np.uint8)
            ring.publish()
            expected.append((1, number, 7, payload))
            if drain:
                records = list(ring.records(position))
                found += [taken(ring, record) for record in records]
                position = records[-1].end
                ring.free(position)
        found += [taken(ring, record) for record in ring.records(position)]
        assert found == expected
    finally:
        ring.close()


def test_what_is_not_published_is_not_seen_and_may_be_taken_back():
    ring = Ring.create(4096)
    ring.reserve(1, 0, 0, 100)
    assert list(ring.records()) == [] and ring.used == 0
    ring.cancel()
    ring.reserve(2, 5, 0, 8)[:] = 3
    ring.publish()
    [record] = ring.records()
    assert (record.kind, record.step, bytes(record.payload)) == (2, 5, b"\x03" * 8)
    ring.close()


def test_what_might_never_fit_is_refused_at_once():
    ring = Ring.create(4096)
    assert ring.reserve(1, 0, 0, ring.largest()) is not None
    with pytest.raises(ValueError, match="does not fit into a buffer of 4096: enlarge buffer_bytes"):
        ring.reserve(1, 0, 0, 3000)
    ring.close()


def test_a_system_without_anonymous_files_has_a_ring_too(monkeypatch):
    def refused(name):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("os.memfd_create", refused)
    ring = Ring.create(4096)
    ring.reserve(1, 0, 0, 8)
    ring.publish()
    assert len(list(ring.records())) == 1
    ring.close()


@pytest.mark.parametrize("place", [0, 64 + 3 * 8])
def test_memory_that_was_overwritten_is_no_endless_loop(place):
    ring = Ring.create(4096)
    ring.reserve(1, 0, 0, 8)
    ring.publish()
    ring.memory[place : place + 8] = np.frombuffer(b"rubbish\0" if place == 0 else bytes(8), np.uint8)
    with pytest.raises(ValueError, match="was overwritten"):
        list(ring.records())
    ring.close()
