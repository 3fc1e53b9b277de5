"""SASRec: torch fits it, NumPy serves it, and both say the same; it learns who deviates from popularity."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from models import sasrec_fit
from models.base import slates
from models.interactions import DAY_MS, Interactions, histories_of, live_counts
from models.sasrec import EDGES_MS, SASRec, SASRecConfig, ages, vectors_of
from models.shelf import find
from models.signals import genre_shares


@pytest.fixture(scope="module")
def model(audience: Interactions) -> SASRec:
    return SASRec(SASRecConfig(max_epochs=6), seed=3).fit(audience)


def test_viewers_get_movies_of_their_own_taste(model: SASRec, audience: Interactions) -> None:
    """Viewers of this audience like movies of their own parity; popularity alone cannot tell."""
    viewers = np.arange(400)
    histories = histories_of(audience, viewers, audience.end_ms)
    live = live_counts(audience, model.half_lives_days, audience.end_ms)
    shown = slates(model, histories, live, audience.end_ms, 5).items
    plain = SASRec(SASRecConfig(weight=0.0)).fit(audience)
    usual = slates(plain, histories, live, audience.end_ms, 5).items
    assert model.weight > 0
    assert (shown % 2 == viewers[:, None] % 2).mean() > (usual % 2 == viewers[:, None] % 2).mean() + 0.15


def test_numpy_serves_what_torch_fitted(model: SASRec, audience: Interactions) -> None:
    """The same queries within float32's rounding, hence the same slates, for histories of every length."""
    torch = pytest.importorskip("torch")
    network = sasrec_fit.Network(model.weights["items"], genre_shares(audience.catalogue), model.config).eval()
    state = {name: torch.tensor(value) for name, value in model.weights.items()}
    network.load_state_dict({**network.state_dict(), **state})
    now, viewers = audience.end_ms, histories_of(audience, np.arange(400), audience.end_ms)
    live = live_counts(audience, model.half_lives_days, now)
    at = model._at(live)
    for viewer in range(0, 400, 5):
        span = slice(*viewers.indptr[viewer : viewer + 2])
        items, times = viewers.items[span].astype(np.int64), viewers.times[span]
        liked = (viewers.strengths[span] >= 0.7).astype(np.int64)
        arrays = (items[None], liked[None], ages(times[-1] - times)[None], ages(now - times[-1:]))
        with torch.no_grad():
            theirs = network(*(torch.tensor(array) for array in arrays)).numpy()[0]
        ours = model._queries(viewers, np.array([viewer]), len(items), now, at.genres)[0] + model.usual
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        scores = [at.base[at.hot] + model.weight * (query - model.usual) @ at.values for query in (ours, theirs)]
        assert np.argsort(-scores[0])[:20].tolist() == np.argsort(-scores[1])[:20].tolist()


SERVE = """
import json, sys
from pathlib import Path
import numpy as np
from mlflow_server.release import load
loaded = load(Path(sys.argv[1]))
histories, end = loaded.viewers.histories, loaded.manifest.end_ms
made = loaded.model.slates(histories, loaded.live, end, 20)
print(json.dumps({"torch": "torch" in sys.modules, "items": made.items.tolist()}))
"""


def test_a_release_is_served_without_torch_and_answers_as_the_fitted_model(
    model: SASRec, audience: Interactions, tmp_path: Path
) -> None:
    release = build(tmp_path / "r", model, find("sasrec"), "snap", audience, "commit", SigningKey(tmp_path / "keys"))
    told = subprocess.run(
        [sys.executable, "-c", SERVE, str(release.folder)], capture_output=True, text=True, check=True
    )
    answer = json.loads(told.stdout)
    assert not answer["torch"]
    known = np.unique(audience.users)
    histories = histories_of(audience, known, audience.end_ms)
    live = live_counts(audience, model.half_lives_days, audience.end_ms)
    assert answer["items"] == slates(model, histories, live, audience.end_ms, 20).items.tolist()
    assert any(name.endswith(".safetensors") for name in release.manifest.files)


def test_a_fit_leaves_its_curves_which_are_not_saved(model: SASRec, tmp_path: Path) -> None:
    assert set(model.curves) == {"train_loss", "validation_loss"}
    assert 1 <= len(model.curves["train_loss"]) == len(model.curves["validation_loss"]) <= 6
    assert model.curves["train_loss"][0] > model.curves["train_loss"][-1]
    model.save(tmp_path)
    assert not dict(SASRec(model.config).load(tmp_path).curves)


def test_the_loss_is_over_unseen_movies_of_that_day_alone(audience: Interactions) -> None:
    edges = sasrec_fit._edges(audience, 0.25)
    examples = sasrec_fit.Examples.of(audience, edges, 16, np.random.default_rng(0))
    size = len(audience.catalogue)
    assert len(examples.liked)
    assert not examples.barred[:, 0].any()
    assert (examples.times[examples.items >= 0] < np.repeat(examples.now, (examples.items >= 0).sum(axis=1))).all()
    assert edges[-1] == audience.end_ms
    window = np.searchsorted(edges, examples.now, side="right") - 1
    assert (examples.candidates // size == window[examples.liked][:, None]).all()
    liked_on: dict[int, set[int]] = {}
    for item, time, strength in zip(audience.items, audience.times, audience.strengths, strict=True):
        if strength >= 0.7:
            liked_on.setdefault((int(time) - audience.end_ms) // DAY_MS, set()).add(int(item))
    for row, candidates in zip(examples.liked, examples.candidates % size, strict=True):
        assert set(candidates.tolist()) <= liked_on[(int(examples.now[row]) - audience.end_ms) // DAY_MS]


def test_nothing_newer_than_the_history_changes_a_vector(audience: Interactions) -> None:
    cut = audience.before(60 * DAY_MS)
    found = sasrec_fit.vectors(cut, 8)
    met = np.isin(np.arange(len(audience.catalogue)), cut.items)
    assert (np.linalg.norm(found, axis=1) > 0).tolist() == met.tolist()
    turned = sasrec_fit.aligned(found @ np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0], found)
    np.testing.assert_allclose(turned, found, atol=1e-4)


def test_a_movie_newer_than_the_fit_has_its_genres_alone(model: SASRec) -> None:
    size = len(model.weights["items"])
    assert not vectors_of(model.weights, np.array([size, size + 9])).any()
    assert vectors_of(model.weights, np.array([[0, size - 1]])).shape == (1, 2, model.config.size)


def test_ages_have_classes_that_double() -> None:
    assert ages(np.array([-5, 0, 3_599_999, 3_600_000, 10 * DAY_MS, 10**13])).tolist() == [0, 0, 0, 1, 7, 11]
    assert len(EDGES_MS) == 11


def test_too_few_likings_leave_popularity(audience: Interactions) -> None:
    few = replace(audience, strengths=np.full_like(audience.strengths, 0.5))
    model = SASRec().fit(few)
    assert model.weight == 0
    assert not model.curves
