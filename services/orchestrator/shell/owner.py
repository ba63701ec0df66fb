"""Owns the orchestrator's loop body: a batch of records in, one transaction, the decided records out."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import Budget, CapacityReported
from penstock.contracts.topics import PartitionGroup, Service, consumed_by
from penstock.runtime.blobs import Blobs
from penstock.runtime.errors import Fenced, Unavailable
from penstock.runtime.kafka.records import Received
from penstock.workflow.whole import ContentNeededError
from services.orchestrator.core.breakers import Breakers
from services.orchestrator.core.starting import asked_for, unknown
from services.orchestrator.shell.alarms import Alarms
from services.orchestrator.shell.amplification import CallHistory
from services.orchestrator.shell.deciding import Deciding, UndecidableError
from services.orchestrator.shell.definitions import Definitions
from services.orchestrator.shell.inbox import Input, Requested, Unreadable, read
from services.orchestrator.shell.large_values import LargeValues, TooMuchAtOnceError, halves
from services.orchestrator.shell.outbox import Sender, Unacknowledged, unpack
from services.orchestrator.shell.run_cache import RunCache
from services.orchestrator.shell.store import Advance, Alarm, Batch, Position, RunTakenError, SliceClaim, Store
from services.orchestrator.shell.telemetry import OrchestratorEvent, OrchestratorInstruments
from services.orchestrator.shell.tenants import TenantBudgets

log = structlog.get_logger()

GROUP_ID = "penstock.orchestrator"
HOME_TOPICS = tuple(topic.name for topic in consumed_by(Service.ORCHESTRATOR) if topic.group is PartitionGroup.HOME)
"""What a home consists of: the same partition number of each of these."""

_SHOWN_CHARACTERS_MAX = 500
_COLLISIONS_MAX = 8
"""How often one batch may meet a run that another owner started meanwhile; more means that something else is wrong."""


class _SlicesNeededError(Exception):
    """The batch took more of tenants' days than this instance holds: it is decided again after these claims."""

    def __init__(self, claims: Sequence[SliceClaim]) -> None:
        super().__init__(f"{len(claims)} slices")
        self.claims = claims


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the owner holds at once."""

    runs_cached_max: int = 20_000
    sends_max: int = 8
    alarms_per_batch_max: int = 1_000
    homes: int = 1
    """All homes that there are; an instance that owns half of them may use half of a route's in_flight_max."""
    outbox_idle_ms: int = 200
    """How long an acknowledged outbox row may wait for a batch that deletes it along the way."""


class _ContentsNeededError(Exception):
    """The batch is decided again when these have been read."""

    def __init__(self, needed: Sequence[ContentNeededError]) -> None:
        super().__init__(f"{len(needed)} decisions need contents of blobs")
        self.needed = needed


class Owner:
    """Implements BatchOwner: owns homes, fenced by the epochs that the store gave it."""

    def __init__(
        self,
        store: Store,
        sender: Sender,
        definitions: Definitions,
        clock: Callable[[], int],
        limits: Limits,
        *,
        tenants: frozenset[str],
        budgets: Mapping[str, Budget] | None = None,
        blobs: Blobs | None = None,
        instruments: OrchestratorInstruments,
    ) -> None:
        self._store = store
        self._sender = sender
        self._definitions = definitions
        self._clock = clock
        self._limits = limits
        self._tenants = tenants
        self._instruments = instruments
        self._runs = RunCache(limits.runs_cached_max)
        self._alarms = Alarms()
        self._routes = Breakers()
        self._budgets = TenantBudgets(budgets or {}, limits.homes)
        self._large = LargeValues(blobs or Blobs(""))
        self._history = CallHistory()
        self._unacknowledged = Unacknowledged(limits.sends_max)
        self._positions: dict[tuple[int, str], Position] = {}
        self._idle_since_ms = 0
        instruments.alarms.set_function(lambda: len(self._alarms))
        instruments.runs_cached.set_function(lambda: len(self._runs))

    def hear(self, report: CapacityReported) -> None:
        """What an engine reports of its room: the next decisions go by it."""
        self._show_engines(self._routes.rooms.take(report, self._clock()))

    @property
    def homes(self) -> frozenset[int]:
        """The homes owned now."""
        return frozenset(home for home, _ in self._positions)

    async def take_over(self, partitions: frozenset[int]) -> Mapping[tuple[str, int], int]:
        """Fence earlier owners, send what they left unsent, and tell where to read on."""
        claim = await self._store.claim(partitions, HOME_TOPICS)
        self._forget(partitions)
        self._positions.update(claim.positions)
        self._alarms.set(claim.alarms)
        self._share_routes()
        if claim.outbox:
            log.info(OrchestratorEvent.OUTBOX_RESENT, rows=len(claim.outbox))
            leftovers = [record for _, _, packed in claim.outbox for record in unpack(packed)]
            await self._sender.send(leftovers)
            await self._store.delete_outbox([(home, row) for home, row, _ in claim.outbox])
        log.info(OrchestratorEvent.HOMES_OWNED, homes=sorted(self.homes))
        return {
            (topic, home): position.next_offset
            for (home, topic), position in claim.positions.items()
            if position.next_offset > 0
        }

    async def release(self, partitions: frozenset[int]) -> None:
        """Forget homes that somebody else will own. What was sent for them is waited for first."""
        await self._unacknowledged.flush()
        self._forget(partitions)

    async def close(self) -> None:
        """Leave no acknowledged row behind, so that the next owner repeats nothing."""
        await self._unacknowledged.flush()
        try:
            await self._tidy()
        except Unavailable as error:  # a courtesy only, and no reason to hide why the process ends
            log.warning(OrchestratorEvent.OUTBOX_LEFT, reason=str(error))

    def next_wake_ms(self) -> int | None:
        """When `process` has something to do even without a record."""
        due = self._alarms.next_due_ms()
        if not self._unacknowledged.has_rows:
            return due
        tidy = self._idle_since_ms + self._limits.outbox_idle_ms
        return tidy if due is None else min(due, tidy)

    async def process(self, records: Sequence[Received]) -> None:
        """Decide on a batch. Raises Fenced and Unavailable, after which nothing of it was done."""
        await self._unacknowledged.room()
        at_ms = self._clock()
        self._show_engines(self._routes.rooms.expire(at_ms))
        inputs = await self._large.smaller([read(record) for record in records if self._is_new(record)])
        due = self._alarms.due(at_ms, self._limits.alarms_per_batch_max)
        if inputs or due:
            await self._definitions.ensure_known(_workflows(inputs))
            await self._decide_in_parts(inputs, due, at_ms)
        else:
            await self._tidy()
        self._idle_since_ms = self._clock()
        self._runs.trim()
        self._large.contents.trim()
        self._budgets.trim(at_ms)

    async def _tidy(self) -> None:
        """Delete acknowledged rows without waiting for a batch to do it along the way."""
        rows = self._unacknowledged.collect()
        if not rows:
            return
        try:
            await self._store.delete_outbox(rows)
        except BaseException:
            self._unacknowledged.keep(rows)
            raise

    async def _decide_in_parts(self, inputs: Sequence[Input], due: Sequence[Alarm], at_ms: int) -> None:
        """As one batch, unless what its decisions look into is too much to be held at once."""
        try:
            await self._decide(inputs, due, at_ms)
        except TooMuchAtOnceError:
            self._large.contents.trim()
            for some, alarms in halves(inputs, due):
                await self._decide_in_parts(some, alarms, at_ms)

    async def _decide(self, inputs: Sequence[Input], due: Sequence[Alarm], at_ms: int) -> None:
        """Decide, write, send. What the core cannot decide on is set aside, so that it stalls nothing."""
        collisions, set_aside = 0, list[UndecidableError]()
        while collisions <= _COLLISIONS_MAX:
            await self._load(inputs, due)
            deciding = Deciding(
                self._runs,
                self._definitions,
                self._alarms,
                self._tenants,
                GROUP_ID,
                at_ms,
                self._routes,
                self._budgets,
                self._large.contents,
            )
            acknowledged = self._unacknowledged.collect()
            try:
                batch, outgoing = _decided(deciding, inputs, due, set_aside)
                self._require_slices(batch, at_ms)
                await self._large.store(deciding.away)
                batch.advances, batch.acknowledged = self._advances(inputs, due), acknowledged
                rows = await self._store.commit(batch)
            except RunTakenError:
                self._undo(deciding, acknowledged)
                collisions += 1
            except _SlicesNeededError as needed:
                self._undo(deciding, acknowledged)
                collisions += not await self._claim(needed.claims, at_ms)
            except _ContentsNeededError as error:
                self._undo(deciding, acknowledged)
                await self._large.read(error.needed, alone=len(inputs) + len(due) == 1)
            except UndecidableError as error:
                log.exception(OrchestratorEvent.UNDECIDABLE, cause=repr(error.cause)[:_SHOWN_CHARACTERS_MAX])
                self._undo(deciding, acknowledged)
                set_aside.append(error)
            except Fenced:
                self._undo(deciding, acknowledged)
                self._forget(self.homes)
                raise
            except BaseException:
                self._undo(deciding, acknowledged)
                raise
            else:
                self._settle(batch)
                self._learn(deciding)
                self._compare(deciding)
                if outgoing:
                    self._unacknowledged.add(self._sender.send(outgoing), rows)
                await self._return_surplus(batch, at_ms)
                return
        raise RuntimeError(f"a batch met runs that others were starting {collisions} times in a row")

    async def _load(self, inputs: Sequence[Input], due: Sequence[Alarm]) -> None:
        keys = [given.run_key for given in inputs if not isinstance(given, Unreadable)]
        keys.extend(alarm.run_key for alarm in due)
        missing = self._runs.use(keys)
        if missing:
            loaded = await self._store.load(missing)
            # Another instance may have started them with a definition that has not come by here yet; of a workflow that
            # nobody knew there may be one by now.
            await self._definitions.ensure_known(
                {asked_for(run) for run in loaded.values() if run.status == "running" or unknown(run)}
            )
            for run in loaded.values():
                self._runs.put(run)

    def _advances(self, inputs: Sequence[Input], due: Sequence[Alarm]) -> list[Advance]:
        """How far each topic moves; a home that only has alarms proves its ownership without moving."""
        ends: dict[tuple[int, str], int] = {}
        for given in inputs:
            ends[given.record.partition, given.record.topic] = given.record.offset + 1
        moving = {home for home, _ in ends}
        for alarm in due:
            if alarm.home not in moving:
                ends[alarm.home, HOME_TOPICS[0]] = self._positions[alarm.home, HOME_TOPICS[0]].next_offset
        return [
            Advance(home, topic, held.next_offset, end, held.owner_epoch)
            for (home, topic), end in sorted(ends.items())
            for held in (self._positions[home, topic],)
        ]

    def _settle(self, batch: Batch) -> None:
        """The batch is written: what is in memory follows."""
        for advance in batch.advances:
            self._positions[advance.home, advance.topic] = Position(advance.next_offset, advance.owner_epoch)
        self._alarms.clear(batch.alarms_cleared)
        self._alarms.set(batch.alarms_set)
        self._instruments.runs_started.inc(len(batch.started))
        ended = [run for run in (*batch.started, *batch.changed) if run.status != "running"]
        for status, count in Counter(run.status for run in ended).items():
            self._instruments.runs_finished.labels(status).inc(count)
        self._runs.evict([run.key for run in ended])

    def _require_slices(self, batch: Batch, at_ms: int) -> None:
        """Raises _SlicesNeededError where the batch took more of tenants' days than is held."""
        wanted = self._budgets.shortfalls(batch.charges, at_ms) if batch.charges else []
        if wanted:
            raise _SlicesNeededError(wanted)

    async def _claim(self, wanted: Sequence[SliceClaim], at_ms: int) -> bool:
        """More of tenants' days than this instance holds; what cannot be had is known from now on.

        False where another instance came in between: to be tried again.
        """
        try:
            slices = await self._store.claim_slices(wanted)
        except RunTakenError:
            return False
        for tenant, cap in self._budgets.take(wanted, slices, at_ms):
            log.warning(OrchestratorEvent.TENANT_BUDGET_USED_UP, tenant=tenant, cap=cap)
            self._instruments.tenant_budgets_used_up.labels(tenant, cap).inc()
        return True

    async def _return_surplus(self, batch: Batch, at_ms: int) -> None:
        """Reservations are larger than what calls then use: other homes may have what this one does not need."""
        extra = self._budgets.surplus(batch.charges) if batch.charges else []
        if not extra:
            return
        try:
            self._budgets.take(extra, await self._store.claim_slices(extra), at_ms)
        except (
            Unavailable,
            RunTakenError,
        ) as error:  # the batch is written; what is left in the slice is there for the next one
            log.warning(OrchestratorEvent.SURPLUS_KEPT, reason=str(error))

    def _learn(self, deciding: Deciding) -> None:
        """How calls went on their routes, now that it is written."""
        events = deciding.route_news.events
        if not events:
            return
        for label, state in self._routes.learn(events):
            if state == "crowded" or state == "eased":
                log.warning(OrchestratorEvent.CROWD_CHANGED, route=label, state=state)
                self._instruments.crowds_changed.labels(label, state).inc()
            else:
                log.warning(OrchestratorEvent.BREAKER_CHANGED, route=label, state=state)
                self._instruments.breakers_changed.labels(label, state).inc()
        for label in {event.route.label for event in events}:
            self._instruments.calls_in_flight.labels(label).set(self._routes.in_flight(label))

    def _show_engines(self, labels: Collection[str]) -> None:
        for label in labels:
            room = self._routes.rooms.find(label)
            self._instruments.route_engines.labels(label).set(0 if room is None else room.engines)

    def _compare(self, deciding: Deciding) -> None:
        """How many calls runs made, against what runs of their workflow make as a rule."""
        for run, asked in deciding.calls:
            total = run.live.dispatched if run.live is not None else sum(step.attempt for step in run.steps.values())
            if asked and self._history.passes(run.workflow, total - asked, total):
                log.warning(OrchestratorEvent.RUN_AMPLIFIED, run=run.run_id, workflow=run.workflow, calls=total)
                self._instruments.runs_amplified.labels(run.workflow).inc()
            if run.finished_at_ms is not None:
                self._history.ended(run.workflow, total)

    def _undo(self, deciding: Deciding, acknowledged: Collection[tuple[int, int]]) -> None:
        self._runs.evict(list(deciding.touched_keys))
        self._routes.uncount(deciding.route_news.undo)
        self._budgets.give_back(deciding.charges)
        self._unacknowledged.keep(acknowledged)

    def _is_new(self, record: Received) -> bool:
        position = self._positions.get((record.partition, record.topic))
        if position is None:
            raise Fenced(f"{record.topic}/{record.partition} is not ours")
        return record.offset >= position.next_offset

    def _forget(self, homes: Collection[int]) -> None:
        self._runs.forget_homes(homes)
        self._routes.forget_homes(homes)
        self._budgets.forget(homes)
        self._alarms.forget_homes(homes)
        for home, topic in list(self._positions):
            if home in homes:
                del self._positions[home, topic]
        self._share_routes()

    def _share_routes(self) -> None:
        owned = len(self.homes)
        self._routes.owned, self._routes.homes = max(1, owned), max(1, owned, self._limits.homes)


def _decided(
    deciding: Deciding, inputs: Sequence[Input], due: Sequence[Alarm], set_aside: Sequence[UndecidableError]
) -> tuple[Batch, list[Outgoing]]:
    """Apply everything in order, but for what an earlier try could not decide on."""
    skipped = {id(error.cause) for error in set_aside}
    for given in inputs:
        if id(given) not in skipped:
            deciding.apply(given)
    for alarm in due:
        if id(alarm) not in skipped:
            deciding.ring(alarm)
    if deciding.needed:
        raise _ContentsNeededError(deciding.needed)
    for error in set_aside:
        deciding.give_up(error)
    return deciding.seal()


def _workflows(inputs: Sequence[Input]) -> set[str]:
    return {given.request.workflow for given in inputs if isinstance(given, Requested)}
