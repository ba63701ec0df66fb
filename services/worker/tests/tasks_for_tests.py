"""Tasks that the worker's process tests name."""

from penstock.workflow.task import task


@task(name="tests.double")
async def double(number: int) -> int:
    return number * 2


@task(name="tests.double_plain")
def double_plain(number: int) -> int:
    return number * 2
