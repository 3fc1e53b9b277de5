"""How long an A/B must run to find what is worth finding: planned from what came of slates before it begins."""

from dataclasses import dataclass

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import now_ms
from monitoring.experiment import POWER, Plan, days_for
from monitoring.outcomes import per_viewer
from pipelines.outcomes import slates_between

DAY_MS = 86_400_000


class SizingError(PlainError):
    """Nothing is known that an A/B could be sized by."""


@dataclass(frozen=True)
class Size:
    """mean: of the metric per slate, over viewers; sd: of a viewer's mean; days: in which an A/B finds the effect."""

    metric: str
    effect: float  # as a share of the mean
    power: float
    viewers: int  # that were there in `seen_days`
    seen_days: float
    mean: float
    sd: float
    days: float

    @property
    def sentence(self) -> str:
        seen = f"{self.viewers:,} viewers in {self.seen_days:.3g} days, {self.mean:.3g} {self.metric} a slate"
        return (
            f"{seen} with a deviation of {self.sd:.2g}; {self.power:.0%} power for a change of {self.effect:.0%} takes "
            f"{self.days:.3g} days"
        )


def size(home: Home, settings: Settings, *, days: float) -> Size:
    """By the champion's slates of the last days. SizingError where they tell nothing: nobody came, or all likewise."""
    plan, now = Plan.from_settings("size", settings.experiment), now_ms(home, settings)
    found = slates_between(home, settings, since_ms=now - round(days * DAY_MS), until_ms=now)
    viewers = per_viewer(found, settings.experiment)
    means = viewers.means(settings.experiment.metric).mean[viewers.arms == "champion"]
    if len(means) < 2 or means.mean() <= 0 or means.std() == 0:
        raise SizingError(
            f"no A/B can be sized: {len(means):,} viewers were served by the champion in the last {days:g} days of the "
            f"home's clock, and their {plan.metric} tell nothing"
        )
    needed = days_for(plan, means, days)
    return Size(
        plan.metric, plan.effect, POWER, len(means), days, float(means.mean()), float(means.std(ddof=1)), needed
    )
