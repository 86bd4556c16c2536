"""What a container runtime sees of our specs."""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import struct
from typing import TYPE_CHECKING

import pytest

from driver.cdi.directory import SpecDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DRIVER = "gpu.nvidia.com"
UID = "0f5c1a52-7d0f-4b0c-9a5e-2f3f6f0f7a11"
MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x40, 0x80, 0x100, 0x200


class Watcher:
    """The inotify events of a directory."""

    def __init__(self, directory: Path) -> None:
        self._libc = ctypes.CDLL(None)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), 0xFFF)

    def close(self) -> None:
        os.close(self._descriptor)

    def scans(self) -> list[str]:
        """Files whose events make a runtime scan: container-device-interface's rule for its watch."""
        return [
            name
            for mask, name in self._events()
            if mask & (MOVED_FROM | DELETE) or (mask & MODIFY and name.endswith((".json", ".yaml")))
        ]

    def _events(self) -> Iterator[tuple[int, str]]:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, offset)
            yield mask, data[offset + 16 : offset + 16 + length].rstrip(b"\0").decode()
            offset += 16 + length


@pytest.fixture
def specs(tmp_path: Path) -> SpecDirectory:
    directory = SpecDirectory(tmp_path / "cdi", driver=DRIVER)
    directory.open()
    return directory


@pytest.fixture
def watcher(specs: SpecDirectory, tmp_path: Path) -> Iterator[Watcher]:
    watcher = Watcher(tmp_path / "cdi")
    yield watcher
    watcher.close()


def test_a_new_spec_makes_a_runtime_scan_once(specs: SpecDirectory, watcher: Watcher) -> None:
    specs.write(UID, b"{}")

    assert watcher.scans() == [f"k8s.{DRIVER}-claim_{UID}.json"]


def test_a_replaced_spec_makes_a_runtime_scan_once(specs: SpecDirectory, watcher: Watcher) -> None:
    specs.write(UID, b"{}")
    watcher.scans()

    specs.write(UID, b'{"new": 1}')

    assert len(watcher.scans()) == 1
    assert specs.path(UID).read_bytes() == b'{"new": 1}'


def test_a_removed_spec_makes_a_runtime_scan_once(specs: SpecDirectory, watcher: Watcher) -> None:
    specs.write(UID, b"{}")
    watcher.scans()

    specs.remove(UID)

    assert len(watcher.scans()) == 1


def test_a_spec_that_is_settled_is_not_touched(specs: SpecDirectory, watcher: Watcher) -> None:
    specs.write(UID, b"{}")
    watcher.scans()

    settled = specs.settled(UID)

    assert settled
    assert watcher.scans() == []


def test_a_spec_that_was_moved_in_and_not_announced_is_announced_by_the_next_look(
    specs: SpecDirectory, watcher: Watcher
) -> None:
    specs.path(UID).write_bytes(b"{}")
    os.utime(specs.path(UID), (0, 0))
    watcher.scans()

    settled = specs.settled(UID)

    assert settled
    assert len(watcher.scans()) == 1
    assert specs.path(UID).read_bytes() == b"{}"
    assert specs.settled(UID)
    assert watcher.scans() == []


def test_no_announcement_changes_a_spec_whoever_else_is_at_it(specs: SpecDirectory) -> None:
    one, other = b'{"devices": ["a"]}', b'{"devices": []}'

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        writers = [
            pool.submit(lambda content=content: [specs.write(UID, content) for _ in range(300)])
            for content in (one, other)
        ]
        found = set()
        while not all(writer.done() for writer in writers):
            specs.settled(UID)
            found.add(specs.read(UID))

    assert found <= {one, other, None}


def test_a_spec_that_is_not_there_is_not_settled(specs: SpecDirectory) -> None:
    assert not specs.settled(UID)


def test_nothing_but_finished_specs_lies_in_the_root(specs: SpecDirectory, tmp_path: Path) -> None:
    specs.write(UID, b"{}")

    assert [path.name for path in (tmp_path / "cdi").iterdir() if path.is_file()] == [f"k8s.{DRIVER}-claim_{UID}.json"]


def test_that_specs_can_be_written_is_tried_without_anybody_noticing(specs: SpecDirectory, tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "cdi")

    specs.probe()

    assert watcher.scans() == []
    watcher.close()
    assert [path for path in (tmp_path / "cdi").rglob("*") if path.is_file()] == []


def test_a_place_that_is_no_directory_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        SpecDirectory(tmp_path / "file/cdi", driver=DRIVER).probe()
