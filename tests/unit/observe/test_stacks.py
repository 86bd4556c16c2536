"""What a signal shows of a process on which nothing goes on."""

from __future__ import annotations

import subprocess
import sys

STUCK = """
import asyncio, os, signal
from driver.observe import log_stacks_on

def stuck():
    os.kill(os.getpid(), signal.SIGUSR1)
    os._exit(3)  # the loop gets no chance to answer

async def main():
    log_stacks_on(signal.SIGUSR1)
    stuck()

asyncio.run(main())
"""


def test_a_loop_that_hangs_shows_where() -> None:
    outcome = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)

    assert outcome.returncode == 3
    assert "in stuck" in outcome.stderr
