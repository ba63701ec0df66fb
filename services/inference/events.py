"""Owns the names of inference's log events."""

from enum import StrEnum


class Event(StrEnum):
    """Every log event of inference."""

    ENGINE_UP = "engine.up"
    ENGINE_AWAY = "engine.away"
    ACCOUNT_UNSENT = "account.unsent"
    ENERGY_UNREADABLE = "energy.unreadable"
    CALL_FAILED = "call.failed"
    PIECE_LOST = "stream.piece_lost"
    ENGINE_BUILT = "engine.built"
    ENGINE_NOT_BUILT = "engine.not_built"
    ENGINE_DIED = "engine.died"
    ENGINE_HUNG = "engine.hung"
