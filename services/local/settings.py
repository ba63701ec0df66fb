"""Owns what the local stack takes from its surroundings: the code it runs from, and the environment of its parts."""

import os
from pathlib import Path

import services

ROOT = Path(next(iter(services.__path__))).parent


def python_environment() -> dict[str, str]:
    """The environment of a Python part, without any PENSTOCK_… variable."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    paths = [str(ROOT / "libs"), str(ROOT), *filter(None, inherited.get("PYTHONPATH", "").split(os.pathsep))]
    return inherited | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def penstock_environment() -> dict[str, str]:
    """The PENSTOCK_… variables of whoever started the stack; every service gets them."""
    return {name: value for name, value in os.environ.items() if name.startswith("PENSTOCK_")}
