"""Owns the micro-benchmark of the orchestrator's core: microseconds for one event of a chain, without any I/O.

python -m bench.decide
"""

import statistics
from time import perf_counter

from penstock.contracts import ids
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_definition, a_run, a_task, succeeded
from services.orchestrator.core.decide import Outcome, decide
from services.orchestrator.core.program import Program, compile_definition
from services.orchestrator.core.starting import start
from services.orchestrator.core.state import Decision

STEPS = 20
ROUNDS = 2_000
OUTPUT = {"data": "x" * 260, "n": [1, 2, 3], "ok": True}


def main() -> None:
    """Prints the least, the tenth percentile and the median over many rounds: other processes only add to them."""
    tasks = [a_task("s0", input={"text": "{{ input.text }}"})]
    tasks += [a_task(f"s{n}", input={"x": f"{{{{ s{n - 1}.data }}}}"}) for n in range(1, STEPS)]
    program = compile_definition(a_definition(a_chain(*tasks)), "1")
    events = _events(program)
    starts, steps = [], []
    for _ in range(ROUNDS):
        begun = perf_counter()
        run = _started(program).run
        starts.append(perf_counter() - begun)
        begun = perf_counter()
        for event in events[:-1]:
            decide(run, program, event)
        steps.append((perf_counter() - begun) / (STEPS - 1))
    for name, seconds in (("start", starts), ("event", steps)):
        least, tenth, median = min(seconds), statistics.quantiles(seconds, n=10)[0], statistics.median(seconds)
        print(f"{name}: {least * 1e6:.1f} µs least, {tenth * 1e6:.1f} tenth percentile, {median * 1e6:.1f} median")


def _started(program: Program) -> Decision:
    return start(
        a_run(input={"text": "hello"}),
        key=ids.run_key("default", "run-1"),
        tenant="default",
        run_id="run-1",
        home=0,
        program=program,
        at_ms=BEGINNING_MS,
        traceparent=None,
    )


def _events(program: Program) -> list[Outcome]:
    """The answers to a run's requests, made beforehand."""
    decision, events = _started(program), []
    while decision.finished is None:
        events.append(Outcome(succeeded(decision.requests[0], OUTPUT), BEGINNING_MS + 5))
        decision = decide(decision.run, program, events[-1])
    return events


if __name__ == "__main__":
    main()
