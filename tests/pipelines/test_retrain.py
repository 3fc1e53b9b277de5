"""The loop closes: killed at each step, refused with a reason, a challenger, a movement that ends an experiment."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.gates import InputsGate
from conf.sections.training import Train
from conf.settings import Settings
from events.clock import now_ms
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Decision, Entry, Ledger
from pipelines import experiment
from pipelines.limited import MARK
from pipelines.movement import DRIFT, REPORT, unanswered_movement
from pipelines.retrain import RETRAINED, RETRAINING, Retrained, RetrainError, cause, retrain, unfinished
from pipelines.strays import end_marked
from tests.town import judged, made

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
ZOO = Path(__file__).parents[1] / "zoo"
DAY_MS = 86_400_000
ALONE = Settings(train=Train(models=("popularity",), popularity_trials=1))
STEPS = ("asking the drift report", "retraining, since", "popularity is version", "is champion")


@pytest.fixture(scope="module")
def loop(quarter: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home, which the tests of this file take from its beginning through a challenger to a movement."""
    root = tmp_path_factory.mktemp("loop") / "home"
    shutil.copytree(quarter.root, root)
    return Home(root)


def entries(home: Home) -> list[Entry]:
    book = Ledger.to_read(home.ledger, home.keys)
    book.verify()
    return list(book.entries())


def again(home: Home, settings: Settings = ALONE, *, if_due: bool = False) -> Retrained:
    return retrain(home, settings, if_due=if_due, actor="ada")


def letters(home: Home) -> list[Path]:
    return sorted(home.outbox.glob("*.eml"))


class Verb:
    """`greenlight retrain --if-due` as a job runs it; killed with all that it began."""

    def __init__(self, home: Home, settings: Settings = ALONE) -> None:
        words = [sys.executable, "-m", "greenlight", "retrain", "--if-due", "--json"]
        mark = {f"{MARK}_TEST": str(home.root)}
        environment = {**home.environment_of(settings), **mark, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"}
        pipe = subprocess.PIPE
        self.mark = f"{MARK}_TEST={home.root}"
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    def until(self, words: str) -> None:
        """Read what it says up to a line that holds these words."""
        assert self.process.stderr
        said = []
        for line in self.process.stderr:
            said.append(line)
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}, but: {''.join(said)}")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        end_marked(self.mark)
        self.process.communicate()

    def end(self, status: int = 0) -> dict:
        said, errors = self.process.communicate(timeout=600)
        assert self.process.returncode == status, errors
        return json.loads(said)


@pytest.fixture
def verb(loop: Home) -> Iterator[list[Verb]]:
    started: list[Verb] = []
    yield started
    for one in started:
        end_marked(one.mark)
        one.process.kill()


def killed_in_turn(home: Home, verb: list[Verb], steps: Sequence[str]) -> None:
    """Each is killed with all that it began; the last one ends it."""
    for step in steps:
        verb.append(Verb(home))
        verb[-1].until(step)
        if step == STEPS[0]:
            with pytest.raises(RetrainError, match="another retraining runs"):
                again(home)
        verb[-1].kill()
        found = entries(home)
        assert [e.kind for e in found].count("promotion") == (step == STEPS[-1]), step
        assert (unfinished(found) is not None) == (step != STEPS[0]), step
    verb.append(Verb(home))
    done = verb[-1].end()
    assert (done["outcome"], done["version"], "cut off after that" in done["sentence"]) == ("first champion", 1, True)
    kinds = [entry.kind for entry in entries(home)]
    assert (kinds.count("registered"), kinds.count("promotion"), kinds[-1]) == (1, 1, RETRAINED)
    assert kinds.count(RETRAINING) == len(steps) - 1, "each that got so far says why"


def test_killed_at_two_steps_it_goes_on_or_starts_over(loop: Home, verb: list[Verb]) -> None:
    killed_in_turn(loop, verb, (STEPS[0], STEPS[-1]))


@pytest.mark.long
def test_killed_at_each_step_it_goes_on_or_starts_over(fresh_home: Callable[[], Home], verb: list[Verb]) -> None:
    killed_in_turn(fresh_home(), verb, STEPS)


def test_quiet_and_fresh_is_not_due(loop: Home) -> None:
    done = again(loop, if_due=True)
    assert (done.outcome, done.exit, done.mail) == ("not due", 0, None)
    assert "counts as quiet" in done.sentence


def test_where_nobody_beats_the_champion_it_is_refused_and_told(loop: Home) -> None:
    before, letters_before = in_charge(Ledger.to_read(loop.ledger, loop.keys)), len(letters(loop))
    done = again(loop)
    assert (done.outcome, done.exit) == ("refused", 1)
    assert "Version 1 stays champion" in done.sentence
    assert len(letters(loop)) == letters_before + 1
    assert b"Subject: retraining refused" in letters(loop)[-1].read_bytes()
    last = entries(loop)[-1]
    assert (last.kind, last.body["outcome"], last.body["why"]) == (RETRAINED, "refused", "asked for by ada")
    assert in_charge(Ledger.to_read(loop.ledger, loop.keys)) == before


def test_one_that_passes_its_gates_becomes_challenger_and_its_experiment_begins(loop: Home) -> None:
    better = ALONE.model_copy(update={"train": Train(models=(f"{ZOO / 'good.py'}:Good",), popularity_trials=1)})
    done = again(loop, better)
    assert (done.outcome, done.exit, done.mail) == ("challenger", 0, None)
    course = experiment.course(entries(loop))
    assert course is not None
    assert (course.verdict, course.begun.body["version"]) == (None, done.version)
    waits = again(loop, if_due=True)
    assert (waits.outcome, waits.exit) == ("not due", 0)
    waits = again(loop)
    assert (waits.outcome, waits.exit, "waits" in waits.sentence) == ("refused", 1, True)


def test_a_movement_ends_the_experiment_and_red_data_keeps_it_unanswered(loop: Home) -> None:
    moved(loop)
    red = ALONE.model_copy(update={"inputs": InputsGate(min_interactions=10**9)})
    done = again(loop, red, if_due=True)
    assert (done.outcome, done.exit) == ("refused", 1)
    assert "gate inputs" in done.sentence
    assert done.mail is not None
    assert again(loop, red, if_due=True).mail is None, "the same again is not told again"
    course = experiment.course(entries(loop))
    assert course is not None
    assert course.verdict is not None
    assert (course.verdict.body["verdict"], course.challenging) == ("cannot say", False)
    assert "audience moved" in course.verdict.body["reason"]
    assert unanswered_movement(entries(loop)) is not None, "the next one tries again"
    assert "moved" in cause(loop, ALONE, entries(loop))


def moved(home: Home) -> None:
    """What a drift report leaves in the ledger that found a movement."""
    book, now = Ledger.to_write(home.ledger, home.keys), now_ms(home, ALONE)
    decision = Decision("audience", "fail", "2018-01-01-abc", 2.0, 1.0, "2 of the last 2 runs found a difference")
    book.record(replace(decision, valid_until_ms=now + DAY_MS), actor="drift report", ts=now)
    window = {"since_ms": now - 7 * DAY_MS, "until_ms": now}
    body = {"report": DRIFT, "verdict": "moved", "differs": True, "window": window, "sentences": ["They rate lower."]}
    book.append(REPORT, {**body, "reference": {"id": "champion 1"}}, actor="drift report", ts=now)


# When it is due -------------------------------------------------------------------------------------------------------


def learned(home: Home, *, end_ms: int, events: int = 100) -> None:
    """A version that was trained on so many events, up to a moment."""
    folder = home.snapshots / "snap1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "statistics.json").write_text(json.dumps({"end_ms": end_ms, "offset": 0, "events": events}))


def happened(home: Home, *moments: int) -> None:
    with LocalLog(home.log) as log:
        log.append(
            EVENTS, [Rating(event_id=f"e{n}", ts=n, user_id="u", movie_id="m", rating=5, scale=5) for n in moments]
        )


def test_age_goes_by_the_homes_clock(townhome: Home) -> None:
    start = 1_700_000_000_000
    learned(townhome, end_ms=start)
    happened(townhome, start + 6 * DAY_MS)
    assert cause(townhome, ALONE, entries(townhome)) == ""
    happened(townhome, start + 8 * DAY_MS)
    assert "8.0 days old; 7 are allowed" in cause(townhome, ALONE, entries(townhome))


def test_enough_new_data_is_a_reason(townhome: Home) -> None:
    start = 1_700_000_000_000
    learned(townhome, end_ms=start, events=10)
    happened(townhome, *range(start, start + 4))
    assert cause(townhome, ALONE, entries(townhome)) == ""
    happened(townhome, start + 4)
    assert "50% as many events" in cause(townhome, ALONE, entries(townhome))


def test_while_an_experiment_runs_only_a_movement_is_a_reason(townhome: Home) -> None:
    learned(townhome, end_ms=1)
    happened(townhome, 1_700_000_000_000)
    assert "days old" in cause(townhome, ALONE, entries(townhome))
    judged(townhome, made(townhome, 2)["release"], "infra")
    body = {"version": 2, "release": made(townhome, 2)["release"], "alias": "challenger", "rule": "a test"}
    Ledger.to_write(townhome.ledger, townhome.keys).append("promotion", body, actor="ada", ts=1)
    assert cause(townhome, ALONE, entries(townhome)) == ""
    moved(townhome)
    assert "the audience moved: They rate lower." in cause(townhome, ALONE, entries(townhome))
