"""Owns the tests of the definition: sound, and in step with the tasks and their kinds."""

from typing import get_args

import pytest

from examples.licence_audit import tasks
from examples.licence_audit.declared import Kind
from examples.licence_audit.documents import Document, Found, select
from examples.licence_audit.progress import LAST_STEP
from examples.licence_audit.workflow import definition
from penstock.workflow.checks import check
from penstock.workflow.definition import leaves
from penstock.workflow.parts import ModelStep, TaskStep
from penstock.workflow.schemas import compile_schema
from penstock.workflow.task import find

STEPS = {leaf.id: leaf for leaf in leaves(definition().do)}


def test_the_definition_has_no_faults() -> None:
    assert check(definition()) == []


def test_its_tasks_are_registered() -> None:
    named = {step.task for step in STEPS.values() if isinstance(step, TaskStep)}
    assert named == {"licences.read", "licences.tabulate"}
    assert all(find(name) is not None for name in named), tasks.__name__


@pytest.mark.parametrize("step", ["classify", "look_again"])
def test_the_model_chooses_between_the_kinds_that_the_table_knows(step: str) -> None:
    model = STEPS[step]
    assert isinstance(model, ModelStep)
    assert model.output_schema is not None
    assert tuple(model.output_schema["properties"]["kind"]["enum"]) == get_args(Kind)


def test_the_step_that_ends_a_document_exists() -> None:
    assert LAST_STEP in STEPS


def test_what_is_found_fits_the_input() -> None:
    documents = (Document("/licence", "package", "1.0", "MIT"), Document("/other", "other.txt"))
    schema = compile_schema(definition().input)
    assert schema is not None
    assert schema.fault(select(Found(documents, 0, 0), None).input()) is None
    assert schema.fault({"documents": []}) is not None
