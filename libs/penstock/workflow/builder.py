"""Owns how workflows are built in Python: the words of the YAML notation, typed.

    from penstock.workflow import builder as w

    greet = w.workflow(
        name="greet",
        input=w.object_of(name={"type": "string"}),
        tiers={"small": [w.tier_route(pool="small", model="smollm2-135m")]},
        do=w.chain(
            id="main",
            chain=[
                w.model(id="say", model="small", prompt="Say hello to {{ input.name }}."),
                w.task(id="keep", task="letters.keep", input={"text": "{{ say }}"}),
            ],
        ),
    )
    print(w.to_yaml(w.sound(greet)))

Each word is the class of that part of a definition, so a type checker knows its fields and what goes into them, and
every fault that `penstock check` finds in YAML it finds here, in `sound`.
"""

from decimal import Decimal
from typing import Any, Final

from penstock.workflow.checks import check
from penstock.workflow.classify import Classify
from penstock.workflow.definition import Case, Chain, Definition, Map, Parallel, RouteBlock, Sections
from penstock.workflow.dump import given, to_yaml
from penstock.workflow.gates import Gate, Sleep, Until
from penstock.workflow.joins import Election, Quorum, Vote
from penstock.workflow.loops import (
    Agent,
    AgentContext,
    AgentLoop,
    GrantedTask,
    GrantedTool,
    Plan,
    Planner,
    Refine,
    RefineLoop,
)
from penstock.workflow.notation import NotationError
from penstock.workflow.parts import (
    Caps,
    EmbedStep,
    Example,
    ModelStep,
    Money,
    Part,
    Retry,
    RunStep,
    SamplingOptions,
    TaskStep,
    ToolStep,
    UndoTask,
    UndoTool,
)
from penstock.workflow.shapes import closed
from penstock.workflow.tiers import Breaker, Burst, Price, Route, Tier

__all__ = [
    "agent",
    "agent_context",
    "agent_loop",
    "breaker",
    "burst",
    "caps",
    "case",
    "chain",
    "check_gate",
    "classify",
    "election",
    "embed",
    "example",
    "granted_task",
    "granted_tool",
    "map_of",
    "model",
    "money",
    "object_of",
    "parallel",
    "plan",
    "planner",
    "price",
    "quorum",
    "refine",
    "refine_loop",
    "retry",
    "route",
    "run",
    "sampling",
    "sections",
    "sleep",
    "sound",
    "task",
    "tier",
    "tier_route",
    "to_python",
    "to_yaml",
    "tool",
    "undo_task",
    "undo_tool",
    "until",
    "vote",
    "workflow",
]

workflow = Definition
chain = Chain
route = RouteBlock
case = Case
classify = Classify
parallel = Parallel
sections = Sections
map_of = Map
vote = Vote
election = Election
quorum = Quorum
check_gate = Gate
plan = Plan
planner = Planner
sleep = Sleep
until = Until
refine = Refine
refine_loop = RefineLoop
agent = Agent
agent_loop = AgentLoop
agent_context = AgentContext
granted_tool = GrantedTool
granted_task = GrantedTask
model = ModelStep
embed = EmbedStep
example = Example
tool = ToolStep
task = TaskStep
run = RunStep
undo_tool = UndoTool
undo_task = UndoTask
retry = Retry
sampling = SamplingOptions
caps = Caps
money = Money
tier = Tier
tier_route = Route
price = Price
breaker = Breaker
burst = Burst

WORDS: Final[dict[type[Part], str]] = {
    each: name for name, each in list(globals().items()) if name in __all__ and isinstance(each, type)
}
"""What each part of a definition is called here."""
_LINE_CHARACTERS_MAX: Final = 100


def object_of(**fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an object with these fields, all of them, and no other."""
    return closed({name: shape for name, shape in fields.items()})


def sound(definition: Definition) -> Definition:
    """The definition itself. Raises NotationError with all its faults."""
    faults = check(definition)
    if faults:
        raise NotationError(tuple(faults))
    return definition


def to_python(definition: Definition, name: str = "definition") -> str:
    """Python that builds the definition, as the value of `name`."""
    decimals = "from decimal import Decimal\n\n" if "Decimal(" in _written(definition, 0) else ""
    imports = f"{decimals}from penstock.workflow import builder as w\n"
    return f"{imports}\n{name} = {_written(definition, 0)}\n"


def _written(value: Any, depth: int) -> str:
    match value:
        case Part():
            parts = [f"{name}={_written(item, depth + 1)}" for name, item in given(value).items()]
            return _enclosed(f"w.{WORDS[type(value)]}(", parts, ")", depth)
        case dict():
            return _enclosed("{", [f"{key!r}: {_written(item, depth + 1)}" for key, item in value.items()], "}", depth)
        case list():
            return _enclosed("[", [_written(item, depth + 1) for item in value], "]", depth)
        case Decimal():
            return f"Decimal({format(value, 'f')!r})"
        case _:
            return repr(value)


def _enclosed(begin: str, parts: list[str], end: str, depth: int) -> str:
    line = begin + ", ".join(parts) + end
    if len(line) + 4 * depth <= _LINE_CHARACTERS_MAX and "\n" not in line:
        return line
    indent = "    " * depth
    return begin + "".join(f"\n{indent}    {part}," for part in parts) + f"\n{indent}{end}"
