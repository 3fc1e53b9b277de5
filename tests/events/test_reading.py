"""Which log is read: one order over the spool, the mirror that follows it, and what follows that one."""

import json

import pytest

from conf.home import Home
from conf.settings import Settings
from events.archive import archive, catch_up, read_topic
from events.clock import now_ms, wall_ms
from events.event import CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, TOPICS, Account, AnyEvent, Rating, Unreadable
from events.local_log import LocalLog
from events.reading import mirror_of, on_the_way, opened, reached, reading_log, spool_mark, to_archive
from events.state import Acts
from events.store import FolderStore
from serving.lag import lags

START = 1_700_000_000_000
EMBEDDED = Settings()
KAFKA = Settings.model_validate({"kafka": {"servers": "127.0.0.1:9"}, "clock": "event"})


def ratings(*numbers: int) -> list[AnyEvent]:
    return [Rating(event_id=f"e{n}", ts=START + n, user_id=f"u{n}", movie_id="m", rating=4, scale=5) for n in numbers]


def add(log: LocalLog, *numbers: int) -> None:
    log.append_all(ratings(*numbers))


def fill(home: Home, *numbers: int) -> None:
    with LocalLog(home.log) as log:
        add(log, *numbers)


def mirrored(home: Home, *numbers: int) -> None:
    with mirror_of(home) as mirror:
        add(mirror, *numbers)


def archived(home: Home, settings: Settings) -> list[tuple[int, str]]:
    """Offset and id of what the archive holds, after it was brought up to date, by offset."""
    store = FolderStore(home.history)
    with LocalLog(reading_log(home, settings)) as log:
        archive(log, store)
    table = read_topic(store, EVENTS, ["offset", "event_id"]).sort_by("offset")
    return list(zip(table["offset"].to_pylist(), table["event_id"].to_pylist(), strict=True))


def followed(home: Home, settings: Settings, knows: int = 0) -> set[str]:
    """The viewers whose acts one gets to know who knew what was stored up to an offset."""
    acts = Acts(home, settings)
    after, found, more = acts.start(knows), set[str](), True
    assert after is not None
    while more:
        batch = acts.since(after, 2)
        found |= {act.user_id for act in batch.acts}
        after, more = batch.offset, batch.more
    acts.close()
    return found


def test_without_kafka_the_log_is_read_and_with_it_the_mirror(home: Home) -> None:
    assert reading_log(home, EMBEDDED) == home.log
    assert reading_log(home, KAFKA) == home.mirror
    assert not home.mirror.exists()
    assert not home.log.exists()


def test_kafka_switched_on_in_a_home_with_a_history(home: Home) -> None:
    """The relay sends what the spool still holds, so the mirror gets old events again: once in the archive, and nobody
    who follows misses one."""
    fill(home, *range(4))
    before = archived(home, EMBEDDED)
    fill(home, 4)  # in the spool alone
    mirrored(home, 2, 3, 4, 5)
    now = archived(home, KAFKA)
    assert now[:4] == before
    assert [event_id for _, event_id in now] == [f"e{n}" for n in range(6)]
    for knows in (0, 2, 4):
        assert followed(home, KAFKA, knows) >= {f"u{n}" for n in range(knows, 6)}


def test_a_mirror_that_was_lost_begins_beyond_the_one_before(home: Home) -> None:
    mirrored(home, 0, 1)
    with LocalLog(home.mirror) as mirror:
        known = mirror.newest()
    before = archived(home, KAFKA)
    for file in home.root.glob("mirror.db*"):
        file.unlink()
    mirrored(home, 1, 2)
    assert archived(home, KAFKA)[:2] == before
    assert [event_id for _, event_id in archived(home, KAFKA)] == ["e0", "e1", "e2"]
    assert followed(home, KAFKA, known) == {"u0", "u1", "u2"}, "its offset is of a log that is gone"


def test_one_who_follows_goes_on_with_the_log_that_took_its_place(home: Home) -> None:
    mirrored(home, 0, 1)
    archived(home, KAFKA)
    acts = Acts(home, KAFKA)
    reached_so_far = acts.since(0, 500).offset
    while (batch := acts.since(reached_so_far, 500)).offset > reached_so_far:
        reached_so_far = batch.offset
    for file in home.root.glob("mirror.db*"):
        file.unlink()
    mirrored(home, 1, 2)
    found, after, more = set[str](), reached_so_far, True
    while more:
        batch = acts.since(after, 500)
        found, after, more = found | {act.user_id for act in batch.acts}, batch.offset, batch.more
    assert found == {"u1", "u2"}
    acts.close()


def test_kafka_switched_off_again(home: Home) -> None:
    """The spool holds all that came in here; what only came through Kafka is in the archive."""
    fill(home, 0, 1)
    mirrored(home, 0, 1, 7)
    archived(home, KAFKA)
    with LocalLog(home.mirror) as mirror:
        known = mirror.newest()
    fill(home, 2)
    reading_log(home, EMBEDDED)
    fill(home, 3)
    found = archived(home, EMBEDDED)
    assert sorted(event_id for _, event_id in found) == ["e0", "e1", "e2", "e3", "e7"]
    assert found[-1][1] == "e3", "what comes in from now on stands behind all before"
    assert followed(home, EMBEDDED, known) == {f"u{n}" for n in (0, 1, 2, 3, 7)}


def test_what_only_the_mirror_took_in_is_archived_though_kafka_was_switched_off_before(home: Home) -> None:
    fill(home, 0)
    mirrored(home, 0, 7)
    catch_up(home, EMBEDDED, FolderStore(home.history))
    fill(home, 1)
    catch_up(home, EMBEDDED, FolderStore(home.history))
    found = read_topic(FolderStore(home.history), EVENTS, ["offset", "event_id"]).sort_by("offset")
    assert sorted(found["event_id"].to_pylist()) == ["e0", "e1", "e7"]
    assert found["event_id"].to_pylist()[-1] == "e1"
    assert to_archive(home, EMBEDDED) == [home.log]


def test_an_offset_beyond_the_end_is_of_another_log(home: Home) -> None:
    fill(home, 0, 1)
    assert followed(home, EMBEDDED, 2) == set()
    assert followed(home, EMBEDDED, 99) == {"u0", "u1"}


def test_readers_have_all_once_the_mirror_holds_what_the_spool_took_last(home: Home) -> None:
    assert reached(home, EMBEDDED) == reached(home, KAFKA) == 0
    dead = Unreadable(event_id="d", ts=START, source="posted", line=0, reason="no", raw="x")
    fill(home, 0)
    with LocalLog(home.log) as log:
        log.append(DEAD_LETTER, [dead])
    assert reached(home, EMBEDDED) == 2
    assert reached(home, KAFKA) is None
    mirrored(home, 0)
    assert reached(home, KAFKA) is None
    with LocalLog(home.mirror) as mirror:
        mirror.append(DEAD_LETTER, [dead])
        assert reached(home, KAFKA) == mirror.newest()


def test_what_was_stored_last_may_come_through_kafka_first(home: Home) -> None:
    """Partitions are read side by side, so the newest record says nothing of those before it."""
    fill(home, *range(9))
    mirrored(home, 1, 2, 3, 8)
    with LocalLog(home.log) as spool, LocalLog(home.mirror) as mirror:
        assert reached(home, KAFKA) is None
        assert on_the_way(spool, mirror, EVENTS, 8) == 5
        mirror.append_with([], {spool_mark(EVENTS): "5"})  # one did not go there, and is in the dead letter
        assert on_the_way(spool, mirror, EVENTS, 8) == 3
        mirror.append_with([], {spool_mark(EVENTS): "8"})
        assert reached(home, KAFKA) == mirror.newest()
        mirror.append_with([], {spool_mark(EVENTS): "5000"})  # of a spool that was lost
        assert reached(home, KAFKA) is None


def test_what_the_relay_has_sent_and_the_mirror_has_not_read_is_lag(home: Home) -> None:
    """The mirror looks every two seconds, and may have seen an empty Kafka just before."""
    fill(home, *range(5))
    mirrored(home, 0)
    home.kafka.write_text(json.dumps({"mirror": {"source": "kafka", "behind": 0, "caught_up_wall_ms": wall_ms()}}))
    with LocalLog(home.log) as spool:
        assert {b.name: b.messages for b in lags(home, KAFKA)} == {"relay": 5, "mirror": 0, "archive": 1}
        spool.commit(EVENTS, "relay", 3)
        assert {b.name: b.messages for b in lags(home, KAFKA)} == {"relay": 2, "mirror": 2, "archive": 1}


def test_the_event_clock_is_the_newest_of_both(home: Home) -> None:
    fill(home, 5)
    assert now_ms(home, KAFKA) == START + 5
    mirrored(home, 9)
    assert now_ms(home, KAFKA) == START + 9
    fill(home, 11)
    assert now_ms(home, KAFKA) == START + 11


def test_events_and_how_far_their_source_was_read_are_stored_together(home: Home) -> None:
    with mirror_of(home) as mirror:
        begins = mirror.begins
        assert mirror.append_with(ratings(1, 1), {"events/0": "7"})[EVENTS] == (1, 1)
        mirror.append_with([], {"events/0": "9", "events/1": "1"})
    with mirror_of(home) as mirror:
        assert {**mirror.marks, "begins": begins} == {"events/0": "9", "events/1": "1", "begins": begins}
        assert (mirror.begins, mirror.newest()) == (begins, begins + 1)
        with pytest.raises(TypeError):
            mirror.append_with([Account(event_id="a", ts=1, user_id="u")], {"events/0": object()})  # type: ignore[dict-item]
        assert mirror.count(EVENTS) == 1, "neither or both"
        assert mirror.marks["events/0"] == "9"


def test_a_log_whose_file_was_replaced_is_opened_anew(home: Home) -> None:
    assert opened(home.mirror, None) is None
    mirrored(home, 1)
    first = opened(home.mirror, None)
    assert first is not None
    assert opened(home.mirror, first) is first
    for file in home.root.glob("mirror.db*"):
        file.unlink()
    assert opened(home.mirror, first) is None
    mirrored(home, 2)
    second = opened(home.mirror, None)
    assert second is not None
    assert [record.event.event_id for record in second.iterate(EVENTS)] == ["e2"]
    second.close()


def test_all_topics_go_through_kafka() -> None:
    assert set(TOPICS) == {EVENTS, CATALOGUE, IMPRESSIONS, DEAD_LETTER}
