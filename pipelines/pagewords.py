"""What the registered model's pages say of today: who is live, where and since when, and why a wish was not granted."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow_server.ledger import Entry
from serving.report import WorkerReport

RULE = "\n\n---\n\n"  # between today's words and those of the training


@dataclass(frozen=True)
class Words:
    """Of one version: its tags `live` and `refused` (empty: none), and the sentences above the training's."""

    live: str
    refused: str
    sentences: str


def of_version(
    made: Entry, in_charge: Mapping[str, Entry], entries: Sequence[Entry], workers: Sequence[WorkerReport]
) -> Words:
    """The words of the version that `made` registered."""
    release = made.body["release"]
    held = {alias: entry for alias, entry in in_charge.items() if entry.body["release"] == release}
    refused = list(_refusals(release, entries, workers))
    sentences = [_held(alias, entry, release, workers) for alias, entry in held.items()] or ["Not live."]
    sentences += [_ended(e) for e in entries if e.kind == "verdict" and e.body["release"] == release][-1:]
    live = "; ".join(f"{alias} {_where(alias, release, workers)}" for alias in held if alias != "previous") or "no"
    return Words(live, " ".join(refused), "\n\n".join([*(f"**{s}**" for s in sentences), *refused]))


def of_model(in_charge: Mapping[str, Entry], models: Mapping[str, str], troubles: Sequence[str]) -> str:
    """The sentences that the model's page begins with. `models` names the model of each release."""
    found = [f"**{_named(e, models)} is {alias}. {_capital(e.body['rule'])}.**" for alias, e in in_charge.items()
             if alias != "previous"]  # fmt: skip
    return "\n\n".join([*found, *(f"⚠ {trouble}" for trouble in troubles)] or ["There is no champion yet."])


def above(sentences: str, description: str) -> str:
    """A page's description with today's sentences in place of yesterday's."""
    trained = description.partition(RULE)[2] if RULE in description else description
    return sentences + RULE + trained


def moment(wall_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall_ms / 1000))


def _held(alias: str, entry: Entry, release: str, workers: Sequence[WorkerReport]) -> str:
    if alias == "previous":
        return "The champion before this one: greenlight rollback goes back to it."
    name = "Live as" if workers else "Stands as"
    since = f"{name} {alias} since {moment(entry.wall_ts)} by {entry.actor}: {entry.body['rule']}."
    return f"{since} Served {_where(alias, release, workers)}."


def _ended(verdict: Entry) -> str:
    return f"Its A/B ended {moment(verdict.wall_ts)}: {verdict.body['verdict']}, since {verdict.body['reason']}."


def _where(alias: str, release: str, workers: Sequence[WorkerReport]) -> str:
    """Which workers serve a release in an arm, and since when."""
    if not workers:
        return "by nobody: no worker runs"
    serving = {
        w.pid: w.arms[alias].since_wall_ms for w in workers if alias in w.arms and w.arms[alias].release == release
    }
    if not serving:
        return f"by none of {len(workers)} workers yet"
    pids = ", ".join(map(str, serving))
    return f"by {len(serving)} of {len(workers)} workers (process {pids}) since {moment(max(serving.values()))}"


def _refusals(release: str, entries: Sequence[Entry], workers: Sequence[WorkerReport]) -> Iterator[str]:
    """Wishes for this release that were not granted and not granted since; workers that would not load it."""
    last: dict[str, Entry] = {}
    for entry in entries:
        about = entry.body.get("release"), entry.body.get("alias")
        if entry.kind in ("promotion", "rollback", "refusal") and about[0] == release and about[1]:
            last[about[1]] = entry
    for alias, entry in last.items():
        if entry.kind == "refusal":
            yield f"Refused as {alias}, {moment(entry.wall_ts)}, wish of {entry.actor}: {entry.body['reason']}."
    for worker in workers:
        if refusal := worker.refused.get(release):
            yield f"Refused by worker {worker.pid}, {moment(refusal.wall_ms)}: {refusal.reason}."


def _named(entry: Entry, models: Mapping[str, str]) -> str:
    return f"Version {entry.body['version']} ({models.get(entry.body['release'], 'unknown')})"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
