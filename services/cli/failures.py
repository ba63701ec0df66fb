"""Owns how a command fails: a message and a hint on stderr, and an exit code that means something.

0 it went well · 1 the run failed, or faults were found · 2 bad usage or input · 3 nothing answers · 130 Ctrl-C
"""

import sys

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


class CommandError(Exception):
    """Ends the command."""

    def __init__(self, message: str, *, hint: str = "", code: int = EXIT_USAGE, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.details = details

    def show(self) -> None:
        """Says it on stderr."""
        lines = [f"penstock: {self.message}", *(f"  {detail}" for detail in self.details)]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        sys.stderr.write("\n".join(lines) + "\n")


def unreachable(what: str, where: str, reason: str) -> CommandError:
    """Exit code 3, with the way to start what is missing."""
    return CommandError(
        f"cannot reach {what} at {where}: {reason}",
        hint="is it running? `penstock local status` tells, `penstock local up` starts everything on this machine",
        code=EXIT_UNREACHABLE,
    )
