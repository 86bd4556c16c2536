"""``make picture``: run the demo, and draw what it showed when."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.ansi import AnsiDecoder

from tests.needs import CHROMIUM, NO_CHROMIUM
from tests.pictures import DEMO, FLOWS, PAGE
from tests.pictures.flows import draw_flows
from tests.pictures.page import photograph
from tests.pictures.terminal import COLUMNS, Row, draw_recording

PROGRAM = Path(sys.executable).parent / "gpu-dra"


def record() -> list[Row]:
    """A run of the demo: its lines, each with the time at which it was there."""
    colours = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
    decoder, started, rows = AnsiDecoder(), time.monotonic(), []
    with subprocess.Popen(
        [str(PROGRAM), "demo"],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **colours, "COLUMNS": str(COLUMNS)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            rows.append(Row(text=decoder.decode_line(line.rstrip("\n")), at=time.monotonic() - started))
            print(line, end="", flush=True)
    if process.returncode != 0:
        sys.exit("the demo has failed, the picture stays what it is")
    return rows


def main() -> None:
    FLOWS.write_text(draw_flows(), encoding="utf-8")
    DEMO.write_text(draw_recording(record()), encoding="utf-8")
    if CHROMIUM is None:
        print(f"{PAGE} stays what it is: {NO_CHROMIUM}")
    else:
        PAGE.write_bytes(asyncio.run(photograph()))
    for path in (FLOWS, DEMO, PAGE):
        print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
