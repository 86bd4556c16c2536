"""XIDs, the error numbers of NVIDIA's kernel driver: which ones are whose fault, and what they leave behind."""

from __future__ import annotations

import enum


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

PASSING_XIDS = APPLICATION_XIDS | {63, 92, 94}
"""NVIDIA's catalogue asks for no more than to start the program again, or for nothing: over once that has ended.

All others need a reset of the GPU, or somebody who looks at it; XIDs that we don't know are taken for such.
"""

UNUSABLE_XIDS = frozenset({62, 79, 95, 119, 120})
"""NVIDIA's catalogue asks for a reset or reboot, and every context on the GPU is gone or hangs by then.

Not among them: 48, 63, 64, 94 and the like (memory errors that take down at most the program that touched the memory)
and 74 (NVLink: work within one GPU is not touched, and the link may train again).
"""

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


def severity(xid: int) -> Severity:
    """How bad an XID is; one that we don't know is a reason to start nothing new, as in NVIDIA's driver."""
    if xid in APPLICATION_XIDS:
        return Severity.INFORMATION
    return Severity.UNUSABLE if xid in UNUSABLE_XIDS else Severity.DEGRADED


def meaning(xid: int) -> str:
    """A few words for people, empty for an XID that we don't know."""
    return _MEANINGS.get(xid, "")
