from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest

from driver.hardware.nvml import NvmlBackend
from tests.needs import COMPILER, NO_COMPILER
from tests.nvml.standin import World
from tests.short import short_directory

Build = Callable[..., World]
Open = Callable[..., NvmlBackend]


@pytest.fixture
def build() -> Iterator[Build]:
    """Makes a machine: a driver root, and the kernel's files."""
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    with contextlib.ExitStack() as roots:
        yield lambda **options: World(roots.enter_context(short_directory()), **options)


@pytest.fixture
def machine(build: Build) -> World:
    """One without GPUs yet."""
    return build()


@pytest.fixture
def open_nvml() -> Iterator[Open]:
    """Opens a machine as the driver does; it looks at its GPUs at each turn."""
    opened: list[NvmlBackend] = []

    def new(machine: World, **options: Any) -> NvmlBackend:
        roots = {"root": machine.root, "sysfs": machine.sysfs, "proc": machine.proc, "dev": machine.dev}
        opened.append(NvmlBackend(pynvml, **{**roots, "check_seconds": 0.0, "settle_seconds": 0.0, **options}))
        return opened[-1]

    yield new
    for backend in opened:
        backend.close()
