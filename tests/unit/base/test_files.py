"""Small files: written as a whole by several at once, read without trust in what lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from driver.base import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITER = """
import sys
from driver.base import files

path, letter = sys.argv[1:]
for _ in range(200):
    files.replace(path, letter.encode() * 10_000)
"""
FORKS = """
import os
from driver.base import files

any(os.fork() == 0 for _ in range(2))
os.write(1, files.temporary_name("name").encode() + b"\\n")
"""


def test_several_writers_of_one_file_never_tear_it_or_fail(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 10_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "ab"]
    found = set()
    while any(writer.poll() is None for writer in writers):
        found.add(path.read_bytes())

    assert [writer.returncode for writer in writers] == [0, 0]
    assert found <= {letter * 10_000 for letter in (b"0", b"a", b"b")}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_forked_process_has_other_names() -> None:
    said = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True).stdout

    assert len(set(said.split())) == 3


def test_a_file_is_written_where_the_caller_says_and_has_the_mode_and_time_that_it_says(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()

    status = files.replace(str(tmp_path / "file"), b"new", staging=str(staging), mode=0o600, mtime_ns=0)

    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o600, 0)
    assert os.path.samestat((tmp_path / "file").stat(), status)
    assert list(staging.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(IsADirectoryError):
        files.replace(str(tmp_path / "file"), b"new")

    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_that_somebody_put_where_a_file_is_to_be_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("old")
    (tmp_path / "file").symlink_to(victim)

    files.replace(str(tmp_path / "file"), b"new")
    (tmp_path / "again").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.write(str(tmp_path / "again"), b"new")

    assert victim.read_text() == "old"
    assert (tmp_path / "file").read_bytes() == b"new"


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / files.temporary_name("names.json")).touch()
    (tmp_path / files.temporary_name("directory")).mkdir()
    (tmp_path / ".names.json.tmp").touch()
    (tmp_path / "names.json").touch()
    before = _names(tmp_path)

    files.tidy(str(tmp_path))
    young = _names(tmp_path)
    files.tidy(str(tmp_path), older=-1)

    assert young == before
    assert before - _names(tmp_path) == {n for n in before if n.startswith(".names.json.") and len(n) > 20}


def test_tidying_a_directory_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    files.tidy(str(tmp_path / "gone"))


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")

    assert files.read(str(tmp_path / "file"), largest=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        files.read(str(tmp_path / "file"), largest=4)


def test_a_file_of_the_kernel_that_says_that_it_is_empty_is_read_as_well() -> None:
    assert files.read("/proc/self/status").startswith(b"Name:")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[str], None]) -> None:
    make(str(tmp_path / "odd"))

    with pytest.raises(OSError, match="not a regular file"):
        files.read(str(tmp_path / "odd"))


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[]", b"\xff", b"{", b"null", b"9" * 5000])
def test_what_is_no_json_object_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        files.parse(content)
