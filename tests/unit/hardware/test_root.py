"""Paths inside a driver root, as a process sees them whose root it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.hardware.host.root import DriverRoot
from tests.unit.hardware.roots import link, put

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ("file", "/usr/lib/file"),
        ("/usr/lib/file", "/usr/lib/file"),
        ("../lib/./file", "/usr/lib/file"),
        ("../../../../../usr/lib/file", "/usr/lib/file"),
        ("/lib/file", "/usr/lib/file"),
        ("/lib/../lib/file", "/usr/lib/file"),
        ("link", None),
        ("nothing", None),
        ("file/further", None),
        ("/../../etc/hostname", None),
    ],
)
def test_links_stay_within_the_root(target: str, resolved: str | None, tmp_path: Path):
    put(tmp_path, "/usr/lib/file")
    link(tmp_path, "/lib", "usr/lib")
    link(tmp_path, "/usr/lib/link", target)

    assert DriverRoot(path=tmp_path).resolve("/lib/link") == resolved


@pytest.mark.parametrize(
    ("host", "expected"), [("/", "/usr/x"), ("/run/nvidia/driver", "/run/nvidia/driver/usr/x"), ("/opt/", "/opt/usr/x")]
)
def test_the_host_has_the_file_below_its_own_path(host: str, expected: str, tmp_path: Path):
    assert DriverRoot(path=tmp_path, host=host).on_host("/usr/x") == expected


def test_the_first_file_that_is_there_is_found_and_directories_do_not_count(tmp_path: Path):
    put(tmp_path, "/a/directory/x")
    put(tmp_path, "/b/file")
    put(tmp_path, "/c/file")

    assert DriverRoot(path=tmp_path).find("/a/directory", "/missing", "/b/file", "/c/file") == "/b/file"
    assert DriverRoot(path=tmp_path).find("/missing") is None


def test_names_of_what_is_no_directory_are_none(tmp_path: Path):
    put(tmp_path, "/b/file")

    assert DriverRoot(path=tmp_path).names("/b") == ["file"]
    assert DriverRoot(path=tmp_path).names("/b/file") == []
    assert DriverRoot(path=tmp_path).names("/missing") == []
