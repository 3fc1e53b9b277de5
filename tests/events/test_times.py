"""Units of times are told by their size, exactly, and nothing implausible passes."""

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.event import BadRecord
from events.times import EARLIEST_MS, from_number, from_text

LATEST = 1_790_000_000_000


@given(st.integers(EARLIEST_MS, LATEST))
def test_every_plausible_time_is_the_same_in_every_unit(ms: int) -> None:
    assert from_number(str(ms), LATEST) == (ms, "milliseconds")
    assert from_number(str(ms * 1000), LATEST) == (ms, "microseconds")
    assert from_number(str(ms * 1_000_000 + 999_999), LATEST) == (ms, "nanoseconds")
    assert from_number(str(ms // 1000), LATEST) == (ms // 1000 * 1000, "seconds")
    assert from_number(f"{ms // 1000}.{ms % 1000:03}", LATEST) == (ms, "seconds")
    assert from_text(str(ms), UTC, LATEST) == (ms, "milliseconds")


@pytest.mark.parametrize(
    "text", ["0", "-5", "631151999", "1e400", "nan", "", "x", "1_000", "9" * 60, "4102444800000000000000"]
)
def test_implausible_times_are_refused(text: str) -> None:
    with pytest.raises(BadRecord, match="time"):
        from_number(text, LATEST)


def test_the_future_is_refused_with_its_date() -> None:
    with pytest.raises(BadRecord, match="2026-09-21T14:13:21"):
        from_number("1790000001", LATEST)
