"""`data import` and `data export`: every published form, every trap, and nothing twice."""

import gzip
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.data import Data
from conf.settings import Settings
from events.clock import now_ms
from events.event import CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, AnyEvent, Impression, Movie, Rating, Unreadable
from events.local_log import LocalLog
from events.sources import movietweetings
from monitoring.gates.inputs import InputsEvidence, judge
from pipelines.data import DataError, ImportReport, export_data, import_data
from pipelines.snapshot import cut

SETTINGS = Settings()
CSV = "userId,movieId,rating,timestamp\n"
REPOSITORY = Path(__file__).parents[2]
MOVIELENS = REPOSITORY.parent / "shared" / "data" / "ml-latest-small"


def stored(home: Home, topic: str = EVENTS) -> list[AnyEvent]:
    with LocalLog(home.log) as log:
        return [record.event for record in log.iterate(topic)]


def ratings(home: Home) -> list[tuple[str, str, float, float, int]]:
    return [(e.user_id, e.movie_id, e.rating, e.scale, e.ts) for e in stored(home) if isinstance(e, Rating)]


def movies(home: Home) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {e.movie_id: (e.title, e.genres) for e in stored(home, CATALOGUE) if isinstance(e, Movie)}


def dead(home: Home) -> list[tuple[str, int, str]]:
    return [(e.source, e.line, e.reason) for e in stored(home, DEAD_LETTER) if isinstance(e, Unreadable)]


def imported(home: Home, path: Path, content: str | bytes, **how: object) -> ImportReport:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return import_data(home, SETTINGS, path, **how)  # type: ignore[arg-type]


# The published forms


def test_movietweetings_of_the_repository_is_fit_to_learn_from(home: Home) -> None:
    report = import_data(home, SETTINGS, "movietweetings")
    assert (report.dialect, report.scale, report.read, report.added) == ("movietweetings", 10, 154_306, 154_306)
    assert report.kinds == {"movie": 12_611, "rating": 141_695}
    assert "IMDb" in report.notes[0]
    with LocalLog(home.log) as log:
        first = log.tail(EVENTS, 0, 1)[0].event
    assert isinstance(first, Rating)
    assert (first.user_id, first.movie_id, first.rating, first.ts) == ("1", "0054890", 9, 1_381_945_744_000)
    assert movies(home)["0002844"] == ("Fantômas - À l'ombre de la guillotine (1913)", ("Crime", "Drama"))
    again = import_data(home, SETTINGS, movietweetings.FOLDER / "movies.dat.gz")
    assert (again.dialect, again.added, again.duplicates, again.unreadable) == ("movietweetings", 0, 12_611, 0)
    snapshot = cut(home, SETTINGS)
    assert (len(snapshot.interactions), len(snapshot.interactions.catalogue)) == (141_695, 12_611)
    assert len(snapshot.interactions.user_ids) == 21_081
    evidence = InputsEvidence.of(snapshot.id, snapshot.statistics, now_ms(home, SETTINGS))
    assert judge(evidence, SETTINGS.inputs).reason == "all 13 checks passed"


def test_movielens_of_the_shared_folder(home: Home) -> None:
    if not MOVIELENS.is_dir():
        pytest.skip("MovieLens is not beside the repository")
    report = import_data(home, SETTINGS, MOVIELENS)
    assert (report.dialect, report.scale) == ("movielens", 5)
    assert report.kinds == {"movie": 9_125, "rating": 100_004}
    assert report.unreadable == 0


def test_csv_with_quotes_and_no_genres(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "ml"
    (folder / "links").mkdir(parents=True)
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,funny,1138537770\n")
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n1,"American President, The ""Uncut"" (1995)",Comedy|Drama\n'
        "2,Untitled,(no genres listed)\n"
    )
    report = imported(home, folder / "ratings.csv", CSV + "1,31,2.5,1260759144\n")
    assert report.notes == ("titles and genres beside it were not read: import the folder to have them",)
    report = import_data(home, SETTINGS, folder)
    assert report.kinds == {"movie": 2, "rating": 1}
    assert movies(home) == {
        "1": ('American President, The "Uncut" (1995)', ("Comedy", "Drama")),
        "2": ("Untitled", ()),
    }
    assert ratings(home) == [("1", "31", 2.5, 5, 1_260_759_144_000)]


def test_columns_are_found_by_name(home: Home, tmp_path: Path) -> None:
    imported(home, tmp_path / "r.csv", 'timestamp,"rating",movieId,extra,userId\n1260759144,4,31,x,1\n')
    assert ratings(home) == [("1", "31", 4, 5, 1_260_759_144_000)]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_imp_03_byte_order_mark_and_crlf(home: Home, tmp_path: Path, bom: bytes, newline: str) -> None:
    text = newline.join(["userId,movieId,rating,timestamp", "7,9001,4.0,1700000000", "", ""])
    report = imported(home, tmp_path / "ratings.csv", bom + text.encode())
    assert (report.read, report.added, report.unreadable) == (1, 1, 0)
    assert ratings(home) == [("7", "9001", 4, 5, 1_700_000_000_000)]


def test_imp_01_latin_1_titles_are_exact_and_what_is_no_text_is_rejected_with_its_line(
    home: Home, tmp_path: Path
) -> None:
    content = "9001::Café Zéro (1999)::Drama\n9002::Größe::Comedy|War\n".encode("latin-1")
    content += b"9003::caf\xe9 \x00\x01::Drama\n" + "9004::Amélie (2001)::Romance\n".encode()
    report = imported(home, tmp_path / "movies.dat", content)
    assert movies(home) == {
        "9001": ("Café Zéro (1999)", ("Drama",)),
        "9002": ("Größe", ("Comedy", "War")),
        "9004": ("Amélie (2001)", ("Romance",)),
    }
    assert (report.added, report.unreadable) == (3, 1)
    assert dead(home) == [("movies.dat", 3, "byte 0x00 at position 12: neither UTF-8 nor Latin-1 text")]


def test_imp_01_an_undecodable_line_of_a_utf_8_form_is_rejected_with_its_line(home: Home, tmp_path: Path) -> None:
    content = b"movieId,title,genres\n1,One,Drama\n2,Caf\xe9,Drama\n3,Three,Drama\n"
    report = imported(home, tmp_path / "movies.csv", content)
    assert (report.added, report.unreadable) == (2, 1)
    assert dead(home) == [("movies.csv", 3, "byte 0xE9 at position 6 is not UTF-8")]


def test_the_tab_form_with_its_genre_flags(home: Home, tmp_path: Path) -> None:
    flags = ["0"] * 19
    flags[1] = flags[18] = "1"
    unknown = ["1"] + ["0"] * 18
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    items = f"1|Les Misérables (1995)|01-Jan-1995||http://x/|{'|'.join(flags)}\n2|unknown||||{'|'.join(unknown)}\n"
    (folder / "u.item").write_bytes(items.encode("latin-1"))
    (folder / "u1.base").write_text("1\t1\t1\t881250949\n")
    report = imported(home, folder / "u.data", "196\t242\t3\t881250949\n")
    assert report.dialect == "movielens"
    import_data(home, SETTINGS, folder)
    assert movies(home) == {"1": ("Les Misérables (1995)", ("Action", "Western")), "2": ("unknown", ())}
    assert ratings(home) == [("196", "242", 3, 5, 881_250_949_000)]


@pytest.mark.parametrize("form", ["folder", "zip", "gz", "zip of gz", "stdin", "gz on stdin"])
def test_every_way_in_gives_the_same_events(home: Home, tmp_path: Path, form: str) -> None:
    lines = "1::1193::5::978300760\n1::661::3::978302109\n"
    path = tmp_path / "ml-1m" / "ratings.dat"
    plain = imported(Home(tmp_path / "plain"), path, lines)
    assert (plain.dialect, plain.added) == ("movielens", 2)
    source: str | Path = path.parent
    if form.startswith("zip"):
        source = tmp_path / "ml-1m.zip"
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("ml-1m/README", "about")
            name, content = ("ratings.dat", lines.encode())
            if form == "zip of gz":
                name, content = "ratings.dat.gz", gzip.compress(content)
            archive.writestr(f"ml-1m/{name}", content)
    elif form == "gz":
        source = tmp_path / "other-name.bin"
        source.write_bytes(gzip.compress(lines.encode()))
    if form.endswith("stdin"):
        content = lines.encode() if form == "stdin" else gzip.compress(lines.encode())
        _import_stdin(home, content)
    else:
        assert import_data(home, SETTINGS, source).added == 2
    assert stored(home) == stored(Home(tmp_path / "plain"))


def _import_stdin(home: Home, content: bytes) -> str:
    code = (
        "import sys; from pathlib import Path; from conf.home import Home; from conf.settings import Settings; "
        "from pipelines.data import import_data; print(import_data(Home(Path(sys.argv[1])), Settings(), '-'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home.root)], input=content, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# MovieLens or MovieTweetings?


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"ratings.dat": "1::0054890::4::1381945744\n"}, "wide as IMDb"),
        ({"ratings.dat": "1::54::8::1381945744\n"}, "ratings of 8"),
        ({"movies.dat": "0054890::X (1961)::Drama\n", "ratings.dat": "1::54::4::1381945744\n"}, "wide as IMDb"),
        ({"README.md": "# MovieTweetings\n", "ratings.dat": "1::54::4::1381945744\n"}, "the readme beside it"),
        ({"movietweetings/ratings.dat": "1::54::4::1381945744\n"}, "its path"),
    ],
)
def test_movietweetings_is_told_by(home: Home, tmp_path: Path, files: dict[str, str], why: str) -> None:
    for name, content in files.items():
        path = tmp_path / "deep" / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for source in (path, path.parent):
        report = import_data(home, SETTINGS, source)
        assert (report.dialect, report.scale) == ("movietweetings", 10)
        assert why in report.notes[0]


def test_without_a_sign_it_is_movielens_unless_declared(home: Home, tmp_path: Path) -> None:
    report = imported(home, tmp_path / "ratings.dat", "1::54::4::1381945744\n")
    assert (report.dialect, report.scale) == ("movielens", 5)
    report = imported(
        Home(tmp_path / "other"), tmp_path / "ratings.dat", "1::54::4::1381945744\n", dialect="movietweetings"
    )
    assert (report.dialect, report.scale) == ("movietweetings", 10)
    assert ratings(Home(tmp_path / "other"))[0][3] == 10


def test_scales_are_declared(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "site.log"
    path.write_text("2025-03-08T12:00:00,7,GET /rate/m+1999=9\n")
    with pytest.raises(DataError, match="rating 9 is out of range: from 1 to 5"):
        import_data(home, SETTINGS, path)
    ten = replace_scales({"lines": 10})
    assert import_data(home, ten, path).scale == 10
    assert import_data(Home(tmp_path / "given"), SETTINGS, path, scale=10).added == 1
    with pytest.raises(DataError, match="scale 0 is out of range"):
        import_data(home, SETTINGS, path, scale=0)


def replace_scales(scales: dict[str, float]) -> Settings:
    return SETTINGS.model_copy(update={"data": Data(scales=scales)})


# The site's lines


def test_the_sites_lines(home: Home, tmp_path: Path) -> None:
    content = (
        "2025-03-08T12:00:00,42,GET /data/m/the+matrix+1999/3.mpg\n"
        "2025-03-08T12:00:00.123456,42,GET /rate/the+matrix+1999=4\n"
        "2025-03-08T12:00:00.123456789,43,GET /create_account\n"
        "2025-03-08T12:00:01,42,recommendation request h:80, status 200, result: a, b, 48 ms\n"
        "2025-03-08T12:00:02,42,recommendation request h:80, status 0, result: java.net.X: a, b, 800 ms\n"
        "garbage\n"
    )
    report = imported(home, tmp_path / "kafka.log", content)
    assert report.kinds == {"account": 1, "impression": 2, "rating": 1, "watch": 1}
    assert (report.read, report.added, report.unreadable) == (6, 5, 1)
    assert [e.items for e in stored(home, IMPRESSIONS) if isinstance(e, Impression)] == [("a", "b"), ()]
    assert dead(home) == [("kafka.log", 6, "expected <time>,<userid>,<what happened>")]
    assert stored(home, DEAD_LETTER)[0].raw == "garbage"  # type: ignore[union-attr]


def test_evt_03_milliseconds_are_recognised_and_a_stray_stamp_moves_nothing(home: Home, tmp_path: Path) -> None:
    normal = [f"{1_700_000_000 + n},u{n},GET /rate/9001=4" for n in range(100)]
    ahead = int(time.time()) + 7200
    content = "\n".join(["1700000000000,42,GET /rate/9001=4", f"{ahead},43,GET /rate/9001=4", *normal])
    report = imported(home, tmp_path / "events.log", content)
    assert (report.added, report.unreadable) == (101, 1)
    assert "times in milliseconds: 1" in report.notes
    assert "in the future" in dead(home)[0][2]
    with LocalLog(home.log) as log:
        assert log.now_ms() == 1_700_000_099_000


@pytest.mark.parametrize(("factor", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_other_units_are_recognised_and_noted(home: Home, tmp_path: Path, factor: int, unit: str) -> None:
    report = imported(home, tmp_path / "ratings.csv", CSV + f"1,2,3,{1_700_000_000 * factor}\n")
    assert report.notes == (f"times in {unit}: 1",)
    assert ratings(home)[0][4] == 1_700_000_000_000


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,2,6,1700000000", "rating 6 is out of range: from 0.5 to 5"),
        ("1,2,0,1700000000", "rating 0 is out of range: from 0.5 to 5"),
        ("1,2,-1,1700000000", "rating -1 is out of range"),
        ("1,2,NaN,1700000000", "rating 'NaN' is not a number"),
        ("1,2,,1700000000", "rating '' is not a number"),
        ("1,2,4,4000000000", "is in the future"),
        ("1,2,4,12", "is not between 1990 and 2100"),
        ("1,2,4,", "time '' is not a number"),
        ("1,2,4", "expected 4 cells, found 3"),
        ('"1,2,4,1700000000', "not CSV"),
        (",2,4,1700000000", "user_id"),
        ("a b,2,4,1700000000", "user_id"),
        ("1," + "m" * 300 + ",4,1700000000", "movie_id"),
    ],
)
def test_a_bad_row_is_kept_with_its_line_and_reason(home: Home, tmp_path: Path, row: str, reason: str) -> None:
    report = imported(home, tmp_path / "ratings.csv", CSV + f"1,2,3,1700000000\n\n{row}\n3,4,5,1700000000\n")
    assert (report.read, report.added, report.duplicates, report.unreadable) == (3, 2, 0, 1)
    source, line, why = dead(home)[0]
    assert (source, line) == ("ratings.csv", 4)
    assert reason in why
    assert report.notes[0].startswith("unreadable in ratings.csv, kept in the dead letter: 1; the first: line 4: ")


# Nothing twice, nothing of nothing


def test_imp_05_re_ratings_stay_and_repetitions_are_counted(home: Home, tmp_path: Path) -> None:
    rows = ["3,9001,5.0,1700000000", "3,9001,2.0,1600000000", "3,9001,5.0,1700000000"]
    report = imported(home, tmp_path / "ratings.csv", CSV + "\n".join(rows))
    assert (report.read, report.added, report.duplicates) == (3, 2, 1)
    assert {r[2] for r in ratings(home)} == {2.0, 5.0}


def test_the_same_lines_under_another_name_add_nothing_not_even_dead_letters(home: Home, tmp_path: Path) -> None:
    content = CSV + "1,2,3,1700000000\nbad\nbad\n"
    first = imported(home, tmp_path / "ratings.csv", content)
    second = imported(home, tmp_path / "copy.csv", content.replace("\n", "\r\n"))
    assert (first.added, first.unreadable) == (1, 2)
    assert (second.added, second.duplicates, second.unreadable) == (0, 1, 2)
    assert len(dead(home)) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "ratings.csv",
            CSV + "1,2,9,1700000000\nx\n",
            r"ratings\.csv has no line that can be read as movielens; line 2",
        ),
        ("ratings.csv", CSV, "it holds a header only"),
        ("ratings.dat", "1:2\nfoo\n", "expected user::movie::rating::time, found '1:2'"),
        ("events.jsonl", "{]\n{}\n", "line 1: not JSON"),
        (
            "ratings.csv",
            "user,item,stars,when\n1,2,3,4\n",
            r"expected userId,movieId,rating,timestamp; found user,item",
        ),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n", r"missing: timestamp"),
        ("movies.csv", "movieId,name\n1,2\n", r"expected movieId,title,genres; found movieId,name"),
        ("ratings.csv", "1,31,2.5,1260759144\n", "wrong columns"),
        ("prose.txt", "Dear all,\nno data here\n", "is in no known form"),
        ("ratings.csv", "\n\n", "is empty"),
        ("ratings.csv", b"", "is empty"),
        ("ratings.csv", CSV.encode("utf-16"), "UTF-16"),
        ("ratings.zip", b"PK\x03\x04 and no more", "is damaged"),
        ("ratings.csv.gz", b"\x1f\x8b and no more", "damaged or cut short"),
        ("ratings.csv.gz", gzip.compress(CSV.encode() + b"1,2,3,1700000000\n" * 9)[:-20], "damaged or cut short"),
    ],
    ids=range(15),
)
def test_what_holds_nothing_readable_is_an_error_and_changes_nothing(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(DataError, match=message):
        imported(home, tmp_path / name, content)
    assert not home.root.exists()


def test_bad_lines_of_one_file_stop_the_whole_folder_before_anything_is_stored(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "movies.csv").write_text("movieId,title,genres\n1,One,Drama\n")
    (folder / "ratings.csv").write_text(CSV + "x\n")
    with pytest.raises(DataError, match=r"ratings\.csv has no line"):
        import_data(home, SETTINGS, folder)
    assert not home.log.exists()


def test_missing_and_wrongly_declared_sources_are_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file or folder"):
        import_data(home, SETTINGS, tmp_path / "nowhere.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds none of movies\.csv"):
        import_data(home, SETTINGS, tmp_path / "empty")
    with pytest.raises(DataError, match="unknown dialect 'netflix'"):
        imported(home, tmp_path / "ratings.csv", CSV + "1,2,3,1700000000\n", dialect="netflix")
    with pytest.raises(DataError, match="looks like movielens"):
        imported(home, tmp_path / "ratings.csv", CSV + "1,2,3,1700000000\n", dialect="movietweetings")


def test_a_line_without_end_does_not_fill_the_memory(home: Home, tmp_path: Path) -> None:
    content = b"1::2::3::1700000000\n" + b"x" * (3 << 20) + b"\n4::5::5::1700000000\n"
    report = imported(home, tmp_path / "ratings.dat", content)
    assert (report.added, report.unreadable) == (2, 1)
    assert dead(home)[0][1] == 2


def test_a_packed_file_that_is_damaged_far_inside_changes_nothing(tmp_path: Path, large: Path) -> None:
    home = Home(tmp_path / "home")
    packed = gzip.compress(large.read_bytes())
    (tmp_path / "ratings.dat.gz").write_bytes(packed[:-1000])
    with zipfile.ZipFile(tmp_path / "ratings.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(large, "ratings.dat")
    whole = bytearray((tmp_path / "ratings.zip").read_bytes())
    whole[len(whole) - 1000] ^= 255
    (tmp_path / "ratings.zip").write_bytes(whole)
    for name in ("ratings.dat.gz", "ratings.zip"):
        with pytest.raises(DataError, match="damaged or cut short"):
            import_data(home, SETTINGS, tmp_path / name)
        assert not home.root.exists()


def test_an_empty_name_is_not_the_working_directory(home: Home) -> None:
    with pytest.raises(DataError, match="no source was named"):
        import_data(home, SETTINGS, "")


# Export


def test_export_and_import_give_the_same_log(home: Home, tmp_path: Path) -> None:
    imported(
        home, tmp_path / "site.log", "2025-03-08T12:00:00,42,GET /rate/m=4\nbad\n1741435200,4,GET /create_account\n"
    )
    imported(home, tmp_path / "movies.dat", '9001::Café, \\ "Zéro" (1999)::Drama\n'.encode("latin-1"))
    imported(home, tmp_path / "r.log", "2025-03-08T12:00:01,42,recommendation request h, status 0, result: x, 8 ms\n")
    target = tmp_path / "all.jsonl.gz"
    assert export_data(home, SETTINGS, target, dead_letter=True) == 5
    other = Home(tmp_path / "other")
    report = import_data(other, SETTINGS, target)
    assert (report.read, report.added, report.unreadable, report.duplicates) == (5, 4, 1, 0)
    again = tmp_path / "again.jsonl.gz"
    export_data(other, SETTINGS, again, dead_letter=True)
    assert again.read_bytes() == target.read_bytes()
    assert export_data(home, SETTINGS, tmp_path / "without.jsonl") == 4
    assert import_data(home, SETTINGS, target).added == 0


def test_export_of_nothing_and_to_nowhere_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data yet"):
        export_data(home, SETTINGS, tmp_path / "x.jsonl")
    imported(home, tmp_path / "ratings.dat", "1::2::3::1700000000\n")
    with pytest.raises(DataError, match="missing"):
        export_data(home, SETTINGS, tmp_path / "missing" / "x.jsonl")


def test_json_lines_by_hand_may_leave_out_id_version_and_scale(home: Home, tmp_path: Path) -> None:
    line = {"kind": "rating", "ts": 1_700_000_000, "user_id": "u", "movie_id": "m", "rating": 4}
    report = imported(home, tmp_path / "hand.jsonl", json.dumps(line) + "\n" + json.dumps(line) + "\n")
    assert (report.added, report.duplicates) == (1, 1)
    assert "times in seconds: 2" in report.notes
    assert ratings(home) == [("u", "m", 4, 5, 1_700_000_000_000)]


# Interrupted, and without room

IMPORTER = """
import sys
from pathlib import Path
from conf.home import Home
from conf.settings import Settings
from pipelines.data import DataError, import_data
try:
    report = import_data(Home(Path(sys.argv[1])), Settings(), sys.argv[2], progress=lambda n: print(n, flush=True))
except DataError as why:
    sys.exit(f"refused: {why}")
print(report)
"""


def importer(home: Home, source: Path, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", IMPORTER, str(home.root), str(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "ratings.dat"
    with path.open("w") as file:
        for n in range(40_000):
            file.write(f"{n % 977}::{n % 331}::{n % 5 + 1}::{1_600_000_000 + n}\n" if n % 1000 else "bad line\n")
    return path


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_was_interrupted_ends_as_one_that_was_not(
    home: Home, tmp_path: Path, large: Path, how: signal.Signals
) -> None:
    whole = Home(tmp_path / "whole")
    import_data(whole, SETTINGS, large)
    for lines in (1, 2):
        with importer(home, large) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            process.send_signal(how)
            process.wait(30)
    report = import_data(home, SETTINGS, large)
    assert report.duplicates > 0
    with LocalLog(home.log) as one, LocalLog(whole.log) as other:
        topics = [EVENTS, CATALOGUE, IMPRESSIONS]
        assert list(one.bodies(topics)) == list(other.bodies(topics))
        assert one.now_ms() == other.now_ms()
        letters = [[(r.offset, r.event.event_id) for r in log.iterate(DEAD_LETTER)] for log in (one, other)]
        assert letters[0] == letters[1]


def test_a_full_disk_stops_the_import_with_a_plain_message(home: Home, large: Path, need: Callable[[str], str]) -> None:
    inject = "inject=write,pwrite64:error=ENOSPC:when=2500+"
    strace = (need("strace"), "-f", "-o", "/dev/null", "-P", f"{home.log}-wal", "-e", inject)
    with importer(home, large, *strace) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.startswith("refused:")
    assert "no space left on the disk" in errors
    assert "events before it are stored, and repeating the import adds the rest" in errors
    assert import_data(home, SETTINGS, large).unreadable == 40
    with LocalLog(home.log) as log:
        assert log.count(EVENTS) == 40_000 - 40
