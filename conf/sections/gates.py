"""How good a candidate must be before an audience meets it."""

from typing import Annotated

from pydantic import Field

from conf.sections.section import Count, Positive, Section, Share


class InputsGate(Section):
    """Is the data fit to learn from?"""

    min_interactions: Count = 1000
    min_viewers: Count = 50
    min_items: Count = 50
    max_missing_share: Share = 0.2  # of movies without title or genre
    max_duplicate_share: Share = 0.5  # of interactions that repeat viewer, movie and time
    max_unreadable_share: Share = 0.05
    max_age_days: Positive = 14  # newest event against the home's clock


class OfflineGate(Section):
    """A screen before an audience meets the model."""

    margin: Share = 0.02  # how much worse than the champion, relative, its lower bound may be
    min_test_viewers: Count = 100
    max_slice_loss: Share = 0.2  # relative loss against popularity that a slice may show
    min_slice_viewers: Count = 50  # of a slice that is judged
    max_test_over_validation: Positive = 1.5  # relative to popularity's own ratio; more, or less than 1 / it, is a leak
    max_disguise_loss: Share = 0.05  # relative quality lost, lower bound, when viewers and movies are renamed
    max_plausible: Share = 0.9  # NDCG@10 over the full catalogue that nobody reaches honestly


class InfraGate(Section):
    """Will it run?"""

    golden_requests: Annotated[int, Field(ge=2)] = 50
    time_ratio: Positive = 50.0  # median time of a slate over popularity's in the same process
    tail_ms: Positive = 50  # that 95 of 100 slates keep within, where 2 x time_ratio x popularity is no more
    memory_mb: Positive = 1024  # growth of the process while it loads and answers
    load_timeout_s: Positive = 60  # for the fresh process to load the release and answer everything
