"""Owns the work of the benchmark's steps: none, with a result of 300 bytes of JSON."""

from penstock.workflow.task import task

RESULT = {
    "id": "c0ffee00-0000-4000-8000-000000000000",
    "kind": "permissive",
    "obligations": ["keep the copyright notice", "keep the licence text", "state significant changes"],
    "confidence": 0.875,
    "summary": "You may use, copy, change and sell it as long as you keep the notices where they are.",
    "tokens": {"input": 412, "output": 57},
}


@task(name="bench.nothing")
async def nothing() -> dict[str, object]:
    """Returns 300 bytes of JSON."""
    return RESULT
