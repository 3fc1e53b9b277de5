"""What every model must do, those of the shelf and one brought as a file: add a name to MODELS and it inherits all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import shelf
from models.base import Recommender, settings_of, slates
from models.interactions import Catalogue, Histories, Interactions, LiveCounts, histories_of, live_counts

MODELS = (*shelf.SHELF, f"{Path(__file__).parent / 'neighbours.py'}:Neighbours")
KNOW_TASTE = ("ease", "als")  # alone; the others begin with what everyone likes
ALLOWED = {".npy", ".json", ".txt", ".safetensors", ".onnx"}


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name.rpartition(":")[2])
def shelved(request: pytest.FixtureRequest) -> shelf.Shelved:
    return shelf.find(request.param)


@pytest.fixture(scope="module")
def fitted(shelved: shelf.Shelved, audience: Interactions) -> Recommender:
    return shelved.cls(seed=3).fit(audience)


def live_of(model: Recommender, history: Interactions) -> LiveCounts:
    return live_counts(history, model.half_lives_days, history.end_ms)


def scores_of(model: Recommender, history: Interactions, viewers: np.ndarray) -> np.ndarray:
    return model.score(histories_of(history, viewers, history.end_ms), live_of(model, history), history.end_ms)


def grown(history: Interactions, more: int) -> Interactions:
    """The same history with newer movies at the end of the catalogue."""
    old = history.catalogue
    ids = np.concatenate([old.ids, [f"new{number}" for number in range(more)]])
    genres = np.concatenate([old.genres, np.ones((more, old.genres.shape[1]), bool)])
    return replace(history, catalogue=Catalogue(ids, ids, genres, old.genre_names))


@pytest.mark.parametrize("name", KNOW_TASTE, ids=lambda name: name.rpartition(":")[2])
def test_on_a_checkerboard_everyone_is_shown_the_one_movie_of_their_colour_left(
    name: str, checkerboard: Interactions
) -> None:
    model = shelf.find(name).cls().fit(checkerboard)
    histories = histories_of(checkerboard, np.arange(50), checkerboard.end_ms)
    shown = slates(model, histories, live_of(model, checkerboard), checkerboard.end_ms, 1).items[:, 0]
    assert shown.tolist() == list(range(50))


def test_scores_have_one_row_for_each_viewer_and_one_column_for_each_movie(
    fitted: Recommender, audience: Interactions
) -> None:
    scores = scores_of(fitted, audience, np.arange(7))
    assert scores.shape == (7, len(audience.catalogue))
    assert scores.dtype.kind == "f"
    assert np.isfinite(scores).all()


def test_a_saved_model_scores_the_same_after_loading(
    shelved: shelf.Shelved, fitted: Recommender, audience: Interactions, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    again = shelved.cls(shelved.cls.Config(**settings_of(fitted)), seed=3).load(tmp_path)
    viewers = np.arange(40)
    np.testing.assert_array_equal(scores_of(again, audience, viewers), scores_of(fitted, audience, viewers))
    assert again.half_lives_days == fitted.half_lives_days


def test_what_is_kept_of_one_moment_changes_no_score_of_the_next(
    shelved: shelf.Shelved, fitted: Recommender, audience: Interactions, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    fresh = lambda: shelved.cls(shelved.cls.Config(**settings_of(fitted)), seed=3).load(tmp_path)  # noqa: E731
    kept, now, end_ms = fresh(), live_of(fitted, audience), audience.end_ms
    old = audience.catalogue
    others = replace(audience, catalogue=Catalogue(old.ids, old.titles, old.genres[::-1], old.genre_names))
    moments = [
        (audience, replace(now, counts=counts)) for counts in (now.counts, 0.5 * now.counts, now.counts[:, ::-1])
    ]
    for history, live in [*moments, (others, replace(moments[-1][1], catalogue=others.catalogue))]:
        histories = histories_of(history, np.arange(40), end_ms)
        scores = fresh().score(histories, live, end_ms)
        np.testing.assert_array_equal(kept.score(histories, live, end_ms), scores)


def test_only_plain_files_are_written(fitted: Recommender, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= ALLOWED
    for file in tmp_path.glob("*.npy"):
        np.load(file, allow_pickle=False)


def test_the_same_seed_gives_the_same_model(
    shelved: shelf.Shelved, fitted: Recommender, audience: Interactions
) -> None:
    again = shelved.cls(seed=3).fit(audience)
    viewers = np.arange(40)
    np.testing.assert_array_equal(scores_of(again, audience, viewers), scores_of(fitted, audience, viewers))


def test_fitting_leaves_the_history_as_it_was(shelved: shelf.Shelved, audience: Interactions) -> None:
    before = [np.array(column) for column in (audience.users, audience.items, audience.times, audience.strengths)]
    shelved.cls().fit(audience)
    for old, new in zip(before, (audience.users, audience.items, audience.times, audience.strengths), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_viewer_without_history_gets_a_full_slate(fitted: Recommender, audience: Interactions) -> None:
    nobody = histories_of(audience, np.array([-1]), audience.end_ms)
    shown = slates(fitted, nobody, live_of(fitted, audience), audience.end_ms, 20).items[0]
    assert len(set(shown.tolist())) == 20
    assert shown.min() >= 0


def test_one_interaction_is_history_enough(fitted: Recommender, audience: Interactions) -> None:
    once = Histories(
        viewer_ids=["once"],
        indptr=np.array([0, 1]),
        items=np.array([5], np.int32),
        times=np.array([audience.end_ms - 1]),
        strengths=np.array([1.0], np.float32),
        seen_indptr=np.array([0, 1]),
        seen_items=np.array([5], np.int32),
        catalogue=audience.catalogue,
    )
    shown = slates(fitted, once, live_of(fitted, audience), audience.end_ms, 20).items[0].tolist()
    assert len(set(shown)) == 20
    assert 5 not in shown


def test_a_viewer_unseen_in_training_is_just_a_history(fitted: Recommender, audience: Interactions) -> None:
    known = histories_of(audience, np.array([11]), audience.end_ms)
    renamed = replace(known, viewer_ids=["someone else"])
    live = live_of(fitted, audience)
    np.testing.assert_array_equal(
        fitted.score(known, live, audience.end_ms), fitted.score(renamed, live, audience.end_ms)
    )


def test_a_row_does_not_depend_on_who_else_is_in_the_batch(fitted: Recommender, audience: Interactions) -> None:
    viewers = np.array([3, -1, 17, 250, 90])
    together = scores_of(fitted, audience, viewers)
    for row, viewer in enumerate(viewers):
        np.testing.assert_array_equal(together[row], scores_of(fitted, audience, np.array([viewer]))[0])


def test_slates_do_not_depend_on_who_else_is_in_the_batch(fitted: Recommender, audience: Interactions) -> None:
    viewers, live = np.array([3, -1, 17, 250, 90]), live_of(fitted, audience)
    together = slates(fitted, histories_of(audience, viewers, audience.end_ms), live, audience.end_ms, 20)
    for row, viewer in enumerate(viewers):
        one = histories_of(audience, np.array([viewer]), audience.end_ms)
        np.testing.assert_array_equal(together.items[row], slates(fitted, one, live, audience.end_ms, 20).items[0])


def test_movies_newer_than_the_fit_get_a_score(fitted: Recommender, audience: Interactions) -> None:
    today = grown(audience, 4)
    scores = scores_of(fitted, today, np.array([2, -1]))
    assert scores.shape == (2, len(audience.catalogue) + 4)
    assert np.isfinite(scores).all()


def test_seen_movies_are_never_shown(fitted: Recommender, audience: Interactions) -> None:
    viewers = np.arange(60)
    histories = histories_of(audience, viewers, audience.end_ms)
    shown = slates(fitted, histories, live_of(fitted, audience), audience.end_ms, 20).items
    assert not any(np.isin(shown[viewer], histories.seen(viewer)).any() for viewer in viewers)


@pytest.mark.parametrize("pairs", [[], [(0, 0)], [(0, i) for i in range(6)], [(u, 0) for u in range(6)]])
def test_the_smallest_histories_are_survived(shelved: shelf.Shelved, pairs: list[tuple[int, int]], history_of) -> None:
    """Empty, one interaction, one viewer, one movie."""
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    history = history_of(users, items, viewers=6, movies=6)
    model = shelved.cls().fit(history)
    histories = histories_of(history, np.array([-1, 0, 5]), history.end_ms)
    shown = slates(model, histories, live_of(model, history), history.end_ms, 20).items
    assert [int((row >= 0).sum()) for row in shown] == [6 - len(histories.seen(v)) for v in range(3)]


def test_nan_in_a_history_never_reaches_a_slate(fitted: Recommender, audience: Interactions) -> None:
    histories = histories_of(audience, np.array([3]), audience.end_ms)
    broken = replace(histories, strengths=np.full_like(histories.strengths, np.nan))
    answer = slates(fitted, broken, live_of(fitted, audience), audience.end_ms, 20)
    assert np.isfinite(answer.scores[answer.items >= 0]).all()


def test_the_defaults_are_in_the_search_space(shelved: shelf.Shelved) -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study()
    trial = study.ask()
    assert isinstance(shelved.cls.Config.suggest(trial), shelved.cls.Config)
    assert set(trial.params) <= set(settings_of(shelved.cls()))
