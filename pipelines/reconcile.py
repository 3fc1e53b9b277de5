"""The reconcile loop: aliases in MLflow and the ledger are made to agree. `python -m pipelines.reconcile`.

What a person changed in MLflow is a wish: it is judged like every other and becomes a line in the ledger, or is put
back and the reason stands on the version's page. What the ledger says otherwise is mirrored. MLflow records neither
who moved an alias nor what stood there a moment ago: of two wishes between two looks only the last is seen.
"""

import json
import logging
import sys
import time
import unicodedata
from collections.abc import Callable

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, load
from events.disk import sync
from events.pace import Pace, Rest, no_rest
from events.turns import step_aside
from mlflow_server.in_charge import ALIASES
from mlflow_server.ledger import Entry
from mlflow_server.pages import Page, Pages, PagesError, Shown
from mlflow_server.registry import LIMIT
from mlflow_server.shown import model_page
from pipelines import pagewords
from pipelines.packing import Packing
from pipelines.promote import Chair, Outcome, deciding
from serving.report import WorkerReport, reports

log = logging.getLogger("greenlight.reconcile")

LEAD = "lead, in MLflow"  # only the lead and the service may move an alias there, and the service is us
US = "reconcile"
SHARE = 0.2  # of a core, at most, goes into MLflow's client


class Reconciler:
    """`step` as often as you like: where nothing happened it costs a few stats."""

    def __init__(self, home: Home, settings: Settings, *, pack: bool = True, rest: Rest = no_rest) -> None:
        """pack: build Bentos; rest: called between pieces of work, of which nobody waits for any."""
        self.home, self.settings, self._rest = home, settings, rest
        self.pages = Pages(home, settings.registry.name)
        self.packing = Packing(home, settings) if pack else None
        self._seen: object = None

    def step(self) -> None:
        """Heed the workers, judge what was wished, mirror the ledger, write the pages.

        PagesError where MLflow's database cannot be used: what the workers say is heeded all the same. LedgerError
        where the ledger does not hold: then nothing is done.
        """
        workers = reports(self.home)
        stamp = (self._ledger_stamp(), [(w.pid, w.arms, w.refused) for w in workers])
        changed, shown, trouble = self._look(stamp)
        if changed:
            self._seen = None
            self._rest()
            with deciding(self.home, self.settings) as chair:
                heed(chair, workers)
                if shown:
                    self._judge(chair, shown)
                if self.packing:
                    self.packing.want(chair.in_charge.get("champion"))
            if shown:  # who decides next waits for none of this
                self._mirror(chair, shown)
                self._write(chair, shown, workers)
            self._seen = stamp
        if self.packing:
            self.packing.step()
        if trouble:
            raise trouble

    def close(self) -> None:
        self.pages.close()
        if self.packing:
            self.packing.close()

    def _look(self, stamp: object) -> tuple[bool, Shown | None, PagesError | None]:
        """Whether anything changed, what MLflow shows then, and why it cannot show it."""
        try:
            changed = self.pages.changed() or stamp != self._seen
            return changed, self.pages.shown() if changed else None, None
        except PagesError as why:
            self.pages.close()  # so that it counts as changed when it can be read again
            return stamp != self._seen, None, why

    def _ledger_stamp(self) -> tuple[int, ...]:
        try:
            found = self.home.ledger.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    # Aliases ----------------------------------------------------------------------------------------------------------

    def _judge(self, chair: Chair, shown: Shown) -> None:
        remembered = self._remembered(chair, shown)
        for alias, version in sorted(shown.aliases.items(), key=lambda pair: _order(pair[0])):
            if alias not in ALIASES:
                if _plain(alias) in ALIASES:
                    self._look_alike(chair, shown, alias, version)
            elif version not in (expected(chair, shown).get(alias), remembered.get(alias)):
                _told(wished(chair, shown, alias, version))
        for alias in remembered:
            if (
                alias not in shown.aliases
                and alias in chair.in_charge
                and chair.in_charge[alias].body["version"] == (remembered[alias])
            ):
                removed(chair, alias)

    def _look_alike(self, chair: Chair, shown: Shown, alias: str, version: int) -> None:
        """An alias that looks like one of ours and is not: taken away, since people would take it for ours."""
        made = registered_as(chair, shown.pages.get(version))
        reason = f"alias {alias!r} only looks like {_plain(alias)}; it was removed"
        chair.refuse(made.body if made else {"version": version}, _plain(alias), LEAD, "alias", reason)
        self.pages.sweep_alias(alias)
        log.warning("version %s: %s", version, reason)

    def _mirror(self, chair: Chair, shown: Shown) -> None:
        wanted = expected(chair, shown)
        for alias in ALIASES:
            want, have = wanted.get(alias), shown.aliases.get(alias)
            if want == have:
                continue
            self._rest()
            if self.pages.alias(alias) != have:  # moved since: a wish, which the next step judges
                return
            if want is None:
                self.pages.delete_alias(alias)
            else:
                self.pages.set_alias(alias, want)
        memory = json.dumps({"file": self._file(), "aliases": wanted})
        if not self.home.aliases.exists() or self.home.aliases.read_text() != memory:
            part = self.home.aliases.with_suffix(".part")
            part.write_text(memory)
            sync(part)
            part.replace(self.home.aliases)

    def _remembered(self, chair: Chair, shown: Shown) -> dict[str, int]:
        """The aliases when they last agreed with the ledger. Without memory, or where MLflow's database is another
        file (put back from a backup), all that the ledger ever named is old news, not a wish.
        """
        try:
            memory = json.loads(self.home.aliases.read_text())
            if memory["file"] == self._file():
                return {alias: int(version) for alias, version in memory["aliases"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        named = {(e.body["alias"], e.body["version"]) for e in chair.entries if e.kind in ("promotion", "rollback")}
        named |= {("previous", version) for alias, version in named if alias == "champion"}
        return {a: v for a, v in shown.aliases.items() if (a, v) in named}

    def _file(self) -> int:
        return self.home.registry.stat().st_ino

    # Pages ------------------------------------------------------------------------------------------------------------

    def _write(self, chair: Chair, shown: Shown, workers: list[WorkerReport]) -> None:
        """Write what differs, and only that."""
        for page in shown.pages.values():
            made = registered_as(chair, page)
            if made is None:
                words = pagewords.Words("no", _unknown(page.version), f"Not live. {_unknown(page.version)}")
            else:
                words = pagewords.of_version(made, chair.in_charge, chair.entries, workers)
            for key, value in (("live", words.live), ("refused", words.refused)):
                if page.tags.get(key, "") != value:
                    self._rest()
                    self.pages.tag(page.version, key, value)
            if (whole := pagewords.above(words.sentences, page.description)) != page.description:
                self._rest()
                self.pages.describe(page.version, whole)
        models = {e.body["release"]: e.body["model"] for e in chair.entries if e.kind == "registered"}
        told = pagewords.of_model(chair.in_charge, models, list(troubles(chair, shown, workers)))
        says = told.replace("**", "")  # a tag is shown as it stands
        if shown.tags.get("says") != says:
            self._rest()
            self.pages.tag_model("says", says)
        theirs = {alias: version for alias, version in shown.aliases.items() if alias not in ALIASES}
        versions = {page.version: page.tags for page in shown.pages.values()}
        whole = model_page(told, versions, theirs | expected(chair, shown))[:LIMIT]
        if whole != shown.description:
            self._rest()
            self.pages.describe_model(whole)


def heed(chair: Chair, workers: list[WorkerReport]) -> None:
    """A release that every worker refused since it was promoted does not stay in charge."""
    champion, challenger = chair.in_charge.get("champion"), chair.in_charge.get("challenger")
    if (
        champion
        and (why := all_refuse(champion, "champion", workers))
        and (previous := chair.in_charge.get("previous"))
    ):
        _told(chair.back(previous, US, why))
    if challenger and (why := all_refuse(challenger, "challenger", workers)):
        _told(chair.withdraw(US, why))


def all_refuse(entry: Entry, alias: str, workers: list[WorkerReport]) -> str:
    """Why no worker serves what the ledger names, or nothing where one does, or has not tried since."""
    release = entry.body["release"]
    found = [w.refused.get(release) for w in workers if alias not in w.arms or w.arms[alias].release != release]
    reasons = [f.reason for f in found if f and f.wall_ms >= entry.wall_ts]
    if not workers or len(reasons) < len(workers):
        return ""
    return f"all {len(workers)} workers refused version {entry.body['version']}: {reasons[0]}"


def wished(chair: Chair, shown: Shown, alias: str, version: int) -> Outcome | None:
    """Judge that `alias` stands at `version` in MLflow; None where that version is not there or not ours."""
    if (page := shown.pages.get(version)) is None:
        return None
    if (made := registered_as(chair, page)) is None:
        chair.refuse({"version": version}, alias, LEAD, "alias", _unknown(version))
        return None
    return chair.wish(made, alias, LEAD)


def removed(chair: Chair, alias: str) -> None:
    """An alias that stood in MLflow was removed there, or went with its version."""
    entry = chair.in_charge[alias]
    if alias == "challenger":
        _told(chair.withdraw(LEAD, "its alias was removed in MLflow"))
    elif alias == "champion":
        made = next(e for e in chair.entries if e.kind == "registered" and e.body["release"] == entry.body["release"])
        reason = "the alias champion cannot be removed, only moved: set it on another version"
        chair.refuse(made.body, alias, LEAD, "alias", reason)


def expected(chair: Chair, shown: Shown) -> dict[str, int]:
    """The version that each alias should name in MLflow; none where it is not there."""
    ours = {made.body["release"]: page.version for page in shown.pages.values() if (made := registered_as(chair, page))}
    found = {alias: ours.get(entry.body["release"]) for alias, entry in chair.in_charge.items()}
    return {alias: version for alias, version in found.items() if version is not None}


def registered_as(chair: Chair, page: Page | None) -> Entry | None:
    """The ledger's entry of a version: by number and run, since numbers recur and tags can be edited."""
    if page is None:
        return None
    known = [e for e in chair.entries if e.kind == "registered" and e.body["version"] == page.version]
    return next((e for e in reversed(known) if e.body["run_id"] == page.run_id), None)


def troubles(chair: Chair, shown: Shown, workers: list[WorkerReport]) -> list[str]:
    """What the lead has to know, in sentences."""
    found, here = [], expected(chair, shown)
    for alias, entry in chair.in_charge.items():
        if alias not in here:
            found.append(
                f"Version {entry.body['version']} is {alias}, but is not in MLflow any more: it is served from its "
                "release all the same. Put MLflow's database back from a backup, or train and promote another."
            )
    champion = chair.in_charge.get("champion")
    if champion and (why := all_refuse(champion, "champion", workers)):
        found.append(f"There is nothing to go back to, and {why}.")
    if champion and champion.kind == "rollback":
        found.append(f"Version {champion.body['from']} was taken back: {champion.body['rule']}.")
    return found


def _unknown(version: int) -> str:
    return f"Version {version} was not registered by greenlight train, so no gate has judged it."


def _told(outcome: Outcome | None) -> None:
    if outcome and outcome.kind != "nothing":
        log.info(outcome.sentence)


def _order(alias: str) -> tuple[int, str]:
    return (ALIASES.index(alias) if alias in ALIASES else len(ALIASES), alias)


def _plain(alias: str) -> str:
    return unicodedata.normalize("NFKC", alias).strip().casefold()


def run(reconciler: Reconciler, every_s: float, going_on: Callable[[], bool] = lambda: True) -> None:
    """Step for ever. A trouble is one sentence, said once until it is another or over."""
    said = ""
    while going_on():
        try:
            reconciler.step()
            if said:
                log.info("the trouble is over: %s", said)
            said = ""
        except (PlainError, OSError) as why:
            if str(why) != said:
                log.warning("%s; trying again", why)
            said = str(why)
        time.sleep(every_s)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    step_aside()
    _home, _settings, _pace = Home.from_environment().open(), load(), Pace(SHARE, time.thread_time)
    _reconciler = Reconciler(_home, _settings, pack="--no-bento" not in sys.argv, rest=_pace.rest)
    run(_reconciler, _settings.workers.reconcile_every_s)
