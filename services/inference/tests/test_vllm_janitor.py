"""That no engine outlives its service, however that ends."""

import subprocess
import sys

import psutil

SERVICE = """
import subprocess, sys
from services.inference.engines.vllm_janitor import Janitor
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
janitor = Janitor()
janitor.watch_over([engine.pid])
print(engine.pid, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_service_leaves_behind_is_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        engine = psutil.Process(int(service.stdout.readline()))
        engine.suspend()  # a stopped engine is ended as well

        service.kill()

        engine.wait(timeout=30)
