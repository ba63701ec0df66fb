"""Owns the promise that different causes never share an id, and that the same cause always has the same."""

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts import ids

tenants = st.from_regex(ids.TENANT_PATTERN, fullmatch=True)
run_ids = st.from_regex(ids.RUN_ID_PATTERN, fullmatch=True)
texts = st.text(max_size=40)
pieces = st.text(alphabet="a/#.1", min_size=1, max_size=6)
"""Few characters, separators among them: pairs that read the same when they are joined come up soon."""


@given(st.tuples(tenants, run_ids), st.tuples(tenants, run_ids))
def test_run_keys_are_equal_only_for_the_same_tenant_and_run_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (ids.run_key(*one) == ids.run_key(*other)) is (one == other)


@given(tenants, st.integers(1, 62), run_ids)
def test_no_boundary_between_tenant_and_run_id_can_move(tenant: str, cut: int, run_id: str) -> None:
    moved = (tenant[:cut], f"{tenant[cut:]}/{run_id}")

    assert moved[0] == tenant or ids.run_key(tenant, run_id) != ids.run_key(*moved)


@given(st.tuples(pieces, pieces), st.tuples(pieces, pieces))
def test_run_ids_from_events_are_equal_only_for_the_same_source_and_id(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (ids.run_id_from_event(*one) == ids.run_id_from_event(*other)) is (one == other)


def test_a_run_id_from_an_event_does_not_depend_on_where_source_ends_and_id_begins() -> None:
    assert ids.run_id_from_event("/shop", "eu/1") != ids.run_id_from_event("/shop/eu", "1")


@given(st.tuples(pieces, st.integers(1, 20)), st.tuples(pieces, st.integers(1, 20)))
def test_request_ids_are_equal_only_for_the_same_step_and_attempt(one: tuple[str, int], other: tuple[str, int]) -> None:
    run = ids.run_key("default", "order-4711")
    steps = [(path.replace("#", "/"), attempt) for path, attempt in (one, other)]  # a path has no hash sign

    assert (ids.request_id(run, *steps[0]) == ids.request_id(run, *steps[1])) is (steps[0] == steps[1])


@given(st.uuids(), texts)
def test_event_ids_are_uuids_of_version_5(cause: UUID, name: str) -> None:
    assert ids.event_id(cause, name) == str(uuid5(cause, name))


@given(run_ids)
def test_a_derived_run_id_is_a_run_id(source: str) -> None:
    assert ids.RUN_ID_PATTERN.fullmatch(ids.run_id_from_event(source, "1"))
    assert ids.RUN_ID_PATTERN.fullmatch(ids.run_id_from_position("penstock.run.requested.v1", 3, 17))


def test_ids_stay_what_they_are() -> None:
    # A changed derivation would start runs twice and pay for finished steps again: these values never change.
    run = ids.run_key("acme", "order-4711")

    assert str(run) == "85595bfa-c9ec-544d-b6dc-9529d1e5a867"
    assert str(ids.request_id(run, "audit/documents[3]/classify", 1)) == "807e7483-7927-5bea-91a4-f9878e76eb2c"
    assert ids.event_id(run, "finished") == "cbf94153-5e6a-5912-8212-64eaf48c1c07"
    assert ids.run_id_from_event("https://shop.example/orders", "4711") == "28f36d61-d33a-599c-81e5-84df808fc6ed"
    assert ids.run_id_from_position("penstock.run.requested.v1", 0, 0) == "eeb8b462-95e7-535a-bb6e-5bb7a8ffb97f"
    assert ids.traceparent(run.hex, ids.span_id(run)) == f"00-{run.hex}-{run.hex[:16]}-01"
