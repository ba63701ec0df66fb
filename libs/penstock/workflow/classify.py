"""Owns how a model chooses a route's case: what is asked, of which tiers, how sure the answer must be."""

from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints

from penstock.workflow.parts import Identifier, JsonSchema, ModelStep, Part, Retry, Template

CLASSIFY: Final = "classify"
ESCALATE: Final = "escalate"
"""The ids of the model steps that ask, directly below the route."""
REASON_CHARACTERS_MAX: Final = 200

Description = Annotated[str, StringConstraints(max_length=512)]
"""What a case stands for, a template: the classifier reads it beside the case's name."""


class Classify(Part):
    """A model chooses the case and says how sure it is. Its steps are `<route>/classify` and `<route>/escalate`."""

    model: Identifier
    """The tier that is asked first."""
    prompt: Template
    system: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    """Stands before the list of cases, which is added to it."""
    min_confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """With less the choice does not hold: `escalate` is asked, then `otherwise` taken, else the route fails."""
    escalate: Identifier | None = None
    """The tier that is asked where the first was not sure enough."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 128
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Per attempt."""
    retry: Retry = Retry()


def steps_of(classify: Classify, cases: list[tuple[str, str]]) -> tuple[ModelStep, ...]:
    """The model steps that ask for one of `cases` (name, description), in the order in which they are asked."""
    tiers = [(CLASSIFY, classify.model)]
    if classify.escalate is not None:
        tiers.append((ESCALATE, classify.escalate))
    system = _system(classify.system, cases)
    schema = answer_schema([name for name, _ in cases])
    return tuple(
        ModelStep(
            id=step_id,
            model=tier,
            prompt=classify.prompt,
            system=system,
            output_schema=schema,
            max_tokens=classify.max_tokens,
            temperature=classify.temperature,
            timeout_seconds=classify.timeout_seconds,
            retry=classify.retry,
        )
        for step_id, tier in tiers
    )


def answer_schema(cases: list[str]) -> JsonSchema:
    """What the classifier must answer. The order is that in which it is written: the case before its reason."""
    properties: dict[str, Any] = {
        "case": {"enum": cases},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "reason": {"type": "string", "maxLength": REASON_CHARACTERS_MAX},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": ["case", "confidence"],
        "additionalProperties": False,
    }


def _system(own: str | None, cases: list[tuple[str, str]]) -> str:
    listed = [f"- {name}: {description}" if description else f"- {name}" for name, description in cases]
    asked = "Answer in JSON: the case, how confident you are of it from 0 to 1 and, where it helps, a short reason."
    return "\n".join([*([own, ""] if own else []), "Choose one of these cases:", *listed, asked])
