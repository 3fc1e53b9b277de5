"""An experiment: what is declared before anybody sees it, and what one look at its numbers says.

Everything is over viewers, one mean each: viewers are drawn into arms, slates are not, and slates of one viewer are
alike. The difference has an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-
uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 2024, theorem 2.2), so that
looking as often as one likes costs nothing. Its time is counted in information, 1 / squared standard error: viewers who
come back add some without adding a viewer. The sample ratio is tested at every look, too (Lindon and Malek, "Anytime-
valid inference for multinomial count data", NeurIPS 2022).
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import lgamma
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np

from conf.errors import PlainError
from conf.sections.experiment import Experiment

METRICS = ("likes", "clicks", "watch_minutes")  # per slate, more is better
GUARDED = (*METRICS, "served")  # served: share of the slates that came from no fallback
LONGEST_NAME = 80  # characters
RATIO_LEVEL = 0.01  # of a false alarm of the sample ratio, over the whole experiment
RATIO_PRIOR = 100.0  # how sure the alternative is of the declared shares: as if it had seen so many viewers

LEAST_USERS = 10  # of each arm: fewer are too easily all alike, and a spread of 0 would pass for certainty
LONGEST_DAYS, LONGEST_WINDOW_HOURS = 3650.0, 8760.0  # ten years, a year
ROUNDING = 1e-12  # of a mean, relative: closer than that are equal

POWER = 0.99  # with which an A/B is planned to find the change that is worth finding

Verdict = Literal["promote", "keep", "invalid", "cannot say"]


class PlanError(PlainError):
    """A plan that nobody could carry out; the message names the part and the rule."""


class NotPerUser(PlainError, TypeError):
    """Numbers that are not one per viewer. Slates or clicks taken for viewers would find differences in noise."""


@dataclass(frozen=True)
class Guardrail:
    """What may not get worse: by no more than `loss`, a share of the champion's mean, proven by the lower bound."""

    name: str
    loss: float

    @classmethod
    def typed(cls, text: str) -> Self:
        """From `NAME=LOSS`, as on the command line. PlanError where it is not that."""
        name, _, loss = text.partition("=")
        try:
            return cls(name.strip(), float(loss))
        except ValueError:
            raise PlanError(f"guardrail {plain(text)!r}: write NAME=LOSS, such as served=0.02") from None


@dataclass(frozen=True)
class Plan:
    """What is declared, and written to the ledger, before the first slate. PlanError where a part is out of range."""

    name: str
    metric: str = "likes"
    margin: float = 0.0  # by which the challenger's mean must be better, in units of the metric
    level: float = 0.95  # of the confidence sequence, both sides together
    effect: float = 0.1  # for which the sequence is tuned: a change worth finding, as a share of the champion's mean
    max_days: float = 28.0
    min_days: float = 7.0  # a whole week: weekends are not like other days
    min_users: int = 200  # of each arm: the sequence is asymptotic
    guardrails: tuple[Guardrail, ...] = (Guardrail("served", 0.02), Guardrail("watch_minutes", 0.2))
    share: float = 0.5  # of the viewers in the two arms that meet the challenger
    window_hours: float = 24.0  # after a slate, in which what happens to its movies counts for it
    max_slates_per_user_day: int = 100  # a viewer with more is no person, and left out

    @classmethod
    def from_settings(cls, name: str, conf: Experiment, **changes: Any) -> Self:
        """The plan that the settings describe, with some parts changed."""
        parts = conf.model_dump(exclude={"guardrails", "auto"})
        guards = tuple(Guardrail(guard, loss) for guard, loss in sorted(conf.guardrails.items()))
        return cls(name, **{**parts, "guardrails": guards, **changes})

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", plain(self.name))
        rules = {
            f"metric {self.metric!r}: name one of {', '.join(METRICS)}": self.metric in METRICS,
            f"margin {self.margin}: a number between -1 and 1 million": abs(self.margin) <= 1e6,
            f"level {self.level}: between 0.5 and 1": 0.5 < self.level < 1,
            f"effect {self.effect}: above 0, and at most 100": 0 < self.effect <= 100,
            f"min_days {self.min_days} and max_days {self.max_days}: 0 to {LONGEST_DAYS:g}, the maximum not below": (
                0 <= self.min_days <= self.max_days <= LONGEST_DAYS and self.max_days > 0
            ),
            f"min_users {self.min_users}: {LEAST_USERS} or more": self.min_users >= LEAST_USERS,
            f"share {self.share}: between 0 and 1": 0 < self.share < 1,
            f"window_hours {self.window_hours}: above 0, and at most {LONGEST_WINDOW_HOURS:g}": (
                0 < self.window_hours <= LONGEST_WINDOW_HOURS
            ),
            f"max_slates_per_user_day {self.max_slates_per_user_day}: 1 or more": self.max_slates_per_user_day >= 1,
        }
        names = [guard.name for guard in self.guardrails]
        rules[f"guardrails {listed(names)}: each once"] = len(set(names)) == len(names)
        for guard in self.guardrails:
            rules[f"guardrail {guard.name!r}: name one of {', '.join(GUARDED)}"] = guard.name in GUARDED
            rules[f"guardrail {guard.name} {guard.loss}: a loss between 0 and 1"] = 0 < guard.loss < 1
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise PlanError(f"this experiment cannot be declared: {broken[0]}")

    def digest(self) -> str:
        """SHA-256 of the plan as canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The plan that `asdict` took apart."""
        return cls(**{**body, "guardrails": tuple(Guardrail(**guard) for guard in body["guardrails"])})


def plain(text: str) -> str:
    """A name that people typed, harmless in a terminal, a mail's subject, a plot: one short line, nothing invisible."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 10 * LONGEST_NAME])
    whole = " ".join(kept.split())
    return whole if len(whole) <= LONGEST_NAME else whole[: LONGEST_NAME - 1] + "…"


@dataclass(frozen=True)
class PerUser:
    """One arm: each viewer once, with their mean per slate of each metric: `means[metric]` (viewers,) float.

    NotPerUser where a viewer comes twice (these are events, not viewers) or an array does not fit.
    """

    users: tuple[str, ...]
    means: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if twice := len(self.users) - len(set(self.users)):
            raise NotPerUser(f"{twice} viewers come more than once: give each viewer's mean, not their events")
        for name, values in self.means.items():
            if np.shape(values) != (len(self.users),):
                raise NotPerUser(f"{name}: {np.shape(values)} numbers for {len(self.users)} viewers; one each is asked")
            if not np.isfinite(values).all():
                raise NotPerUser(f"{name}: not every viewer's mean is a finite number")

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Bounds:
    """An estimate and its confidence sequence now. Without enough to go by, the bounds are infinite."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Guarded:
    """A guardrail now. bounds: of challenger - (1 - loss) x champion; it holds from 0, and is broken below."""

    name: str
    loss: float
    champion: float  # mean
    challenger: float
    bounds: Bounds

    @property
    def state(self) -> Literal["holds", "broken", "open"]:
        return "holds" if self.bounds.low >= 0 else "broken" if self.bounds.high < 0 else "open"


@dataclass(frozen=True)
class Look:
    """What the numbers say after `days`. Pairs are (champion, challenger). verdict: None while it is not final."""

    days: float
    users: tuple[int, int]
    means: tuple[float, float]
    difference: Bounds  # challenger - champion, in units of the metric
    ratio_p: float  # of the sample ratio; valid at every look
    guards: tuple[Guarded, ...]
    days_left: float | None  # until a verdict, at this pace; None where nothing can be said
    verdict: Verdict | None
    reason: str

    def body(self) -> dict[str, Any]:
        """As plain JSON, which has no infinite numbers."""
        return _finite(asdict(self) | {"guards": [asdict(g) | {"state": g.state} for g in self.guards]})


def look(plan: Plan, champion: PerUser, challenger: PerUser, *, days: float) -> Look:
    """What the experiment says, `days` after its first exposure."""
    users = len(champion), len(challenger)
    a, b = champion.means[plan.metric], challenger.means[plan.metric]
    difference = compare(a, b, level=plan.level, effect=plan.effect)
    guards = tuple(guarded(plan, guard, champion, challenger) for guard in plan.guardrails)
    ratio = sample_ratio_p(users, plan.share)
    verdict, reason = ruling(plan, users, difference, guards, ratio, days)
    left = None if verdict else days_left(plan, a, b, users, days)
    reason = reason or _patience(plan, users, days, left)
    return Look(days, users, (_mean(a), _mean(b)), difference, ratio, guards, left, verdict, reason)


def ruling(
    plan: Plan, users: tuple[int, int], difference: Bounds, guards: tuple[Guarded, ...], ratio_p: float, days: float
) -> tuple[Verdict | None, str]:
    """The verdict and why; None while it is not final."""
    over = days >= plan.max_days
    broken = [g.name for g in guards if g.state == "broken"]
    if ratio_p < RATIO_LEVEL:
        return "invalid", (
            f"the arms have {users[0]:,} and {users[1]:,} viewers where {1 - plan.share:.0%} and {plan.share:.0%} were "
            f"declared (p {ratio_p:.2g}): viewers were lost on one side, so nothing here can be believed"
        )
    if min(users) < plan.min_users:
        few = f"{min(users):,} viewers in the smaller arm; {plan.min_users:,} are asked"
        return ("cannot say", f"{few}, and the {plan.max_days:g} days are over") if over else (None, "")
    if days < plan.min_days:
        return None, ""
    if broken:
        return "keep", f"{listed(broken)} got worse by more than was declared"
    if difference.low > plan.margin and all(g.state == "holds" for g in guards):
        return (
            "promote",
            f"{plan.metric} per slate are better by {_numbers(difference)}; more than {plan.margin:g} was asked",
        )
    if difference.high < plan.margin:
        return "keep", f"{plan.metric} per slate differ by {_numbers(difference)}: not better by {plan.margin:g}"
    return ("keep", _unproven(plan, difference, guards)) if over else (None, "")


# Mathematics ----------------------------------------------------------------------------------------------------------


def compare(champion: np.ndarray, challenger: np.ndarray, *, level: float, effect: float, keep: float = 1.0) -> Bounds:
    """Bounds of mean(challenger) - keep x mean(champion), over one mean per viewer each, (viewers,) float.

    effect: the size, as a share of the champion's mean, at which the sequence is at its tightest.
    """
    if min(len(champion), len(challenger)) < 2:
        return Bounds(_mean(challenger) - keep * _mean(champion), -math.inf, math.inf)
    error = _error(champion, challenger, keep)
    before, after = keep * float(champion.mean()), float(challenger.mean())
    width = half_width(error, abs(effect * float(champion.mean())), level) + ROUNDING * (abs(before) + abs(after))
    return Bounds(after - before, after - before - width, after - before + width)


def half_width(error: float, tuned: float, level: float) -> float:
    """Of the confidence sequence, where the standard error is `error`. It is tightest where that makes it `tuned`.

    Theorem 2.2 with k = t rho^2, the information relative to the mixture's; rho by the paper's formula for a planned t.
    """
    if error == 0:
        return 0.0
    alpha = 1 - level
    planned = -2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))
    k = planned * (tuned / (_multiple(planned, alpha) * error)) ** 2
    return _multiple(k, alpha) * error if k > 0 else math.inf


def users_for(power: float, effect: float, sd: float, level: float = 0.95) -> int:
    """Viewers per arm with which a true difference of `effect` is found with at least `power`, looked at once, at the
    end: looking in between only finds it sooner. effect and sd, of a viewer's mean, in units of the metric."""
    if not (0 < power < 1 and effect > 0 and sd > 0):
        raise PlanError(f"no size for power {power}, effect {effect}, sd {sd}: a share, and two numbers above 0")
    beyond = NormalDist().inv_cdf(power)
    enough = lambda n: half_width(e := sd * math.sqrt(2 / n), effect, level) + beyond * e <= effect  # noqa: E731
    high = 2
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def days_for(plan: Plan, means: np.ndarray, days: float, power: float = POWER) -> float:
    """Days in which a change of the plan's effect is found with that power, if viewers come and like as they did.

    means: (n,) the metric's mean of each viewer who came in so many `days`, all served by the champion; not all 0 or
    equal. Information comes evenly: from new viewers as well as from those who come again.
    """
    needed = users_for(power, plan.effect * float(means.mean()), float(means.std(ddof=1)), plan.level)
    return needed * days / (len(means) * min(plan.share, 1 - plan.share))


def sample_ratio_p(users: tuple[int, int], share: float) -> float:
    """How well the counts (champion, challenger) fit the declared share, valid at every look: 1 / the evidence of a
    Dirichlet mixture around the declared shares against these themselves."""
    evidence = lgamma(RATIO_PRIOR) - lgamma(RATIO_PRIOR + sum(users))
    for count, expected in zip(users, (1 - share, share), strict=True):
        prior = RATIO_PRIOR * expected
        evidence += lgamma(prior + count) - lgamma(prior) - count * math.log(expected)
    return math.exp(min(0.0, -evidence))


def guarded(plan: Plan, guard: Guardrail, champion: PerUser, challenger: PerUser) -> Guarded:
    a, b = champion.means[guard.name], challenger.means[guard.name]
    bounds = compare(a, b, level=plan.level, effect=guard.loss, keep=1 - guard.loss)
    return Guarded(guard.name, guard.loss, _mean(a), _mean(b), bounds)


def days_left(plan: Plan, a: np.ndarray, b: np.ndarray, users: tuple[int, int], days: float) -> float | None:
    """Until the bounds leave the margin, if the difference stays and information comes at today's pace; at most until
    the maximum. None before anything is known."""
    if days <= 0 or min(users) < 2:
        return None
    distance, error = abs(b.mean() - a.mean() - plan.margin), _error(a, b)
    tuned = abs(plan.effect * float(a.mean()))
    waits = max(plan.min_days, days * plan.min_users / min(users), days)
    factors = np.geomspace(1, max(plan.max_days / waits, 1), 200)
    sure = [f for f in factors if half_width(error * math.sqrt(days / (waits * f)), tuned, plan.level) < distance]
    return max(min(waits * sure[0] if sure else plan.max_days, plan.max_days) - days, 0.0)


def _multiple(k: float, alpha: float) -> float:
    """Half the width of the sequence in standard errors."""
    return math.sqrt((k + 1) / k * math.log((k + 1) / alpha**2)) if k > 0 else math.inf


def _error(a: np.ndarray, b: np.ndarray, keep: float = 1.0) -> float:
    return math.sqrt(float(b.var(ddof=1)) / len(b) + keep**2 * float(a.var(ddof=1)) / len(a))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


# Words ----------------------------------------------------------------------------------------------------------------


def _patience(plan: Plan, users: tuple[int, int], days: float, left: float | None) -> str:
    """Why it is not final, and how long it may take."""
    told = f"not final: day {days:.1f} of at most {plan.max_days:g}"
    if min(users) < plan.min_users:
        told += f", {min(users):,} of at least {plan.min_users:,} viewers in the smaller arm"
    if days < plan.min_days:
        told += f", at least {plan.min_days:g} days"
    if left is None:
        return told
    at_most = "at most " if days + left >= plan.max_days else "about "
    return f"{told}; {at_most}{left:.1f} days left at this pace"


def _unproven(plan: Plan, difference: Bounds, guards: tuple[Guarded, ...]) -> str:
    over = f"the {plan.max_days:g} days are over"
    if difference.low <= plan.margin:
        told = f"{over}, and {plan.metric} per slate were not shown to be better by {plan.margin:g}"
        return f"{told}: {_numbers(difference)}"
    unsure = [g.name for g in guards if g.state != "holds"]
    return f"{over}, and it was not shown that {listed(unsure)} did not get worse by more than was declared"


def _numbers(bounds: Bounds) -> str:
    return f"{bounds.estimate:+.4g} ({bounds.low:+.4g} to {bounds.high:+.4g})"


def listed(names: Sequence[str]) -> str:
    """Names as people list them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
