"""Owns the parts that every block is made of: names, limits, retries, routes, and the leaves that do work elsewhere."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from penstock.contracts.body import Currency, DecimalString
from penstock.contracts.model_calls import CHOICES_MAX, INPUTS_MAX, LOGPROBS_MAX, STOPS_MAX

Identifier = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,62}$")]
WorkflowName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,126}$")]
Version = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Template = Annotated[str, StringConstraints(max_length=65536)]
JsonSchema = dict[str, Any]


class Part(BaseModel):
    """What every part of a definition shares: closed, so that a misspelled field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


RetriedMove = Literal["retry_after", "retry_elsewhere", "repair_output"]
"""What a failure can ask for that is another attempt; its names are those of NextMove."""
RETRIED_MOVES: Final[tuple[RetriedMove, ...]] = ("retry_after", "retry_elsewhere", "repair_output")


class Money(Part):
    """An amount with its currency (ISO 4217)."""

    amount: Annotated[DecimalString, Field(ge=0, allow_inf_nan=False)]
    currency: Currency = "USD"


class Caps(Part):
    """What may be spent at most: model calls, tokens (input and output), money. What is left out is not capped."""

    model_calls: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    cost: Money | None = None


class Retry(Part):
    """Exponential back-off with full jitter: before attempt n, random in [0, min(max, initial * 2**(n-2))] ms.

    A failure that asks for something that `on` does not list ends the step.
    """

    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    initial_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 500
    max_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 30_000
    on: list[RetriedMove] = Field(default_factory=lambda: list(RETRIED_MOVES))


class Leaf(Part):
    """What all steps share that do work elsewhere."""

    id: Identifier
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Per attempt, from dispatch to answer."""
    step_timeout_seconds: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    """Over all attempts of the step and the waits between them; left out, the run's deadline bounds them."""
    retry: Retry = Retry()
    undo: "UndoStep | None" = None
    """What takes a completed step back where the run fails or is cancelled; its templates see `output` as well."""


class Example(Part):
    """An exchange that is shown to the model before it is asked: what might be said, and the answer to it."""

    user: Template
    assistant: Template


class SamplingOptions(Part):
    """How tokens are drawn, beside the temperature. What is left out is the engine's default."""

    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Only the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Only so many of the likeliest tokens."""
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Only tokens with this share of the likeliest one's probability."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    """Against tokens by how often they were said."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None = None
    """Against tokens that were said at all."""
    stop: (
        Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=STOPS_MAX)]
        | None
    ) = None
    """The answer ends before any of these texts."""
    logprobs: Annotated[int, Field(ge=0, le=LOGPROBS_MAX)] | None = None
    """`inference.completed` has each token's log probability, with this many of the likeliest beside it."""


AdapterName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _kind_of_choices(value: Any) -> str | None:
    return "expression" if isinstance(value, str) else "texts" if isinstance(value, list) else None


Choices = Annotated[
    Annotated[
        list[Annotated[str, StringConstraints(min_length=1)]],
        Field(min_length=1, max_length=CHOICES_MAX),
        Tag("texts"),
    ]
    | Annotated[Expression, Tag("expression")],
    Discriminator(
        _kind_of_choices,
        custom_error_type="choices",
        custom_error_message="choices are a list of texts, or an expression that gives one",
    ),
]


class ModelStep(Leaf):
    """One model call. Its output is the text, or the parsed JSON where `output_schema` is given."""

    model: Identifier
    """The tier; its routes are tried in order."""
    prompt: Template
    system: Template | None = None
    examples: Annotated[list[Example], Field(max_length=64)] = Field(default_factory=list)
    """Shown between `system` and `prompt`, in their order."""
    output_schema: JsonSchema | None = None
    choices: Choices | None = None
    """The answer is one of these texts: a list of them, or an expression that gives one."""
    regex: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    """The answer matches it from beginning to end; of linear time: no look-around, no references."""
    images: Expression | None = None
    """An expression that gives a blob reference of an image, or a list of them: seen before `prompt`."""
    adapter: AdapterName | None = None
    """A LoRA adapter of the model's, by its name in the engines' settings."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 256
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    seed: int | None = None
    sampling: SamplingOptions | None = None
    on_overflow: Literal["refuse", "clamp"] = "refuse"
    """Where prompt and `max_tokens` are more than the model holds: the call fails, or the answer gets what is left."""
    stream: bool = False
    """Whether the answer can be watched while it comes."""


def _kind_of_texts(value: Any) -> str | None:
    return "template" if isinstance(value, str) else "templates" if isinstance(value, list) else None


class EmbedStep(Leaf):
    """One embedding. Its output is a list of vectors, one for each text, in their order: of one text a list of one."""

    embed: Identifier
    """The tier; its routes are tried in order, and their models must be such that embed."""
    input: Annotated[
        Annotated[Template, Tag("template")]
        | Annotated[list[Template], Field(min_length=1, max_length=INPUTS_MAX), Tag("templates")],
        Discriminator(
            _kind_of_texts,
            custom_error_type="embed_input",
            custom_error_message="what is embedded is a template that gives a text or a list of texts, or a list of "
            "templates",
        ),
    ]
    """A template that gives a text or a list of texts, or a list of templates that give a text each."""


class ToolStep(Leaf):
    """One call of an MCP tool, `server.tool`. The step is granted this tool and no other."""

    tool: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]+\\.[A-Za-z0-9_./-]+$", max_length=256)]
    arguments: dict[str, Any] = Field(default_factory=dict)
    output_schema: JsonSchema | None = None
    idempotent: bool = False


class TaskStep(Leaf):
    """One call of a Python function registered with @task."""

    task: Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_.-]{0,254}$")]
    input: Any = Field(default_factory=dict)
    queue: Identifier = "default"
    output_schema: JsonSchema | None = None


class RunStep(Leaf):
    """A run of another workflow, `name` (its latest version) or `name@version`. Its output is that run's.

    With `wait: false` the step is over when the run has been asked for; its output is `{"run_id": …}`.
    """

    run: Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,126}(@[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")]
    input: Any = Field(default_factory=dict)
    wait: bool = True
    labels: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=63)],
            Annotated[str, StringConstraints(max_length=256)],
        ],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Beside those of the run that asks."""
    budget: Caps | None = None
    """What the run may spend, at most what is left of its parent's; reserved until it ends."""
    timeout_seconds: Annotated[float, Field(gt=0, le=31_536_000)] = 3_600.0
    retry: Retry = Retry(attempts=1)
    output_schema: JsonSchema | None = None


class UndoTool(ToolStep):
    """An MCP tool that undoes a step."""

    id: Literal["undo"] = "undo"
    undo: None = None


class UndoTask(TaskStep):
    """A Python function that undoes a step."""

    id: Literal["undo"] = "undo"
    undo: None = None


UNDO_KINDS: Final = ("tool", "task")
UndoStep = Annotated[
    Annotated[UndoTool, Tag("tool")] | Annotated[UndoTask, Tag("task")],
    Discriminator(lambda value: field_of(value, UNDO_KINDS)),
]


def field_of(value: Any, names: tuple[str, ...]) -> str | None:
    """Which one of `names` the mapping or model has; None where it has none or several."""
    present = [name for name in names if (name in value if isinstance(value, dict) else hasattr(value, name))]
    return present[0] if len(present) == 1 else None


for _model in (Leaf, ModelStep, EmbedStep, ToolStep, TaskStep, RunStep, UndoTool, UndoTask):
    _model.model_rebuild()
