"""How long processes compute in turn on a real GPU. NVML has no call for it, so NVIDIA's own tool is asked."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from driver.hardware.backend import BackendError
from driver.hardware.host import libraries
from driver.hardware.process_sharing import TimeSlice

if TYPE_CHECKING:
    from driver.hardware.host.root import DriverRoot

PROGRAM = "nvidia-smi"
PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/local/nvidia/bin", "/opt/bin")
LIBRARY = "libnvidia-ml.so.1"
SECONDS = 15.0
NUMBERS = {TimeSlice.DEFAULT: 0, TimeSlice.SHORT: 1, TimeSlice.MEDIUM: 2, TimeSlice.LONG: 3}
# Tables and plain lines are both around; the name of the setting and its value are in one line of either.
_VALUE = re.compile(r"time-?slice\W+(default|short|medium|long)\b", re.IGNORECASE)


class TimeSlices:
    """The setting of each GPU, by its UUID."""

    def __init__(self, root: DriverRoot, *, seconds: float = SECONDS) -> None:
        self._root = root
        self._seconds = seconds

    def get(self, gpu_uuid: str) -> TimeSlice:
        """The setting at this moment. Raises BackendError."""
        what = f"read the time slice of {gpu_uuid}"
        said = self._smi(what, "compute-policy", "-i", gpu_uuid, "--list")
        found = _VALUE.search(said)
        if found is None:
            raise BackendError(f"{what}: {PROGRAM} does not tell it: {_short(said)}")
        return TimeSlice(found[1].capitalize())

    def set(self, gpu_uuid: str, interval: TimeSlice) -> None:
        """Change it. Raises BackendError."""
        what = f"set the time slice of {gpu_uuid} to {interval}"
        self._smi(what, "compute-policy", "-i", gpu_uuid, "--set-timeslice", str(NUMBERS[interval]))

    def _smi(self, what: str, *arguments: str) -> str:
        program = self._root.find(*(f"{place}/{PROGRAM}" for place in PLACES))
        if program is None:
            raise BackendError(f"{what}: {PROGRAM} is not below {self._root.path}, and NVML has no call for it")
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        places = (*libraries.directories(self._root, os.uname().machine), "/lib64", "/usr/lib64", "/lib", "/usr/lib")
        library = self._root.find(*(f"{place}/{LIBRARY}" for place in places))
        if library is not None:  # of the driver, while everything else is of this container
            environment["LD_PRELOAD"] = str(self._root.here(library))
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and the UUID is NVML's
                [self._root.here(program), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(f"{what}: {PROGRAM} does not answer within {self._seconds:g} s") from None
        except OSError as error:
            raise BackendError(f"{what}: {PROGRAM} cannot be run: {error.strerror}") from None
        if done.returncode:
            raise BackendError(
                f"{what}: {_short(done.stderr or done.stdout) or f'exit status {done.returncode}'}; "
                "GPUs before Volta, and some products, have no such setting"
            )
        return done.stdout


def _short(said: str) -> str:
    return " ".join(said.split())[:200]
