"""Where everybody may write, somebody else may have been first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from driver.hardware.mps import shared_directory

if TYPE_CHECKING:
    from pathlib import Path

OTHER = 12345


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shm" / "gpu.nvidia.com-claim-uid"


@pytest.fixture
def victim(tmp_path: Path, path: Path) -> Path:
    """A directory elsewhere, to which a link leads in our directory's place."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "file").touch()
    path.parent.mkdir()
    path.symlink_to(victim)
    return victim


def test_all_may_write_to_a_new_one(path: Path) -> None:
    shared_directory.make(path)

    assert path.stat().st_mode & 0o7777 == 0o1777


def test_one_that_is_ours_is_kept_with_what_running_clients_have_in_it(path: Path) -> None:
    shared_directory.make(path)
    (path / "client").touch()

    shared_directory.make(path)

    assert (path / "client").exists()


def test_a_link_is_not_followed(path: Path, victim: Path) -> None:
    with pytest.raises(FileExistsError, match="there is a link or a file that is not the driver's"):
        shared_directory.make(path)

    assert victim.stat().st_mode & 0o7777 == 0o700


def test_a_link_keeps_nobody_from_stopping_and_its_target_stays(path: Path, victim: Path) -> None:
    shared_directory.remove(path)

    assert path.is_symlink()
    assert (victim / "file").exists()


def test_a_file_in_its_place_is_an_error_and_stays(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("not ours", encoding="utf-8")

    with pytest.raises(FileExistsError):
        shared_directory.make(path)
    shared_directory.remove(path)

    assert path.read_text(encoding="utf-8") == "not ours"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")
def test_a_directory_of_another_user_is_neither_taken_nor_changed_nor_removed(path: Path) -> None:
    path.mkdir(parents=True, mode=0o755)
    os.chown(path, OTHER, OTHER)

    with pytest.raises(FileExistsError, match=f"a directory of user {OTHER}"):
        shared_directory.make(path)
    shared_directory.remove(path)

    assert (path.stat().st_mode & 0o7777, path.stat().st_uid) == (0o755, OTHER)


def test_ours_is_removed_with_what_is_in_it(path: Path) -> None:
    shared_directory.make(path)
    (path / "client").mkdir()

    shared_directory.remove(path)
    shared_directory.remove(path)

    assert not path.exists()
