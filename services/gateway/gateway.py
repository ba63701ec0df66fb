"""Owns the parts of one gateway that requests use."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from penstock.runtime.blobs import Blobs
from services.gateway.acceptance import Acceptance
from services.gateway.definitions import Definitions
from services.gateway.engines import Engines
from services.gateway.lag import LagProbe
from services.gateway.live import Live
from services.gateway.pieces import Pieces
from services.gateway.read_models.costs import Ledger
from services.gateway.read_models.reader import Reader
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import Instruments


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a request finds at `app.state.gateway`."""

    settings: GatewaySettings
    reader: Reader
    ledger: Ledger
    acceptance: Acceptance
    blobs: Blobs
    definitions: Definitions
    live: Live
    pieces: Pieces
    lag: LagProbe
    engines: Engines
    asyncapi: Callable[[], dict[str, Any]]
    instruments: Instruments
    stop: asyncio.Event = field(default_factory=asyncio.Event)
