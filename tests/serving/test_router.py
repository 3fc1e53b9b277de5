"""Arms: sticky, of the declared sizes, independent of each other."""

from collections import Counter

from serving.router import arm_of

VIEWERS = [f"viewer{n}" for n in range(40_000)]


def test_an_arm_is_the_same_every_time_and_everywhere() -> None:
    known = {"viewer0": "challenger", "viewer2": "champion", "viewer52": "popularity"}
    assert {v: arm_of(v, 0.01, "salt") for v in known} == known


def test_one_per_cent_is_the_popularity_arm_whatever_the_experiment() -> None:
    popular = [{v for v in VIEWERS if arm_of(v, 0.01, salt) == "popularity"} for salt in (None, "a", "b")]
    assert popular[0] == popular[1] == popular[2]
    assert 300 < len(popular[0]) < 500  # 400 expected, standard deviation 20


def test_the_others_are_split_in_halves_anew_by_each_challenger() -> None:
    arms = {salt: [arm_of(v, 0.01, salt) for v in VIEWERS] for salt in ("a", "b")}
    counts = Counter(zip(arms["a"], arms["b"], strict=True))
    for pair in (("champion", "champion"), ("champion", "challenger"), ("challenger", "champion")):
        assert 9_500 < counts[pair] < 10_300  # 9,900 expected, standard deviation 86
    assert not any(arm_of(v, 0.01, None) == "challenger" for v in VIEWERS)


def test_a_share_of_nothing_and_of_everything() -> None:
    assert {arm_of(v, 0.0, None) for v in VIEWERS} == {"champion"}
    assert {arm_of(v, 1.0, "a") for v in VIEWERS} == {"popularity"}
