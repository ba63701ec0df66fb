"""A database address that is none fails the start: waiting does not make it right."""

import pytest

from penstock.runtime.errors import SettingsError
from penstock.runtime.postgres import connect_pool


async def test_an_address_that_is_none_is_not_waited_for() -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_POSTGRES_URL"):
        await connect_pool("mysql://127.0.0.1/nowhere")
