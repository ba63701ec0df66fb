"""A batch waits for company as long as it pays, and not at all where the reader is behind."""

import pytest

from services.gateway.read_models.subscribers import pause_seconds
from services.gateway.settings import GatewaySettings


@pytest.mark.parametrize(
    ("records", "seconds"),
    [(1, 0.05), (249, 0.05), (250, 0.2), (3_999, 0.2), (4_000, 0.0)],
    ids=["lonely", "few", "dense", "very dense", "behind"],
)
def test_a_pause_is_as_long_as_the_stream_is_dense(records: int, seconds: float) -> None:
    settings = GatewaySettings(postgres_url="postgresql://x/y", gateway_gather_ms=50, gateway_batch_records_max=4_000)

    assert pause_seconds(records, settings) == pytest.approx(seconds)
