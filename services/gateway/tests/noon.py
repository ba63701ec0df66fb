"""Owns when the gateway's tests take place: lately, since a gateway forgets what is old."""

from datetime import UTC, datetime, timedelta

from penstock.runtime.clock import now_ms

NOON = datetime.fromtimestamp(now_ms() / 1000, UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(
    days=1
)
"""Yesterday's."""
