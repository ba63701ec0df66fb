"""Runs the local stack's commands without the rest of the command line: `python -m services.local up`."""

from services.local.commands import app

if __name__ == "__main__":
    app(prog_name="python -m services.local")
