"""Owns the choice of TCP ports: free ones, the same ones at every start of the same data folder where they are free."""

import hashlib
import json
import socket
from pathlib import Path

# Below the range that Linux gives to outgoing connections, so that none of them takes a port while its part is down.
FIRST_PORT = 20_000
PORT_COUNT = 12_000
LOOPBACK = "127.0.0.1"


class PortsExhaustedError(RuntimeError):
    """No free port was found in the whole range."""


class Ports:
    """The ports of one data folder, remembered in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seed = int.from_bytes(hashlib.sha256(str(file).encode()).digest()[:4], "big")
        self._chosen: dict[str, int] = {}
        try:
            self._remembered: dict[str, int] = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):
            self._remembered = {}

    def port(self, name: str, fixed: int | None = None) -> int:
        """The port of that name, the same for as long as this object lives."""
        if name not in self._chosen:
            self._chosen[name] = fixed if fixed is not None else self._choose(name)
            self._file.write_text(json.dumps(self._remembered | self._chosen, indent=2, sort_keys=True) + "\n")
        return self._chosen[name]

    def _choose(self, name: str) -> int:
        remembered = self._remembered.get(name)
        if remembered is not None and remembered not in self._chosen.values() and is_free(remembered):
            return remembered
        taken = {*self._chosen.values(), *self._remembered.values()}
        for step in range(PORT_COUNT):
            candidate = FIRST_PORT + (self._seed + step) % PORT_COUNT
            if candidate not in taken and is_free(candidate):
                return candidate
        raise PortsExhaustedError(f"no free port between {FIRST_PORT} and {FIRST_PORT + PORT_COUNT}")


def is_free(port: int) -> bool:
    """Whether somebody could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
