"""Processes of the machine as /proc shows them: any of them may be gone between two looks."""

from __future__ import annotations

from pathlib import Path


def ended(pid: int) -> bool:
    """Whether it is gone, or waits only for its parent to take note."""
    state = _read(pid, "stat").rpartition(")")[2].split()
    return not state or state[0] == "Z"


def arguments(pid: int) -> list[str]:
    """With which it was started; none when it is gone."""
    return _read(pid, "cmdline").split("\0")


def everybody() -> list[int]:
    """All processes that there are."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
