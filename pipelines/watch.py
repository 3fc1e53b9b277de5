"""A watch over the scheduler: tells by mail what is overdue, even when the scheduler is what died. The loop that sends
letters keeps it (`pipelines/mailing.py`), in a process that knows nothing of the scheduler's."""

import logging

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from pipelines.notices import of_overdue
from pipelines.outbox import post
from pipelines.overdue import SURE_S, Alarm, Late

log = logging.getLogger("greenlight.watch")


class Watch:
    """Looks as often as it is asked to. A trouble is said once until it is another or over."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.settings, self._said = home, settings, ""
        sure_s = min(SURE_S, 60 * settings.schedule.late_minutes)
        self._alarm = Alarm(home, self._tell, sure_s)

    def step(self) -> None:
        """Never raises."""
        trouble = ""
        try:
            self._alarm.step()
        except (PlainError, OSError, KeyError, TypeError, AttributeError) as why:  # or a file that is not ours
            trouble = f"whether jobs are overdue cannot be told: {why or type(why).__name__}"
        if trouble and trouble != self._said:
            log.warning(trouble)
        self._said = trouble

    def _tell(self, jobs: list[Late]) -> None:
        for job in jobs:
            log.warning("%s %s", job.name, job.what)
        post(self.home, self.settings, of_overdue(self.home, jobs))
