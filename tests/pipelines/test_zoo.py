"""Every animal of the zoo is refused by the gate that should, with the fault named; the good one is accepted.

The gates know nothing of these files: they are outside models like any other.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from conf.home import Home
from conf.settings import Settings
from mlflow_server.ledger import Decision, SigningKey
from models.interactions import DAY_MS
from models.popularity import Popularity
from models.shelf import find
from monitoring.gates import infra, offline
from monitoring.gates.infra import InfraEvidence
from pipelines.attempt import Attempt, Work, candidate, disguised
from pipelines.evaluate import evaluate, windows
from pipelines.judge import choose, evidence, reference
from pipelines.snapshot import cut

pytestmark = pytest.mark.server  # each animal lives in several processes

ZOO = Path(__file__).parents[1] / "zoo"
SETTINGS = Settings().model_copy(
    update={
        "train": Settings().train.model_copy(update={"candidate_timeout_minutes": 0.5, "candidate_memory_mb": 4096}),
        "infra": Settings().infra.model_copy(update={"golden_requests": 12, "load_timeout_s": 60}),
    }
)


@pytest.fixture(scope="module")
def work(quarter: Home, tmp_path_factory: pytest.TempPathFactory) -> Work:
    snapshot = cut(quarter, SETTINGS)
    folder = tmp_path_factory.mktemp("zoo")
    return Work(
        settings=SETTINGS,
        interactions=snapshot.interactions,
        disguised=disguised(snapshot.interactions, 0),
        windows=windows(snapshot.interactions, SETTINGS.evaluate),
        snapshot=snapshot.id,
        offset=snapshot.statistics["offset"],
        commit="test",
        key=SigningKey(folder / "keys"),
        releases=folder / "releases",
        tuning=folder / "tuning",
        trials=0,
        minutes=None,
        seed=0,
        report=lambda line: None,
    )


@pytest.fixture(scope="module")
def yardstick(work: Work) -> Attempt:
    """Popularity with its default half-life; tuning it is another test's business."""
    model, window = Popularity(), work.windows
    made = Attempt("popularity", "popularity", evaluation=_window(work, model, window.validation_start_ms))
    made.test = evaluate(model, work.interactions, window.test_start_ms, window.end_ms)
    return made


def _window(work: Work, model: Popularity, start_ms: int) -> object:
    return evaluate(model, work.interactions, start_ms, work.windows.test_start_ms)


@pytest.fixture(scope="module")
def judged(
    work: Work, yardstick: Attempt, quarter: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Attempt, dict[str, Decision]]]]:
    """What an animal showed and what the gates say of it; all that are asked for are tried two at a time."""
    cages = tmp_path_factory.mktemp("cages")
    hits = _hits(work)
    with ThreadPoolExecutor(2) as pool:
        tried = {}
        for file in sorted(ZOO.glob("*.py")):
            cage = Path(shutil.copy(file, cages))
            cage.with_suffix(".home").write_text(str(quarter.root))
            cage.with_suffix(".since").write_text(str(work.windows.test_start_ms))
            cage.with_suffix(".hits").write_text(hits)
            cls = next(
                line.split()[1].split("(")[0] for line in file.read_text().splitlines() if "(Recommender)" in line
            )
            tried[file.stem] = pool.submit(candidate, work, f"{cage}:{cls}", lambda: 7.0)

        @cache
        def verdicts(name: str) -> tuple[Attempt, dict[str, Decision]]:
            return _judge(work, tried[name].result(), yardstick)

        yield verdicts
        pool.shutdown(cancel_futures=True)


def _judge(work: Work, made: Attempt, yardstick: Attempt) -> tuple[Attempt, dict[str, Decision]]:
    against = reference(work, yardstick, None)
    choose(work, [made], yardstick, against, ["run"])
    seen = made.infra or InfraEvidence("run", {}, fault=made.unreleased)
    decisions = {
        "offline": offline.judge(evidence(work, made, yardstick, against, "run"), SETTINGS.offline),
        "infra": infra.judge(seen, SETTINGS.infra),
    }
    return made, decisions


def _hits(work: Work) -> str:
    """The movies of each day and the next, most watched first: what nobody could know."""
    history = work.interactions
    days = history.times // DAY_MS
    found = {}
    for day in np.unique(days[history.times >= work.windows.validation_start_ms - DAY_MS]).tolist():
        counts = np.bincount(history.items[(days == day) | (days == day + 1)])
        found[str(day)] = history.catalogue.ids[np.argsort(-counts)[:20]].tolist()
    return json.dumps(found)


REFUSED = [  # animal, the gate that refuses it, words of the reason
    ("random_scores", "offline", "difference to popularity"),
    ("constant_scores", "offline", "difference to popularity"),
    ("archive_leak", "offline", "leak: NDCG@10 on validation falls from"),
    ("late_leak", "offline", "leak: NDCG@10"),
    ("known_hits", "offline", "leak: NDCG@10 on validation falls from"),
    ("nan_weights", "offline", "of its scores are NaN or infinite"),
    ("nan_weights", "infra", "of its scores are NaN or infinite"),
    ("wrong_shape", "offline", "score must return shape (viewers, items)"),
    ("wrong_shape", "infra", "score must return shape (viewers, items) = (1, "),
    ("narrow", "infra", "a catalogue with a movie newer than the model: ValueError: score must return shape"),
    ("strings", "offline", "score must return a float array"),
    ("slow", "infra", "the median time of a slate"),
    ("hiccups", "infra", "the time in ms that 95 of 100 slates keep within"),
    ("crashes_on_empty", "infra", "the model failed on an empty history: ZeroDivisionError"),
    ("saves_nothing", "infra", "No such file or directory"),
    ("load_raises", "infra", "RuntimeError: weights are of another version"),
    ("pickles", "infra", "weights.pkl"),
    ("forgets", "infra", "got another slate than before the model was saved"),
    ("unstable", "infra", "answered differently the second time"),
    ("hash_seeded", "infra", "in a second process"),
    ("batch_dependent", "infra", "answered differently alone and in a batch"),
    ("mutates", "offline", "read-only"),
    ("mutates", "infra", "read-only"),
    ("never_full", "infra", "movies of 20"),
]


@pytest.mark.parametrize(("animal", "gate", "words"), REFUSED)
def test_refused_by_the_gate_that_should(judged: Callable, animal: str, gate: str, words: str) -> None:
    made, decisions = judged(animal)
    assert not made.failed
    assert decisions[gate].verdict == "fail"
    assert words in decisions[gate].reason


FAILED = [  # animal, words of the reason for which it is marked failed
    ("diverges", "FloatingPointError: overflow"),
    ("raises", "ValueError: no such column: director (raises.py, line "),
    ("hangs", "took longer than 0.5 minutes"),
    ("kills_itself", "killed (SIGKILL)"),
    ("exits", "its process ended with status 0"),
    ("hungry", "MemoryError"),
]


@pytest.mark.parametrize(("animal", "words"), FAILED)
def test_marked_failed_with_the_reason(judged: Callable, animal: str, words: str) -> None:
    made, _ = judged(animal)
    assert words in made.failed
    assert "\n" not in made.failed
    assert made.release is None


def test_the_good_one_is_accepted(judged: Callable) -> None:
    made, decisions = judged("good")
    assert {gate: d.verdict for gate, d in decisions.items()} == {"offline": "pass", "infra": "pass"}
    assert made.test is not None


def test_every_animal_is_in_a_table() -> None:
    named = {row[0] for row in (*REFUSED, *FAILED)} | {"good"}
    assert named == {file.stem for file in ZOO.glob("*.py")}


def test_trn_01_equal_scores_are_as_good_as_chance_in_either_order(work: Work) -> None:
    """TRN-01: a model that scores every item equally reaches about chance, candidates reversed or not."""
    cls = find(f"{ZOO / 'constant_scores.py'}:ConstantScores").cls
    start, end = work.windows.validation_start_ms, work.windows.test_start_ms
    for history in (work.interactions, _reversed(work)):
        made = evaluate(cls().fit(history.before(start)), history, start, end)
        assert made.mean("ndcg@10") == pytest.approx(made.random("ndcg@10"), abs=0.005)
        assert made.mean("ndcg@10") < 0.02
    plain = evaluate(cls(), work.interactions, start, end).mean("ndcg@10")
    assert evaluate(cls(), _reversed(work), start, end).mean("ndcg@10") == pytest.approx(plain, abs=1e-12)


def _reversed(work: Work) -> object:
    """The same history with the catalogue in reverse."""
    history, size = work.interactions, len(work.interactions.catalogue)
    catalogue = replace(
        history.catalogue,
        ids=history.catalogue.ids[::-1],
        titles=history.catalogue.titles[::-1],
        genres=history.catalogue.genres[::-1],
    )
    return replace(history, items=(size - 1 - history.items).astype(np.int32), catalogue=catalogue)


def test_the_disguise_keeps_weekdays_and_renames_everything(work: Work) -> None:
    plain, hidden = work.interactions, work.disguised
    assert ((hidden.times - plain.times) % (7 * DAY_MS) == 0).all()
    assert not set(plain.user_ids) & set(hidden.user_ids)
    assert not set(plain.catalogue.ids) & set(hidden.catalogue.ids)
    assert not set(plain.catalogue.titles) & set(hidden.catalogue.titles)
