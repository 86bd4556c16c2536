"""From the setting ``devices`` to a backend; what a backend needs is imported only for the one that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from driver.hardware.backend import BackendError
from driver.hardware.host.places import OWN

if TYPE_CHECKING:
    from driver.hardware.backend import Backend
    from driver.hardware.host.places import Host

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id(path: Path = BOOT_ID) -> str:
    """The kernel's id of the present boot: state of an earlier one is void. Empty where the kernel does not tell."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def open_backend(devices: str, state_dir: Path, *, boot_id: str | None = None, host: Host = OWN) -> Backend:
    """Open ``nvml``, ``fake:<profile>`` or ``fake:<path to a YAML file>``.

    Args:
        devices: the setting.
        state_dir: where fake hardware keeps its state, and MPS daemons theirs: the driver's plugin directory.
        boot_id: the node's boot, read from the kernel by default.
        host: where real hardware's driver and files are.

    Raises:
        BackendError: no usable NVIDIA driver; or a profile that is unknown or wrong (ProfileError). One line.
    """
    kind, _, argument = devices.partition(":")
    if kind == "fake" and argument:
        from driver.hardware.fake import profile
        from driver.hardware.fake.fake_backend import FakeBackend

        boot = read_boot_id() if boot_id is None else boot_id
        return FakeBackend(profile.load_profile(argument), name=argument, state_dir=state_dir, boot_id=boot)
    if devices == "nvml":
        import pynvml

        from driver.hardware.nvml import NvmlBackend

        return NvmlBackend(
            pynvml,
            root=host.driver,
            hook=host.cdi_hook,
            sysfs=host.sysfs,
            dev=host.dev,
            proc=host.proc,
            state_dir=state_dir,
        )
    raise BackendError(f"devices {devices!r}: 'nvml', 'fake:<profile>' or 'fake:<path to a YAML file>' is expected")
