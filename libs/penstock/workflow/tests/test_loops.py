"""Owns the examples of faults in loops that are found before a workflow runs."""

from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_definition, a_model, a_task
from penstock.workflow.checks import check
from penstock.workflow.definition import leaves, tiers_named
from penstock.workflow.loops import LOOP_NAMES
from penstock.workflow.notation import parse, read

SCORED = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "critique": {"type": "string"}},
    "required": ["score"],
}
TEXTS = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def faults(do: dict[str, Any]) -> list[tuple[str, str]]:
    """The faults of a definition: path and message with hint."""
    return [(fault.path, f"{fault.message} ({fault.hint})") for fault in check(a_definition(do))]


def a_refine(**fields: Any) -> dict[str, Any]:
    """A refine `poem` in which a model drafts and another judges."""
    loop = {"generate": a_model("draft"), "evaluate": a_model("judge", output_schema=SCORED), **fields}
    return {"id": "poem", "refine": loop}


def test_a_sound_refine_has_no_faults() -> None:
    draft = a_model(
        "draft", prompt="{{ round }} {{ candidate.text | default('') }} {{ critique }}", output_schema=TEXTS
    )
    judge = a_model("judge", prompt="{{ candidate.text }}", output_schema=SCORED)
    end = a_task("end", input="{{ poem.candidate.text }} {{ poem.score }} {{ poem.rounds }} {{ poem.stopped }}")

    assert faults(a_chain(a_refine(generate=draft, evaluate=judge), end)) == []
    judged = {"evaluate": None, "score": "candidate | length / (round + 1)", "critique": "{{ candidate }}: more"}
    assert faults(a_refine(**judged)) == []


@pytest.mark.parametrize(
    ("do", "path", "says"),
    [
        (a_refine(evaluate=None), "$.do.refine", "needs `evaluate` or `score`, this has neither"),
        (a_refine(score="1"), "$.do.refine", "needs `evaluate` or `score`, this has both"),
        (a_refine(critique="no"), "$.do.refine.critique", "the critique is `evaluate`'s own"),
        (a_refine(evaluate=None, score="1 +"), "$.do.refine.score", "unexpected `)`"),
        (a_refine(evaluate=None, score="candidat"), "$.do.refine.score", "did you mean `candidate`?"),
        (a_refine(evaluate=None, score="critique"), "$.do.refine.score", "only inside the `generate` of a refine"),
        (a_refine(evaluate=None, score="candidate.x"), "$.do.refine.score", "`candidate` is a string and has no field"),
        (a_refine(evaluate=None, score="1", critique="{{ x }}"), "$.do.refine.critique", "nothing is called `x`"),
        (a_refine(evaluate=a_model("judge")), "$.do.refine.evaluate", "must have a number `score`"),
        (a_refine(evaluate=a_model("judge", output_schema=TEXTS)), "$.do.refine.evaluate", "no field `score`"),
        (
            a_refine(
                evaluate=a_model(
                    "judge", output_schema={"properties": {"score": {"type": "string"}}, "required": ["score"]}
                )
            ),
            "$.do.refine.evaluate",
            "its `score` must be a number, it is string",
        ),
        (
            a_refine(generate=a_model("draft", prompt="{{ candidate.x }}")),
            "$.do.refine.generate.prompt",
            "`candidate` is a string and has no field `x`",
        ),
        (a_refine(generate=a_model("critique")), "$.do.refine.generate.id", "choose another id"),
        (
            a_chain(a_model("candidate"), a_task("b", input="{{ candidate }} {{ round }}")),
            "$.do.chain[1].input",
            "only",
        ),
        (a_chain(a_refine(), a_task("end", input="{{ poem.scor }}")), "$.do.chain[1].input", "did you mean `score`?"),
    ],
)
def test_a_fault_in_a_refine_is_named_by_its_path(do: dict[str, Any], path: str, says: str) -> None:
    found = faults(do)

    assert any(at == path and says in message for at, message in found), found


REFINE = """\
name: poem
tiers: {small: [{pool: small, model: m}]}
do:
  id: poem
  refine:
    generate: {id: draft, model: small, prompt: "{{ critique }}"}
    score: candidate | length
    bar: 20
    rounds_max: 4
    on_cap: fail
"""


def test_a_refine_is_written_down() -> None:
    document = read(REFINE)

    assert document.faults == ()
    assert document.definition is not None
    assert parse(document.definition.model_dump(mode="json")).definition == document.definition


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("rounds_max: 4", "round_max: 4", "line 9: $.do.refine.round_max: there is no field `round_max` here (did you"),
        ("generate:", "generat:", "line 5: $.do.refine.generate: the field `generate` is missing"),
        ("model: small", "modl: small", "line 6: $.do.refine.generate: this block has no kind; it needs exactly one"),
        ("rounds_max: 4", "rounds_max: 0", "line 9: $.do.refine.rounds_max: Input should be greater than or equal"),
        ("on_cap: fail", "on_cap: stop", "line 10: $.do.refine.on_cap: Input should be 'best' or 'fail'"),
    ],
)
def test_a_fault_in_a_written_refine_says_its_line(old: str, new: str, fault: str) -> None:
    found = [str(each) for each in read(REFINE.replace(old, new, 1)).faults]

    assert any(fault in text for text in found), found


READ = {"tool": "files.read", "arguments_schema": {"type": "object"}}


def an_agent(**fields: Any) -> dict[str, Any]:
    """An agent `fix` that may read files."""
    return {"id": "fix", "agent": {"model": "small", "prompt": "Fix it.", "tools": [READ], **fields}}


def test_a_sound_agent_has_no_faults() -> None:
    agent = an_agent(output_schema=TEXTS, stop="answer.text != '' and turn < 3", system="{{ run.id }}")

    assert faults(a_chain(agent, a_task("end", input="{{ fix.text }}"))) == []


@pytest.mark.parametrize(
    ("do", "path", "says"),
    [
        (an_agent(model="smal"), "$.do.agent.model", "there is no tier `smal` (did you mean `small`?)"),
        (an_agent(prompt="{{ x }}"), "$.do.agent.prompt", "nothing is called `x` here"),
        (an_agent(system="{{ answer }}"), "$.do.agent.system", "only inside the `stop` of an agent"),
        (an_agent(stop="answr"), "$.do.agent.stop", "did you mean `answer`?"),
        (an_agent(stop="answer.text"), "$.do.agent.stop", "`answer` is a string and has no field `text`"),
        (an_agent(output_schema={"type": 7}), "$.do.agent.output_schema", "not a JSON Schema"),
        (
            an_agent(caps={"tokens": 1_000}),
            "$.do.agent.max_tokens",
            "an answer of 1024 tokens does not fit caps of 1000",
        ),
        (an_agent(tools=[READ, READ]), "$.do.agent.tools[1].tool", "`files.read` is granted twice"),
        (
            an_agent(tools=[{"task": "a.b", "input_schema": {"type": 7}}]),
            "$.do.agent.tools[0].input_schema",
            "not a JSON Schema",
        ),
        (
            an_agent(tools=[{**READ, "arguments_schema": {"type": "array"}}]),
            "$.do.agent.tools[0].arguments_schema",
            "a call's arguments are an object, not array",
        ),
        (a_chain(an_agent(), a_task("end", input="{{ fix.x }}")), "$.do.chain[1].input", "`fix` is a string"),
    ],
)
def test_a_fault_in_an_agent_is_named_by_its_path(do: dict[str, Any], path: str, says: str) -> None:
    found = faults(do)

    assert any(at == path and says in message for at, message in found), found


def test_caps_are_in_the_currency_of_the_prices() -> None:
    price = {"input_per_million": "1", "output_per_million": "1", "currency": "EUR"}
    tiers = {"small": [{"pool": "small", "model": "m", "price": price}]}
    for do in (an_agent(caps={"cost": {"amount": "1"}}), a_refine(caps={"cost": {"amount": "1"}})):
        (fault,) = check(a_definition(do, tiers=tiers))
        assert fault.path.endswith(".caps.cost.currency")
        assert "the caps are in USD, the routes' prices are in EUR" in fault.message


def test_the_budget_has_room_for_an_answer_of_a_loops_model() -> None:
    """Guard: what could never be asked for is found when the workflow is published."""
    price = {"input_per_million": "1", "output_per_million": "1000"}
    tiers = {"small": [{"pool": "small", "model": "m", "price": price}]}
    for do, at in ((an_agent(), "$.do.agent.max_tokens"), (a_plan(), "$.do.plan.max_tokens")):
        (fault,) = check(a_definition(do, budget={"tokens": 1_000}))
        assert (fault.path, fault.message) == (at, "an answer of 1024 tokens does not fit a budget of 1000")
    (fault,) = check(a_definition(an_agent(caps={"cost": {"amount": "1"}}), tiers=tiers))
    assert fault.message == "an answer of 1024 tokens costs 1.024, the caps are 1"


def test_what_an_agent_may_call_and_ask_is_among_its_workflows_steps_and_tiers() -> None:
    """Guard: a queue or a pool that is not there is found when the workflow is published."""
    do = a_definition(an_agent(tools=[READ, {"task": "a.b", "queue": "slow"}])).do

    assert [getattr(step, "queue", None) for step in leaves(do)] == [None, "slow"]
    assert list(tiers_named(do)) == ["small"]
    assert list(tiers_named(a_definition(a_plan()).do)) == ["small", "small"]


AGENT = """\
name: fix
tiers: {small: [{pool: small, model: m}]}
do:
  id: fix
  agent:
    model: small
    prompt: Fix it.
    tools:
      - tool: files.read
        description: Reads a file.
        arguments_schema: {type: object, properties: {path: {type: string}}}
      - task: tasks.find
    context: {policy: summarise}
    caps: {tokens: 9000}
"""


def test_an_agent_is_written_down() -> None:
    document = read(AGENT)

    assert document.faults == ()
    assert document.definition is not None
    assert parse(document.definition.model_dump(mode="json")).definition == document.definition


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "tool: files.read",
            "tol: files.read",
            "line 9: $.do.agent.tools[0]: this grant has no kind; it needs exactly",
        ),
        ("tool: files.read", "tol: files.read", "one of `tool`, `task` (did you mean `tool`?)"),
        ("tool: files.read", "tool: files.read\n        task: a", "this grant has `tool` and `task`; it needs exactly"),
        ("- task: tasks.find", "- tasks.find", "line 12: $.do.agent.tools[1]: a grant is an object with exactly one"),
        ("arguments_schema:", "input_schema:", "there is no field `input_schema` here"),
        ("policy: summarise", "policy: forget", "line 13: $.do.agent.context.policy: Input should be 'window'"),
        ("tokens: 9000", "token: 9000", "line 14: $.do.agent.caps.token: there is no field `token` here (did you mean"),
        ("model: small\n", "modl: small\n", "$.do.agent.model: the field `model` is missing"),
    ],
)
def test_a_fault_in_a_written_agent_says_its_line(old: str, new: str, fault: str) -> None:
    found = [str(each) for each in read(AGENT.replace(old, new, 1)).faults]

    assert any(fault in text for text in found), found


def a_plan(*, do: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A plan `audit`; `join`, `max_concurrency` and `caps` are the block's, all else the planner's."""
    own: dict[str, Any] = {name: fields.pop(name) for name in ("join", "max_concurrency", "caps") if name in fields}
    planner = {"model": "small", "prompt": "Divide it.", "task_schema": FILE, **fields}
    return {"id": "audit", "plan": planner, "do": do if do is not None else a_model("work"), **own}


FILE = {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]}


def test_a_sound_plan_has_no_faults() -> None:
    work = a_model("work", prompt="{{ task.file }} {{ index }} {{ round }}", output_schema=TEXTS)
    each = "{% for one in results %}{{ one.task.file }} {{ one.output.text }}{% endfor %}"
    join = a_model("join", prompt=each, output_schema=SCORED)
    plan = a_plan(do=work, join=join, prompt="{{ round }} " + each, system="{{ results | length }}")

    assert faults(a_chain(plan, a_task("end", input="{{ audit.score }}"))) == []
    end = a_task("end", input="{% for one in audit %}{{ one.output.text }}{% endfor %}")
    assert faults(a_chain(a_plan(do=work), end)) == []


@pytest.mark.parametrize(
    ("do", "path", "says"),
    [
        (a_plan(model="smal"), "$.do.plan.model", "there is no tier `smal` (did you mean `small`?)"),
        (a_plan(prompt="{{ task }}"), "$.do.plan.prompt", "only inside the `do` of a plan"),
        (a_plan(prompt="{{ results[0].x }}"), "$.do.plan.prompt", "has no field `x`"),
        (a_plan(system="{{ x }}"), "$.do.plan.system", "nothing is called `x` here"),
        (a_plan(task_schema={"type": 7}), "$.do.plan.task_schema", "not a JSON Schema"),
        (a_plan(caps={"tokens": 1_000}), "$.do.plan.max_tokens", "an answer of 1024 tokens does not fit caps of 1000"),
        (a_plan(do=a_task("work", input="{{ task.fil }}")), "$.do.do.input", "did you mean `file`?"),
        (a_plan(do=a_task("work", input="{{ results }}")), "$.do.do.input", "only inside the prompt and the `join`"),
        (a_plan(do=a_task("task")), "$.do.do.id", "`task` is what the `do` of a plan calls something here"),
        (a_plan(join=a_task("end", input="{{ task }}")), "$.do.join.input", "only inside the `do` of a plan"),
        (a_plan(join=a_task("end", input="{{ results[0].outptu }}")), "$.do.join.input", "did you mean `output`?"),
        (a_chain(a_plan(), a_task("end", input="{{ audit[0].x }}")), "$.do.chain[1].input", "has no field `x`"),
    ],
)
def test_a_fault_in_a_plan_is_named_by_its_path(do: dict[str, Any], path: str, says: str) -> None:
    found = faults(do)

    assert any(at == path and says in message for at, message in found), found


def test_a_step_may_have_a_loops_name_where_nothing_else_has_it() -> None:
    do = a_chain(*(a_model(name) for name in LOOP_NAMES), a_task("end", input="{{ task }} {{ answer }} {{ round }}"))

    assert faults(do) == []


PLAN = """\
name: audit
tiers: {small: [{pool: small, model: m}]}
do:
  id: audit
  plan:
    model: small
    prompt: Divide it.
    tasks_max: 5
  do: {id: work, model: small, prompt: "{{ task }}"}
  join: {id: sum, model: small, prompt: "{{ results | tojson }}"}
  max_concurrency: 2
"""


def test_a_plan_is_written_down() -> None:
    document = read(PLAN)

    assert document.faults == ()
    assert document.definition is not None
    assert parse(document.definition.model_dump(mode="json")).definition == document.definition


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("tasks_max: 5", "task_max: 5", "line 8: $.do.plan.task_max: there is no field `task_max` here (did you mean"),
        ("tasks_max: 5", "tasks_max: 0", "line 8: $.do.plan.tasks_max: Input should be greater than or equal to 1"),
        ("  do: {id: work,", "  doo: {id: work,", "$.do.do: the field `do` is missing"),
        (
            "join: {id: sum, model",
            "join: {id: sum, modl",
            "line 10: $.do.join: this block has no kind; it needs exactly",
        ),
    ],
)
def test_a_fault_in_a_written_plan_says_its_line(old: str, new: str, fault: str) -> None:
    found = [str(each) for each in read(PLAN.replace(old, new, 1)).faults]

    assert any(fault in text for text in found), found
