"""The release: whole, signed, immutable; what may go in, and what is noticed when it is damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlflow_server import release
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from mlflow_server.release import Release, ReleaseError
from models.base import slates
from models.interactions import Catalogue, histories_of, live_counts
from models.shelf import find, load_file

TINY = Path(__file__).parents[1] / "serving" / "tiny.py"
tiny = load_file(TINY)


def built(parent: Path, name: str = "Tiny", **more: object) -> Release:
    shelved = find(f"{TINY}:{name}")
    model = shelved.cls().fit(tiny.world())
    return build(parent / "releases", model, shelved, "snap1", tiny.world(), "abc123", key(parent), **more)


def key(parent: Path) -> SigningKey:
    return SigningKey(parent / "keys")


def test_the_folder_is_named_by_its_manifest_and_building_again_changes_nothing(tmp_path: Path) -> None:
    first = built(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    second = built(tmp_path)
    assert second.digest == first.digest == first.folder.name
    assert {path: path.stat().st_mtime_ns for path in second.folder.rglob("*")} == before
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [first.digest]


@pytest.mark.parametrize("size", [0, 7, release.POPULAR, 3 * release.POPULAR])
@pytest.mark.parametrize("kinds", [1, 4, 10**6])
def test_the_ranking_is_that_of_all_movies_sorted_by_likes_then_interactions(size: int, kinds: int) -> None:
    rng = np.random.default_rng(size + kinds)
    ids = np.array([f"m{number}" for number in range(size)], np.str_)
    catalogue = Catalogue(ids, ids, np.zeros((size, 0), bool), ())
    liked, met = rng.integers(kinds, size=size) - 1.0, rng.integers(3, size=size)
    whole = np.lexsort((catalogue.tie_breaks, -met, -liked))[: release.POPULAR]
    assert release.ranked(catalogue, liked, met, 0).codes.tolist() == whole.tolist()


def test_what_is_loaded_answers_as_the_model_that_was_built(tmp_path: Path) -> None:
    made = built(tmp_path)
    loaded = release.load(made.folder, key(tmp_path).public)
    world = tiny.world()
    fitted = tiny.Tiny().fit(world)
    live = live_counts(world, (), world.end_ms)
    expected = slates(fitted, histories_of(world, np.arange(12), world.end_ms), live, world.end_ms, 50)
    for row, user in enumerate(world.user_ids):
        history = loaded.viewers.history(str(user))
        got = slates(loaded.model, history, loaded.live, loaded.manifest.end_ms, 50)
        assert got.items[0].tolist() == expected.items[row].tolist()
        assert loaded.topk.items[row].tolist() == expected.items[row].tolist()
    assert (loaded.manifest.snapshot, loaded.manifest.commit, loaded.manifest.model) == ("snap1", "abc123", "Tiny")
    assert loaded.model.config.boosts == (20, 21)
    assert loaded.catalogue.titles[3] == "Movie 3, é"
    assert loaded.viewers.history("never seen").seen(0).tolist() == []


def test_a_model_in_nested_files_and_its_source_travel(tmp_path: Path) -> None:
    made = built(tmp_path, "Nested")
    assert (made.folder / "source" / "model.py").read_bytes() == TINY.read_bytes()
    assert [path.name for path in (made.folder / "source").iterdir()] == ["model.py"]
    assert release.load(made.folder).model.base[20] == 1020


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("BadName", r"'top movies'.*may hold only"),  # REG-05
        ("BadSuffix", r"model\.pkl: only .*no pickle"),
        ("Objects", r"weights\.npy: not a plain NumPy array"),
        ("Link", r"weights\.json: neither a plain file"),
        ("Disguised", r"weights\.json: not json text"),
        ("NoFolder", r"NoFolder\.save made no folder"),
        ("LinkedFolder", r"LinkedFolder\.save made no folder"),
        ("Enormous", r"more than 2,048 MB with file weights\.txt"),
        ("SaveRaises", r"SaveRaises\.save raised ZeroDivisionError: half a model"),
    ],
)
def test_reg_05_what_cannot_be_carried_is_refused_when_the_release_is_built(
    tmp_path: Path, model: str, says: str
) -> None:
    with pytest.raises(ReleaseError, match=says):
        built(tmp_path, model)
    assert list((tmp_path / "releases").iterdir()) == []


def test_what_a_model_writes_beside_its_folder_stays_out_of_the_release(tmp_path: Path) -> None:
    made = built(tmp_path, "Elsewhere")
    assert release.verify(made.folder, key(tmp_path).public).model == "Elsewhere"
    assert release.load(made.folder).model.base[20] == 1020


def test_every_damaged_byte_missing_file_and_added_file_is_named(tmp_path: Path) -> None:
    made = built(tmp_path)
    for name in [*made.manifest.files, "manifest.json", "signature.json"]:
        path = made.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ReleaseError, match=path.name):
            release.verify(made.folder, key(tmp_path).public)
        path.unlink()
        with pytest.raises(ReleaseError, match=f"{path.name}: missing"):
            release.verify(made.folder, key(tmp_path).public)
        path.write_bytes(whole)
    (made.folder / "weights" / "more.npy").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"more\.npy: not in the manifest"):
        release.verify(made.folder)


def test_a_release_signed_by_another_key_is_refused(tmp_path: Path) -> None:
    made = built(tmp_path)
    assert release.verify(made.folder).digest == made.digest
    with pytest.raises(ReleaseError, match="signature is not by the key"):
        release.verify(made.folder, SigningKey(tmp_path / "others").public)


def test_a_damaged_release_is_made_anew(tmp_path: Path) -> None:
    made = built(tmp_path)
    shutil.rmtree(made.folder / "weights")
    again = built(tmp_path)
    assert again.digest == made.digest
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [made.digest]


def test_the_popularity_ranking_stands_alone(tmp_path: Path) -> None:
    made = built(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(made.folder / "popularity.json", alone)
    popular = release.load_popular(alone)
    assert len(popular.ids) == tiny.ITEMS
    assert set(popular.ids[:10]) == {f"m{n}" for n in range(2, 12)}  # each liked by three viewers
    (alone / "popularity.json").write_text((alone / "popularity.json").read_text().replace("m3", "m9", 1))
    with pytest.raises(ReleaseError, match="does not match its checksum"):
        release.load_popular(alone)


def test_live_state_can_begin_where_the_release_ends(tmp_path: Path) -> None:
    made, world = built(tmp_path, popularity_half_life_days=3.0, offset=36), tiny.world()
    loaded = release.load(made.folder)
    assert (loaded.manifest.offset, loaded.manifest.popularity_half_life_days) == (36, 3.0)
    assert loaded.live.half_lives_days == (3.0,)  # the model declares none
    np.testing.assert_array_equal(loaded.live.counts, live_counts(world, (3.0,), world.end_ms).counts)
    assert [loaded.live.counts[0, code] for code in loaded.popular.codes] == list(loaded.popular.scores)


def test_a_model_at_fault_still_gets_a_release_for_its_gates_to_refuse(tmp_path: Path) -> None:
    made = built(tmp_path, "AllNotANumber")
    assert made.manifest.made_ahead == "all 12 viewers"
    assert (release.load(made.folder).topk.items == -1).all()


def test_progress_counts_the_viewers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    built(tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


SLOW_BUILD = """
import sys
from pathlib import Path
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from models.shelf import find, load_file
tiny = load_file(Path(sys.argv[1]))
shelved = find(f"{sys.argv[1]}:Tiny")
parent = Path(sys.argv[2])
print("begun", flush=True)
build(parent / "releases", shelved.cls().fit(tiny.world()), shelved, "snap1", tiny.world(), "abc123",
              SigningKey(parent / "keys"), progress=lambda done, of: sys.stdin.read())
"""


def test_a_build_that_was_killed_leaves_nothing_that_looks_like_a_release(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_BUILD, str(TINY), str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not list((tmp_path / "releases").glob(".building-*/viewers/*")) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    (left,) = (tmp_path / "releases").iterdir()
    assert left.name.startswith(".building-")
    made = built(tmp_path)
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [made.digest]
    assert json.loads((made.folder / "manifest.json").read_text())["snapshot"] == "snap1"
