"""What a check says."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be looked at; says why. Does not count."""
    WARNING = "warning"
    """Something works less well than it could, or will not work some day."""
    PROBLEM = "problem"
    """Pods do not get GPUs as they should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence about one thing, and what to do."""

    check: str
    """The check's name, the same in every version: for machines."""
    level: Level
    sentence: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""
    about: str = ""
    """The object: a node, a claim, a path. Empty for the cluster as a whole."""


def ok(check: str, sentence: str, *, about: str = "") -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, sentence=sentence, about=about)


def unknown(check: str, sentence: str, *, about: str = "", remedy: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(check=check, level=Level.UNKNOWN, sentence=sentence, about=about, remedy=remedy)


def warning(check: str, sentence: str, remedy: str, *, about: str = "") -> Finding:
    """Worth a look."""
    return Finding(check=check, level=Level.WARNING, sentence=sentence, remedy=remedy, about=about)


def problem(check: str, sentence: str, remedy: str, *, about: str = "") -> Finding:
    """To be mended."""
    return Finding(check=check, level=Level.PROBLEM, sentence=sentence, remedy=remedy, about=about)


def exit_status(findings: Iterable[Finding]) -> int:
    """0: nothing to do; 1: warnings; 2: problems."""
    levels = {finding.level for finding in findings}
    return 2 if Level.PROBLEM in levels else 1 if Level.WARNING in levels else 0
