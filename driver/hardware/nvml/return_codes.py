"""What NVML's return codes mean for us. Numbers are those of nvmlReturn_t, which never change."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from driver.hardware.backend import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNINITIALIZED = 1
NOT_SUPPORTED = 3
NO_PERMISSION = 4
ALREADY_INITIALIZED = 5
NOT_FOUND = 6
INSUFFICIENT_POWER = 8
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
IRQ_ISSUE = 11
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
CORRUPTED_INFOROM = 14
GPU_IS_LOST = 15
RESET_REQUIRED = 16
OPERATING_SYSTEM = 17
LIB_RM_VERSION_MISMATCH = 18
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
ARGUMENT_VERSION_MISMATCH = 25
DEPRECATED = 26
GPU_NOT_FOUND = 28
UNKNOWN = 999

CANNOT_TELL = frozenset(
    {NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED}
)
"""This GPU, driver or user has no such thing: nothing is wrong."""
NEVER = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED})
"""Of these the GPU or its driver has no such thing for good: what would have been told will never be known."""
SESSION_OVER = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
"""The kernel driver has gone, or another one has come: everything that NVML gave us before is void."""
LOST = frozenset({GPU_IS_LOST, GPU_NOT_FOUND})
"""The GPU is there no longer, or does not answer on the bus."""

_WORDS = {
    IN_USE: "something still uses it",
    INSUFFICIENT_RESOURCES: "there is no room for it beside the MIG devices that exist",
    NO_PERMISSION: "the driver's pod may not do that; it has to run as root with the capability SYS_ADMIN",
    GPU_IS_LOST: "the GPU is lost; it comes back with a reset or a reboot",
    RESET_REQUIRED: "the GPU needs a reset before it can be used again",
    NOT_SUPPORTED: "the GPU or its driver does not support that",
    FUNCTION_NOT_FOUND: "the installed NVIDIA driver is too old for that",
    DRIVER_NOT_LOADED: "the kernel driver is not loaded",
    UNINITIALIZED: "the kernel driver was unloaded or replaced",
    LIB_RM_VERSION_MISMATCH: "the kernel driver and its library have different versions, as during an upgrade",
    TIMEOUT: "the GPU did not answer in time",
}


class NvmlError(Exception):
    """A call of NVML that failed."""

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function}: {text}")
        self.function = function
        self.code = code
        self.text = text

    @property
    def reason(self) -> str:
        """What that means, for people, with NVML's own words."""
        words = _WORDS.get(self.code)
        return f"{words} (NVML: {self.text})" if words else f"NVML: {self.text}, in {self.function}"


def words(code: int) -> str:
    """What a code means, for people."""
    return _WORDS.get(code, f"NVML status {code}")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an NvmlError into a BackendError: ``what`` was tried, and why it failed."""
    try:
        yield
    except NvmlError as error:
        raise BackendError(f"{what}: {error.reason}") from None
