"""A retraining that a movement began is killed after each line that it writes: the next one goes on or starts over.

The ledger is cut after each line, as a kill at that moment leaves it; what was written elsewhere by then is there,
since it comes before its line.
"""

from collections.abc import Callable, Iterator

import pytest

from conf.home import Home
from conf.sections.gates import InputsGate
from conf.sections.training import Train
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Entry, Ledger
from pipelines import experiment
from pipelines.movement import unanswered_movement
from pipelines.promote import promote
from pipelines.retrain import RETRAINED, RETRAINING, unfinished
from pipelines.strays import end_marked
from tests import town
from tests.pipelines.test_retrain import ALONE, ZOO, Verb, again, entries, letters, moved

pytestmark = pytest.mark.timeout(900)

BETTER = ALONE.model_copy(update={"train": Train(models=(f"{ZOO / 'good.py'}:Good",), popularity_trials=1)})
RED = ALONE.model_copy(update={"inputs": InputsGate(min_interactions=10**9)})
ENDING = ["verdict", "decision", "withdrawal"]  # of the experiment that a movement ends


@pytest.fixture
def place(townhome: Home) -> Home:
    """A champion, a challenger in its experiment, and a movement that nobody has answered; too little to learn from."""
    with LocalLog(townhome.log) as log:
        log.append(EVENTS, [Rating(event_id="e1", ts=town.now(), user_id="u", movie_id="m0", rating=5, scale=5)])
    assert promote(townhome, RED, 2, "challenger", actor="ada").accepted
    moved(townhome)
    return townhome


@pytest.fixture
def trained(fresh_home: Callable[[str], Home]) -> Home:
    """The same, with a history that is worth a training."""
    home = fresh_home("trained")
    assert again(home).outcome == "first champion"
    assert again(home, BETTER).outcome == "challenger"
    moved(home)
    return home


def kinds(home: Home, since: int) -> list[str]:
    return [entry.kind for entry in entries(home)[since:]]


def cuts(home: Home, since: int) -> Iterator[Entry]:
    """The ledger as it was after each line since then, the latest first, torn within the next; and that line."""
    whole = home.ledger.read_bytes().splitlines(keepends=True)
    lines = entries(home)
    for end in range(len(whole) - 1, since, -1):
        home.ledger.write_bytes(b"".join(whole[:end]) + whole[end][:20])
        yield lines[end - 1]


def standing(home: Home) -> dict[str, int]:
    return {a: e.body["version"] for a, e in in_charge(Ledger.to_read(home.ledger, home.keys)).items()}


def test_killed_while_the_experiment_ends_and_the_refusal_is_told(place: Home) -> None:
    since = len(entries(place))
    assert again(place, RED, if_due=True).outcome == "refused"
    wanted = [*ENDING, RETRAINING, "decision", RETRAINED]
    assert kinds(place, since) == wanted
    told = {file.name for file in letters(place)}
    for line in cuts(place, since):
        assert "challenger" not in standing(place) or line.kind in ENDING
        done = again(place, RED, if_due=True)
        assert (done.outcome, standing(place)) == ("refused", {"champion": 1})
        found = kinds(place, since)
        assert [found.count(kind) for kind in (*ENDING[::2], RETRAINED)] == [1, 1, 1], line
        assert unfinished(entries(place)) is None
        if line.kind not in ENDING and line.kind != RETRAINED:  # else it is another retraining, told by itself
            assert {file.name for file in letters(place)} == told, line
        told = {file.name for file in letters(place)}
    assert unanswered_movement(entries(place)) is not None


@pytest.mark.long
def test_killed_while_it_trains_and_promotes(trained: Home) -> None:
    place = trained
    since = len(entries(place))
    done = again(place, BETTER, if_due=True)
    assert done.outcome == "challenger"
    wanted = kinds(place, since)
    assert wanted[:4] == [*ENDING, RETRAINING]
    assert wanted[-3:] == ["experiment", "promotion", RETRAINED]
    for line in cuts(place, since + len(ENDING)):
        if line.kind == "decision":
            continue  # as from the line before it
        half = standing(place)
        assert half == ({"champion": 1, "challenger": done.version} if line.kind == "promotion" else {"champion": 1})
        later = again(place, BETTER, if_due=True)
        assert (later.outcome, later.version) == ("challenger", done.version), line.kind
        assert ("cut off after that" in later.sentence) == (line.kind == "promotion")
        assert standing(place) == {"champion": 1, "challenger": done.version}
        found = entries(place)
        assert [e.kind for e in found[since:]].count("promotion") == 1
        assert unfinished(found) is None
        course = experiment.course(found)
        assert course is not None
        assert (course.verdict, course.begun.body["version"]) == (None, done.version)


def test_killed_with_all_its_children_while_it_answers_a_movement(place: Home) -> None:
    since = len(entries(place))
    killed, next_one = Verb(place, RED), None
    try:
        killed.until("retraining, since the audience moved")
        killed.kill()
        assert kinds(place, since)[:4] == [*ENDING, RETRAINING]
        assert standing(place) == {"champion": 1}
        next_one = Verb(place, RED)
        done = next_one.end(status=1)
    finally:
        for verb in filter(None, (killed, next_one)):
            end_marked(verb.mark)
            verb.process.kill()
    assert (done["outcome"], done["why"]) == ("refused", "the last one was cut off")
    assert kinds(place, since)[-1] == RETRAINED
    assert kinds(place, since).count("verdict") == 1
