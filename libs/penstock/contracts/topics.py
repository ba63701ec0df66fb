"""Owns the registry: which topics there are, what they carry, who publishes and who consumes each.

The runtime derives subscriptions from it and refuses a publish that it does not list; schemas, broker topics,
AsyncAPI and the README's diagram are generated from it.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from string import Formatter
from typing import Generic, TypeVar

from penstock.contracts import messages as m

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


class Service(StrEnum):
    """Who speaks. `UPSTREAM` and `DOWNSTREAM` are other teams' systems; `CLI` is the penstock command."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    CLI = "cli"
    ORCHESTRATOR = "orchestrator"
    INFERENCE = "inference"
    TOOL_EXECUTOR = "tool_executor"
    WORKER = "worker"
    GATEWAY = "gateway"


class Key(StrEnum):
    """What a record's key is."""

    ANY = "any"
    RUN = "run"
    TENANT = "tenant"
    WORKFLOW_VERSION = "name@version"
    WORKFLOW_ALIAS = "name@alias"
    ENGINE = "engine"


class PartitionGroup(StrEnum):
    """Topics of one group have the same partition count, so that one consumer owns a number in all of them."""

    HOME = "home"
    """What the orchestrator reads: the partition number is the run's home, and is set explicitly."""
    WORK = "work"
    """Requests for executors, spread by key."""
    READ_SIDE = "read_side"
    """What only the gateway and downstream systems read."""
    BROADCAST = "broadcast"
    """One partition that every instance reads whole, in one order."""


M_co = TypeVar("M_co", bound=m.Message, covariant=True)


@cache
def _event_type(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.startswith("{"))


@dataclass(frozen=True, slots=True)
class Topic(Generic[M_co]):
    """One topic, or a family of topics where the name has parameters in braces."""

    name: str
    message: type[M_co]
    key: Key
    producers: frozenset[Service]
    consumers: frozenset[Service]
    group: PartitionGroup
    why: str
    retention_ms: int = 7 * DAY_MS
    compacted: bool = False
    """The last record of each key is kept for ever, or for `retention_ms` where it is `expiring`."""
    expiring: bool = False

    @property
    def cleanup(self) -> tuple[str, ...]:
        """What the broker does with old records."""
        if self.compacted:
            return ("compact", "delete") if self.expiring else ("compact",)
        return ("delete",)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in braces, in order."""
        return tuple(field for _, field, _, _ in Formatter().parse(self.name) if field)

    @property
    def event_type(self) -> str:
        """The CloudEvents type: the name without its parameters, the same for a whole family."""
        return _event_type(self.name)

    def named(self, **parameters: str) -> str:
        """The broker topic's name. Raises KeyError when a parameter is missing."""
        return self.name.format_map(parameters)


def _services(*services: Service) -> frozenset[Service]:
    return frozenset(services)


_S = Service

WORKFLOW_PUBLISHED = Topic(
    name="penstock.workflow.published.v1",
    message=m.WorkflowPublished,
    key=Key.WORKFLOW_VERSION,
    producers=_services(_S.GATEWAY, _S.CLI),
    consumers=_services(_S.ORCHESTRATOR, _S.GATEWAY),
    group=PartitionGroup.BROADCAST,
    compacted=True,
    why="Definitions are data: every orchestrator reads all of them, and a run pins the one it started with.",
)
WORKFLOW_ALIASED = Topic(
    name="penstock.workflow.aliased.v1",
    message=m.WorkflowAliased,
    key=Key.WORKFLOW_ALIAS,
    producers=_services(_S.GATEWAY, _S.CLI),
    consumers=_services(_S.ORCHESTRATOR, _S.GATEWAY),
    group=PartitionGroup.BROADCAST,
    compacted=True,
    why="Which version `name@stable` means from here on, with shares for canaries; a run pins what it got.",
)
RUN_REQUESTED = Topic(
    name="penstock.run.requested.v1",
    message=m.RunRequested,
    key=Key.ANY,
    producers=_services(_S.UPSTREAM, _S.GATEWAY, _S.CLI, _S.ORCHESTRATOR),
    consumers=_services(_S.ORCHESTRATOR),
    group=PartitionGroup.HOME,
    why="The way in, for child runs too. The partition on which a request arrives becomes the run's home.",
)
RUN_SIGNALLED = Topic(
    name="penstock.run.signalled.v1",
    message=m.RunSignalled,
    key=Key.RUN,
    producers=_services(_S.UPSTREAM, _S.GATEWAY, _S.ORCHESTRATOR),
    consumers=_services(_S.ORCHESTRATOR),
    group=PartitionGroup.HOME,
    why="What is said to a run later: cancel, redrive, a child's end. One that lands away from home is forwarded once.",
)
RUN_PROGRESSED = Topic(
    name="penstock.run.progressed.v1",
    message=m.RunProgressed,
    key=Key.RUN,
    producers=_services(_S.ORCHESTRATOR),
    consumers=_services(_S.GATEWAY),
    group=PartitionGroup.READ_SIDE,
    retention_ms=DAY_MS,
    why="What changed in a run, for live views and traces.",
)
RUN_FINISHED = Topic(
    name="penstock.run.finished.v1",
    message=m.RunFinished,
    key=Key.RUN,
    producers=_services(_S.ORCHESTRATOR),
    consumers=_services(_S.DOWNSTREAM, _S.GATEWAY),
    group=PartitionGroup.READ_SIDE,
    why="The way out: one record per run, with its output or its error and what it cost.",
)
INFERENCE_REQUESTED = Topic(
    name="penstock.inference.{pool}.{lane}.requested.v1",
    message=m.InferenceRequested,
    key=Key.RUN,
    producers=_services(_S.ORCHESTRATOR),
    consumers=_services(_S.INFERENCE),
    group=PartitionGroup.WORK,
    retention_ms=DAY_MS,
    why="Model calls. A lane is a topic because Kafka has no priorities; the run as key finds its prefix cache.",
)
INFERENCE_COMPLETED = Topic(
    name="penstock.inference.completed.v1",
    message=m.InferenceCompleted,
    key=Key.RUN,
    producers=_services(_S.INFERENCE),
    consumers=_services(_S.ORCHESTRATOR),
    group=PartitionGroup.HOME,
    retention_ms=DAY_MS,
    why="A model's answer, sent to the run's home.",
)
TOOL_REQUESTED = Topic(
    name="penstock.tool.requested.v1",
    message=m.ToolRequested,
    key=Key.RUN,
    producers=_services(_S.ORCHESTRATOR),
    consumers=_services(_S.TOOL_EXECUTOR),
    group=PartitionGroup.WORK,
    retention_ms=DAY_MS,
    why="Tool calls, each with all the grants its step has.",
)
TOOL_COMPLETED = Topic(
    name="penstock.tool.completed.v1",
    message=m.ToolCompleted,
    key=Key.RUN,
    producers=_services(_S.TOOL_EXECUTOR),
    consumers=_services(_S.ORCHESTRATOR),
    group=PartitionGroup.HOME,
    retention_ms=DAY_MS,
    why="A tool's answer, sent to the run's home.",
)
TASK_REQUESTED = Topic(
    name="penstock.task.{queue}.requested.v1",
    message=m.TaskRequested,
    key=Key.RUN,
    producers=_services(_S.ORCHESTRATOR),
    consumers=_services(_S.WORKER),
    group=PartitionGroup.WORK,
    retention_ms=DAY_MS,
    why="Calls of the user's Python functions; a queue per deployment of workers.",
)
TASK_COMPLETED = Topic(
    name="penstock.task.completed.v1",
    message=m.TaskCompleted,
    key=Key.RUN,
    producers=_services(_S.WORKER),
    consumers=_services(_S.ORCHESTRATOR),
    group=PartitionGroup.HOME,
    retention_ms=DAY_MS,
    why="A task's return value, sent to the run's home.",
)
USAGE_RECORDED = Topic(
    name="penstock.usage.recorded.v1",
    message=m.UsageRecorded,
    key=Key.TENANT,
    producers=_services(_S.INFERENCE, _S.TOOL_EXECUTOR, _S.WORKER),
    consumers=_services(_S.GATEWAY, _S.DOWNSTREAM),
    group=PartitionGroup.READ_SIDE,
    retention_ms=30 * DAY_MS,
    why="What every attempt used and cost, attributed; the ledger counts each request id once.",
)

INFERENCE_STREAMED = Topic(
    name="penstock.inference.streamed.v1",
    message=m.InferenceStreamed,
    key=Key.RUN,
    producers=_services(_S.INFERENCE),
    consumers=_services(_S.GATEWAY, _S.DOWNSTREAM),
    group=PartitionGroup.READ_SIDE,
    retention_ms=HOUR_MS,
    why="Answers while they come, in pieces; the completed result stays the only one that counts.",
)
WORK_CANCELLED = Topic(
    name="penstock.work.cancelled.v1",
    message=m.WorkCancelled,
    key=Key.RUN,
    producers=_services(_S.ORCHESTRATOR),
    consumers=_services(_S.INFERENCE, _S.TOOL_EXECUTOR, _S.WORKER),
    group=PartitionGroup.BROADCAST,
    retention_ms=DAY_MS,
    why="Nobody awaits this request any more: whoever has it stops, and its engine slot is free at once.",
)
ENGINE_METERED = Topic(
    name="penstock.engine.metered.v1",
    message=m.EngineMetered,
    key=Key.ENGINE,
    producers=_services(_S.INFERENCE),
    consumers=_services(_S.GATEWAY, _S.DOWNSTREAM),
    group=PartitionGroup.READ_SIDE,
    retention_ms=30 * DAY_MS,
    why="Every second of every engine, attributed or idle: with the usage records it adds up to the bill.",
)
CAPACITY_REPORTED = Topic(
    name="penstock.capacity.reported.v1",
    message=m.CapacityReported,
    key=Key.ENGINE,
    producers=_services(_S.INFERENCE),
    consumers=_services(_S.ORCHESTRATOR, _S.GATEWAY),
    group=PartitionGroup.BROADCAST,
    compacted=True,
    expiring=True,
    retention_ms=DAY_MS,
    why="How much room each engine has: routes are chosen by it, and burst where it pays.",
)

TOPICS: tuple[Topic[m.Message], ...] = (
    WORKFLOW_PUBLISHED,
    WORKFLOW_ALIASED,
    RUN_REQUESTED,
    RUN_SIGNALLED,
    RUN_PROGRESSED,
    RUN_FINISHED,
    INFERENCE_REQUESTED,
    INFERENCE_COMPLETED,
    TOOL_REQUESTED,
    TOOL_COMPLETED,
    TASK_REQUESTED,
    TASK_COMPLETED,
    USAGE_RECORDED,
    INFERENCE_STREAMED,
    WORK_CANCELLED,
    ENGINE_METERED,
    CAPACITY_REPORTED,
)

DEAD_LETTER_PREFIX = "dlq."
MESSAGE_BYTES_MAX = 1_048_588
"""What a topic takes at most, per batch of records (`max.message.bytes`): Kafka's own default."""
DEAD_LETTER_BYTES_MAX = MESSAGE_BYTES_MAX + 128 * 1024
"""What a dead letter topic takes: the largest record of any topic, with the headers that say why it is there."""


def dead_letter_topic(topic: str) -> str:
    """Where a poison record of `topic` goes."""
    return DEAD_LETTER_PREFIX + topic


def consumed_by(service: Service) -> tuple[Topic[m.Message], ...]:
    """What a service subscribes to."""
    return tuple(topic for topic in TOPICS if service in topic.consumers)


def produced_by(service: Service) -> tuple[Topic[m.Message], ...]:
    """What a service may publish, dead letters of what it consumes aside."""
    return tuple(topic for topic in TOPICS if service in topic.producers)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deployment chooses: the values of the topic names' parameters and the partition counts."""

    pools: tuple[str, ...] = ("small",)
    queues: tuple[str, ...] = ("default",)
    home_partitions: int = 4
    work_partitions: int = 4
    read_side_partitions: int = 4
    replication_factor: int = 1

    def partitions(self, group: PartitionGroup) -> int:
        """How many partitions the topics of a group have."""
        match group:
            case PartitionGroup.HOME:
                return self.home_partitions
            case PartitionGroup.WORK:
                return self.work_partitions
            case PartitionGroup.READ_SIDE:
                return self.read_side_partitions
            case PartitionGroup.BROADCAST:
                return 1

    def names(self, topic: Topic[m.Message]) -> tuple[str, ...]:
        """The broker topics of a registry entry: one, or one per pool and lane, or one per queue."""
        match topic.parameters:
            case ():
                return (topic.name,)
            case ("pool", "lane"):
                return tuple(topic.named(pool=pool, lane=lane) for pool in self.pools for lane in m.Lane)
            case ("queue",):
                return tuple(topic.named(queue=queue) for queue in self.queues)
            case other:
                raise ValueError(f"{topic.name}: nobody knows the values of {other}")
