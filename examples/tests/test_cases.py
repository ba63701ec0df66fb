"""Owns the promise that the examples' own cases hold: what `penstock test examples` says."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1]


def test_all_cases_of_the_examples_hold() -> None:
    # when they are run as an author runs them
    command = [sys.executable, "-m", "services.cli", "test", str(EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES.parent)

    # then all pass, and every workflow of the patterns has some
    assert done.returncode == 0, done.stdout + done.stderr
    for file in (EXAMPLES / "patterns").glob("*.yaml"):
        if not file.name.endswith(".test.yaml"):
            assert f"{file.stem}.test.yaml" in done.stdout
