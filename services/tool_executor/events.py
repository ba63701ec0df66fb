"""Owns the names of the tool executor's log events."""

from enum import StrEnum


class Event(StrEnum):
    """Every log event of the tool executor."""

    SERVER_UP = "server.up"
    SERVER_AWAY = "server.away"
    TOOL_REFUSED = "tool.refused"
    CALL_FAILED = "call.failed"
