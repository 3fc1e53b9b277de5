"""How an A/B is judged."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.sections.section import Section

Guarded = Literal["likes", "clicks", "watch_minutes", "served"]
GUARDRAILS: dict[Guarded, float] = {"served": 0.02, "watch_minutes": 0.2}


class Experiment(Section):
    """What came of slates, and how two arms are compared by it. What a plan declared holds until its end."""

    metric: Literal["likes", "clicks", "watch_minutes"] = "likes"  # per slate; a viewer's mean is what is compared
    window_hours: Annotated[float, Field(gt=0, le=8760)] = 24  # after a slate, in which what happens counts for it
    max_slates_per_user_day: Annotated[int, Field(ge=1)] = 100  # a viewer with more on any UTC day is no person
    margin: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0  # to be better by, in units of the metric
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95  # of the confidence sequence
    effect: Annotated[float, Field(gt=0, le=100)] = 0.1  # worth finding, as a share of the champion's mean
    min_days: Annotated[float, Field(ge=0, le=3650)] = 7  # a whole week: weekends are not like other days
    max_days: Annotated[float, Field(gt=0, le=3650)] = 28
    min_users: Annotated[int, Field(ge=10)] = 200  # of each arm
    guardrails: dict[Guarded, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=lambda: {**GUARDRAILS}
    )  # the largest loss, as a share of the champion's mean, that may remain possible; served: from no fallback
    auto: bool = False  # a version that won its A/B becomes champion without the lead

    @model_validator(mode="after")
    def _may_end(self) -> "Experiment":
        if self.max_days < self.min_days:
            raise ValueError(f"max_days {self.max_days:g} is below min_days {self.min_days:g}")
        return self
