"""The compute mode of a real GPU, by NVML."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.nvml_sharing import NvmlSharing, is_server
from driver.hardware.nvml.return_codes import NvmlError
from driver.hardware.process_sharing import ComputeMode


class Library:
    """One GPU's compute mode."""

    def __init__(self) -> None:
        self.mode = 0
        self.error: int | None = None

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        yield

    def call(self, function: str, handle: str, *arguments: int) -> Any:
        assert handle == "handle of GPU-0"
        if self.error is not None:
            raise NvmlError(function, self.error, "injected")
        if function == "nvmlDeviceSetComputeMode":
            [self.mode] = arguments
        return self.mode


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def sharing(library: Library, tmp_path: Path) -> NvmlSharing:
    return NvmlSharing(library, "handle of {}".format, root=None, directory=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "number"), [(ComputeMode.EXCLUSIVE_PROCESS, 3), (ComputeMode.PROHIBITED, 2)])
def test_a_mode_that_is_set_is_the_one_that_is_read(
    sharing: NvmlSharing, library: Library, mode: ComputeMode, number: int
) -> None:
    sharing.set_compute_mode("GPU-0", mode)

    assert library.mode == number
    assert sharing.compute_mode("GPU-0") is mode


def test_a_mode_of_the_future_is_not_guessed(sharing: NvmlSharing, library: Library) -> None:
    library.mode = 9

    with pytest.raises(BackendError, match="NVML says 9"):
        sharing.compute_mode("GPU-0")


def test_a_server_of_mps_is_told_from_a_process_that_computes(tmp_path: Path) -> None:
    for pid, name in (("1", b"nvidia-cuda-mps\n"), ("2", b"python3\n")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_bytes(name)

    assert [is_server(pid, tmp_path) for pid in (1, 2, 3)] == [True, False, False]


def test_a_refusal_says_what_was_tried_and_why_not(sharing: NvmlSharing, library: Library) -> None:
    library.error = return_codes.NO_PERMISSION

    with pytest.raises(
        BackendError, match="set the compute mode of GPU-0 to EXCLUSIVE_PROCESS: the driver's pod may not"
    ):
        sharing.set_compute_mode("GPU-0", ComputeMode.EXCLUSIVE_PROCESS)
