"""Changing what fake hardware remembers from outside, while a driver runs on it or before it starts."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.hardware.fake.state_file import DamagedStateError, StateFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from driver.hardware.fake.state_file import HardwareState


class ChangeError(ValueError):
    """The fake hardware was not changed; one line that says why, and what is accepted."""


@dataclass(slots=True)
class Change:
    """A state that is being changed: what ``now`` is at the end is written."""

    now: HardwareState


@contextmanager
def changed(state_dir: Path, *, boot_id: str) -> Iterator[Change]:
    """Change the state of the fake GPUs of a driver, by its plugin directory. Raises ChangeError; nothing has changed.

    ``boot_id`` is the node's present boot: what was in an earlier one is gone.
    """
    missing = (
        f"no fake GPUs in {state_dir}: start the driver with --devices fake:<profile> first, or name its directory"
    )
    if not state_dir.is_dir():
        raise ChangeError(missing)
    file = StateFile(state_dir)
    try:
        with file.locked():
            state = file.read()
            if state is None:
                raise ChangeError(missing)
            change = Change(state.in_boot(boot_id))
            yield change
            file.write(change.now)
    except DamagedStateError as error:
        raise ChangeError(f"{error}; a running driver puts it right within a second, or remove it") from None
    except OSError as error:
        raise ChangeError(f"the state of the fake GPUs in {state_dir} cannot be changed: {error}") from None


def find(state: HardwareState, device: str) -> str:
    """The name of a GPU, by its name or its UUID. Raises ChangeError."""
    if device in state.devices:
        return device
    for name, uuid in state.devices.items():
        if uuid == device:
            return name
    known = ", ".join(state.devices) or "none"
    raise ChangeError(f"--device {device}: no such device; {state.profile} has {known}")
