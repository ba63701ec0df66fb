"""Owns the gateway's settings."""

import ipaddress

from pydantic import Field, field_validator

from penstock.runtime.settings import Names, PostgresSettings, ServiceSettings


class GatewaySettings(ServiceSettings, PostgresSettings):
    """PENSTOCK_GATEWAY_… on top of what all services share."""

    gateway_host: str = Field(default="127.0.0.1", description="a loopback address: there is no authentication yet")
    gateway_port: int = Field(default=8080, ge=0, le=65535, description="0 takes a free port and logs it")
    gateway_url: str = Field(default="", description="where people reach this gateway; the command line reads it")
    gateway_tenants: Names = Field(default=(), description="the tenants that may start runs; none named: any")
    gateway_body_bytes_max: int = Field(default=512 * 1024, ge=1024, le=16 * 1024 * 1024)
    """A larger HTTP body is refused, where it is neither a run's request nor a blob."""
    gateway_input_bytes_max: int = Field(default=32 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """A larger HTTP body that starts a run or is a blob is refused unread; a value in it may have 16 MiB."""
    gateway_batch_records_max: int = Field(default=4_000, ge=1, le=100_000)
    """Records per batch, and so per transaction, of the read side."""
    gateway_gather_ms: int = Field(default=50, ge=0, le=5_000)
    """What a batch waits for company; four times as long where records come densely."""
    gateway_streams_max: int = Field(default=256, ge=1, le=100_000)
    """Live event streams open at a time."""
    gateway_text_streams_max: int = Field(default=64, ge=1, le=10_000)
    """Streams of answers that are watched while they come, at a time: each has a Kafka consumer of its own."""
    gateway_stream_seconds_max: float = Field(default=3_600.0, gt=0, le=86_400)
    """How long one live stream may last; its client reconnects where it was."""
    gateway_runs_retention_days: float = Field(default=30.0, gt=0, le=3_660)
    """How long finished runs can be read."""
    gateway_ledger_retention_days: float = Field(default=400.0, gt=0, le=3_660)
    """How long usage and cost can be read."""
    gateway_accepted_retention_hours: float = Field(default=24.0, gt=0, le=8_760)
    """How long an Idempotency-Key is remembered."""

    @field_validator("gateway_host")
    @classmethod
    def _loopback_only(cls, host: str) -> str:
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if not loopback:
            raise ValueError(
                f"{host!r} is not a loopback address. The gateway has no authentication yet, so it listens on this "
                "machine only; put a proxy that authenticates in front of 127.0.0.1"
            )
        return host
