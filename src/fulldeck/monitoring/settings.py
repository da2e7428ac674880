"""What a server is held to, and how often Prometheus looks."""

from __future__ import annotations

from fulldeck.declared import Declared
from fulldeck.param import param

CARRIED = "monitoring"
"""Label under which a package carries its Monitoring."""


class Monitoring(Declared):
    """Thresholds of the rules."""

    interval_s: int = param(
        5,
        ge=1,
        le=300,
        doc="Seconds between two samples: of scrapes and evaluations of rules.",
        search=(5, 15),
    )
    low_utilisation: float = param(
        0.3, gt=0, lt=1, doc="Utilisation below which a sample counts as low.", search=(0.2, 0.3, 0.4)
    )
    samples: int = param(
        3, ge=2, le=100, doc="Consecutive low samples after which the alert for scale-in fires."
    )
    latency_ms: int = param(100, ge=1, le=30_000, doc="Milliseconds that a good answer takes at most.")
    fast_share: float = param(0.99, gt=0, lt=1, doc="Share of answers that must be good in time.")
    served_share: float = param(0.999, gt=0, lt=1, doc="Share of requests that must not end with 429 or 5xx.")
