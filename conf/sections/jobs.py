"""What runs by itself: by the clock, and all the time."""

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from conf.sections.section import Positive, Section, Share, known_zone, or_nothing


class Drift(Section):
    """Has the audience moved?"""

    window_days: Annotated[int, Field(ge=1, le=3650)] = 7  # whole weeks: a weekend always differs from a weekday
    level: Annotated[float, Field(ge=0.0005, le=0.2)] = 0.01  # of a false alarm in any column of one run
    deals: Annotated[int, Field(ge=0, le=100_000)] = 2000  # permutations; never fewer than 3 x columns / level
    least_change: Share = 0.08  # of a column's shares; premieres change less than that every week, however certain
    min_viewers: Annotated[int, Field(ge=2)] = 50  # sampled, in each window
    max_rows: Annotated[int, Field(ge=100)] = 100_000  # viewer and movie, both windows: Evidently is slow beyond it
    viewer_rows: Annotated[int, Field(ge=1)] = 20  # that one viewer counts for in a column
    max_missing_share: Share = 0.5  # of rows without a value, where the reference had them
    runs_apart_hours: Annotated[float, Field(ge=0)] = 20  # runs closer together are one: a daily job is not punctual


class Retrain(Section):
    """When a retraining is due although the audience is quiet."""

    max_age_days: Positive = 7  # of the data that the newest version learned from, on the home's clock
    new_data_share: Positive = 0.5  # events since then, as a share of those that it held


class Retention(Section):
    """What `greenlight prune` leaves. What is live, aliased, `previous` or in an experiment always stays."""

    snapshots: Annotated[int, Field(ge=1)] = 8  # the newest
    releases: Annotated[int, Field(ge=1)] = 8
    bentos: Annotated[int, Field(ge=1)] = 3
    logged_models: Annotated[int, Field(ge=1)] = 20
    reports_days: Positive = 90  # letters that nobody waits for, too
    log_days: Positive | None = None  # of the log that is read, what is older and archived goes; none: it stays whole


Times = Annotated[str, BeforeValidator(or_nothing)]


class Schedule(Section):
    """The jobs that run by the clock: when (five cron fields in `zone`; empty: never), and for how many minutes of wall
    time at most. Prune goes by the wall; all others by the home's clock."""

    zone: str = "UTC"
    late_minutes: Positive = 10  # a job that is due for so long, and does not run, is told by mail
    experiment: Times = "40 * * * *"  # one look at the running experiment
    experiment_minutes: Positive = 15
    precompute: Times = "15 3 * * *"
    precompute_minutes: Positive = 60
    prune: Times = "30 4 * * *"
    prune_minutes: Positive = 60
    drift: Times = "0 5 * * *"  # the report, mailed
    drift_minutes: Positive = 30
    retrain: Times = "30 5 * * *"  # asked every day; `retrain` says when it is due
    retrain_minutes: Positive = 240

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        return known_zone(zone)


class Workers(Section):
    """The loops that `greenlight up` runs beside the API."""

    archive_every_s: Positive = 5
    reconcile_every_s: Positive = 0.5
    mail_every_s: Positive = 5
