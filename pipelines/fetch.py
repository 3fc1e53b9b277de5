"""`data fetch`: published data sets from their public homes, whole and checked, or not at all.

What came before the line was cut is kept aside and goes on from there, where the server still has the same file (RFC
9110: Range with If-Range). A file appears under its name only when it is whole and, where its home publishes a
checksum, the one that was published.
"""

import fcntl
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from conf.errors import PlainError
from conf.sections.data import Fetch
from events.disk import sync

Progress = Callable[[int], None]  # told the number of bytes so far

MOVIELENS_NOTICE = (
    "MovieLens, F. M. Harper and J. A. Konstan, ACM TiiS 2015: for research; no commercial use without permission, no "
    "redistribution but under the same conditions, no claim of endorsement. The whole licence is README.txt in the zip"
)
MOVIETWEETINGS_NOTICE = (
    "MovieTweetings, S. Dooms, T. De Pessemier and L. Martens, CrowdRec at RecSys 2013: MIT licence, keep its notice"
)


class FetchError(PlainError):
    """A data set could not be fetched; the message says from where, what happened and what is kept."""


@dataclass(frozen=True)
class DataSet:
    """files: names below `home`, a key of the settings section `fetch`. folder: where they go, below the target."""

    home: str
    files: tuple[str, ...]
    notice: str
    folder: str = ""


SETS = {
    "movielens-small": DataSet("movielens", ("ml-latest-small.zip",), MOVIELENS_NOTICE),
    "movielens-latest": DataSet("movielens", ("ml-latest.zip",), MOVIELENS_NOTICE),
    "movietweetings": DataSet(
        "movietweetings", ("movies.dat", "ratings.dat"), MOVIETWEETINGS_NOTICE, folder="movietweetings-latest"
    ),
}


@dataclass(frozen=True)
class Fetched:
    """What is there now. checksum: how each file was checked."""

    name: str
    files: tuple[str, ...]
    bytes: int
    checksum: tuple[str, ...]
    licence: str
    next: str


def fetch(name: str, to: Path, conf: Fetch, progress: Progress | None = None) -> Fetched:
    """Download a data set into the folder `to`. FetchError where that fails; repeating goes on from what came."""
    if name not in SETS:
        raise FetchError(f"data set {name!r} is not known: {', '.join(SETS)}")
    chosen = SETS[name]
    folder = to / chosen.folder
    home = getattr(conf, chosen.home).rstrip("/")
    checked = []
    with _plain_errors(folder), _alone(folder), _client(conf) as client:
        for file in chosen.files:
            checked.append(f"{file}: {_one(client, f'{home}/{file}', folder / file, progress)}")
    paths = [folder / file for file in chosen.files]
    return Fetched(
        name=name,
        files=tuple(map(str, paths)),
        bytes=sum(path.stat().st_size for path in paths),
        checksum=tuple(checked),
        licence=chosen.notice,
        next=f"greenlight data import {folder if chosen.folder else paths[0]}",
    )


def _one(client: httpx.Client, url: str, target: Path, progress: Progress | None) -> str:
    """Have `target` whole; how that was checked, in words."""
    with _plain_network(url):
        published = _published(client, url)
        if target.exists():
            if published in (None, _md5(target)):
                return "was there already" + (" and is as published" if published else "; remove it to fetch it again")
            target.unlink()  # another edition of a set that changes over time
        part = target.with_name(f".{target.name}.part")
        _download(client, url, part, progress)
    return _put_in_place(part, target, url, published)


def _published(client: httpx.Client, url: str) -> str | None:
    """The MD5 that stands beside a file at its home; None where none is published."""
    answer = client.get(f"{url}.md5")
    if answer.status_code in (403, 404, 410):  # a bucket without the right to list says 403
        return None
    answer.raise_for_status()
    found = re.search(r"\b[0-9a-f]{32}\b", answer.text[:1000].lower())
    if found is None:
        raise FetchError(f"{url}.md5 holds no MD5 checksum: nothing was fetched")
    return found[0]


def _download(client: httpx.Client, url: str, part: Path, progress: Progress | None) -> None:
    """Write the rest of the file to `part`, or all of it where what is there is of another edition."""
    note = part.with_suffix(".etag")
    have = part.stat().st_size if part.exists() and note.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note.read_text()}
    with client.stream("GET", url, headers=headers) as answer:
        if have and answer.status_code == 416:  # nothing is left to fetch: the last run ended between write and rename
            return
        answer.raise_for_status()
        going_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 206 and not going_on:
            raise FetchError(f"{url}: the server sent another part of the file than the one asked for")
        tag = answer.headers.get("ETag", "")
        if not going_on:
            note.unlink(missing_ok=True)
        with part.open("ab" if going_on else "wb") as file:
            if tag and not tag.startswith("W/"):
                note.write_text(tag)
            for block in answer.iter_raw():
                file.write(block)
                if progress:
                    progress(file.tell())
            file.flush()
            os.fsync(file.fileno())


def _put_in_place(part: Path, target: Path, url: str, published: str | None) -> str:
    """Rename a part that is whole and right; drop one that is wrong."""
    note = part.with_suffix(".etag")
    if published and (found := _md5(part)) != published:
        part.unlink()
        note.unlink(missing_ok=True)
        raise FetchError(f"{url}: its MD5 is {found} and {published} is published: it was dropped, fetch it again")
    if part.stat().st_size == 0 or (target.suffix == ".zip" and not _is_whole_zip(part)):
        part.unlink()
        note.unlink(missing_ok=True)
        raise FetchError(f"{url} did not give a whole {target.suffix.lstrip('.')} file: it was dropped, fetch it again")
    checked = f"MD5 {published} as published" if published else f"none is published; SHA-256 {_digest(part, 'sha256')}"
    note.unlink(missing_ok=True)
    part.replace(target)
    sync(target.parent)
    return checked


def _is_whole_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError):
        return False


def _md5(path: Path) -> str:
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _client(conf: Fetch) -> httpx.Client:
    return httpx.Client(timeout=conf.timeout_s, follow_redirects=True, headers={"User-Agent": "greenlight"})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and lock it: two that fetch into it take turns. The kernel frees a killed one's lock."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _plain_network(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as why:
        raise FetchError(f"{why.request.url} answered {why.response.status_code}: nothing was fetched") from why
    except (httpx.HTTPError, httpx.InvalidURL) as why:
        said = str(why) or type(why).__name__
        raise FetchError(
            f"{url} cannot be fetched: {said}. What came is kept: repeat to go on, or bring the file here another way "
            "and import it"
        ) from why


@contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise FetchError(f"{folder} cannot be written: {why.strerror or why}; repeat to go on from what came") from why
