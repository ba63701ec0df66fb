"""Owns the shapes of the blocks that go round: `refine`, `agent` and `plan`.

A loop's names (`round`, `candidate`, `task`, …) stand for something only in what its field says it sees.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from penstock.workflow.parts import (
    AdapterName,
    Caps,
    Expression,
    Identifier,
    JsonSchema,
    ModelStep,
    Part,
    Retry,
    SamplingOptions,
    TaskStep,
    Template,
    ToolStep,
)
from penstock.workflow.schemas import embedded

if TYPE_CHECKING:
    from penstock.workflow.definition import Block

LOOP_NAMES: Final = {
    "round": "a refine or a plan",
    "candidate": "a refine",
    "critique": "the `generate` of a refine",
    "answer": "the `stop` of an agent",
    "turn": "the `stop` of an agent",
    "task": "the `do` of a plan",
    "results": "the prompt and the `join` of a plan",
}
"""What only loops put in scope, and where; a step may be called so elsewhere."""


class RefineLoop(Part):
    """How candidates are made and judged. Exactly one of `evaluate` and `score` is given."""

    generate: "Block"
    """Sees `round` (from 0), `candidate` and `critique`: the one before and what was said about it, null at first."""
    evaluate: "Block | None" = None
    """Sees `round` and `candidate`; its output is an object with a number `score` and, where it likes, a `critique`."""
    score: Expression | None = None
    """A number, over `candidate` and `round`."""
    critique: Template | None = None
    """What goes with `score`: text, or the value itself where it is nothing but one `{{ expression }}`."""
    bar: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """A candidate with at least this score is good enough."""
    rounds_max: Annotated[int, Field(ge=1, le=1_000)] = 3
    patience: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Rounds without a better score after which the loop gives up; null: as many as `rounds_max`."""
    on_cap: Literal["best", "fail"] = "best"
    """Whether the best candidate is taken where none reached the bar, or the block fails with `refine_cap`."""
    caps: Caps | None = None
    """What all model calls of the block may spend together."""


class Refine(Part):
    """Generates, judges, and generates again with the critique. The output: {candidate, score, rounds, stopped}."""

    id: Identifier
    refine: RefineLoop


GRANT_KINDS: Final = ("tool", "task")
CALL: Final = "call"
"""What the steps are called that an agent's calls are."""
NO_ARGUMENTS: Final[JsonSchema] = {"type": "object", "properties": {}, "additionalProperties": False}


class GrantedTool(Part):
    """An MCP tool, `server.tool`, that the model may call. Without a schema it takes no argument."""

    tool: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]+\\.[A-Za-z0-9_./-]+$", max_length=256)]
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    arguments_schema: JsonSchema = Field(default_factory=lambda: dict(NO_ARGUMENTS))
    idempotent: bool = False
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    retry: Retry = Retry()

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.tool

    @property
    def schema_of_arguments(self) -> JsonSchema:
        """What a call's arguments must fit."""
        return self.arguments_schema

    def step(self) -> ToolStep:
        """The step that a call of it is, but for its arguments."""
        return ToolStep(
            id=CALL,
            tool=self.tool,
            idempotent=self.idempotent,
            timeout_seconds=self.timeout_seconds,
            retry=self.retry,
        )


class GrantedTask(Part):
    """A Python function registered with @task that the model may call. Without a schema it takes no argument."""

    task: Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_.-]{0,254}$")]
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    input_schema: JsonSchema = Field(default_factory=lambda: dict(NO_ARGUMENTS))
    queue: Identifier = "default"
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    retry: Retry = Retry()

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.task

    @property
    def schema_of_arguments(self) -> JsonSchema:
        """What a call's arguments must fit."""
        return self.input_schema

    def step(self) -> TaskStep:
        """The step that a call of it is, but for its input."""
        return TaskStep(
            id=CALL, task=self.task, queue=self.queue, timeout_seconds=self.timeout_seconds, retry=self.retry
        )


Grant = Annotated[
    Annotated[GrantedTool, Tag("tool")] | Annotated[GrantedTask, Tag("task")],
    Discriminator(lambda value: _grant_kind(value)),
]


class AgentContext(Part):
    """How much of the conversation the model sees; the system message and the prompt it always does.

    `window`: the newest turns. `drop_tool_results`: a short note in the place of the oldest results first.
    `summarise`: the model is asked once for a summary of the older turns, which then stands for them.
    """

    policy: Literal["window", "summarise", "drop_tool_results"] = "window"
    messages_max: Annotated[int, Field(ge=2, le=2_000)] = 40
    """What the model said and what it was told, without the system message and the prompt."""
    bytes_max: Annotated[int, Field(ge=256, le=262_144)] = 65_536
    """Of these messages in UTF-8. The newest turn is always sent; a longer tool result is cut."""


class AgentLoop(Part):
    """The model, the tools that it is granted, and what stops it."""

    model: Identifier
    """The tier; its routes are tried in order."""
    prompt: Template
    system: Template | None = None
    tools: Annotated[list[Grant], Field(min_length=1, max_length=64)]
    output_schema: JsonSchema | None = None
    """What the answer must fit; left out, the answer is text."""
    turns_max: Annotated[int, Field(ge=1, le=1_000)] = 10
    tool_calls_max: Annotated[int, Field(ge=1, le=10_000)] = 30
    """Calls that are sent, over all turns; those that are refused do not count."""
    parallel_calls_max: Annotated[int, Field(ge=1, le=64)] = 4
    """Calls of one turn; they run side by side."""
    repeats_max: Annotated[int, Field(ge=1, le=1_000)] = 2
    """How often the same tool may be called with the same arguments."""
    context: AgentContext = AgentContext()
    stop: Expression | None = None
    """Whether an answer is the end, over `answer` and `turn` (from 0); where it does not hold the model goes on."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 1_024
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    seed: int | None = None
    sampling: SamplingOptions | None = None
    adapter: AdapterName | None = None
    """A LoRA adapter of the model's, by its name in the engines' settings."""
    stream: bool = False
    """Whether what the model says can be watched while it comes, turn by turn, in the JSON of the protocol."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Per attempt of a turn's model call."""
    retry: Retry = Retry()
    caps: Caps | None = None
    """What all model calls of the agent may spend together."""


class Agent(Part):
    """A model calls tools until it has an answer, which is the output."""

    id: Identifier
    agent: AgentLoop


class Planner(Part):
    """Who divides the work: a model that answers with a list of sub-tasks, round by round."""

    model: Identifier
    """The tier; its routes are tried in order."""
    prompt: Template
    """Sees `round` (from 0) and `results`: those of the rounds before, each {task, output}."""
    system: Template | None = None
    """Sees the same."""
    task_schema: JsonSchema = Field(default_factory=lambda: {"type": "string"})
    """Of one sub-task; left out, one is text."""
    tasks_max: Annotated[int, Field(ge=1, le=256)] = 8
    """Sub-tasks of all rounds together."""
    rounds_max: Annotated[int, Field(ge=1, le=100)] = 1
    """How often the planner is asked; a round with no sub-task is the last."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 1_024
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    seed: int | None = None
    sampling: SamplingOptions | None = None
    adapter: AdapterName | None = None
    """A LoRA adapter of the model's, by its name in the engines' settings."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Per attempt of the planner's model call."""
    retry: Retry = Retry()

    def step(self) -> ModelStep:
        """The step that asks the planner, but for how many sub-tasks are left."""
        return ModelStep(
            id=PLANNER,
            model=self.model,
            prompt=self.prompt,
            system=self.system,
            output_schema=self.plan_schema(None),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            sampling=self.sampling,
            adapter=self.adapter,
            timeout_seconds=self.timeout_seconds,
            retry=self.retry,
        )

    def plan_schema(self, tasks_left: int | None) -> JsonSchema:
        """What the planner answers with; `tasks_left` bounds the list for an engine that is guided by this."""
        task, definitions = embedded(self.task_schema)
        tasks: JsonSchema = {"type": "array", "items": task}
        if tasks_left is not None:
            tasks["maxItems"] = tasks_left
        return {
            "type": "object",
            "properties": {"tasks": tasks},
            "required": ["tasks"],
            "additionalProperties": False,
            **definitions,
        }


PLANNER: Final = "plan"
"""What the step is called that asks the planner."""


class Plan(Part):
    """A model divides the work into sub-tasks, one block does each. The output is that of `join`, else `results`."""

    id: Identifier
    plan: Planner
    do: "Block"
    """Sees `task`, `index` (its place in the round) and `round`."""
    join: "Block | None" = None
    """Sees `results`: a list of {task, output} of all rounds."""
    max_concurrency: Annotated[int, Field(ge=1, le=1_024)] = 8
    caps: Caps | None = None
    """What all model calls of the block may spend together."""


def _grant_kind(value: Any) -> str | None:
    """Which kind of grant the mapping or model is; None where it is none or both."""
    present = [kind for kind in GRANT_KINDS if (kind in value if isinstance(value, dict) else hasattr(value, kind))]
    return present[0] if len(present) == 1 else None
