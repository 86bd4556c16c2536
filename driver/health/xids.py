"""XIDs, the error numbers of NVIDIA's kernel driver: which ones are whose fault, and what they leave behind."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from driver.hardware import NO_ACTION


class Severity(enum.IntEnum):
    """How bad a condition is for the GPU, in rising order."""

    INFORMATION = 0
    """The GPU is as good as before."""
    DEGRADED = 1
    """What runs may go on, nothing new should start."""
    UNUSABLE = 2
    """Nothing on this GPU can go on: what runs there should move."""


APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Faults of the program that ran, the same numbers that NVIDIA's device plugin and DRA driver let pass."""

RESTARTED_XIDS = frozenset(
    {8, 11, 25, 32, 39, 40, 41, 60, 69, *range(70, 73), *range(75, 78), 80, *range(82, 87), 88, 89, 94}
    | {*range(96, 106), *range(126, 136), 139}
)
"""NVIDIA's catalogue asks for no more than to start the program again."""

PASSED_OVER_XIDS = frozenset({37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 157, 160, 161})
"""NVIDIA's catalogue asks for nothing."""

PASSING_XIDS = APPLICATION_XIDS | RESTARTED_XIDS | PASSED_OVER_XIDS
"""Over once the program has ended.

All others need a reset of the GPU, or somebody who looks at it; XIDs that we don't know are taken for such.
"""

UNUSABLE_XIDS = frozenset({62, 79, 95, 119, 120})
"""NVIDIA's catalogue asks for a reset or reboot, and every context on the GPU is gone or hangs by then.

Not among them: 48, 63, 64, 94 and the like (memory errors that take down at most the program that touched the memory)
and 74 (NVLink: work within one GPU is not touched, and the link may train again).
"""

UNACCOUNTED_XIDS = frozenset({46, 119, 140})
"""Those that need a reset, and that NVIDIA's catalogue does not link to the recovery action: it may be none."""

MAX_DIGITS = 6
"""Of an XID; NVIDIA's have three."""

_ACTIONS = {
    NO_ACTION: Severity.INFORMATION,
    "drain-p2p": Severity.DEGRADED,
    "drain-and-reset": Severity.DEGRADED,
    "recover-imex-domain": Severity.DEGRADED,
    "gpu-reset": Severity.UNUSABLE,
    "bus-reset": Severity.UNUSABLE,
    "node-reboot": Severity.UNUSABLE,
    "system-reboot": Severity.UNUSABLE,
}
"""Which recovery action can wait until what runs has ended, and which asks to end it."""

_MEANINGS = {
    13: "graphics engine exception",
    31: "page fault of a program",
    43: "a program's work was stopped",
    45: "a program's channels were torn down",
    46: "the GPU stopped processing",
    48: "uncorrectable memory error",
    61: "internal microcontroller breakpoint",
    62: "internal microcontroller halt",
    63: "memory row remapped or page retired",
    64: "memory row remapping or page retirement failed",
    68: "video processor exception",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high rate of corrected memory errors",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GPU system processor does not answer",
    120: "GPU system processor error",
    140: "unrecovered memory error",
    154: "the GPU asks for another recovery action",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class XidRules:
    """What an administrator says of XIDs; it counts more than the GPU's account and our table."""

    severities: Mapping[int, Severity] = field(default_factory=lambda: MappingProxyType({}))
    others: Severity | None = None
    """Of all XIDs that ``severities`` does not name."""

    def of(self, xid: int) -> Severity | None:
        """How bad an XID is; None where nothing is said of it."""
        return self.severities.get(xid, self.others)


NO_RULES = XidRules()
"""Of an administrator who says nothing."""


def parse_xids(text: str) -> frozenset[int] | None:
    """XIDs as NVIDIA's device plugin and DRA driver take them: numbers with commas; None for ``all`` or ``xids``.

    Raises ValueError where there is anything else.
    """
    words = [word for word in (part.strip().lower() for part in text.split(",")) if word]
    if "all" in words or "xids" in words:
        return None
    wrong = [word for word in words if not (word.isascii() and word.isdecimal() and len(word) <= MAX_DIGITS)]
    if wrong or not words:
        raise ValueError("XID numbers with commas between them are expected, for example '48, 74', or 'all' or 'xids'")
    return frozenset(map(int, words))


def severity(xid: int, recovery: str | None = None) -> Severity:
    """How bad an XID is: as the GPU's account has it, by the table where it gives none.

    ``recovery``: the recovery action, ``none`` for nothing, None where the driver does not tell. An action or an XID
    that we don't know is a reason to start nothing new, as in NVIDIA's driver.
    """
    if recovery is not None and not (recovery == NO_ACTION and xid in UNACCOUNTED_XIDS):
        return _ACTIONS.get(recovery, Severity.DEGRADED)
    if xid in APPLICATION_XIDS:
        return Severity.INFORMATION
    return Severity.UNUSABLE if xid in UNUSABLE_XIDS else Severity.DEGRADED


def meaning(xid: int) -> str:
    """A few words for people, empty for an XID that we don't know."""
    return _MEANINGS.get(xid, "")
