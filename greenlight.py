"""The command line: one short function per verb, imports inside it, so that each verb pays only for what it uses.

Exit status: 0 done, 1 refused by a gate, 2 wrong use or broken input, 130 interrupted.
"""

import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, changed, load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=__doc__,
)


def _group(name: str, about: str) -> typer.Typer:
    """Verbs that share their first word."""
    verbs = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=about)
    app.add_typer(verbs, name=name)
    return verbs


data = _group("data", "Bring events in, give them back.")
keys = _group("keys", "API keys: who may call the service.")
report = _group("report", "Reports on the running service.")
experiment = _group("experiment", "A/B: a challenger and the champion.")
mail = _group("mail", "Letters: which wait, were refused; send.")

REFUSED, WRONG, INTERRUPTED = 1, 2, 130
console = Console(stderr=True, highlight=False, emoji=False)  # progress and errors; results go to standard output
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")]
CENTURY = 36_500.0  # days: no span that is asked for is longer, and none leaves what a clock can count
SEED = typer.Option(min=0, help="Seed of everything that is drawn.")
EFFECT = typer.Option(help="Change worth finding, a share of the champion's mean.")
REASON = typer.Option(help="Why, for the ledger.")


def main() -> None:
    """Run a verb; every known error is one plain sentence and a status that a cron job can use."""
    try:
        status = app(standalone_mode=False) or 0
    except (PlainError, typer.TyperException) as why:
        _complain(getattr(why, "format_message", why.__str__)())
        status = WRONG
    except OSError as why:  # a disk that is full, a folder that may not be written: wherever it shows, it is theirs
        where = f"{why.filename}: " if why.filename else ""
        _complain(f"{where}{why.strerror or why}")
        status = WRONG
    except MemoryError as why:
        _complain(f"this asks for more memory than there is{f': {why}' if str(why) else ''}; ask for less at once")
        status = WRONG
    if status == INTERRUPTED:
        console.print("greenlight: interrupted; the same command goes on from here")
    sys.exit(status)


@app.command()
def demo(
    source: Annotated[
        str, typer.Option("--data", help="A file or folder of ratings, `movietweetings` or `simulated`.")
    ] = "movietweetings",
    seed: Annotated[int, SEED] = 0,
    once: Annotated[bool, typer.Option("--once", help="End after the scoreboard instead of staying up.")] = False,
    challenger: Annotated[
        Literal["retrained", "equal", "worse"], typer.Option(help="Who meets the champion in the A/B.")
    ] = "retrained",
    weeks: Annotated[int, typer.Option(min=0, max=520, help="Live on for so many weeks instead of one A/B.")] = 0,
    as_json: Json = False,
) -> int:
    """The whole loop, from nothing to a served, explained, gated recommender.

    Example: `greenlight demo --once`
    """
    from pipelines.demo import run

    home = Home.from_environment(".greenlight/demo")
    out = Console(highlight=False, stderr=as_json)  # standard output is JSON and nothing else then
    board = run(home, load(), source=source, seed=seed, once=once, out=out, challenger=challenger, weeks=weeks)
    if as_json:
        _print(board, as_json=True)
    if not all(step["ok"] for step in board["steps"]):
        return WRONG
    return REFUSED if any(refused["gate"] == "inputs" for refused in board["refused"]) else 0


@app.command()
def up(
    kafka: Annotated[Literal["local"] | None, typer.Option(help="`local`: a Kafka broker of this home too.")] = None,
    as_json: Json = False,
) -> int:
    """Registry, API and the loops beside it, under one supervisor, until Ctrl-C.

    Example: `greenlight up`, or `greenlight up --kafka local`
    """
    from pipelines.broker import with_own
    from pipelines.up import Ready, run

    def ready(told: Ready) -> None:
        print(*([json.dumps(asdict(told))] if as_json else told.lines), sep="\n", flush=True)

    home, settings = _home()
    if kafka:
        settings = with_own(settings)
    run(home, settings, _say, ready, local_kafka=bool(kafka))
    return 0


@app.command()
def status(
    alarm: Annotated[
        bool, typer.Option("--alarm", help="For cron: only what is broken, that `up` does not run included.")
    ] = False,
    as_json: Json = False,
) -> int:
    """What is in force, what is broken, and the next command.

    Example: `greenlight status --json`
    """
    from pipelines.status import alarming, parts, readers, settings_in_force

    home, settings = Home.from_environment(), load()
    found, force = parts(home, settings), settings_in_force(settings)
    if alarm:
        found = alarming(found)
    if as_json:
        told = {"parts": [asdict(p) for p in found], "lag": [asdict(b) for b in readers(home, settings)]}
        _print({"home": str(home.root), **told, "settings": force}, as_json=True)
    elif alarm:
        print(*(f"{home.root}: {part.name}: {part.detail}: {part.next}\n" for part in found), sep="", end="")
    else:
        _print_status(home, found, force)
    return WRONG if any(part.state == "broken" for part in found) else 0


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> int:
    """Remove old reports, letters, snapshots, releases, Bentos and logged models, by `retention`. Never what is in use.

    Example: `greenlight prune --dry-run`
    """
    from pipelines.prune import prune as run

    home, settings = _home()
    done = run(home, settings, dry_run=dry_run)
    _print(asdict(done) | {"freed_bytes": done.freed_bytes}, as_json, *done.lines)
    for trouble in done.troubles:
        _complain(trouble)
    return WRONG if done.troubles else 0


@data.command("import")
def data_import(
    source: Annotated[
        str, typer.Argument(help="File, folder, zip, gzip, `-` for standard input, `movietweetings` or `simulated`.")
    ],
    dialect: Annotated[str | None, typer.Option(help="How to read it, where its form leaves a doubt.")] = None,
    scale: Annotated[float | None, typer.Option(help="Largest rating the source allows.")] = None,
    as_json: Json = False,
) -> int:
    """Read MovieLens, MovieTweetings, the site's text lines or JSON lines. Importing twice adds nothing.

    Example: `greenlight data import ml-latest-small.zip`
    """
    from pipelines.data import import_data

    home, settings = _home()
    with _progress("reading") as progress:
        report = import_data(home, settings, source, dialect=dialect, scale=scale, progress=progress)
    _print(report, as_json)
    return 0


@data.command("simulate")
def data_simulate(
    users: Annotated[int | None, typer.Option(help="Viewers of a world from nothing.")] = None,
    movies: Annotated[int | None, typer.Option(help="Movies of a world from nothing.")] = None,
    days: Annotated[int | None, typer.Option(help="Days to simulate.")] = None,
    seed: Annotated[int, SEED] = 0,
    shift: Annotated[str, typer.Option(help="What changes: `day=30 from=Drama to=Comedy strength=0.8 share=1`.")] = "",
    as_json: Json = False,
) -> int:
    """Let a simulated audience act: one made from nothing, or fitted to the history and going on from its last day.

    Repeating adds nothing; more days add the rest. Sizes and habits: settings section `audience`.

    Example: `greenlight data simulate --days 60 --seed 7 --shift "day=30 from=Drama to=Comedy strength=0.8"`
    """
    from pipelines.simulate import simulate

    home, settings = _home()
    with _progress("simulating") as progress:
        report = simulate(
            home, settings, viewers=users, movies=movies, days=days, seed=seed, shift=shift, progress=progress
        )
    _print(report, as_json)
    return 0


@data.command("follow")
def data_follow(
    topic: Annotated[str, typer.Option(help="The site's topic of text lines, as it is called in Kafka.")],
    group: Annotated[str, typer.Option(help="Consumer group; this home's own where none is named.")] = "",
    start: Annotated[
        Literal["beginning", "end"], typer.Option("--from", help="Where a group that is new begins.")
    ] = "beginning",
    once: Annotated[bool, typer.Option("--once", help="End at the end that is there now.")] = False,
    as_json: Json = False,
) -> int:
    """Read a topic in Kafka as it grows, until Ctrl-C; repeating goes on. Where Kafka is: settings section `kafka`.

    Example: `GREENLIGHT_KAFKA__SERVERS=broker:9092 greenlight data follow --topic movielog1`
    """
    from pipelines.follow import follow
    from pipelines.loop import asked_to_end

    home, settings = _home()
    with _steps(f"{topic}: joining") as progress:
        done = follow(
            home,
            settings,
            topic,
            group=group,
            start=start,
            once=once,
            ended=asked_to_end().is_set,
            say=_say,
            progress=progress,
        )
    _print(done, as_json)
    return 0


@data.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="`movielens-small`, `movielens-latest` or `movietweetings`.")],
    to: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path(),
    as_json: Json = False,
) -> int:
    """Download a published data set from its home, checked where a checksum is published. Repeating goes on.

    Example: `greenlight data fetch movielens-small --to downloads`
    """
    from pipelines.fetch import fetch

    with _progress("bytes") as progress:
        fetched = fetch(name, to, load().fetch, progress)
    _print(fetched, as_json)
    return 0


@data.command("export")
def data_export(
    target: Annotated[str, typer.Argument(help="File to write, or `-` for standard output.")],
    dead_letter: Annotated[bool, typer.Option("--dead-letter", help="The unreadable records too.")] = False,
    as_json: Json = False,
) -> int:
    """Give everything back as JSON lines, which `data import` reads.

    Example: `greenlight data export all.jsonl.gz --dead-letter`
    """
    from pipelines.data import export_data

    home, settings = _home()
    with _progress("writing") as progress:
        count = export_data(home, settings, target, dead_letter=dead_letter, progress=progress)
    if target != "-":
        _print({"target": target, "events": count}, as_json)
    return 0


@app.command()
def train(
    model: Annotated[
        list[str] | None, typer.Option(help="Short name, pkg.Class or FILE.py:Class; repeat for more.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=0, help="Tuning trials per model, on validation.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, max=1440 * CENTURY, help="Tuning time per model.")] = None,
    seed: Annotated[int | None, SEED] = None,
    as_json: Json = False,
) -> int:
    """Cut a snapshot, train candidates, judge them, register them; the first champion is decided here.

    Example: `greenlight train --model ease --model my_model.py:MyModel --trials 20`
    """
    from pipelines.package import package_champion
    from pipelines.train import train as run

    home, settings = _home()
    chosen = settings.train
    outcome = run(
        home,
        settings,
        models=tuple(model) if model else chosen.models,
        trials=chosen.trials if trials is None else trials,
        minutes=chosen.minutes if minutes is None else minutes,
        seed=chosen.seed if seed is None else seed,
        report=_say,
    )
    bento = package_champion(home, settings, outcome)
    serve = [f"Serve it: BENTOML_HOME={home.bentos} bentoml serve {bento}"] if bento else []
    _print({**asdict(outcome), "bento": bento}, as_json, outcome.sentence, *serve)
    return 0 if outcome.inputs.verdict == "pass" else REFUSED


@app.command()
def retrain(
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Only where the audience moved, or the data is old or much is new.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Drift report, snapshot, training, gates, challenger: or a refusal with its reason, told by mail.

    Example: `greenlight retrain --if-due`
    """
    from pipelines.retrain import retrain as run

    home, settings = _home()
    done = run(
        home,
        settings,
        if_due=if_due,
        actor=getpass.getuser(),
        report=_say,
    )
    _print(done, as_json, done.sentence)
    return done.exit


@app.command()
def precompute(as_json: Json = False) -> int:
    """Slates for all viewers and the popularity ranking, from today's live state, for who is in charge.

    Example: `greenlight precompute --json`
    """
    from pipelines.precompute import precompute as run

    home, settings = _home()
    with _progress("viewers:") as progress:
        made = run(home, settings, progress)
    _print(made, as_json, made.sentence)
    return 0


@app.command()
def replay(
    since: Annotated[str, typer.Option("--from", help="A day or a time, UTC where it names no zone.")],
    until: Annotated[str, typer.Option("--to", help="Up to, not with, this day or time.")],
    against: Annotated[int | None, typer.Option(help="A version, asked in the shadow; nobody gets its slates.")] = None,
    speed: Annotated[float | None, typer.Option(help="1 as recorded; as fast as possible where none is named.")] = None,
    service: Annotated[str, typer.Option(help="Address of another service than this home's own.")] = "",
    key_file: Annotated[Path | None, typer.Option(help="File with an API key for it, of all scopes.")] = None,
    as_json: Json = False,
) -> int:
    """Recorded traffic once more, in time order, through the service or a candidate; what came, beside what was.

    Example: `greenlight replay --from 2013-10-01 --to 2013-10-08 --against 3`
    """
    from pipelines.replay import replay as run

    home, settings = _home()
    with _steps("reading what is recorded") as progress:
        done = run(
            home,
            settings,
            since,
            until,
            against=against,
            speed=speed,
            service=service,
            key_file=key_file,
            progress=progress,
        )
    if as_json:
        _print(done, as_json=True)
    else:
        nothing = ("None", "{}", "0")
        told = {k: value for k, value in asdict(done).items() if str(value) not in nothing and k != "notes"}
        _print(told, as_json=False)
        print(*(f"- {note}" for note in done.notes), sep="\n")
    return 0


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="The version's number, as the registry's pages show it.")],
    alias: Annotated[str, typer.Option(help="`champion`, or `challenger` to let it into an A/B.")] = "champion",
    as_json: Json = False,
) -> int:
    """Put a version in charge, where the gates allow it. Works with the registry and the API down.

    Example: `greenlight promote 4 --alias challenger`
    """
    from pipelines.promote import promote as run

    home, settings = _home()
    return _decided(home, run(home, settings, version, alias, actor=getpass.getuser()), as_json)


@app.command()
def rollback(
    reason: Annotated[str, REASON] = "",
    as_json: Json = False,
) -> int:
    """Go back to the champion before this one: always allowed. Works with the registry and the API down.

    Example: `greenlight rollback --reason "viewers complain of repeats"`
    """
    from pipelines.promote import rollback as run

    home, settings = _home()
    return _decided(home, run(home, settings, actor=getpass.getuser(), reason=reason), as_json)


def _decided(home: Home, outcome: Any, as_json: bool) -> int:
    """Tell what became of a wish, and who serves it."""
    from pipelines.takeup import wait

    told = {name: getattr(outcome, name) for name in ("accepted", "kind", "alias", "version", "release", "sentence")}
    lines = [outcome.sentence]
    if outcome.accepted:
        with _progress("workers that serve it:") as progress:
            found = wait(home, outcome.release, outcome.alias, progress)
        told["workers"] = asdict(found)
        lines.append(found.sentence)
    _print(told, as_json, *lines)
    return 0 if outcome.accepted else REFUSED


@app.command()
def ledger(
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain, the hashes and the signatures.")] = False,
    as_json: Json = False,
) -> int:
    """Every decision, registration, promotion and refusal, oldest first.

    Example: `greenlight ledger --verify`
    """
    from mlflow_server.ledger import Ledger

    home = Home.from_environment()
    book = Ledger.to_read(home.ledger, home.keys)
    if verify:
        _print({"entries": book.verify(), "holds": True}, as_json)
    elif as_json:
        _print({"entries": [asdict(entry) for entry in book.entries()]}, as_json)
    else:
        for entry in book.entries():
            print(f"{entry.seq:>5}  {entry.kind:<10}  {entry.actor:<12}  {_one_line(entry.body)}")
    return 0


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for people.")],
    scope: Annotated[list[str], typer.Option(help="`read`, `events` or `admin`; repeat for more.")] = ["read"],  # noqa: B006
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute; without: no limit.")] = None,
    days: Annotated[
        float | None, typer.Option(min=0, max=CENTURY, help="Days until it expires; without: never.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Make a key. Its text is shown once and kept nowhere.

    Example: `greenlight keys create website --scope read --scope events`
    """
    from serving.keys import KeyStore, known_scopes

    home, settings = _home()
    store = KeyStore(home, settings.door.environment)
    text, key = store.create(name, known_scopes(scope), per_minute=per_minute, days=days)
    _print({"key": text, **key.shown()}, as_json)
    return 0


@keys.command("rotate")
def keys_rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The old key's id, from `keys list`.")],
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * CENTURY, help="How long the old key stays valid.")
    ] = 24.0,
    as_json: Json = False,
) -> int:
    """Make a key that replaces another; both are valid until the overlap ends.

    Example: `greenlight keys rotate 0aB3dE6gH9 --overlap-hours 1`
    """
    from serving.keys import KeyStore

    home, settings = _home()
    text, key = KeyStore(home, settings.door.environment).rotate(key_id, overlap_hours)
    _print({"key": text, **key.shown()}, as_json)
    return 0


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, from `keys list`.")], as_json: Json = False
) -> int:
    """End a key now: within 5 s no worker lets it in.

    Example: `greenlight keys revoke 0aB3dE6gH9`
    """
    from serving.keys import KeyStore

    home, settings = _home()
    _print(KeyStore(home, settings.door.environment).revoke(key_id).shown(), as_json)
    return 0


@keys.command("list")
def keys_list(as_json: Json = False) -> int:
    """All keys, without their text: whose, for what, and whether they are live.

    Example: `greenlight keys list --json`
    """
    from serving.keys import KeyStore

    found = [key.shown() for key in KeyStore(Home.from_environment()).all()]
    if as_json:
        _print({"keys": found}, as_json=True)
    for key in [] if as_json else found:
        print(f"{key['id']}  {key['state']:<8}  {','.join(key['scopes']):<18}  {key['name']}")
    return 0


@report.command("drift")
def report_drift(
    mail: Annotated[bool, typer.Option("--mail", help="Put it into the outbox too.")] = False, as_json: Json = False
) -> int:
    """Has the audience moved? Sampled traffic against like traffic; the verdict is in the ledger. 0 whatever it is.

    Example: `greenlight report drift --mail`
    """
    from pipelines.report import as_json as plain
    from pipelines.report import drift, post

    home, settings = _home()
    with _steps("reading the log") as step:
        made = drift(home, settings, step)
        letter = post(home, settings, made) if mail else None
    lines = (f"{made.verdict}: {made.sentences[0]}", *made.sentences[1:], f"The whole report: {made.html}")
    _print({**plain(made), "mail": letter}, as_json, *lines)
    return 0


@experiment.command("size")
def experiment_size(
    days: Annotated[float, typer.Option(min=1, max=CENTURY, help="Of slates to go by, the last ones.")] = 14.0,
    effect: Annotated[float | None, EFFECT] = None,
    as_json: Json = False,
) -> int:
    """How many days must an A/B have to find a change worth finding, with 99 % power? From what came of slates so far.

    Example: `greenlight experiment size --effect 0.05`
    """
    from pipelines.sizing import size

    home, settings = _home()
    if effect is not None:
        settings = changed(settings, "experiment", effect=effect)
    found = size(home, settings, days=days)
    _print(found, as_json, f"{found.sentence[:1].upper()}{found.sentence[1:]}.")
    return 0


@experiment.command("start")
def experiment_start(
    version: Annotated[int, typer.Argument(help="The challenger's number, as the registry's pages show it.")],
    name: Annotated[str, typer.Option(help="For people.")] = "",
    metric: Annotated[str | None, typer.Option(help="`likes`, `clicks` or `watch_minutes`, per slate.")] = None,
    margin: Annotated[float | None, typer.Option(help="By which it must be better, in the metric's units.")] = None,
    effect: Annotated[float | None, EFFECT] = None,
    level: Annotated[float | None, typer.Option(help="Of the confidence sequence.")] = None,
    min_days: Annotated[float | None, typer.Option(help="No verdict before.")] = None,
    max_days: Annotated[float | None, typer.Option(help="It ends then at the latest.")] = None,
    min_users: Annotated[int | None, typer.Option(help="No verdict with fewer viewers in either arm.")] = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LOSS", help="What may get worse by a share at most; repeat for more."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Declare what will be asked, then let a version into an A/B. What is not given is as the settings have it.

    Example: `greenlight experiment start 4 --metric likes --max-days 21`
    """
    from monitoring.experiment import Guardrail, Plan
    from pipelines.experiment import start

    home, settings = _home()
    given: dict[str, Any] = {"metric": metric, "margin": margin, "effect": effect, "level": level}
    given |= {"min_days": min_days, "max_days": max_days, "min_users": min_users}
    given |= {"guardrails": tuple(map(Guardrail.typed, guardrail)) if guardrail else None}
    changes = {part: value for part, value in given.items() if value is not None}
    plan = Plan.from_settings(name, settings.experiment, **changes)
    return _decided(home, start(home, settings, version, actor=getpass.getuser(), plan=plan), as_json)


@experiment.command("status")
def experiment_status(as_json: Json = False) -> int:
    """Look at the numbers as often as you like; nothing ends by it. Draws the sequence, here and in MLflow.

    Example: `greenlight experiment status --json`
    """
    from pipelines.experiment import status

    home, settings = _home()
    return _stands(home, settings, status(home, settings), as_json)


@experiment.command("advance")
def experiment_advance(
    auto: Annotated[bool | None, typer.Option(help="Promote a winner without the lead.")] = None, as_json: Json = False
) -> int:
    """Look, and end the experiment where the numbers do. What the scheduler runs.

    Example: `greenlight experiment advance --auto`
    """
    from pipelines.experiment import advance

    home, settings = _home()
    chosen = settings.experiment.auto if auto is None else auto
    return _stands(home, settings, advance(home, settings, auto=chosen, actor=getpass.getuser()), as_json)


@experiment.command("stop")
def experiment_stop(reason: Annotated[str, REASON] = "", as_json: Json = False) -> int:
    """End the experiment without a verdict; its challenger is withdrawn.

    Example: `greenlight experiment stop --reason "the player was broken all week"`
    """
    from pipelines.experiment import stop

    home, settings = _home()
    return _stands(home, settings, stop(home, settings, actor=getpass.getuser(), reason=reason), as_json)


def _stands(home: Home, settings: Settings, standing: Any, as_json: bool) -> int:
    """Tell how an experiment stands, with its picture."""
    from monitoring.sequence import lines
    from pipelines.experiment import draw

    picture, trouble = draw(home, settings, standing)
    if as_json:
        _print({**asdict(standing), "picture": str(picture) if picture else None}, as_json=True)
        return 0
    out = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
    if standing.plan:
        out.print(standing.plan.name, *lines(standing.plan, standing.looks), sep="\n")
    out.print(standing.sentence)
    if picture:
        out.print(f"Picture: {picture}" + (f"; {trouble}" if trouble else ", and in the challenger's run in MLflow"))
    return 0


@mail.command("list")
def mail_list(as_json: Json = False) -> int:
    """Letters that wait or were refused: to whom, and in what words.

    Example: `greenlight mail list`
    """
    from pipelines.outbox import FAILED, WAITING, letters, trouble

    home = Home.from_environment()
    found = {place: [letter.shown() for letter in letters(home, place)] for place in (WAITING, FAILED)}
    trouble_now = (trouble(home) or {}).get("trouble", "")
    if as_json:
        _print({**found, "trouble": trouble_now}, as_json)
        return 0
    for place, kept in found.items():
        for letter in kept:
            print(f"{place:<8} {letter['id']}  {letter['subject']}")
            print(*(f"         {name}: {what}" for name, what in letter["recipients"].items()), sep="\n")
    print(*filter(None, [trouble_now]), *([] if any(found.values()) else ["no letter waits or was refused"]), sep="\n")
    return 0


@mail.command("send")
def mail_send(
    failed: Annotated[
        bool, typer.Option("--failed", help="Also to those who refused it: the reason is mended.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Send what waits now, without waiting for the next try. Status 2 where something was not sent.

    Example: `greenlight mail send --failed`
    """
    from pipelines.outbox import deliver, reopen

    home, settings = _home()
    if failed:
        reopen(home)
    return _sent(deliver(home, settings, at_once=True), as_json)


@mail.command("drop")
def mail_drop(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id, from `mail list`.")],
    as_json: Json = False,
) -> int:
    """Give a letter up that waits or was refused. It stays in the outbox.

    Example: `greenlight mail drop 20261126-081500-123456-0a1b2c3d`
    """
    from pipelines.outbox import drop

    home, _ = _home()
    _print(drop(home, letter_id).shown(), as_json)
    return 0


@mail.command("test")
def mail_test(as_json: Json = False) -> int:
    """Send a letter that says it is a test, by the way that the settings name.

    Example: `greenlight mail test`
    """
    from monitoring.mail import Letter
    from pipelines.outbox import deliver, post

    home, settings = _home()
    words = f"Sent by hand with greenlight mail test, via {settings.mail.via}. Nothing needs to be done."
    name = post(home, settings, Letter("test: letters from Greenlight reach you", words))
    if settings.mail.via == "outbox" and not as_json:
        print(f"kept     {home.outbox / name}.eml: mail.via is outbox, so nothing is sent")
    return _sent(deliver(home, settings, at_once=True), as_json)


def _sent(done: Any, as_json: bool) -> int:
    """Tell what became of letters, and to whom."""
    _print(done, as_json, *done.lines)
    return WRONG if done.refused or done.waiting else 0


@app.command()
def why(request_id: Annotated[str, typer.Argument(help="The answer's X-Request-Id.")], as_json: Json = False) -> int:
    """One served slate back to rung, release, version, gates, snapshot and commit.

    Example: `greenlight why 01JD…  --json`
    """
    from pipelines.why import explain

    home, settings = _home()
    _print(explain(home, settings.storage, request_id), as_json)
    return 0


def _home() -> tuple[Home, Settings]:
    return Home.from_environment().open(), load()


def _print(result: Any, as_json: bool, *lines: str) -> None:
    """A result as JSON, or for people: these lines, or `name  value` ones where there are none."""
    plain = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    if as_json:
        print(json.dumps(plain, indent=2, ensure_ascii=False, default=str))
        return
    if lines:
        print(*lines, sep="\n")
        return
    width = max((len(name) for name in plain), default=0)
    for name, value in plain.items():
        print(f"{name.replace('_', ' '):<{width}}  {_one_line(value)}")


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_one_line(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_one_line(v) for v in value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value}"


def _print_status(home: Home, found: list[Any], force: dict[str, Any]) -> None:
    from pipelines.scoreboard import parts_table

    out = Console(highlight=False, emoji=False)
    out.print(f"home {home.root}", soft_wrap=True)
    out.print(parts_table(found))
    for section, values in force.items():
        out.print(f"[dim]{section}[/dim]  {_escaped(_one_line(values))}", soft_wrap=True)


def _say(line: str) -> None:
    """Progress, on standard error."""
    console.print(_escaped(line), soft_wrap=True)


def _complain(sentence: str) -> None:
    console.print(f"[red]greenlight:[/red] {_escaped(sentence)}", soft_wrap=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A moving line on standard error, told how many are done; a stream does not say how many there will be."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _steps(first: str) -> Iterator[Callable[[str], None]]:
    """A moving line on standard error that says what is being done."""
    with console.status(first) as line:
        yield lambda step: line.update(step)


if __name__ == "__main__":
    main()
