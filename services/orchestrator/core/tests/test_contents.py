"""Owns the stories of runs whose values travel as references: who looks into them, and what that needs."""

from typing import Any

import orjson
import pytest

from penstock.contracts.blobs import Reference, externalised, reference_of
from penstock.testkit.builders import a_chain, a_model, a_task, a_tool, an_embedding
from penstock.workflow.whole import ContentNeededError, UnreadableError
from services.orchestrator.core.contents import Contents, RunContents
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.tests.conversation import Conversation

DOCUMENT = "All about pipes. " * 6_000
LIST = [f"{number} " + "x" * 900 for number in range(100)]


class Store:
    """The contents that a run's shell has read."""

    def __init__(self) -> None:
        self.contents = Contents(1_000_000)
        self.facts = Facts(contents=self.contents)

    def holding(self, value: Any, tenant: str = "default") -> Any:
        """The value as it travels, its contents known."""
        small = externalised(value)
        for reference, content in small.contents.items():
            self.contents.put(tenant, reference, orjson.loads(content))
        return small.value


@pytest.fixture
def store() -> Store:
    return Store()


def talk_of(store: Store, do: dict[str, Any], given: Any = None, **fields: Any) -> Conversation:
    return Conversation(do, given, facts=store.facts, **fields)


def test_a_value_that_is_passed_on_stays_a_reference() -> None:
    given = externalised({"document": DOCUMENT, "language": "en"}).value
    block = a_chain(a_task("read", input="{{ input.document }}"), a_task("sum", input={"all": "{{ read }}"}))
    talk = talk_of(Store(), block, given)

    assert talk.inputs() == [given["document"]]
    talk.succeed("main/read", given["document"])
    assert talk.inputs() == [{"all": given["document"]}]
    talk.succeed("main/sum", given)
    assert talk.run.output == given


def test_a_prompt_holds_what_the_reference_stands_for(store: Store) -> None:
    given = store.holding({"document": DOCUMENT, "language": "en"})

    talk = talk_of(store, a_model("sum", prompt="In {{ input.language }}: {{ input.document }}"), given)

    assert talk.model_call().messages[-1].content == f"In en: {DOCUMENT}"


def test_what_is_embedded_is_what_the_reference_stands_for(store: Store) -> None:
    given = store.holding({"names": LIST, "document": DOCUMENT})

    assert talk_of(store, an_embedding("all", input="{{ input.names }}"), given).model_call().inputs == LIST
    assert talk_of(store, an_embedding("one", input="{{ input.document }}"), given).model_call().inputs == [DOCUMENT]


def test_what_is_not_known_ends_the_decision_and_says_what_it_needs() -> None:
    given = externalised({"document": DOCUMENT}).value

    with pytest.raises(ContentNeededError) as needed:
        talk_of(Store(), a_model("sum", prompt="{{ input.document }}"), given)

    assert (needed.value.tenant, needed.value.references) == ("default", [reference_of(given["document"])])


def test_a_map_runs_over_a_list_that_travels_as_a_reference(store: Store) -> None:
    given = store.holding({"names": LIST})
    parallel = {"map": "input.names", "max_concurrency": 2, "do": a_task("one", input="{{ item }}")}

    talk = talk_of(store, {"id": "each", "parallel": parallel}, given)

    assert talk.run.steps["each"].output == len(LIST)
    assert talk.inputs() == LIST[:2]
    talk.succeed("each[0]/one", 1)
    assert talk.inputs() == LIST[2:3]


def test_a_schema_is_of_the_whole_value(store: Store) -> None:
    schema = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "maxLength": 10**6}}}
    talk = talk_of(store, a_task("work", output_schema=schema))

    talk.succeed("work", store.holding({"text": DOCUMENT}))
    assert talk.run.status == "completed"

    talk = talk_of(store, a_task("work", output_schema=schema))
    talk.succeed("work", store.holding({"text": LIST}))
    error = talk.run.steps["work"].error
    assert error is not None
    assert error.code == "output_invalid"
    assert "$.text" in error.message


def test_an_input_that_misses_its_schema_inside_a_reference_is_refused(store: Store) -> None:
    definition = talk_of(store, a_task("work")).definition
    schema = {"type": "object", "properties": {"names": {"type": "array", "items": {"type": "integer"}}}}

    talk = talk_of(store, definition.model_copy(update={"input": schema}), store.holding({"names": LIST}))  # type: ignore[arg-type]  # a definition does as well

    assert talk.run.error is not None
    assert talk.run.error.message.startswith("the input misses the workflow's schema at $.names[0]")


@pytest.mark.parametrize(
    ("do", "code"),
    [
        (a_model("sum", prompt="{{ input.document }}"), "expression_failed"),
        ({"id": "sum", "parallel": {"map": "input.document", "do": a_task("one")}}, "expression_failed"),
        (a_chain({"id": "gate", "check": "input.document"}, step_id="sum"), "expression_failed"),
    ],
)
def test_what_cannot_be_read_fails_what_looks_into_it(store: Store, do: dict[str, Any], code: str) -> None:
    given = store.holding({"document": LIST})
    reference = reference_of(given["document"])
    assert reference is not None
    store.contents.refuse("default", reference, "the blob is corrupt")

    talk = talk_of(store, do, given)

    assert talk.run.error is not None
    assert talk.run.error.code == code
    assert "the blob is corrupt" in talk.run.error.message


def test_an_output_that_cannot_be_read_is_asked_for_again(store: Store) -> None:
    talk = talk_of(store, a_task("work", output_schema={"type": "object"}, retry={"attempts": 2, "initial_ms": 1_000}))
    output = store.holding({"text": DOCUMENT})
    reference = reference_of(output["text"])
    assert reference is not None
    store.contents.refuse("default", reference, "the blob is corrupt")

    talk.succeed("work", output)

    assert talk.run.steps["work"].error is not None
    assert talk.run.steps["work"].error.code == "blob_unreadable"
    talk.ring()
    assert talk.asked() == ["work#2"]


def test_an_agent_is_told_what_its_tools_large_output_says(store: Store) -> None:
    grant = {"tool": "files.read", "arguments_schema": {"type": "object"}}
    loop = {"model": "small", "prompt": "Go.", "tools": [grant], "context": {"bytes_max": 2_000}}
    talk = talk_of(store, {"id": "solve", "agent": loop})
    talk.succeed("solve[0]/turn", {"calls": [{"tool": "files.read"}]})

    talk.succeed("solve[0]/call[0]", store.holding(LIST))

    assert LIST[0] in talk.model_call().messages[-1].content


def lost(store: Store, value: Any) -> Any:
    """The value as it travels; what its references stand for cannot be read."""
    small = externalised(value)
    for reference in small.contents:
        store.contents.refuse("default", reference, "the blob is corrupt")
    return small.value


def test_an_agent_is_told_that_an_output_cannot_be_read(store: Store) -> None:
    grant = {"tool": "files.read", "arguments_schema": {"type": "object"}}
    talk = talk_of(store, {"id": "solve", "agent": {"model": "small", "prompt": "Go.", "tools": [grant]}})
    talk.succeed("solve[0]/turn", {"calls": [{"tool": "files.read"}]})

    talk.succeed("solve[0]/call[0]", lost(store, LIST))

    assert "blob_unreadable: the blob is corrupt" in talk.model_call().messages[-1].content


def test_a_vote_over_what_cannot_be_read_fails(store: Store) -> None:
    election = {"do": a_task("ballot"), "votes": 3, "agree": 2}
    talk = talk_of(store, {"id": "jury", "parallel": {"vote": election}})

    talk.succeed("jury[0]/ballot", lost(store, {"text": DOCUMENT}))

    assert talk.run.error is not None
    assert talk.run.error.message == "vote: the blob is corrupt"


def test_a_vote_is_by_what_references_stand_for(store: Store) -> None:
    election = {"do": a_task("ballot"), "votes": 3, "agree": 2}
    talk = talk_of(store, {"id": "jury", "parallel": {"vote": election}})
    first, second = store.holding([{"a": 1, "b": DOCUMENT}]), store.holding([{"b": DOCUMENT, "a": 1.0}])

    talk.succeed("jury[0]/ballot", first)
    talk.succeed("jury[2]/ballot", second)

    assert talk.run.output == {"winner": first, "agree": 2, "ballots": [first, None, second]}


def test_an_undo_is_asked_with_the_reference(store: Store) -> None:
    undo = {"task": "tasks.back", "input": {"of": "{{ output }}", "length": "{{ output.text | length }}"}}
    talk = talk_of(store, a_chain(a_task("work", undo=undo), a_tool("next")))
    output = store.holding({"text": DOCUMENT})
    talk.succeed("main/work", output)

    talk.fail("main/next")

    assert talk.inputs() == [{"of": output, "length": len(DOCUMENT)}]


def test_a_run_sees_the_contents_of_its_tenant_only(store: Store) -> None:
    """Guard: who knows a digest has not what another tenant stored under it."""
    reference = reference_of(store.holding(DOCUMENT))
    assert reference is not None

    with pytest.raises(ContentNeededError) as needed:
        RunContents(store.contents, "blue-river", refers=True).find([reference])

    assert needed.value.tenant == "blue-river"


def test_contents_are_kept_by_tenant_and_the_oldest_are_forgotten_between_batches() -> None:
    contents = Contents(250)
    first, second, third = (Reference(f"0{number}" * 32, 100) for number in range(3))
    for reference in (first, second, third):
        contents.put("acme", reference, reference.digest)
    with pytest.raises(ContentNeededError):
        contents.find("blue-river", [first])
    assert contents.find("acme", [first, second, third])[third] == third.digest

    contents.find("acme", [first])
    contents.trim()

    assert contents.size_bytes == 200
    with pytest.raises(ContentNeededError):
        contents.find("acme", [second])
    assert contents.find("acme", [first, third]).keys() == {first, third}


def test_a_reference_that_says_another_size_has_not_the_content() -> None:
    """Guard: what references stand for is bounded by what they say, so a wrong one must be found out."""
    contents = Contents(1_000)
    contents.put("acme", Reference("0a" * 32, 100), "large")

    with pytest.raises(ContentNeededError):
        contents.find("acme", [Reference("0a" * 32, 0)])
    contents.refuse("acme", Reference("0a" * 32, 0), "its reference says 0")

    assert list(contents.find("acme", [Reference("0a" * 32, 100)]).values()) == ["large"]


def test_a_fault_holds_for_one_batch_only() -> None:
    contents, reference = Contents(100), Reference("0a" * 32, 10)
    contents.refuse("acme", reference, "lost")
    with pytest.raises(UnreadableError, match="lost"):
        contents.find("acme", [reference])

    contents.trim()

    with pytest.raises(ContentNeededError):
        contents.find("acme", [reference])
