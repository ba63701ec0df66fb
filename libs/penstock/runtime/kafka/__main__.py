"""Creates the registry's topics that are missing and ends: `python -m penstock.runtime.kafka`."""

import asyncio
import os
import sys

from penstock.runtime.errors import PenstockError, SettingsError
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.service import EXIT_FAILED, EXIT_SETTINGS
from penstock.runtime.settings import ServiceSettings, load


def main() -> int:
    """Waits for the broker; exit code 0 when all topics are there."""
    try:
        settings = load(ServiceSettings, os.environ)
        created = asyncio.run(ensure_topics(settings.kafka_bootstrap_servers, settings.deployment))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except PenstockError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    print(f"{len(created)} topics created")
    return 0


if __name__ == "__main__":
    sys.exit(main())
