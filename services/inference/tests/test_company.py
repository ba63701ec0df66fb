"""Who is in an engine together: everybody, or one suspect and nobody else."""

import asyncio

import pytest

from services.inference.engines.company import Company


class Visit:
    """A call that is in the engine until it is told to leave."""

    def __init__(self, company: Company, *, alone: bool = False) -> None:
        self.inside = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._stay(company, alone))

    async def _stay(self, company: Company, alone: bool) -> None:
        async with company.place(alone=alone):
            self.inside.set()
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_suspect_waits_for_the_others_and_later_ones_wait_for_it() -> None:
    company = Company()
    one, two = Visit(company), Visit(company)
    await asyncio.gather(one.inside.wait(), two.inside.wait())
    suspect, later = Visit(company, alone=True), Visit(company)
    await settled()
    assert not suspect.inside.is_set()
    assert not later.inside.is_set()

    await one.leave()
    await settled()
    assert not suspect.inside.is_set()
    await two.leave()
    await suspect.inside.wait()
    assert not later.inside.is_set()
    await suspect.leave()
    await later.inside.wait()
    await later.leave()


async def test_suspects_go_one_after_another() -> None:
    company = Company()
    suspects = [Visit(company, alone=True) for _ in range(3)]
    for number, suspect in enumerate(suspects):
        await suspect.inside.wait()
        await settled()
        assert [each.inside.is_set() for each in suspects[number + 1 :]] == [False] * (2 - number)
        await suspect.leave()


@pytest.mark.parametrize("alone", [True, False])
async def test_who_is_cancelled_while_waiting_keeps_nobody_out(alone: bool) -> None:
    company = Company()
    first = Visit(company, alone=not alone)
    await first.inside.wait()
    waiting = Visit(company, alone=alone)
    await settled()
    waiting.task.cancel()
    await asyncio.gather(waiting.task, return_exceptions=True)

    await first.leave()
    for kind in (False, True):
        last = Visit(company, alone=kind)
        await last.inside.wait()
        await last.leave()
        await settled()


async def test_who_is_woken_and_cancelled_at_once_gives_the_place_back() -> None:
    company = Company()
    first = Visit(company)
    await first.inside.wait()
    suspect = Visit(company, alone=True)
    await settled()
    await first.leave()  # wakes the suspect
    suspect.task.cancel()
    await asyncio.gather(suspect.task, return_exceptions=True)

    other = Visit(company)
    await other.inside.wait()
    await other.leave()
