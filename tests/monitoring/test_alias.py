"""Who may stand under an alias: the table of the gates, row by row."""

import math
from dataclasses import replace

import pytest

from mlflow_server.ledger import Decision
from monitoring.gates import alias
from monitoring.gates.alias import AliasEvidence, Standing

DAY_MS = 86_400_000
NOW = 1_700_000_000_000
CHAMPION, PREVIOUS, CHALLENGER = Standing(1, "aaaa"), Standing(2, "bbbb"), Standing(4, "dddd")


def said(gate: str, verdict: str = "pass", **more: object) -> Decision:
    evidence = {"champion": "aaaa"} if gate in ("offline", "online") else {"snapshot": "s"}
    facts = {"observed": 0.1, "limit": 0.0, "reason": "because", "evidence": evidence, "valid_until_ms": None, **more}
    return Decision(gate, verdict, "cccc", **facts)  # type: ignore[arg-type]


GREEN = {gate: said(gate) for gate in ("inputs", "offline", "infra")}
WON = {**GREEN, "online": said("online", valid_until_ms=NOW)}
WISH = AliasEvidence("champion", 3, "cccc", CHAMPION, None, PREVIOUS, WON, NOW)


def ruling(**changes: object) -> tuple[str, str]:
    decision = alias.judge(replace(WISH, **changes))  # type: ignore[arg-type]
    return decision.verdict, decision.reason


@pytest.mark.parametrize("name", ["champion", "challenger"])
def test_all_green_may_stand(name: str) -> None:
    wish = replace(WISH, alias=name)
    assert alias.judge(wish).verdict == "pass"
    assert alias.move(wish) == "promotion"


@pytest.mark.parametrize("name", ["champion", "challenger"])
@pytest.mark.parametrize("gate", ["inputs", "offline", "infra"])
@pytest.mark.parametrize(
    ("decision", "verdict", "words"),
    [
        (None, "cannot say", "has not judged version 3"),
        ({"verdict": "fail"}, "fail", "says fail: because"),
        ({"verdict": "cannot say"}, "cannot say", "says cannot say: because"),
        ({"observed": math.nan}, "cannot say", "which is no number"),
        ({"observed": math.inf}, "cannot say", "which is no number"),
        ({"valid_until_ms": NOW - 1}, "fail", "valid until"),
        ({"observed": None}, "pass", ""),
        ({"valid_until_ms": NOW}, "pass", ""),
    ],
)
def test_a_gate_that_did_not_pass_keeps_shut(
    name: str, gate: str, decision: dict[str, object] | None, verdict: str, words: str
) -> None:
    decisions = {g: d for g, d in WON.items() if g != gate}
    if decision is not None:
        decisions[gate] = said(gate, **decision)  # type: ignore[arg-type]
    got, reason = ruling(alias=name, decisions=decisions)
    assert got == verdict
    if verdict != "pass":
        assert f"gate {gate} " in reason
        assert words in reason
        assert "greenlight train" in reason


@pytest.mark.parametrize(
    ("online", "verdict", "words"),
    [
        (None, "cannot say", "gate online has not judged version 3"),
        (said("online", "fail", valid_until_ms=NOW), "fail", "gate online says fail"),
        (said("online", "cannot say", valid_until_ms=NOW), "cannot say", "gate online says cannot say"),
        (said("online"), "cannot say", "names no day until which its verdict is valid"),
        (said("online", valid_until_ms=NOW - 3 * DAY_MS), "fail", "valid until 3.0 days ago"),
        (said("online", valid_until_ms=NOW, observed=math.nan), "cannot say", "no number"),
        (said("online", valid_until_ms=NOW, evidence={}), "fail", "but not against whom"),
        (said("online", valid_until_ms=NOW, evidence={"champion": "bbbb"}), "fail", "version 1 (aaaa) is champion now"),
        (said("online", valid_until_ms=NOW, evidence={"champion": "aaaa"}), "pass", ""),
    ],
)
def test_only_an_a_b_won_against_the_champion_of_today_makes_a_champion(
    online: Decision | None, verdict: str, words: str
) -> None:
    decisions = {**GREEN, **({"online": online} if online else {})}
    got, reason = ruling(decisions=decisions)
    assert got == verdict
    assert verdict == "pass" or (words in reason and "greenlight promote 3 --alias challenger" in reason)


@pytest.mark.parametrize(
    ("evidence", "champion", "verdict"),
    [
        ({"champion": "aaaa"}, CHAMPION, "pass"),
        ({"popularity": "aaaa"}, CHAMPION, "pass"),  # compared with the version that became the first champion
        ({"popularity": "bbbb"}, CHAMPION, "fail"),
        ({"champion": "bbbb"}, CHAMPION, "fail"),
        ({"champion": ""}, CHAMPION, "fail"),
        ({}, CHAMPION, "fail"),
    ],
)
def test_offline_is_valid_until_there_is_a_newer_champion(
    evidence: dict[str, str], champion: Standing, verdict: str
) -> None:
    got, reason = ruling(
        alias="challenger", champion=champion, decisions={**GREEN, "offline": said("offline", evidence=evidence)}
    )
    assert got == verdict
    assert verdict == "pass" or "gate offline says pass, but" in reason


def test_the_first_champion_is_decided_by_training_alone() -> None:
    for name in ("champion", "challenger"):
        said_so = ("cannot say", "there is no champion yet: greenlight train decides the first one")
        assert ruling(alias=name, champion=None, previous=None) == said_so
    first = {"champion": None, "previous": None, "first": True}
    anybody = {**GREEN, "offline": said("offline", evidence={"popularity": "whoever"})}
    assert ruling(**first, decisions=anybody)[0] == "pass"
    assert ruling(**first, decisions={})[0] == "cannot say"
    assert ruling(first=True)[0] == "fail"  # somebody was faster


def test_rollback_is_always_allowed() -> None:
    wish = replace(WISH, version=2, release="bbbb", decisions={}, first=False)
    assert alias.move(wish) == "rollback"
    assert alias.judge(wish).verdict == "pass"
    assert ruling(alias="challenger", release="bbbb", decisions={})[0] == "cannot say"  # as challenger it is any other


def test_setting_what_stands_already_is_nothing_to_do() -> None:
    for name, release in (("champion", "aaaa"), ("challenger", "dddd")):
        wish = replace(WISH, alias=name, release=release, challenger=CHALLENGER, decisions={})
        assert (alias.move(wish), alias.judge(wish).verdict) == ("nothing", "pass")


def test_a_newer_challenger_waits() -> None:
    got, reason = ruling(alias="challenger", challenger=CHALLENGER)
    assert (got, reason) == ("fail", "version 4 is in its A/B; version 3 waits until that one is decided")


def test_the_champion_cannot_challenge_itself() -> None:
    got, reason = ruling(alias="challenger", release="aaaa", version=1)
    assert got == "fail"
    assert "version 1 is the champion: it cannot challenge itself" in reason


@pytest.mark.parametrize("name", ["previous", "", "Champion", "champion ", "ｃhampion", "live"])
def test_no_other_alias_is_set(name: str) -> None:
    got, reason = ruling(alias=name)
    assert got == "fail"
    assert ("never set by hand" in reason) == (name == "previous")


def test_the_decision_names_what_it_rests_on() -> None:
    decision = alias.judge(WISH)
    assert (decision.gate, decision.subject) == ("alias", "cccc")
    assert decision.evidence == {"alias": "champion", "champion": "aaaa"}
    assert [check["name"] for check in decision.checks][-4:] == ["inputs", "offline", "infra", "online"]
