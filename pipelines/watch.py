"""A watch that tells by mail which jobs are overdue, even when the scheduler is what died, and who falls behind the
log. The loop that sends letters keeps it (`pipelines/mailing.py`), in a process that knows nothing of the others."""

import logging
from collections.abc import Callable, Sequence

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from pipelines.batch_mode import MirrorAlarm
from pipelines.behind import LagAlarm, Reader
from pipelines.notices import of_lag, of_mirror, of_overdue, of_spool
from pipelines.outbox import post
from pipelines.overdue import SURE_S, Alarm, Late
from pipelines.spool import Fill, SpoolAlarm

log = logging.getLogger("greenlight.watch")


class Watch:
    """Looks as often as it is asked to. A trouble is said once until it is another or over."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.settings = home, settings
        sure_s = min(SURE_S, 60 * settings.schedule.late_minutes)
        self._looks: dict[str, Callable[[], None]] = {
            "whether jobs are overdue": Alarm(home, self._tell_late, sure_s).step,
            "lag": LagAlarm(home, settings, self._tell_lag).step,
            "how full the spool is": SpoolAlarm(home, settings, self._tell_full).step,
            "how the mirror is": MirrorAlarm(home, settings, self._tell_mirror).step,
        }
        self._said = dict.fromkeys(self._looks, "")

    def step(self) -> None:
        """Never raises."""
        for what, look in self._looks.items():
            trouble = ""
            try:
                look()
            except (PlainError, OSError, KeyError, TypeError, AttributeError) as why:  # or a file that is not ours
                trouble = f"{what} cannot be told: {why or type(why).__name__}"
            if trouble and trouble != self._said[what]:
                log.warning(trouble)
            self._said[what] = trouble

    def _tell_late(self, jobs: list[Late]) -> None:
        for job in jobs:
            log.warning("%s %s", job.name, job.what)
        post(self.home, self.settings, of_overdue(self.home, jobs))

    def _tell_lag(self, readers: list[Reader]) -> None:
        for reader in readers:
            log.warning(reader.sentence)
        post(self.home, self.settings, of_lag(self.home, readers))

    def _tell_full(self, fill: Fill) -> None:
        log.warning("the spool fills: %s", fill.sentence)
        post(self.home, self.settings, of_spool(self.home, fill))

    def _tell_mirror(self, news: Sequence[str]) -> None:
        for sentence in news:
            log.warning(sentence)
        post(self.home, self.settings, of_mirror(self.home, news))
