"""Tests of the control law on engines whose best batch is known from the roofline."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from services.inference.core.catalogue import HARDWARE
from services.inference.core.control import BatchControl, weighed
from services.inference.core.roofline import Roofline, Sequence, step

Load = tuple[int, int]
"""Prompt and mean output tokens."""


@dataclass
class Plant:
    """An engine in virtual time that always has more to do than it is given; lengths vary by a fixed pattern."""

    roofline: Roofline
    load: Load
    batch_max: int = 10_000
    slowed: Callable[[float], float] = lambda _: 1.0
    """How many times as long a step takes at a time."""
    now: float = 0.0
    waiting_seconds: float = 0.0
    _inside: list[tuple[Sequence, float, float, float]] = field(default_factory=list)
    _number: int = 0

    def run(self, seconds: float, limit: Callable[[], int], control: BatchControl | None = None) -> float:
        """Weighed tokens per second over the second half."""
        begun, given = self.now, 0.0
        while self.now < begun + seconds:
            while len(self._inside) < limit():
                self._begin(control)
            inside = [each[0] for each in self._inside[: self.batch_max]]
            self.now += step(inside, self.roofline) * self.slowed(self.now)
            done = [each for each in self._inside if each[0].finished]
            self._inside = [each for each in self._inside if not each[0].finished]
            for _, since, tokens, mark in done:
                if control is not None:
                    control.ended(self.now, tokens, self.now - since, mark)
                if self.now > begun + seconds / 2:
                    given += tokens
        return given / (self.now - begun - seconds / 2)

    def _begin(self, control: BatchControl | None) -> None:
        self._number += 1
        prompt, output = self.load
        output = max(1, round(output * (0.25 + 1.5 * (self._number * 0.618034 % 1.0))))
        mark = 0.0 if control is None else control.began(self.now)
        self._inside.append((Sequence(prompt, output), self.now, weighed(prompt, output), mark))


def best(make: Callable[[], Plant], seconds: float) -> float:
    return max(make().run(seconds, lambda limit=limit: limit) for limit in (16, 32, 64, 128, 256, 512))  # type: ignore[misc]  # a default binds the loop's value


@pytest.mark.parametrize(
    ("hardware", "load", "batch_max"),
    [
        ("h100-sxm", (500, 60), 10_000),
        ("l4", (300, 40), 64),
        ("a100-80gb", (100, 80), 10_000),
        ("h100-sxm", (3000, 16), 10_000),
    ],
)
def test_it_finds_a_batch_within_a_tenth_of_the_best(hardware: str, load: Load, batch_max: int) -> None:
    def make() -> Plant:
        return Plant(Roofline(HARDWARE[hardware]), load, batch_max)

    control, plant = BatchControl(2048), make()
    plant.run(90.0, lambda: control.limit, control)
    reached = plant.run(60.0, lambda: control.limit, control)

    assert control.settled
    assert reached >= 0.9 * best(make, 40.0)


def test_it_does_not_stay_beyond_what_the_engine_batches() -> None:
    """Given an engine of 32 places, when the limit began at 128, then it comes down to what still pays."""
    plant = Plant(Roofline(HARDWARE["h100-sxm"]), (200, 60), batch_max=32)
    control = BatchControl(1024, start=128)
    plant.run(300.0, lambda: control.limit, control)

    assert 28 <= control.limit <= 64


def test_it_follows_a_change_of_the_load() -> None:
    """Given a limit settled on long prompts, when short ones come, then it rises to what they need."""
    plant = Plant(Roofline(HARDWARE["h100-sxm"]), (3000, 16))
    control = BatchControl(2048)
    plant.run(60.0, lambda: control.limit, control)
    low = control.limit
    plant.load = (50, 60)
    plant.run(60.0, lambda: control.limit, control)
    reached = plant.run(30.0, lambda: control.limit, control)

    assert control.limit > 2 * low
    assert reached >= 0.88 * best(lambda: Plant(Roofline(HARDWARE["h100-sxm"]), (50, 60)), 20.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_machine_whose_speed_jumps_costs_no_throughput(seed: int) -> None:
    """Given an engine that is slowed down up to tenfold, anew every half second, then it is not left half empty."""
    slowness = [1 / random.Random(f"{seed}/{number}").uniform(0.1, 1.0) for number in range(600)]

    def make() -> Plant:
        return Plant(Roofline(HARDWARE["h100-sxm"]), (100, 30), slowed=lambda at: slowness[int(2 * at)])

    control, plant = BatchControl(256), make()
    plant.run(60.0, lambda: control.limit, control)
    reached = plant.run(60.0, lambda: control.limit, control)
    full = make()
    full.run(60.0, lambda: 256)

    assert reached >= 0.8 * full.run(60.0, lambda: 256)


def test_nothing_is_learned_while_there_is_not_enough_to_do() -> None:
    """Given half as many requests as the limit allows, when thousands have ended, then the limit is what it was."""
    plant = Plant(Roofline(HARDWARE["h100-sxm"]), (100, 20))
    control = BatchControl(1024, start=64)

    plant.run(20.0, lambda: 32, control)

    assert (control.limit, control.settled) == (64, False)
    assert control.seconds_per_token is not None


def test_failures_are_no_throughput() -> None:
    control = BatchControl(64)
    for number in range(5_000):
        mark = control.began(float(number))
        assert control.ended(number + 0.5, 0.0, 0.5, mark) is False
    assert (control.in_flight, control.limit, control.rate) == (0, 16, None)


def test_the_limit_stays_within_its_bounds() -> None:
    """Given an engine that could take far more, when only 10 are allowed, then at most 10 are, and at least one."""
    plant = Plant(Roofline(HARDWARE["h100-sxm"]), (100, 20))
    control = BatchControl(10)
    seen: set[int] = set()

    def limit() -> int:
        seen.add(control.limit)
        return control.limit

    plant.run(60.0, limit, control)

    assert min(seen) >= 1
    assert max(seen) == 10
