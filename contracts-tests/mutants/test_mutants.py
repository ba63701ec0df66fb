"""Owns the promise that every guard of the decision core is held by a test: take it out, and one fails.

`make mutants` plants all of them; here each module's first one, which takes under a minute. See docs/proof.md.
"""

import ast
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from penstock.testkit.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("core.toml")
CORE = ROOT / "services" / "orchestrator" / "core"
MUTANTS = mutants(LIST)
FIRST = [
    next(each.name for each in MUTANTS if each.module == module) for module in dict.fromkeys(m.module for m in MUTANTS)
]
NOTHING_TO_REMOVE = {
    "__init__": "no code",
    "children": "words between runs",
    "compiler": "compiles; what does not, the checks refuse",
    "dialogue": "words between a loop and its model; its bounds are the context's, by example",
    "facts": "names",
    "limits": "names",
    "program": "compiles",
    "state": "names",
    "blocks.__init__": "names",
    "blocks.agent_steps": "words; what may be called is guarded in blocks.agent",
    "blocks.task": "words",
    "blocks.tool": "words",
}
"""Modules of the core without a guard in the list, and why."""


def source(mutant: Mutant) -> str:
    spec = find_spec(mutant.module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()


def test_every_module_of_the_core_has_guards_or_says_why_not() -> None:
    """Guard: a new module of the core is looked at."""
    here = {
        ".".join(path.relative_to(CORE).with_suffix("").parts)
        for path in (*CORE.glob("*.py"), *CORE.glob("blocks/*.py"))
    }
    guarded = {mutant.module.removeprefix("services.orchestrator.core.") for mutant in MUTANTS}

    assert here - guarded == NOTHING_TO_REMOVE.keys()


def test_each_mutant_has_a_name_of_its_own() -> None:
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_guard_is_where_the_list_says_and_is_caught_by_tests_that_exist(mutant: Mutant) -> None:
    ast.parse(mutant.source(source(mutant)))

    for test in mutant.caught_by:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text()


def test_no_mutant_survives() -> None:
    command = [sys.executable, "-m", "penstock.testkit.mutants", str(LIST), *FIRST]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("\ncaught ") + run.stdout.startswith("caught ") == len(FIRST) >= 25
