"""Owns planted faults: each takes one guard out of a module, and some test has to fail for it.

`python -m penstock.testkit.mutants LIST` plants each mutant of a list in a process of its own and runs the tests that
the list names for it; `--by TESTS` runs others and says each that fails. Nothing is written: the module's source is
changed while it is imported. It ends with 1 where a mutant survives.
"""

import argparse
import ast
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import pytest
from hypothesis import settings

PYTEST: Final = (
    *("-q", "--tb=no", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis is imported once, for all mutants
    *("--hypothesis-profile", "mutants"),
    *("--timeout", "60"),  # a mutant may never end
)
NOTHING_TESTED: Final = 70
"""What ends before pytest has a say."""
SHARED: Final = ("penstock.contracts.messages", "penstock.workflow.checks", "penstock.testkit.builders")
"""Imported once, for all mutants: what takes long to import and has no mutants."""
NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard to take out: in the function `function` (dotted within its class) the text `line` becomes `becomes`."""

    name: str
    module: str
    function: str
    line: str
    becomes: str
    caught_by: tuple[str, ...]
    """Tests, as pytest names them; the first that fails ends it."""

    def source(self, original: str) -> str:
        """The module with the guard taken out. Raises ValueError where the guard is not there, or not once."""
        nodes: list[ast.stmt] = ast.parse(original).body
        found: ast.stmt | None = None
        for part in self.function.split("."):
            named = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part]
            if len(named) != 1:
                raise ValueError(f"{self.name}: {self.module} has no {self.function}")
            found = named[0]
            nodes = named[0].body
        assert found is not None
        lines = original.splitlines(keepends=True)
        body = "".join(lines[found.lineno - 1 : found.end_lineno])
        if body.count(self.line) != 1:
            raise ValueError(f"{self.name}: {self.function} has `{self.line}` {body.count(self.line)} times, not once")
        body = body.replace(self.line, self.becomes)
        return "".join((*lines[: found.lineno - 1], body, *lines[found.end_lineno :]))


def mutants(path: Path) -> list[Mutant]:
    """A list of mutants: a TOML file that names a package, the folder of its tests, and the guards in it."""
    listed = tomllib.loads(path.read_text())
    return [
        Mutant(
            name=guard["name"],
            module=f"{listed['package']}.{guard['module']}",
            function=guard["function"],
            line=guard["line"],
            becomes=guard["becomes"],
            caught_by=tuple(f"{listed['tests']}/{test}" for test in guard["caught_by"]),
        )
        for guard in listed["guard"]
    ]


class _Loader(SourceFileLoader):
    """Loads a module with a mutant in it, and leaves no compiled file behind."""

    def __init__(self, spec: ModuleSpec, mutant: Mutant) -> None:
        assert spec.origin is not None
        super().__init__(spec.name, spec.origin)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """The mutated source, compiled."""
        path = self.get_filename(fullname)
        return compile(self._mutant.source(Path(path).read_text()), path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds the module that is to be mutated."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Only for that one module."""
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Loader(spec, self._mutant)
        return spec


def plant(mutant: Mutant) -> None:
    """From now on the module is imported with the fault in it. Raises ValueError where it was imported already."""
    if mutant.module in sys.modules:
        raise ValueError(f"{mutant.module} was imported before its mutant")
    sys.meta_path.insert(0, _Finder(mutant))


class _Failures:
    """Writes down which tests fail."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test is over."""
        if report.failed:
            with self._path.open("a") as failures:
                failures.write(f"{report.nodeid}\n")


def _test(mutant: Mutant, tests: Sequence[str], failures: Path, stop: Sequence[str]) -> int:
    """In a process of its own: runs tests on a mutant. Gives pytest's exit status."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    # The examples that fail here must not be tried again on what is sound; and the same ones are drawn every time.
    settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    plant(mutant)
    return int(pytest.main([*tests, *stop, *PYTEST], plugins=[_Failures(failures)]))


def survivors(chosen: Sequence[Mutant], others: Sequence[str], folder: Path) -> Iterator[str]:
    """The names of the mutants that their tests (or these others) let live; as many at once as there are processors."""
    running: dict[int, tuple[Mutant, Path]] = {}
    waiting = list(chosen)
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            mutant = waiting.pop(0)
            failures = folder / mutant.name
            failures.touch()
            process = os.fork()
            if process == 0:
                status = NOTHING_TESTED
                try:
                    status = _test(mutant, others or mutant.caught_by, failures, () if others else ("-x",))
                finally:
                    os._exit(status)
            running[process] = mutant, failures
        process, status = os.wait()
        mutant, failures = running.pop(process)
        match os.waitstatus_to_exitcode(status):
            case 1:
                _say("caught", mutant.name, failures.read_text().splitlines())
            case 0:
                _say("SURVIVED", mutant.name, others or mutant.caught_by)
                yield mutant.name
            case other:
                _say("UNTESTED", mutant.name, [f"pytest ended with {other}"])
                yield mutant.name


def _say(fate: str, name: str, tests: Sequence[str]) -> None:
    shown = ", ".join(test.rpartition("/")[2] for test in tests[:NAMED_MAX])
    more = f" and {len(tests) - NAMED_MAX} more" if len(tests) > NAMED_MAX else ""
    sys.stdout.write(f"{fate:8}  {name}: {shown}{more}\n")
    sys.stdout.flush()


def main() -> int:
    """Tries mutants; the exit status says whether all were caught."""
    parser = argparse.ArgumentParser(description="Take guards out, one at a time, and see which tests fail.")
    parser.add_argument("list", type=Path, help="a TOML file of mutants")
    parser.add_argument("--by", metavar="TESTS", nargs="+", default=(), help="run these, not those that the list names")
    parser.add_argument("names", nargs="*", help="only these")
    arguments = parser.parse_args()
    chosen = [each for each in mutants(arguments.list) if not arguments.names or each.name in arguments.names]
    for shared in SHARED:
        import_module(shared)
    with tempfile.TemporaryDirectory() as folder:
        survived = list(survivors(chosen, arguments.by, Path(folder)))
    sys.stdout.write(f"{len(chosen) - len(survived)} of {len(chosen)} mutants were caught\n")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
