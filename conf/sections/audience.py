"""The simulated audience."""

from datetime import date
from typing import Annotated

from pydantic import Field

from conf.sections.section import Count, Positive, Section, Share

Weight = Annotated[float, Field(ge=0, le=10)]


class AudienceConf(Section):
    """The simulated audience. Sizes are those of a world made from nothing; one fitted to a history takes its own."""

    viewers: Annotated[int, Field(ge=1, le=100_000_000)] = 3000
    movies: Annotated[int, Field(ge=1, le=10_000_000)] = 1500
    days: Annotated[int, Field(ge=1)] = 60  # that `data import simulated` adds
    start: Annotated[date, Field(ge=date(1990, 1, 1), lt=date(2100, 1, 1))] = date(2024, 1, 1)
    visits_per_day: Annotated[float, Field(gt=0, le=2)] = 0.3  # of a viewer, on average
    fitted_visits: Count = 0  # a day, of an audience fitted to a history; 0: as many as it had of late
    lifetime_days: Annotated[float, Field(ge=2)] = 180  # mean, until a viewer stays away; as many arrive
    premieres_per_day: Annotated[float, Field(gt=0, le=10_000)] = 1.0  # new movies
    half_life_days: Positive = 14  # of the news about a new movie
    genre_weight: Weight = 1.2  # spread of a movie's appeal to viewers by its genres, in logits
    factor_weight: Weight = 1.0  # the same by what genres do not tell
    attraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # clicks per look at a movie everyone talks about
    position_bias: Annotated[float, Field(ge=0)] = 0.7  # a slate's p-th place is looked at with p^-bias
    own_share: Share = 0.3  # of visits that ask for no slate: viewers meet movies elsewhere too
    rating_share: Share = 0.7  # of watched movies that are rated
    heartbeat_minutes: Annotated[int, Field(ge=1)] = 45  # of a movie, between the minutes that are told
    yearly: Share = 0.0  # amplitude of the year's season
    shocks_per_month: Annotated[float, Field(ge=0, le=30)] = 1.0  # an old movie is news again, and a day is busy
