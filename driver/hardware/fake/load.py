"""``gpu-dra load``: what fake hardware reports of its use, while a driver runs on it, or before it starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from driver.base.quantity import format_quantity, is_quantity, parse_quantity
from driver.hardware.fake.change import ChangeError, changed, find
from driver.hardware.fake.profile import ProfileError, load_profile
from driver.hardware.fake.state_file import MAX_POWER, MAX_TEMPERATURE, HardwareState, Load
from driver.hardware.measurement import THROTTLE_REASONS
from driver.hardware.model import partition_device_name

if TYPE_CHECKING:
    from pathlib import Path

_PARTITION = re.compile(r"(?P<gpu>.+)-mig-[0-9a-z-]+")
MAX_MEMORY = 1 << 50


def load(
    state_dir: Path,
    *,
    boot_id: str,
    device: str,
    utilisation: int | None = None,
    memory: str | None = None,
    temperature: int | None = None,
    power: int | None = None,
    throttled: tuple[str, ...] = (),
    clear: bool = False,
) -> str:
    """Change what one fake GPU, or a partition of one, reports of its use; the rest stays, unless ``clear`` says so.

    Args:
        state_dir: where the driver with the fake devices keeps its state, its plugin directory.
        boot_id: the node's present boot: loads of an earlier one are gone.
        device: a device name (``gpu-3``, ``gpu-3-mig-1g10gb-19-0``) or a GPU's UUID.
        utilisation: percent.
        memory: how much is used, for example ``40Gi``.
        temperature: degrees Celsius, of a whole GPU.
        power: watts, of a whole GPU.
        throttled: why its clocks are held down, of a whole GPU.
        clear: nothing runs on it any more, before what else is given.

    Returns:
        What the device reports now, for people.

    Raises ChangeError; then nothing was changed.
    """
    _check(utilisation=utilisation, temperature=temperature, power=power, throttled=throttled)
    used = None if memory is None else _bytes(memory)
    of_gpu = temperature is not None or power is not None or bool(throttled)
    if not (clear or of_gpu or utilisation is not None or used is not None):
        raise ChangeError(
            "nothing to do: --utilisation N, --memory QUANTITY, --temperature N, --power N, "
            "--throttled REASON or --clear is expected"
        )
    with changed(state_dir, boot_id=boot_id) as state:
        name = _named(state.now, device)
        if of_gpu and name not in state.now.devices:
            raise ChangeError(f"--device {device}: temperature, power and throttling are those of a whole GPU")
        before = Load() if clear else state.now.load.get(name, Load())
        now = Load(
            utilisation=before.utilisation if utilisation is None else utilisation,
            memory=before.memory if used is None else used,
            temperature=before.temperature if temperature is None else temperature,
            power=before.power if power is None else power,
            throttled=throttled or before.throttled,
        )
        loads = {key: value for key, value in {**state.now.load, name: now}.items() if value != Load()}
        state.now = state.now.model_copy(update={"load": loads})
    return f"{name}: {_describe(now)}"


def _named(state: HardwareState, device: str) -> str:
    """The device's name. Raises ChangeError for one that this node cannot have."""
    match = _PARTITION.fullmatch(device)
    if match is None or match["gpu"] not in state.devices:
        return find(state, device)
    try:
        gpu = load_profile(state.profile).inventory().by_name().get(match["gpu"])
    except ProfileError:  # a file that is not here: the driver knows
        return device
    profiles = gpu.mig_profiles if gpu else ()
    possible = {
        partition_device_name(match["gpu"], profile.name, profile.profile_id, start)
        for profile in profiles
        for start in profile.starts
    }
    if device not in possible:
        raise ChangeError(f"--device {device}: no such partition; {match['gpu']} can have {_some(possible)}")
    return device


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "") if listed else "none"


def _bytes(memory: str) -> int:
    if not is_quantity(memory) or not 0 <= (amount := parse_quantity(memory)) <= MAX_MEMORY:
        raise ChangeError(f"--memory {memory}: an amount of memory is expected, for example 40Gi")
    return int(amount)


def _check(*, utilisation: int | None, temperature: int | None, power: int | None, throttled: tuple[str, ...]) -> None:
    """Raises ChangeError for what cannot be."""
    numbers = {
        "utilisation": (utilisation, 100),
        "temperature": (temperature, MAX_TEMPERATURE),
        "power": (power, MAX_POWER),
    }
    for flag, (number, most) in numbers.items():
        if number is not None and not 0 <= number <= most:
            raise ChangeError(f"--{flag} {number}: a number from 0 to {most} is expected")
    for reason in throttled:
        if reason not in THROTTLE_REASONS:
            raise ChangeError(f"--throttled {reason}: one of {', '.join(THROTTLE_REASONS)} is expected")


def _describe(load: Load) -> str:
    words = [f"{load.utilisation} % utilisation", f"{format_quantity(load.memory)} of memory"]
    if load.temperature is not None:
        words.append(f"{load.temperature} degrees")
    if load.power is not None:
        words.append(f"{load.power} W")
    if load.throttled:
        words.append(f"throttled by {', '.join(load.throttled)}")
    return ", ".join(words) if load != Load() else "nothing runs on it"
