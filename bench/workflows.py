"""Owns the benchmark's workflows."""

from penstock.workflow.definition import Chain, Definition, Parallel, Sections
from penstock.workflow.parts import TaskStep

WIDTH = 10

CHAIN = Definition(
    name="bench-chain",
    version="1",
    do=Chain(id="main", chain=[TaskStep(id=name, task="bench.nothing") for name in ("one", "two", "three")]),
)
"""Three steps in a row."""

FAN_OUT = Definition(
    name="bench-fan-out",
    version="1",
    do=Chain(
        id="main",
        chain=[
            TaskStep(id="first", task="bench.nothing"),
            Parallel(
                id="side",
                parallel=Sections(sections=[TaskStep(id=f"side_{n}", task="bench.nothing") for n in range(WIDTH)]),
            ),
            TaskStep(id="last", task="bench.nothing"),
        ],
    ),
)
"""One step, ten side by side, one step."""

STEPS = {CHAIN.name: 3, FAN_OUT.name: WIDTH + 2}
