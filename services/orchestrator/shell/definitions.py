"""Owns the definitions that runs can start with: first publication wins, the newest of a name is what it means."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from uuid import UUID

import orjson
import structlog
from pydantic import ValidationError

from penstock.contracts.envelope import MalformedEnvelopeError, decode
from penstock.contracts.messages import WorkflowPublished
from penstock.contracts.topics import Deployment
from penstock.runtime.kafka.records import Received
from penstock.workflow.aliases import version_for, versions_of
from penstock.workflow.checks import check
from penstock.workflow.definition import Definition, leaves, tiers_named
from penstock.workflow.parts import TaskStep
from penstock.workflow.publish import same
from penstock.workflow.tiers import routes_of
from services.orchestrator.core.program import Program, compile_definition
from services.orchestrator.core.starting import asked_for, unknown
from services.orchestrator.core.state import Run
from services.orchestrator.shell.aliases import Aliases
from services.orchestrator.shell.inbox import explain
from services.orchestrator.shell.store import Store
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()


class RefusedDefinitionError(ValueError):
    """The published definition cannot be taken; the message says why."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A definition that a run can be pinned to."""

    name: str
    version: str
    program: Program


class Definitions:
    """The catalogue: all definitions by name and version, compiled when first needed."""

    def __init__(self, store: Store, deployment: Deployment) -> None:
        self._store = store
        self.deployment = deployment
        self._bodies: dict[tuple[str, str], bytes] = {}
        self._programs: dict[tuple[str, str], Program] = {}
        self._newest: dict[str, str] = {}
        self.aliases = Aliases()
        self.catch_up: Callable[[], Awaitable[None]] | None = None
        """Waits until everything published so far has been read; set by whoever reads the topic."""

    async def load(self) -> None:
        """Read what is stored already."""
        for name, version, body in await self._store.definitions():
            self._remember(name, version, body)

    async def ensure_known(self, references: Collection[str]) -> None:
        """Before a workflow is called unknown, read what was published until now: it is another topic, read apart."""
        if self.catch_up is not None and not all(map(self._knows, references)):
            await self.catch_up()

    def resolve(self, reference: str, run_key: UUID) -> Resolved | None:
        """What `name` (the newest), `name@version` or `name@alias` means for a run; None when nobody published it.

        A version goes before an alias of the same name: who pins a version gets it. An alias gives the same run the
        same version, whoever resolves it.
        """
        name, at, version = reference.partition("@")
        if not at:
            version = self._newest.get(name, "")
        elif (name, version) not in self._bodies:
            aliased = self.aliases.find(name, version)
            version = version if aliased is None else version_for(aliased, run_key)
        program = self.program(name, version)
        return None if program is None else Resolved(name, version, program)

    def _knows(self, reference: str) -> bool:
        """Whether a reference can be resolved, for whatever run."""
        name, at, version = reference.partition("@")
        if not at:
            return name in self._newest
        if (name, version) in self._bodies:
            return True
        aliased = self.aliases.find(name, version)
        return aliased is not None and all((name, each) in self._bodies for each in versions_of(aliased))

    def program(self, name: str, version: str) -> Program | None:
        """The compiled definition; None when nobody published it."""
        program = self._programs.get((name, version))
        if program is None:
            body = self._bodies.get((name, version))
            if body is None:
                return None
            program = compile_definition(Definition.model_validate_json(body), version)
            self._programs[name, version] = program
        return program

    def of(self, run: Run) -> Program | None:
        """What a run runs; where its request named nothing that was known, what that means now, for a redrive."""
        program = self.program(run.workflow, run.version)
        if program is not None or not unknown(run):
            return program
        resolved = self.resolve(asked_for(run), run.key)
        return None if resolved is None else resolved.program

    async def publish(self, record: Received) -> None:
        """Take a record of workflow.published. Raises RefusedDefinitionError for one that cannot be taken."""
        try:
            _, body = decode(
                record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
            )
            published = WorkflowPublished.model_validate_json(body)
            definition = Definition.model_validate(published.definition)
        except MalformedEnvelopeError as error:
            raise RefusedDefinitionError(str(error)) from error
        except ValidationError as error:
            raise RefusedDefinitionError(explain(error)) from error
        # The order of a schema's properties is kept as its author wrote it: a model writes its answer in that order.
        content = orjson.dumps(published.definition)
        if self._bodies.get((published.name, published.version)) == content:
            return  # taken before, whatever today's checks would say of it
        # A large definition is checked for seconds; runs are decided meanwhile.
        await asyncio.to_thread(self._refuse_what_cannot_run, published, definition)
        kept = await self._store.add_definition(
            published.name, published.version, content, int(published.published_at.timestamp() * 1000)
        )
        self._remember(published.name, published.version, kept)
        if kept != content and not same(orjson.loads(kept), published.definition):
            raise RefusedDefinitionError(
                f"{published.name}@{published.version} is published already with other content; "
                "a definition is immutable: publish it under a new version"
            )
        log.info(OrchestratorEvent.DEFINITION_TAKEN, workflow=published.name, version=published.version)

    def _refuse_what_cannot_run(self, published: WorkflowPublished, definition: Definition) -> None:
        if published.name != definition.name:
            raise RefusedDefinitionError(f"the definition calls itself {definition.name!r}, not {published.name!r}")
        faults = [f"{fault.path}: {fault.message}" for fault in check(definition)]
        queues = {step.queue for step in leaves(definition.do) if isinstance(step, TaskStep)}
        tiers = set(tiers_named(definition.do))
        pools = {route.pool for tier in tiers for route in routes_of(definition.tiers.get(tier, ()))}
        faults += [
            f"queue {queue!r} does not exist here (there are: {', '.join(self.deployment.queues)})"
            for queue in sorted(queues - set(self.deployment.queues))
        ]
        faults += [
            f"pool {pool!r} does not exist here (there are: {', '.join(self.deployment.pools)})"
            for pool in sorted(pools - set(self.deployment.pools))
        ]
        if faults:
            raise RefusedDefinitionError("; ".join(faults))

    def _remember(self, name: str, version: str, body: bytes) -> None:
        if (name, version) not in self._bodies:
            self._bodies[name, version] = body
            self._newest[name] = version
