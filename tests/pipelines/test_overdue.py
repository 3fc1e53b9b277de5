"""An alarm for what is overdue: once for each spell, over restarts, and only when it is sure."""

from conf.home import Home
from events.clock import wall_ms
from pipelines.loop import write_json
from pipelines.overdue import Alarm, Late, late

HOUR = 3_600_000


def left_behind(home: Home, **due: int) -> None:
    """A scheduler died an hour ago; each job's next time."""
    common = {"clock": "wall", "minutes": 60, "running": False}
    rows = {name: {"command": f"greenlight {name}", "next_ms": at, **common} for name, at in due.items()}
    write_json(home.jobs, {"pid": 1, "beat_wall_ms": wall_ms() - HOUR, "late_minutes": 10, "jobs": rows})


class Told:
    def __init__(self, home: Home, sure_s: float = 0.0) -> None:
        self.letters: list[list[str]] = []
        self.alarm = Alarm(home, self._tell, sure_s)

    def _tell(self, jobs: list[Late]) -> None:
        self.letters.append([job.name for job in jobs])


def test_a_home_that_never_had_a_scheduler_is_not_late(home: Home) -> None:
    assert late(home) == []
    told = Told(home)
    told.alarm.step()
    assert told.letters == []


def test_each_spell_is_told_once_over_restarts_too(home: Home) -> None:
    now = wall_ms()
    left_behind(home, prune=now - HOUR, retrain=now + HOUR)
    first = Told(home)
    for _ in range(3):
        first.alarm.step()
    assert first.letters == [["prune"]]
    again = Told(home)
    again.alarm.step()
    assert again.letters == []
    left_behind(home, prune=now - HOUR, retrain=now - HOUR)
    again.alarm.step()
    assert again.letters == [["prune", "retrain"]], "who reads the mail sees all that is late"
    left_behind(home, prune=now + HOUR, retrain=now + HOUR)
    again.alarm.step()
    left_behind(home, prune=now - HOUR + 1, retrain=now + HOUR)
    again.alarm.step()
    assert again.letters[1:] == [["prune"]], "another spell"


def test_a_look_that_is_not_confirmed_is_no_alarm(home: Home) -> None:
    left_behind(home, prune=wall_ms() - HOUR)
    told = Told(home, sure_s=3600)
    told.alarm.step()
    told.alarm.step()
    assert told.letters == []
    assert not home.overdue.exists()


def test_what_cannot_be_told_is_told_later(home: Home) -> None:
    left_behind(home, prune=wall_ms() - HOUR)
    told = Told(home)
    home.overdue.mkdir()  # it cannot be noted
    for _ in range(2):
        try:
            told.alarm.step()
        except OSError:
            continue
    home.overdue.rmdir()
    told.alarm.step()
    assert told.letters[-1] == ["prune"]
