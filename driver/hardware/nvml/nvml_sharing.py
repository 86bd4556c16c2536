"""How processes share real GPUs: compute mode by NVML, time slices by NVIDIA's tool, MPS by its control daemons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.base import layout
from driver.hardware.backend import BackendError
from driver.hardware.host.root import DriverRoot
from driver.hardware.mps.daemon import MpsDaemons
from driver.hardware.nvml.return_codes import explained
from driver.hardware.nvml.time_slice import TimeSlices
from driver.hardware.process_sharing import ComputeMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.hardware.nvml.library import Library

# nvmlComputeMode_t; the numbers never change.
MODES = {
    0: ComputeMode.DEFAULT,
    1: ComputeMode.EXCLUSIVE_THREAD,
    2: ComputeMode.PROHIBITED,
    3: ComputeMode.EXCLUSIVE_PROCESS,
}
NUMBERS = {mode: number for number, mode in MODES.items()}


def is_server(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is a server of MPS: it stays on a GPU when its last client has gone, and uses it for nobody."""
    try:
        # The kernel keeps 15 bytes of a name.
        return (proc / str(pid) / "comm").read_bytes().startswith(b"nvidia-cuda-mps")
    except OSError:
        return False


class NvmlSharing:
    """Each GPU's settings. ``handle`` gives a GPU's, within a session of the library."""

    def __init__(
        self, library: Library, handle: Callable[[str], Any], *, root: DriverRoot | None, directory: Path
    ) -> None:
        """``directory``: the plugin directory, in which daemons have theirs."""
        self._library = library
        self._handle = handle
        self.time_slices = TimeSlices(root or DriverRoot())
        self.mps = MpsDaemons(directory / layout.MPS, root or DriverRoot())

    def compute_mode(self, gpu_uuid: str) -> ComputeMode:
        """As NVML has it. Raises BackendError."""
        with self._library.session(), explained(f"read the compute mode of {gpu_uuid}"):
            number = self._library.call("nvmlDeviceGetComputeMode", self._handle(gpu_uuid))
        if number not in MODES:
            raise BackendError(f"read the compute mode of {gpu_uuid}: NVML says {number}, which is none that we know")
        return MODES[number]

    def set_compute_mode(self, gpu_uuid: str, mode: ComputeMode) -> None:
        """Change it. Raises BackendError."""
        with self._library.session(), explained(f"set the compute mode of {gpu_uuid} to {mode}"):
            self._library.call("nvmlDeviceSetComputeMode", self._handle(gpu_uuid), NUMBERS[mode])
