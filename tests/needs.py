"""What some tests need and not every machine has, and how to have it.

A test that cannot run skips with one of these texts, ``needs WHAT: HOW``, for the summary to count; any other reason
means that the test does not apply to this machine.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "build" / "tools"
SYSTEM = "/usr/sbin:/sbin"
"""Where programs are that an ordinary user's PATH leaves out."""

COMPILER = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
NO_COMPILER = "needs a C compiler: apt install gcc libc6-dev"
LDCONFIG = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:{SYSTEM}")
NO_LDCONFIG = "needs ldconfig: apt install libc-bin"
KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl", path=f"{TOOLS}:{os.environ.get('PATH', '')}")
NO_KUBECTL = NO_TOOLS = "needs helm and kubectl: make tools"
PROMETHEUS, PROMTOOL = (shutil.which(name) for name in ("prometheus", "promtool"))
NO_PROMETHEUS = "needs Prometheus: apt install prometheus"
CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "needs Chromium: apt install chromium"
NO_ROOT = "needs root that may mount and make device files: the same with sudo"
NO_GPU = "needs an NVIDIA GPU: make test-gpu on a machine with one"


def summary(reasons: Iterable[str]) -> str:
    """How many tests were skipped, and a line for each thing that they want: how many, and how to have it."""
    wanted: Counter[tuple[str, str]] = Counter()
    rest = 0
    for reason in reasons:
        match = re.match(r"(?:Skipped: )?needs ([^:]+): (.+)", reason)
        if match:
            wanted[match[1], match[2]] += 1
        else:
            rest += 1
    lines = [f"{count} for want of {what} ({how})" for (what, how), count in wanted.most_common()]
    if rest:
        lines.append(f"{rest} that do not apply here")
    return "\n  ".join([f"{wanted.total() + rest} skipped:", *lines]) if lines else "none skipped"
