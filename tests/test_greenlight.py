"""The command line as a person or a cron job meets it: exit statuses, plain sentences, JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenlight import app

ROOT = Path(__file__).parents[1]


def greenlight(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "greenlight", *words]
    variables = {**os.environ, "GREENLIGHT_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)


VERBS = [
    ["demo"],
    ["up"],
    ["status"],
    ["precompute"],
    ["replay"],
    ["retrain"],
    ["promote"],
    ["rollback"],
    ["prune"],
    ["train"],
    ["ledger"],
    ["why"],
    ["data", "import"],
    ["data", "export"],
    ["data", "simulate"],
    ["data", "fetch"],
    ["data", "follow"],
]
VERBS += [["experiment", verb] for verb in ("size", "start", "status", "advance", "stop")]
VERBS += [["mail", verb] for verb in ("list", "send", "drop", "test")]
VERBS += [["keys", verb] for verb in ("create", "rotate", "revoke", "list")]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example_and_json(words: list[str]) -> None:
    help_text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).stdout
    assert "Example: " in help_text
    assert "--json" in help_text


def test_every_verb_is_listed_above() -> None:
    named = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named == {words[0] for words in VERBS if len(words) == 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["promise"], "No such command 'promise'"),
        (["train", "--trials", "many"], "trials"),
        (["why"], "request_id"),
        (["why", "no-such-id"], "no-such-id"),
        (["data", "import", "nowhere.csv"], "nowhere.csv"),
        (["train", "--model", "eaze"], "ease"),
        (["train", "--trials", "-1"], "trials"),
        (["train", "--model", "model.py"], "model.py:Class"),
        (["train"], "data import"),
        (["keys", "revoke", "nosuchkey"], "keys list"),
        (["mail", "drop", "nosuchletter"], "mail list"),
        (["keys", "create", "site", "--scope", "root"], "read, events, admin"),
        (["keys", "create", "site", "--days", "inf"], "--days"),
        (["keys", "create", "site", "--days", "nan"], "--days"),
        (["keys", "create", "site", "--days", "1e300"], "--days"),
        (["keys", "rotate", "nosuchkey", "--overlap-hours", "inf"], "--overlap-hours"),
        (["experiment", "size", "--effect", "0"], "experiment.effect"),
        (["experiment", "size", "--effect", "nan"], "experiment.effect"),
        (["experiment", "size", "--days", "inf"], "--days"),
        (["experiment", "size", "--days", "1e12"], "--days"),
        (["data", "simulate", "--users", "99999999999999"], "viewers"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_status_2_and_one_plain_sentence(tmp_path: Path, words: list[str], says: str) -> None:
    done = greenlight(tmp_path / "h", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_unknown_setting_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    done = greenlight(tmp_path / "h", "status", GREENLIGHT_SERVING__PROT="1")
    assert done.returncode == 2
    assert "serving.port" in done.stderr


def test_status_of_nothing_names_the_first_command(tmp_path: Path) -> None:
    done = greenlight(tmp_path / "h", "status", "--json")
    assert done.returncode == 0
    (part,) = json.loads(done.stdout)["parts"]
    assert part["state"] == "empty"
    assert "greenlight data import" in part["next"]
    assert not (tmp_path / "h").exists()


def test_status_names_the_broken_part_and_the_next_command(tmp_path: Path) -> None:
    home = tmp_path / "h"
    (tmp_path / "few.jsonl").write_text(
        '{"kind":"account","version":1,"event_id":"a","ts":1700000000000,"user_id":"u"}\n'
    )
    assert greenlight(home, "data", "import", str(tmp_path / "few.jsonl")).returncode == 0
    (home / "log.db").write_bytes(b"not a database, long enough to be read as one" * 100)
    done = greenlight(home, "status", "--json")
    assert done.returncode == 2
    log = next(part for part in json.loads(done.stdout)["parts"] if part["name"] == "log")
    assert log["state"] == "broken"
    assert "greenlight" in log["next"]


def test_status_for_cron_is_one_line_for_what_is_broken(tmp_path: Path) -> None:
    done = greenlight(tmp_path / "h", "status", "--alarm")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "does not exist yet" in done.stdout


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for words in (["demo", "--once"], ["train"], ["data", "import", "movietweetings"]):
        done = greenlight(tmp_path, *words)
        assert done.returncode == 2, words
        assert "not empty" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_import_and_export_give_json(tmp_path: Path) -> None:
    lines = "".join(f"{t},u{t % 7},GET /rate/m{t % 5}=4\n" for t in range(1_700_000_000, 1_700_000_050))
    (tmp_path / "site.log").write_text(lines + "not a line\n")
    report = json.loads(greenlight(tmp_path / "h", "data", "import", str(tmp_path / "site.log"), "--json").stdout)
    assert (report["added"], report["unreadable"]) == (50, 1)
    again = json.loads(greenlight(tmp_path / "h", "data", "import", str(tmp_path / "site.log"), "--json").stdout)
    assert again["added"] == 0
    out = greenlight(tmp_path / "h", "data", "export", "-", "--dead-letter").stdout.splitlines()
    assert len(out) == 51
    assert sum(json.loads(line)["kind"] == "unreadable" for line in out) == 1


def test_a_look_at_the_ledger_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "h"
    done = greenlight(home, "ledger", "--verify", "--json")
    assert json.loads(done.stdout) == {"entries": 0, "holds": True}
    assert not home.exists()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GREENLIGHT_CONF": "/"}, "/: settings cannot be read: Is a directory"),
        ({"GREENLIGHT_CONF": sys.executable}, "not YAML"),
        ({"GREENLIGHT_TRAIN__SEED": "["}, "GREENLIGHT_TRAIN__SEED = '[': not YAML"),
        ({"GREENLIGHT_HOME": "/dev/null/home"}, "/dev/null/home cannot be made: Not a directory"),
        ({"GREENLIGHT_HOME": "/proc/home"}, "/proc/home cannot be made"),
    ],
    ids=["folder", "binary", "variable", "below a file", "not writable"],
)
def test_what_the_environment_names_wrongly_is_one_plain_sentence(
    tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    done = greenlight(tmp_path / "h", "train", **variables)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_between_colons_is_no_picture(tmp_path: Path) -> None:
    done = greenlight(tmp_path / "h", "data", "import", "no:m:where.csv")
    assert "no:m:where.csv: no such file" in done.stderr


def test_status_names_what_is_missing_from_a_home(tmp_path: Path) -> None:
    home = tmp_path / "h"
    (tmp_path / "few.jsonl").write_text('{"kind":"account","ts":1700000000000,"user_id":"u"}\n')
    greenlight(home, "data", "import", str(tmp_path / "few.jsonl"))
    (home / "releases" / "abc").mkdir(parents=True)
    (ledger,) = [p for p in json.loads(greenlight(home, "status", "--json").stdout)["parts"] if p["name"] == "ledger"]
    assert (ledger["state"], "is missing" in ledger["detail"]) == ("broken", True)
    (home / "home.json").unlink()
    done = greenlight(home, "status", "--json")
    assert done.returncode == 2
    assert "no readable home.json" in json.loads(done.stdout)["parts"][0]["detail"]


def test_an_export_does_not_replace_a_device(tmp_path: Path) -> None:
    home = tmp_path / "h"
    (tmp_path / "few.jsonl").write_text('{"kind":"account","ts":1700000000000,"user_id":"u"}\n')
    greenlight(home, "data", "import", str(tmp_path / "few.jsonl"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert greenlight(home, "data", "export", str(pipe)).returncode == 0
        assert reader.communicate(timeout=30)[0].count(b"\n") == 1
    assert pipe.is_fifo()
