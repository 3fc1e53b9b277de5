"""The simulated audience: viewers with known tastes who act by themselves and react to what is served."""

from events.sources.audience.audience import Audience, AudienceError, Visit
from events.sources.audience.shift import Shift, ShiftError

__all__ = ["Audience", "AudienceError", "Shift", "ShiftError", "Visit"]
