"""A model in a process of its own: told only what was known, and every way of failing is one line."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conf.sections.training import Train
from models.base import slates
from models.interactions import DAY_MS, Catalogue, Interactions, Shown, histories_of, live_counts
from models.popularity import Popularity
from pipelines.candidate import Candidate, CandidateFailed, start

HEAD = """
import os, sys, time
import numpy as np
from dataclasses import dataclass
from pathlib import Path
from models.base import Recommender

@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = (1, 2)

class Model(Recommender):
    Config = Settings
    half_lives_days = (1.0,)

    def fit(self, history):
        {fit}
        return self

    def score(self, histories, live, now_ms):
        {score}
        return np.tile(live.decayed(1.0), (len(histories), 1))
"""


CURVED = HEAD.replace("{fit}", "self.curves = {{{name!r}: [1.0] * {points}}}").replace("{score}", "pass")


@pytest.mark.parametrize(("name", "points"), [("a\nb", 3), ("", 3), ("é", 3), ("loss", 10_001)])
def test_curves_that_no_page_can_show_are_refused(
    name: str, points: int, history: Interactions, tmp_path: Path
) -> None:
    file = tmp_path / "curved.py"
    file.write_text(CURVED.format(name=name, points=points))
    with start(f"{file}:Model", Train(), 0) as model, pytest.raises(CandidateFailed, match="its fit left"):
        model.fit(history)


@pytest.fixture
def history() -> Interactions:
    rng = np.random.default_rng(0)
    n, users, items = 400, 30, 40
    catalogue = Catalogue(
        np.array([f"m{i}" for i in range(items)]),
        np.array([f"Café {i}" for i in range(items)]),
        rng.random((items, 2)) < 0.5,
        ("Drama", "Comedy"),
    )
    return Interactions(
        rng.integers(users, size=n).astype(np.int32),
        rng.integers(items, size=n).astype(np.int32),
        np.sort(rng.integers(10 * DAY_MS, size=n)),
        np.full(n, 0.8, np.float32),
        np.array([f"u{i}" for i in range(users)]),
        catalogue,
        10 * DAY_MS,
    )


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Candidate]]:
    """`made(fit=..., score=...)` starts a model whose methods begin with these lines."""
    running = []

    def make(fit: str = "pass", score: str = "pass", minutes: float = 1.0, memory_mb: float = 4096) -> Candidate:
        file = tmp_path / "outside.py"
        file.write_text(HEAD.replace("{fit}", fit).replace("{score}", score))
        conf = Train(candidate_timeout_minutes=minutes, candidate_memory_mb=memory_mb)
        running.append(start(f"{file}:Model", conf, seed=0))
        return running[-1]

    yield make
    for candidate in running:
        candidate.close()


def asked(candidate: Candidate, history: Interactions) -> np.ndarray:
    histories = histories_of(history, np.arange(5), history.end_ms)
    live = live_counts(history, candidate.half_lives_days, history.end_ms)
    return candidate.slates(histories, live, history.end_ms, 12).items


def test_it_answers_as_the_same_model_here(history: Interactions) -> None:
    with start("popularity", Train(), seed=0) as candidate:
        candidate.fit(history)
        there = asked(candidate, history)
        assert candidate.half_lives_days == (1.05,)
    histories = histories_of(history, np.arange(5), history.end_ms)
    here = slates(Popularity(), histories, live_counts(history, (1.05,), history.end_ms), history.end_ms, 12).items
    np.testing.assert_array_equal(there, here)


def test_it_stands_in_for_the_class_and_its_settings(made: Callable[..., Candidate], tmp_path: Path) -> None:
    candidate = made()
    assert type(candidate).__qualname__ == "Model"
    assert (candidate.shelved.name, candidate.shelved.source) == ("Model", tmp_path / "outside.py")
    assert candidate.config.sizes == [1, 2]
    candidate.renew({"sizes": [3]})
    assert candidate.config.sizes == [3]


def test_what_it_prints_disturbs_nothing(made: Callable[..., Candidate], history: Interactions) -> None:
    noisy = "print('{\"fault\": \"no\"}', flush=True); os.write(1, b'noise\\n'); sys.stderr.write('x' * 100_000)"
    candidate = made(fit=noisy, score=noisy).fit(history)
    assert asked(candidate, history).shape == (5, 12)


@pytest.mark.parametrize(
    ("answer", "says"), [("np.arange(k)", "have seen"), ("np.full(k, -5)", "no slate")], ids=["seen", "unknown"]
)
def test_slates_against_the_rules_are_noticed(
    made: Callable[..., Candidate], history: Interactions, answer: str, says: str
) -> None:
    """Slates are made in its process, where its code could change how."""
    tamper = f"import models.base; models.base.top = lambda scores, k, ties: {answer}"
    with pytest.raises(CandidateFailed, match=says):
        asked(made(score=tamper).fit(history), history)


def test_it_is_told_only_the_past(made: Callable[..., Candidate], history: Interactions) -> None:
    """The arrays are whole copies: what lies behind them is not the future that they were cut from."""
    look = (
        "assert history.times.base is None or len(history.times.base) == len(history.times), 'the future is there'; "
        f"assert history.times.max() < {5 * DAY_MS}"
    )
    made(fit=look).fit(history.before(5 * DAY_MS))


def test_it_is_told_which_slates_were_served(made: Callable[..., Candidate], history: Interactions) -> None:
    shown = Shown(history.users[:2], history.times[:2], np.stack([history.items[:2], np.full(2, -1, np.int32)], axis=1))
    brought_by = np.append([0, 1], np.full(len(history) - 2, -1)).astype(np.int32)
    whole = replace(history, shown=shown, brought_by=brought_by)
    made(fit="assert history.liked_places.tolist() == [[True, False]] * 2").fit(whole)
    made(fit="assert history.shown is None and history.own.all()").fit(history)


def test_it_finds_no_home(made: Callable[..., Candidate], history: Interactions) -> None:
    os.environ["GREENLIGHT_HOME"] = "/somewhere"
    try:
        look = "assert not [k for k in os.environ if k.startswith('GREENLIGHT')]; assert os.listdir('.') == []"
        made(fit=look).fit(history)
    finally:
        del os.environ["GREENLIGHT_HOME"]


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ("raise KeyError('director')", "KeyError: 'director' (outside.py, line 17)"),
        ("raise ValueError('first\\nsecond')", "ValueError: first second"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("os._exit(3)", "its process ended with status 3"),
        ("os.kill(os.getpid(), 9)", "its process was killed (SIGKILL), as happens when memory runs out"),
        ("os.kill(os.getpid(), 11)", "its process died of SIGSEGV"),
        ("x = [np.ones(2**27) for _ in range(40)]", "MemoryError"),
        ("history.items[0] = 1", "read-only"),
        ("return None", "TypeError: fit must return the model itself, got NoneType"),
        ("self.__class__.half_lives_days = (0.0,)", "half_lives_days must be positive numbers"),
        ("os.write(3, b'not JSON\\n') if False else os.close(0); os._exit(0)", "its process ended with status 0"),
    ],
)
def test_every_way_of_failing_is_one_line(
    made: Callable[..., Candidate], history: Interactions, fit: str, words: str
) -> None:
    candidate = made(fit=fit)
    with pytest.raises(CandidateFailed) as why:
        candidate.fit(history)
    assert words in str(why.value)
    assert "\n" not in str(why.value)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("return live.decayed(1.0)", "score must return shape (viewers, items) = (5, 40), got (40,)"),
        ("return [[1.0]]", "score must return a float array, got list"),
        ("return np.ones((5, 40), int)", "score must return a float array, got int64"),
        ("return None", "score must return a float array, got NoneType"),
        ("return np.ones((5, 40), np.float16)", "score must return float32 or float64, got float16"),
        ("return np.asmatrix(np.ones((5, 40)))", "score must return a float array, got matrix"),
        ("return np.ma.masked_array(np.ones((5, 40)))", "score must return a float array, got MaskedArray"),
        ("live.counts[:] = 0", "read-only"),
        ("os.kill(os.getpid(), 9)", "killed (SIGKILL)"),
    ],
)
def test_a_bad_answer_is_named(made: Callable[..., Candidate], history: Interactions, score: str, words: str) -> None:
    candidate = made(score=score).fit(history)
    with pytest.raises(CandidateFailed) as why:
        asked(candidate, history)
    assert words in str(why.value)


def test_one_that_hangs_is_stopped_with_all_it_started(made: Callable[..., Candidate], history: Interactions) -> None:
    note = "import subprocess; p = subprocess.Popen(['sleep', '600'])"
    note += "; open('child', 'w').write(str(p.pid)); time.sleep(600)"
    candidate = made(fit=note, minutes=0.05)
    folder = candidate._host.folder / "empty"
    with pytest.raises(CandidateFailed, match=r"took longer than 0\.05 minutes and was stopped"):
        candidate.fit(history)
    child = Path(f"/proc/{(folder / 'child').read_text()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"
    with pytest.raises(CandidateFailed, match="took longer"):
        candidate.fit(history)


def test_a_daemon_that_it_started_ends_with_it(made: Callable[..., Candidate], history: Interactions) -> None:
    """In a session of its own it is in no process group of ours."""
    note = "import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True)"
    candidate = made(fit=note + "; open('child', 'w').write(str(p.pid))").fit(history)
    child = Path(f"/proc/{(candidate._host.folder / 'empty' / 'child').read_text()}/stat")
    assert child.exists()
    candidate.close()
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_it_is_no_less_nice_than_who_started_it(made: Callable[..., Candidate], history: Interactions) -> None:
    """Its session is its own, and would weigh as much as any."""
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(5,)) as nicer:
        candidate = nicer.submit(made).result()
    group = Path(f"/proc/{candidate.fit(history)._host._process.pid}/autogroup")
    if not group.exists() or not group.read_text():
        pytest.skip("this kernel does not group processes by session")
    assert group.read_text().split()[-1] == str(os.nice(0) + 5)


@pytest.mark.parametrize("noise", ["garbage", '{"half_lives_days": [3.0]}', "5", '{"fault": "none of ours"}'])
def test_what_it_writes_into_the_pipe_is_no_answer(
    made: Callable[..., Candidate], history: Interactions, noise: str
) -> None:
    look = "'pipe' in os.readlink(f'/proc/self/fd/{fd}')"
    pipes = f"[fd for fd in range(3, 9) if os.path.exists(f'/proc/self/fd/{{fd}}') and {look}]"
    candidate = made(fit=f"[os.write(fd, {(noise + chr(10)).encode()!r}) for fd in {pipes}]")
    with pytest.raises(CandidateFailed, match="closed the pipe to the training, or wrote into it"):
        candidate.fit(history)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("class Config: pass", "Config must be a frozen dataclass"),
        ("@dataclass\nclass Config:\n    size: int = 1", "Config must be a frozen dataclass"),
        ("@dataclass(frozen=True)\nclass Config:\n    size: int", "Config has no default for size"),
        ("@dataclass(frozen=True)\nclass Config:\n    kind: object = len", "Config.kind = <built-in function len>"),
        ("@dataclass(frozen=True)\nclass Config:\n    size: float = float('nan')", "Config.size = nan is not plain"),
    ],
)
def test_a_config_that_cannot_be_kept_is_named(tmp_path: Path, config: str, words: str) -> None:
    file = tmp_path / "configured.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom models.popularity import Popularity\n"
        f"{config}\nclass Model(Popularity):\n    Config = Config\n"
    )
    with pytest.raises(CandidateFailed) as why:
        start(f"{file}:Model", Train(), seed=0)
    assert words in str(why.value)


def test_a_model_that_cannot_be_made_leaves_no_process(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(CandidateFailed, match="nothing_of_that_name"):
        start(f"{file}:Model", Train(), seed=0)
    file.write_text("x = 1\n")
    with pytest.raises(CandidateFailed, match="no class 'Model'"):
        start(f"{file}:Model", Train(), seed=0)


def test_closing_removes_its_folder_and_its_process(made: Callable[..., Candidate]) -> None:
    candidate = made()
    pid, folder = candidate._host._process.pid, candidate._host.folder
    candidate.close()
    candidate.close()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
