"""API keys: shown once, kept as a hash, known in every process, refused with the right sentence."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conf.home import Home
from conf.settings import Settings
from serving import keys
from serving.keys import EXPIRED, MALFORMED, MISTYPED, REVOKED, SHUT, WRONG, Key, KeysError, KeyStore, first_key

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(home: Home) -> KeyStore:
    return KeyStore(home)


def test_a_key_opens_what_its_scopes_say_and_its_text_is_kept_nowhere(home: Home, store: KeyStore) -> None:
    text, made = store.create("site", ("read", "events"), per_minute=7)
    assert text.startswith(f"gl_local_{made.id}_")
    assert store.check(text) == made
    assert (made.may("read"), made.may("events"), made.may("admin")) == (True, True, False)
    assert store.create("lead", ("admin",))[1].may("events")
    for file in home.keys.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 or file.suffix == ".lock", file
        assert text[-46:] not in file.read_bytes().decode("latin-1")


def test_what_is_no_key_gets_its_own_sentence_without_the_key(store: KeyStore) -> None:
    text, made = store.create("site")
    other = KeyStore(Home(store.path.parent.parent.parent / "other").open()).create("site")[0]
    wrong = {
        "": MALFORMED,
        "secret": MALFORMED,
        text + "x": MALFORMED,
        "gl_local_" + "x" * 10_000: MALFORMED,
        text[:-8] + ("a" if text[-8] != "a" else "b") + text[-7:]: MISTYPED,
        other: WRONG,
    }
    for presented, refused in wrong.items():
        assert store.check(presented) == refused, presented[:80]
    store.revoke(made.id)
    assert store.check(text) == REVOKED
    assert store.check(store.create("brief", days=1e-9)[0]) == EXPIRED
    assert all(text not in refused.sentence for refused in (MALFORMED, MISTYPED, WRONG, EXPIRED, REVOKED))


def test_rotation_overlaps_and_keeps_scopes_and_quota(store: KeyStore) -> None:
    old_text, old = store.create("site", ("events",), per_minute=9, days=2)
    new_text, new = store.rotate(old.id, overlap_hours=1)
    assert (new.name, new.scopes, new.per_minute) == ("site", ("events",), 9)
    assert (new.expires_ms or 0) - new.created_ms == 2 * keys.DAY_MS
    assert isinstance(store.check(old_text), Key)
    assert store.check(new_text) == new
    third_text, _ = store.rotate(new.id, overlap_hours=0)
    assert store.check(new_text) == EXPIRED
    assert isinstance(store.check(third_text), Key)


def test_a_revocation_is_known_in_another_process_within_five_seconds(home: Home, store: KeyStore) -> None:
    text, made = store.create("site")
    watch = (
        "import sys, time; from pathlib import Path; from conf.home import Home; from serving.keys import *\n"
        "store = KeyStore(Home(Path(sys.argv[1]))); assert isinstance(store.check(sys.argv[2]), Key); print('in')\n"
        "sys.stdout.flush(); until = time.monotonic() + 5\n"
        "while store.check(sys.argv[2]) != REVOKED and time.monotonic() < until: time.sleep(0.05)\n"
        "print(store.check(sys.argv[2]).reason)"
    )
    command = [sys.executable, "-c", watch, str(home.root), text]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        store.revoke(made.id)
        assert other.stdout.readline() == "revoked\n"


def test_many_at_once_lose_no_key(home: Home) -> None:
    threads = [
        threading.Thread(target=lambda part=part: [KeyStore(home).create(f"k{part}-{n}") for n in range(5)])
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.name for key in KeyStore(home).all()}) == 20


@pytest.mark.parametrize("harm", ["cut", "edited", "no pepper", "other pepper", "text"])
def test_a_damaged_file_lets_nobody_in_and_is_one_sentence(home: Home, store: KeyStore, harm: str) -> None:
    text, _ = store.create("site", ("read",))
    raw = store.path.read_bytes()
    match harm:
        case "cut":
            store.path.write_bytes(raw[:-20])
        case "edited":
            store.path.write_bytes(raw.replace(b'"read"', b'"admin"'))
        case "no pepper":
            store.pepper_path.unlink()
        case "other pepper":
            store.pepper_path.write_bytes(os.urandom(32))
        case "text":
            store.path.write_bytes(b'["a", "b"]')
    assert KeyStore(home).check(text) == SHUT
    with pytest.raises(KeysError, match="api-"):
        store.create("another")
    store.pepper_path.unlink(missing_ok=True)


def test_a_worker_takes_a_mended_file_again(home: Home, store: KeyStore) -> None:
    text, _ = store.create("site")
    raw, worker = store.path.read_bytes(), KeyStore(home)
    store.path.write_bytes(b"{}")
    assert worker.check(text) == SHUT
    store.path.write_bytes(raw)
    until = time.monotonic() + 5
    while worker.check(text) == SHUT and time.monotonic() < until:
        time.sleep(0.05)
    assert isinstance(worker.check(text), Key)


def test_the_first_key_is_made_once(home: Home) -> None:
    text = first_key(home, Settings())
    assert text is not None
    made = KeyStore(home).check(text)
    assert isinstance(made, Key)
    assert made.may("admin")
    assert first_key(home, Settings()) is None


def test_names_and_scopes_that_cannot_be_are_refused(store: KeyStore) -> None:
    for name in ("", "x" * 65, "two\nlines"):
        with pytest.raises(KeysError, match="name"):
            store.create(name)
    with pytest.raises(KeysError, match="scopes"):
        store.create("site", ())
    assert store.all() == []


def test_the_verbs_make_show_and_end_keys(home: Home) -> None:
    def greenlight(*words: str) -> dict:
        command = [sys.executable, "-m", "greenlight", "keys", *words, "--json"]
        environment = {**os.environ, "GREENLIGHT_HOME": str(home.root)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    made = greenlight("create", "site", "--scope", "read", "--scope", "events", "--days", "30")
    assert isinstance(KeyStore(home).check(made["key"]), Key)
    (listed,) = greenlight("list")["keys"]
    assert (listed["id"], listed["state"], listed["scopes"]) == (made["id"], "live", ["read", "events"])
    assert "hash" not in listed
    assert "key" not in listed
    turned = greenlight("rotate", made["id"], "--overlap-hours", "0")
    assert KeyStore(home).check(made["key"]) == EXPIRED
    assert greenlight("revoke", turned["id"])["state"] == "revoked"
    assert KeyStore(home).check(turned["key"]) == REVOKED
