"""Owns the examples of the orchestrator's settings."""

from decimal import Decimal

import pytest

from penstock.runtime.errors import SettingsError
from penstock.runtime.settings import load
from services.orchestrator.settings import OrchestratorSettings

POSTGRES = {"PENSTOCK_POSTGRES_URL": "postgresql://penstock@127.0.0.1/orchestrator"}
BUDGETS = "PENSTOCK_ORCHESTRATOR_TENANT_BUDGETS"


def test_budgets_of_tenants_are_json() -> None:
    text = '{"acme": {"cost": {"amount": 12.5, "currency": "EUR"}, "tokens": 9}, "*": {"model_calls": 3}}'

    budgets = load(OrchestratorSettings, POSTGRES | {BUDGETS: text}).orchestrator_tenant_budgets

    assert budgets["acme"].cost is not None
    assert (budgets["acme"].cost.amount, budgets["acme"].tokens) == (Decimal("12.5"), 9)
    assert budgets["*"].model_calls == 3
    for nothing in ({}, {BUDGETS: ""}):
        assert load(OrchestratorSettings, POSTGRES | nothing).orchestrator_tenant_budgets == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"acme": {"token": 1}}', "ACME.TOKEN: Extra inputs are not permitted"),
        ('{"acme": {"tokens": 0}}', "ACME.TOKENS: Input should be greater than or equal to 1"),
    ],
)
def test_budgets_that_cannot_be_meant_fail_the_start(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(OrchestratorSettings, POSTGRES | {BUDGETS: text})
