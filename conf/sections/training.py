"""How candidates are fitted and measured."""

from typing import Annotated, Literal

from pydantic import Field

from conf.sections.section import Count, Positive, Section, Share


class Train(Section):
    models: tuple[str, ...] = ("popularity", "ease", "ranker")
    trials: Count = 0
    minutes: Positive | None = None
    candidate_timeout_minutes: Positive = 30  # a fit that hangs is killed and marked failed
    candidate_memory_mb: Positive = 8192  # a candidate that asks for more fails instead of the machine
    at_once: Annotated[int, Field(ge=1)] = 2  # candidates fitted at the same time
    popularity_trials: Count = 8  # its half-life is always tuned: it is the yardstick
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where networks are fitted; auto: a GPU where there is one


class Evaluate(Section):
    test_days: Annotated[int, Field(ge=1)] = 14
    validation_days: Annotated[int, Field(ge=1)] = 14
    min_viewers: Count = 150  # who liked something; a window with fewer reaches further back, to a third of the history
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    level: Share = 0.95  # of the intervals
