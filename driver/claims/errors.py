"""How one claim fails: with a reason for metrics and a message that reads well in ``kubectl describe pod``."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """The closed set of values of the ``reason`` label."""

    INVALID_REQUEST = "invalid_request"
    API = "api"
    NOT_FOUND = "not_found"
    REPLACED = "replaced"
    NOT_ALLOCATED = "not_allocated"
    NOT_OURS = "not_ours"
    UNKNOWN_DEVICE = "unknown_device"
    CONFIG = "config"
    IN_USE = "in_use"
    HARDWARE = "hardware"
    RECORD = "record"
    CDI = "cdi"
    DEADLINE = "deadline"
    INTERNAL = "internal"


LONGEST = 1500
"""Characters of a message; much more does not get through to the pod's event anyway."""


class ClaimError(Exception):
    """Why one claim was not prepared or unprepared. It never fails the other claims of a call."""

    def __init__(self, reason: Reason, message: str) -> None:
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]}… ({len(message)} characters)"
        # JSON has halves of surrogate pairs, protobuf refuses them: the whole call would fail for one claim's text.
        super().__init__(message.encode(errors="backslashreplace").decode())
        self.reason = reason
