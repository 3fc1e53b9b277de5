"""`data fetch` against a real server in a process of its own, which cuts lines, lies and refuses."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.data import Fetch
from conf.settings import Settings
from pipelines.data import import_data
from pipelines.fetch import FetchError, fetch

ROOT = Path(__file__).parents[2]
RATINGS = "userId,movieId,rating,timestamp\n" + "".join(f"{n},{n % 50},4.0,17000{n:05}\n" for n in range(20_000))
SMALL = "ml-latest-small.zip"


@dataclass(frozen=True)
class Published:
    folder: Path
    conf: Fetch

    def fault(self, **fault: object) -> None:
        (self.folder / "fault.json").write_text(json.dumps(fault))

    def checksum(self, name: str, text: str | None = None) -> None:
        found = text or f"{hashlib.md5((self.folder / name).read_bytes()).hexdigest()}  {name}\n"
        (self.folder / f"{name}.md5").write_text(found)

    def asked(self, name: str) -> list[str]:
        """The ranges asked of a file."""
        lines = map(json.loads, (self.folder / "asked.jsonl").read_text().splitlines())
        return [line["range"] for line in lines if line["path"] == f"/{name}"]


@pytest.fixture
def home_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    """A server with the small MovieLens in a zip, and MovieTweetings as it is published."""
    monkeypatch.setenv("NO_PROXY", "*")
    folder = tmp_path / "published"
    folder.mkdir()
    with zipfile.ZipFile(folder / SMALL, "w") as archive:  # not compressed, so that it is large enough to be cut
        archive.writestr("ml-latest-small/ratings.csv", RATINGS)
        archive.writestr("ml-latest-small/movies.csv", "movieId,title,genres\n1,One (2001),Drama\n")
    (folder / "movies.dat").write_text("0000001::One (2001)::Drama\n")
    (folder / "ratings.dat").write_text("1::0000001::9::1381945744\n")
    command = [sys.executable, str(ROOT / "tests" / "faults" / "data_home.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        yield Published(folder, Fetch(movielens=url, movietweetings=url + "/", timeout_s=20))
        server.kill()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_what_was_fetched_is_checked_named_and_fit_to_import(home_page: Published, home: Home, tmp_path: Path) -> None:
    home_page.checksum(SMALL)
    told: list[int] = []
    found = fetch("movielens-small", tmp_path / "to", home_page.conf, told.append)
    assert found.files == (str(tmp_path / "to" / SMALL),)
    assert found.bytes == told[-1] == (home_page.folder / SMALL).stat().st_size
    assert "MD5" in found.checksum[0]
    assert "as published" in found.checksum[0]
    assert "commercial" in found.licence
    assert left(tmp_path / "to") == {SMALL}
    assert found.next == f"greenlight data import {found.files[0]}"
    assert import_data(home, Settings(), found.files[0]).kinds == {"movie": 1, "rating": 20_000}
    again = fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert "was there already" in again.checksum[0]
    assert home_page.asked(SMALL) == [""]


def test_movietweetings_has_no_checksum_and_is_told_apart_from_movielens(
    home_page: Published, home: Home, tmp_path: Path
) -> None:
    found = fetch("movietweetings", tmp_path, home_page.conf)
    assert [Path(file).name for file in found.files] == ["movies.dat", "ratings.dat"]
    assert all("none is published; SHA-256" in checked for checked in found.checksum)
    assert import_data(home, Settings(), found.next.split()[-1]).dialect == "movietweetings"


def test_a_cut_line_goes_on_from_what_came(home_page: Published, tmp_path: Path) -> None:
    home_page.checksum(SMALL)
    home_page.fault(cut=200_000)
    with pytest.raises(FetchError, match="What came is kept: repeat to go on"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert SMALL not in left(tmp_path / "to")
    home_page.fault()
    fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert home_page.asked(SMALL) == ["", "bytes=200000-"]
    assert (tmp_path / "to" / SMALL).read_bytes() == (home_page.folder / SMALL).read_bytes()
    assert left(tmp_path / "to") == {SMALL}


def test_another_edition_begins_anew(home_page: Published, tmp_path: Path) -> None:
    home_page.fault(cut=200_000)
    with pytest.raises(FetchError, match="repeat"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    with zipfile.ZipFile(home_page.folder / SMALL, "w") as archive:
        archive.writestr("ml-latest-small/ratings.csv", RATINGS[:300_000])
    home_page.fault()
    fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert (tmp_path / "to" / SMALL).read_bytes() == (home_page.folder / SMALL).read_bytes()
    home_page.checksum(SMALL)
    (tmp_path / "to" / SMALL).write_bytes(b"the edition of last year")
    fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert (tmp_path / "to" / SMALL).read_bytes() == (home_page.folder / SMALL).read_bytes()


def test_a_server_that_names_no_edition_begins_anew_too(home_page: Published, tmp_path: Path) -> None:
    home_page.fault(cut=200_000, etag=False)
    with pytest.raises(FetchError, match="repeat"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    home_page.fault(etag=False)
    fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert home_page.asked(SMALL) == ["", ""]
    assert (tmp_path / "to" / SMALL).read_bytes() == (home_page.folder / SMALL).read_bytes()


def test_killed_between_the_last_byte_and_the_name(home_page: Published, tmp_path: Path) -> None:
    home_page.fault(cut=200_000)
    with pytest.raises(FetchError, match="repeat"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    home_page.fault()
    (tmp_path / "to" / f".{SMALL}.part").write_bytes((home_page.folder / SMALL).read_bytes())
    fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert left(tmp_path / "to") == {SMALL}


@pytest.mark.parametrize(
    ("checksum", "fault", "says"),
    [
        ("0" * 32, {}, f"{'0' * 32} is published: it was dropped"),
        ("<html>sorry</html>", {}, "holds no MD5"),
        (None, {"status": 503}, "answered 503"),
        (None, {"status": 404}, "answered 404"),
    ],
)
def test_nothing_that_is_wrong_is_kept(
    home_page: Published, tmp_path: Path, checksum: str | None, fault: dict, says: str
) -> None:
    if checksum:
        home_page.checksum(SMALL, checksum)
    home_page.fault(**fault)
    with pytest.raises(FetchError, match=says):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert left(tmp_path / "to") == set()


def test_a_zip_without_checksum_that_is_damaged_is_dropped(home_page: Published, tmp_path: Path) -> None:
    whole = (home_page.folder / SMALL).read_bytes()
    (home_page.folder / SMALL).write_bytes(whole[:5000] + b"?" + whole[5001:])
    with pytest.raises(FetchError, match="did not give a whole zip"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert left(tmp_path / "to") == set()


def test_a_server_that_sends_another_part_is_not_believed(home_page: Published, tmp_path: Path) -> None:
    home_page.fault(cut=200_000)
    with pytest.raises(FetchError, match="repeat"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    home_page.fault(part=True)
    with pytest.raises(FetchError, match="another part"):
        fetch("movielens-small", tmp_path / "to", home_page.conf)
    assert SMALL not in left(tmp_path / "to")


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    nowhere = Fetch(movielens="http://127.0.0.1:9/datasets")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/datasets/ml-latest\.zip cannot be fetched"):
        fetch("movielens-latest", tmp_path / "to", nowhere)
    with pytest.raises(FetchError, match="movielens-small, movielens-latest, movietweetings"):
        fetch("movielens-huge", tmp_path / "to", nowhere)
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="cannot be written"):
        fetch("movielens-small", tmp_path / "file", nowhere)


def test_a_disk_that_is_full_is_one_sentence_and_the_rest_comes_later(home_page: Published, tmp_path: Path) -> None:
    """The process may write no file beyond 100 kB, which fails as a full disk does."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "GREENLIGHT_FETCH__MOVIELENS": home_page.conf.movielens}
    command = [sys.executable, "-m", "greenlight", "data", "fetch", "movielens-small", "--to", str(tmp_path / "to")]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, preexec_fn=limited)
    assert full.returncode == 2
    assert "cannot be written" in full.stderr
    assert "Traceback" not in full.stderr
    done = subprocess.run([*command, "--json"], env=variables, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "to" / SMALL)]
    assert home_page.asked(SMALL)[0] == ""
    assert home_page.asked(SMALL)[1].startswith("bytes=")
    assert left(tmp_path / "to") == {SMALL}
