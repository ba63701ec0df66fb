"""Tests of the task registry and of the checks of inputs and outputs."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

from penstock.workflow.task import InputInvalidError, OutputInvalidError, Task, current, find, registered, task


class Order(BaseModel):
    number: int
    note: str = ""


@dataclass
class Receipt:
    day: date
    total: float


def test_a_function_is_found_under_its_name_and_under_the_one_given() -> None:
    # given two registered functions
    @task
    def test_task_plain(a: int) -> int:
        return a

    @task(name="billing.charge")
    async def charge(amount: int) -> int:
        return amount

    # then both are found, the functions are unchanged, and their kinds are known
    plain, named = find("test_task_plain"), find("billing.charge")
    assert plain is not None
    assert named is not None
    assert (plain.is_async, named.is_async) == (False, True)
    assert test_task_plain(3) == 3
    assert {"test_task_plain", "billing.charge"} <= set(registered())
    assert find("nobody") is None


def test_two_different_functions_cannot_share_a_name() -> None:
    @task(name="taken")
    def first() -> None: ...

    def second() -> None: ...

    with pytest.raises(ValueError, match=r"two tasks are called 'taken'"):
        task(name="taken")(second)


def test_arguments_are_converted_to_their_hints_and_defaults_may_be_left_out() -> None:
    def ship(day: date, items: list[Order], express: bool = False) -> None: ...

    arguments = Task("ship", ship).arguments({"day": "2026-11-21", "items": [{"number": 1}]})

    assert arguments == {"day": date(2026, 11, 21), "items": [Order(number=1)]}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"items": [{"number": "x"}]}, "input.items[0].number"),
        ({}, "input.items: Field required"),
        ({"items": [], "extra": 1}, "input.extra"),
        ([1], "input: "),
    ],
)
def test_an_input_that_misses_names_the_path_and_not_the_value(value: Any, fault: str) -> None:
    def ship(items: list[Order]) -> None: ...

    with pytest.raises(InputInvalidError) as caught:
        Task("ship", ship).arguments(value)

    assert fault in str(caught.value)
    assert "'x'" not in str(caught.value)


def test_a_single_model_parameter_takes_the_whole_input() -> None:
    def place(order: Order) -> None: ...

    assert Task("place", place).arguments({"number": 7}) == {"order": Order(number=7)}


def test_a_task_without_parameters_takes_nothing() -> None:
    def tick() -> None: ...

    assert Task("tick", tick).arguments(None) == {}
    with pytest.raises(InputInvalidError):
        Task("tick", tick).arguments({"a": 1})


def test_parameters_that_have_no_name_are_refused_when_the_task_is_registered() -> None:
    def gather(*parts: int) -> None: ...

    with pytest.raises(TypeError, match="cannot be given by name"):
        task(name="gather")(gather)


def test_outputs_become_json_by_their_annotation() -> None:
    def receipt() -> Receipt: ...  # type: ignore[empty-body]  # only its annotation matters

    def anything():  # type: ignore[no-untyped-def]  # a user's function without hints
        ...

    assert Task("receipt", receipt).output_json(Receipt(date(2026, 1, 2), 1.5)) == b'{"day":"2026-01-02","total":1.5}'
    assert Task("anything", anything).output_json({"a": None, "b": Order(number=1)}) == (
        b'{"a":null,"b":{"number":1,"note":""}}'
    )


def test_an_output_that_misses_its_annotation_or_json_is_refused() -> None:
    def count() -> int: ...  # type: ignore[empty-body]  # only its annotation matters

    def anything() -> Any: ...

    with pytest.raises(OutputInvalidError, match="output: Input should be a valid integer"):
        Task("count", count).output_json("many")
    with pytest.raises(OutputInvalidError, match="not JSON"):
        Task("anything", anything).output_json(object())


def test_there_is_no_current_attempt_outside_a_task() -> None:
    with pytest.raises(LookupError):
        current()
