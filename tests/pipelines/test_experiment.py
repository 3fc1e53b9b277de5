"""Experiments on a real home: viewers' slates and clicks in its log, its ledger, its clock moved by events."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conf.home import Home
from conf.sections.experiment import Experiment
from conf.settings import Settings
from events.event import EVENTS, IMPRESSIONS, Click, Impression
from events.local_log import LocalLog
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Entry, Ledger
from mlflow_server.pages import Pages
from mlflow_server.registry import Registry
from monitoring.experiment import Guardrail, Plan
from pipelines.experiment import (
    ExperimentError,
    Standing,
    advance,
    draw,
    start,
    status,
    stop,
)
from pipelines.promote import Outcome, deciding, promote, rollback
from pipelines.reconcile import Reconciler
from serving.router import arm_of
from tests import town

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[2]
DAY, MINUTE = 86_400_000, 60_000
T = 20_000 * DAY
SETTINGS = Settings(clock="event")
PLAN = Plan(
    "a test", "clicks", effect=0.5, min_days=3, max_days=8, min_users=100, guardrails=(Guardrail("served", 0.05),)
)
VIEWERS = 600


@pytest.fixture
def place(townhome: Home) -> Home:
    """The town on the event clock, on its first day."""
    tick(townhome, T)
    return townhome


def tick(home: Home, ts: int) -> None:
    with LocalLog(home.log) as log:
        log.append(EVENTS, [Click(event_id=f"tick {ts}".replace(" ", "-"), ts=ts, user_id="clock", movie_id="m0")])


def begin(home: Home, version: int = 3, plan: Plan = PLAN) -> Entry:
    assert start(home, SETTINGS, version, actor="ada", plan=plan).accepted
    return town.lines(home, "promotion")[-1]


def lived(
    home: Home,
    salt: str,
    day: int,
    rng: np.random.Generator,
    *,
    champion: float = 0.3,
    challenger: float = 0.3,
    seen: Callable[[str, str], bool] = lambda user, arm: True,
    fell: float = 0.0,
) -> None:
    """One day: each viewer asks for a slate or two, and clicks with the rate of their arm. `seen`: what was logged."""
    impressions, clicks = [], []
    for n in range(VIEWERS):
        arm = arm_of(user := f"u{n}", 0.01, salt)
        for visit in range(1 + int(rng.random() < 0.3)):
            ts = T + day * DAY + 10 * MINUTE + n * 1000 + visit
            rung = "popularity" if arm == "challenger" and rng.random() < fell else "model"
            clicked = rng.random() < {"champion": champion, "challenger": challenger}.get(arm, 0.1)
            if seen(user, arm):
                impressions.append(slate(f"{day}-{n}-{visit}", user, arm, ts, rung))
                clicks += [Click(event_id=f"c{day}-{n}-{visit}", ts=ts + 5, user_id=user, movie_id="m1")] * clicked
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, impressions)
        log.append(EVENTS, clicks)
    tick(home, T + (day + 1) * DAY)


def slate(request: str, user: str, arm: str, ts: int, rung: str = "model") -> Impression:
    return Impression(
        event_id=request, ts=ts, wall_ts=ts, user_id=user, arm=arm, release="d", rung=rung,  # type: ignore[arg-type]
        items=("m1", "m2"), propensities=(1.0, 1.0), k=2, latency_ms=1.0,
    )  # fmt: skip


def run(home: Home, rng: np.random.Generator, days: int = 9, *, auto: bool = True, **rates: float) -> Standing:
    """Begin, live and look daily, until there is a verdict."""
    salt = begin(home).hash
    for day in range(days):
        lived(home, salt, day, rng, **rates)  # type: ignore[arg-type]
        told = advance(home, SETTINGS, auto=auto, actor="grace")
        if told.verdict:
            return told
    return told


def kinds(home: Home, since: int = 0) -> list[str]:
    return [entry.kind for entry in town.lines(home) if entry.seq > since]


def standing(home: Home) -> dict[str, int]:
    return {a: e.body["version"] for a, e in in_charge(Ledger.to_read(home.ledger, home.keys)).items()}


def look_now(home: Home) -> Standing:
    return advance(home, SETTINGS, auto=True, actor="grace")


def greenlight(home: Home, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "GREENLIGHT_HOME": str(home.root), "GREENLIGHT_CLOCK": "event"}
    command = [sys.executable, "-m", "greenlight", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def page(home: Home, version: int) -> str:
    """A version's page in MLflow, after the reconcile loop has written it."""
    loop, pages = Reconciler(home, SETTINGS, pack=False), Pages(home, SETTINGS.registry.name)
    loop.step()
    shown = pages.shown()
    loop.close()
    pages.close()
    assert shown
    return shown.pages[version].description


# What is declared -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["experiment start", "promote --alias challenger", "the alias in MLflow"])
def test_a_plan_is_declared_before_the_challenger_by_every_way_in(place: Home, way: str) -> None:
    before = len(town.lines(place))
    if way == "experiment start":
        begin(place)
    elif way == "the alias in MLflow":
        loop = Reconciler(place, SETTINGS, pack=False)
        loop.step()
        pages = Pages(place, SETTINGS.registry.name)
        pages.set_alias("challenger", 3)
        pages.close()
        loop.step()
        loop.close()
    else:
        assert promote(place, SETTINGS, 3, "challenger", actor="ada").accepted
    declared, begun = town.lines(place)[before:]
    assert (declared.kind, begun.kind) == ("experiment", "promotion")
    assert begun.body["experiment"] == declared.hash
    assert declared.body["release"] == begun.body["release"] == town.made(place, 3)["release"]
    assert declared.body["champion"] == town.made(place, 1)["release"]
    plan = Plan.of(declared.body["plan"])
    assert declared.body["digest"] == plan.digest()
    wanted = PLAN if way == "experiment start" else Plan.from_settings("version 3 against version 1", Experiment())
    assert plan == wanted


def test_settings_that_no_experiment_could_follow_are_refused() -> None:
    with pytest.raises(ValueError, match="max_days 3 is below min_days 7"):
        Experiment(max_days=3)


# How it ends ----------------------------------------------------------------------------------------------------------


def test_a_better_challenger_is_promoted(place: Home) -> None:
    told = run(place, np.random.default_rng(1), challenger=0.6)
    assert (told.state, told.verdict, len(told.looks)) == ("ended", "promote", 3)  # at its minimum of days
    assert "Version 3 against version 1: promote, since clicks per slate are better by +0." in told.sentence
    assert kinds(place)[-5:] == ["experiment", "promotion", "verdict", "decision", "promotion"]
    verdict, decision, promotion = town.lines(place)[-3:]
    assert decision.body == verdict.body["decision"]
    assert decision.body["evidence"]["champion"] == town.made(place, 1)["release"]
    assert decision.body["evidence"]["experiment"] == told.id
    assert decision.body["valid_until_ms"] == verdict.ts + 14 * DAY
    assert promotion.body["rule"].startswith("won its A/B: clicks per slate are better by")
    assert promotion.body["evidence"]["online"] == decision.seq
    assert standing(place) == {"champion": 3, "previous": 1}
    assert look_now(place).verdict == "promote"
    assert kinds(place)[-3:] == ["verdict", "decision", "promotion"]  # once


def test_without_auto_a_victory_waits_for_the_lead(place: Home) -> None:
    told = run(place, np.random.default_rng(1), auto=False, challenger=0.6)
    assert told.sentence.endswith("It waits for the lead: greenlight promote 3.")
    assert standing(place) == {"champion": 1, "challenger": 3}
    assert not promote(place, SETTINGS, 2, "challenger", actor="ada").accepted  # a newer one still waits
    assert "promote, since clicks per slate are better by +0." in page(place, 3)
    assert promote(place, SETTINGS, 3, actor="ada").accepted
    assert standing(place) == {"champion": 3, "previous": 1}


def test_a_victory_that_nobody_heeds_ends_with_its_validity(place: Home) -> None:
    told = run(place, np.random.default_rng(1), auto=False, challenger=0.6)
    assert told.valid_until_ms
    tick(place, told.valid_until_ms)
    advance(place, SETTINGS, auto=False, actor="grace")
    assert standing(place)["challenger"] == 3
    tick(place, told.valid_until_ms + 1)
    advance(place, SETTINGS, auto=False, actor="grace")
    assert standing(place) == {"champion": 1}
    assert "nobody promoted it while that was valid" in town.lines(place)[-1].body["rule"]


def test_a_later_look_with_auto_promotes_a_victory(place: Home) -> None:
    run(place, np.random.default_rng(1), auto=False, challenger=0.6)
    look_now(place)
    assert standing(place) == {"champion": 3, "previous": 1}
    assert kinds(place).count("verdict") == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rate", "words"), [(0.3, "the 8 days are over"), (0.1, "not better by 0")])
def test_an_equal_or_worse_one_is_never_promoted(place: Home, seed: int, rate: float, words: str) -> None:
    told = run(place, np.random.default_rng(seed), challenger=rate)
    assert (told.verdict, words in told.sentence) == ("keep", True), told.sentence
    assert kinds(place)[-3:] == ["verdict", "decision", "withdrawal"]
    assert town.lines(place)[-2].body["verdict"] == "fail"
    assert standing(place) == {"champion": 1}
    assert not promote(place, SETTINGS, 3, actor="ada").accepted


def test_exp_01_lost_tracking_blocks_the_winner(place: Home) -> None:
    told = run(
        place, np.random.default_rng(1), challenger=0.6, seen=lambda u, arm: arm != "challenger" or u[-1] in "0123"
    )
    assert (told.verdict, standing(place)) == ("invalid", {"champion": 1})
    outcome = promote(place, SETTINGS, 3, actor="ada")
    assert "gate online says fail: the arms have" in outcome.sentence


def test_a_guardrail_keeps_a_winner_out(place: Home) -> None:
    told = run(place, np.random.default_rng(1), challenger=0.6, fell=0.3)
    assert (told.verdict, standing(place)) == ("keep", {"champion": 1})
    assert "served got worse" in told.sentence


def test_too_few_viewers_at_the_maximum_cannot_say(place: Home) -> None:
    told = run(place, np.random.default_rng(1), challenger=0.6, seen=lambda user, arm: len(user) < 4)
    assert told.verdict == "cannot say"
    assert "100 are asked, and the 8 days are over" in told.sentence
    assert [e.kind for e in town.lines(place)][-1] == "withdrawal"


def test_a_bot_with_a_tenth_of_the_traffic_wins_nothing(place: Home) -> None:
    salt = begin(place).hash
    bot = next(f"bot{n}" for n in range(99) if arm_of(f"bot{n}", 0.01, salt) == "challenger")
    rng = np.random.default_rng(2)
    for day in range(9):
        slates = [slate(f"bot{day}-{n}", bot, "challenger", T + day * DAY + MINUTE + n + 1) for n in range(90)]
        clicks = [Click(event_id=f"cb{s.event_id}", ts=s.ts, user_id=bot, movie_id="m1") for s in slates]
        with LocalLog(place.log) as log:
            log.append(IMPRESSIONS, slates)
            log.append(EVENTS, clicks)
        lived(place, salt, day, rng)
        told = look_now(place)
    assert (told.verdict, standing(place)) == ("keep", {"champion": 1})


def test_only_slates_after_all_workers_took_it_up_count(place: Home) -> None:
    with LocalLog(place.log) as log:  # before, all were the champion's; then some workers were late
        log.append(IMPRESSIONS, [slate(f"b{n}", f"u{n}", "champion", T) for n in range(VIEWERS)])
    salt = begin(place).hash
    with LocalLog(place.log) as log:
        log.append(IMPRESSIONS, [slate(f"l{n}", f"u{n}", "champion", T + MINUTE - 1) for n in range(VIEWERS)])
    lived(place, salt, 0, np.random.default_rng(0))
    (seen,) = status(place, SETTINGS).looks
    assert sum(seen["users"]) > 0.98 * VIEWERS - 10
    assert seen["left_out"] == {"bots": 0, "bot_slates": 0, "crossed": 0, "crossed_slates": 0}


# What makes it worthless ----------------------------------------------------------------------------------------------


def champion_goes_back(home: Home) -> None:
    assert rollback(home, SETTINGS, actor="ada").accepted


def audience_moves(home: Home) -> None:
    town.judged(home, "window", "audience", "fail")
    lines = home.ledger.read_text().splitlines()
    assert json.loads(lines[-1])["body"]["gate"] == "audience"


def slates_are_lost(home: Home) -> None:
    home.lost.write_text('torn\n{"wall_ts": 5, "pid": 1, "impressions": 99}\n')
    with home.lost.open("a") as file:
        file.write(json.dumps({"wall_ts": town.now(), "pid": 1, "impressions": 7}) + "\n")


def alias_is_removed(home: Home) -> None:
    with deciding(home, SETTINGS) as chair:
        chair.withdraw("lead", "its alias was removed in MLflow")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (champion_goes_back, "version 2 was champion, and version 1 is now"),
        (audience_moves, "the audience moved meanwhile: as a test has it"),
        (slates_are_lost, "7 slates were served and could not be written down"),
        (alias_is_removed, "its challenger was withdrawn: its alias was removed in MLflow"),
    ],
)
def test_what_happened_meanwhile_makes_it_worthless(place: Home, trouble: Callable[[Home], None], words: str) -> None:
    town.won(place, 2, days=30)
    assert promote(place, SETTINGS, 2, actor="ada").accepted
    town.judged(place, town.made(place, 3)["release"], "offline", evidence={"champion": town.made(place, 2)["release"]})
    salt = begin(place).hash
    for day in range(3):
        lived(place, salt, day, np.random.default_rng(day), challenger=0.6)
    at = T + 3 * DAY
    trouble(place)
    if trouble is audience_moves:  # its line is dated by the wall, as all of the town's: after the end
        assert town.lines(place)[-1].ts > at
        ledger = Ledger.to_write(place.ledger, place.keys)
        ledger.append("decision", town.lines(place)[-1].body, actor="ada", ts=at)
    told = look_now(place)
    assert (told.verdict, words in told.sentence) == ("cannot say", True), told.sentence
    assert "challenger" not in standing(place)
    assert [e.body["verdict"] for e in town.lines(place, "decision") if "experiment" in e.body["evidence"]] == [
        "cannot say"
    ]
    assert not promote(place, SETTINGS, 3, actor="ada").accepted


def test_stop(place: Home) -> None:
    with pytest.raises(ExperimentError, match="no experiment runs"):
        stop(place, SETTINGS, actor="ada")
    begin(place)
    told = stop(place, SETTINGS, actor="ada", reason="a\nlong story")
    assert told.sentence == "Version 3 against version 1: cannot say, since stopped by ada: a long story."
    assert kinds(place)[-3:] == ["verdict", "decision", "withdrawal"]
    begin(place, 2)  # the place is free
    assert status(place, SETTINGS).sentence == "Version 2 against version 1: not final: nobody has looked yet."


def test_stop_gives_a_victory_up(place: Home) -> None:
    run(place, np.random.default_rng(1), auto=False, challenger=0.6)
    told = stop(place, SETTINGS, actor="ada")
    assert told.sentence.endswith("0 was asked. It was withdrawn all the same: stopped by ada.")
    assert standing(place) == {"champion": 1}


# Looking --------------------------------------------------------------------------------------------------------------


def test_exp_03_looking_says_not_final_and_ends_nothing(place: Home) -> None:
    salt = begin(place).hash
    for day in range(4):
        lived(place, salt, day, np.random.default_rng(day), challenger=0.6)
        told = status(place, SETTINGS)
        assert status(place, SETTINGS) == told  # the clock stood still: no second look
        if day < 2:
            assert f"not final: day {day + 1:.1f} of at most 8, at least 3 days" in told.sentence
        assert (told.state, told.verdict) == ("running", None)
    assert "greenlight experiment advance makes it final" in told.sentence
    assert len(told.looks) == 4
    assert kinds(place)[-1] == "promotion"


def test_what_was_kept_of_looks_may_be_lost_or_torn(place: Home) -> None:
    salt = begin(place).hash
    for day in range(2):
        lived(place, salt, day, np.random.default_rng(day))
        status(place, SETTINGS)
    (file,) = place.reports.glob("experiment-*/looks.jsonl")
    file.write_text(file.read_text()[:-30])
    lived(place, salt, 2, np.random.default_rng(2))
    assert len(status(place, SETTINGS).looks) == 1  # the torn line took the next one with it
    shutil.rmtree(place.reports)
    assert len(status(place, SETTINGS).looks) == 1


def test_hostile_names_are_harmless_everywhere(place: Home) -> None:
    name = "ok\r\nBcc: a@example.test \x1b[31m [red]$\\frac{1$ " + "x" * 200
    verb = greenlight(place, "experiment", "start", "3", "--metric", "clicks", "--name", name, "--json")
    out, err = verb.communicate(timeout=300)
    assert verb.returncode == 0, err
    salt = town.lines(place, "promotion")[-1].hash
    lived(place, salt, 0, np.random.default_rng(0), challenger=1.0)  # far from the margin, whoever sees it
    verb = greenlight(place, "experiment", "status")
    out, err = verb.communicate(timeout=300)
    assert verb.returncode == 0, err
    first, head, day, sentence, picture, *more = out.splitlines()
    assert not more
    assert first.startswith("ok Bcc: a@example.test [31m [red]$\\frac{1$ xxx")
    assert len(first) == 80
    assert "not final" in sentence
    assert {"●", "┊"} <= set(day)
    assert "clicks" in head
    file = Path(picture.removeprefix("Picture: ").removesuffix(", and in the challenger's run in MLflow"))
    assert file.read_bytes().startswith(b"\x89PNG")
    (kept,) = Registry(place).client.list_artifacts(town.made(place, 3)["run_id"], "experiment")
    assert kept.path == "experiment/sequence.png"
    assert town.lines(place, "experiment")[0].body["plan"]["name"] == first


def test_without_mlflow_the_picture_is_in_its_file(place: Home) -> None:
    salt = begin(place).hash
    lived(place, salt, 0, np.random.default_rng(0))
    place.registry.rename(place.registry.with_suffix(".away"))
    file, trouble = draw(place, SETTINGS, status(place, SETTINGS))
    assert file
    assert file.exists()
    assert "mlflow.db is missing" in trouble


# Crashes and others at the same time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "ends"), [(0.6, "promotion"), (0.05, "withdrawal")])
def test_whoever_is_killed_between_two_lines_is_completed_by_the_next(place: Home, rate: float, ends: str) -> None:
    """The ledger after each of the lines that an ending writes, as a kill at that moment leaves it."""
    salt = begin(place).hash
    for day in range(3):
        lived(place, salt, day, np.random.default_rng(day), challenger=rate)
    begun = len(town.lines(place))
    look_now(place)
    whole = place.ledger.read_bytes().splitlines(keepends=True)
    assert kinds(place)[begun:] == ["verdict", "decision", ends]
    told = standing(place)
    for cut in range(begun, len(whole)):
        place.ledger.write_bytes(b"".join(whole[:cut]) + b'{"torn')
        look_now(place)
        assert kinds(place)[begun:] == ["verdict", "decision", ends]
        assert standing(place) == told
        look_now(place)
        assert len(town.lines(place)) == len(whole)


def test_a_plan_whose_promotion_was_never_written_is_no_experiment(place: Home) -> None:
    begin(place)
    whole = place.ledger.read_bytes().splitlines(keepends=True)
    place.ledger.write_bytes(b"".join(whole[:-1]))
    assert kinds(place)[-1] == "experiment"
    assert look_now(place).state == "none"
    begin(place, 2)
    assert status(place, SETTINGS).version == 2


def test_killed_at_any_moment(place: Home) -> None:
    """SIGKILL while it ends, again and again; the last one completes it."""
    salt = begin(place).hash
    for day in range(3):
        lived(place, salt, day, np.random.default_rng(day), challenger=0.6)
    size = place.ledger.stat().st_size
    for _ in range(3):
        verb = greenlight(place, "experiment", "advance", "--auto")
        until = time.monotonic() + 120
        while place.ledger.stat().st_size == size and verb.poll() is None and time.monotonic() < until:
            time.sleep(0.0005)
        verb.send_signal(signal.SIGKILL)
        verb.communicate(timeout=60)
        size = place.ledger.stat().st_size
        if standing(place).get("champion") == 3:
            break
    look_now(place)
    assert standing(place) == {"champion": 3, "previous": 1}
    assert [kinds(place).count(kind) for kind in ("verdict", "experiment")] == [1, 1]
    assert len([e for e in town.lines(place, "decision") if e.body["gate"] == "online"]) == 1


def test_reg_03_two_that_end_it_and_one_that_wants_another(place: Home) -> None:
    salt = begin(place).hash
    for day in range(3):
        lived(place, salt, day, np.random.default_rng(day), challenger=0.6)
    town.won(place, 2)
    ended: list[Outcome] = []
    threads = [
        threading.Thread(target=look_now, args=(place,)),
        threading.Thread(target=lambda: ended.append(promote(place, SETTINGS, 2, actor="ada"))),
    ]
    verb = greenlight(place, "experiment", "advance", "--auto", "--json")
    for thread in threads:
        thread.start()
    told = verb.communicate(timeout=300)
    for thread in threads:
        thread.join(60)
    assert verb.returncode == 0, told
    promotions = [e.body["version"] for e in town.lines(place, "promotion") if e.body["alias"] == "champion"]
    assert kinds(place).count("verdict") == 1
    if ended[0].accepted:  # it was first: the experiment had another champion than today's
        assert (promotions, standing(place)["champion"]) == ([1, 2], 2)
        assert town.lines(place, "verdict")[0].body["verdict"] == "cannot say"
    else:
        assert (promotions, standing(place)["champion"]) == ([1, 3], 3)
        assert "is champion now" in ended[0].sentence
