"""Owns the promise of the checks: what they let through runs, whatever its steps answer within their schemas."""

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from penstock.contracts.messages import InferenceRequested, StepPhase
from penstock.testkit.drawn import NESTED, PLAIN, fitting, sound_definitions
from penstock.workflow.checks import check
from penstock.workflow.definition import BLOCK_KINDS, PARALLEL_KINDS, Definition, every_block
from penstock.workflow.schemas import compile_schema
from services.orchestrator.core.tests.checked import Checked
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.tests.test_machine import tell_anything

TURNS_MAX = 3_000
UNFIT = {"expression_failed"}
"""What a run must not fail with: a missing name, a wrong type."""


def test_every_kind_of_block_is_drawn() -> None:
    """Guard: a new kind of block is drawn, too."""
    assert {*PLAIN, *NESTED} - {"classify"} == {*BLOCK_KINDS, *PARALLEL_KINDS} - {"parallel"}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(definition=sound_definitions(), data=st.data())
def test_what_the_checks_let_through_runs_to_its_end(definition: Definition, data: st.DataObject) -> None:
    # given a definition without faults, and an input that fits
    assert check(definition) == []
    talk = Conversation(definition, data.draw(fitting(definition.input)))
    schemas = _schemas(definition)

    # when every step answers something that fits its schema, or fails
    for _ in range(TURNS_MAX):
        if talk.run.status != "running":
            break
        _answer_one(talk, schemas, data)

    # then the run ends, and nothing failed for a missing name or a wrong type
    assert talk.run.status != "running"
    errors = [step.error for step in talk.run.steps.values()] + [talk.run.error]
    assert [error for error in errors if error is not None and error.code in UNFIT] == []


@settings(
    max_examples=settings().max_examples * 3 // 10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(definition=sound_definitions(), data=st.data())
def test_what_the_checks_let_through_stays_sound_whatever_else_it_is_told(
    definition: Definition, data: st.DataObject
) -> None:
    """Guard: as in test_machine.py, further into the blocks: nothing here ends for an expression."""
    talk = Checked(definition, None, data.draw(fitting(definition.input)))
    schemas = _schemas(definition)
    for _ in range(TURNS_MAX):
        if talk.run.status != "running":
            break
        if data.draw(st.integers(0, 3)):
            _answer_one(talk, schemas, data)
        else:
            tell_anything(talk, data, 1)

    tell_anything(talk, data)


def _schemas(definition: Definition) -> dict[str, dict[str, object]]:
    """What the steps' outputs must fit, by id."""
    return {
        block.id: schema
        for block in every_block(definition.do)
        if (schema := getattr(block, "output_schema", None)) is not None
    }


def _vectors(count: int) -> dict[str, object]:
    return {"type": "array", "minItems": count, "items": {"type": "array", "items": {"type": "number"}}}


def _answer_one(talk: Conversation, schemas: dict[str, dict[str, object]], data: st.DataObject) -> None:
    waiting = [step for step in talk.run.steps.values() if step.phase is StepPhase.WAITING]
    asked = [step for step in waiting if step.kind in ("model", "tool", "task", "run")]
    if not asked:
        talk.ring()
        return
    step = data.draw(st.sampled_from(sorted(asked, key=lambda one: one.path)))
    own = schemas.get(step.path.rpartition("/")[2])
    if step.kind == "run":
        talk.child_ended(step.path, data.draw(fitting(own)), attempt=step.attempt)
        return
    request = talk.requests[step.path, step.attempt]
    schema = own
    if isinstance(request, InferenceRequested):
        schema = request.output_schema if request.inputs is None else _vectors(len(request.inputs))
    if data.draw(st.integers(0, 9)) == 0:
        talk.fail(step.path, attempt=step.attempt)
        return
    output = data.draw(fitting(schema if schema is not None else {"type": "string"}))
    compiled = compile_schema(schema)
    assert compiled is None or compiled.fault(output) is None
    talk.succeed(step.path, output, attempt=step.attempt)
