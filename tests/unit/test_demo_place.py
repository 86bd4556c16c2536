"""Where the demo runs, and how it names programs to its reader."""

import os
import stat
import sys
from pathlib import Path

import pytest

from driver.node.settings import Settings
from driver.sim.demo import place


def test_a_long_directory_for_temporary_files_is_passed_over(tmp_path: Path):
    long = tmp_path / ("x" * 88)
    long.mkdir()

    root = place.new_root([long, Path("/tmp")])

    assert root.parent == Path("/tmp")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.rmdir()


def test_a_directory_that_cannot_be_written_is_passed_over(tmp_path: Path):
    root = place.new_root([Path("/nowhere"), Path("/proc"), Path("/tmp")])

    assert root.parent == Path("/tmp")
    root.rmdir()


def test_without_any_it_is_said_what_was_tried_and_what_helps():
    with pytest.raises(OSError, match="set TMPDIR to a short one") as error:
        place.new_root([Path("/nowhere"), Path("/" + "x" * 60)])

    assert "/nowhere: No such file or directory" in str(error.value)
    assert "xxx is too long" in str(error.value)


def test_the_places_are_the_users_then_the_systems_then_the_sessions():
    found = list(place.directories({"XDG_RUNTIME_DIR": "/run/user/1000"}))

    assert found[-2:] == [Path("/tmp"), Path("/run/user/1000")]


def test_the_room_is_what_the_longest_socket_leaves():
    root = "/" + "x" * (place.ROOM - 1)

    settings = Settings(
        node_name="demo-node",
        pod_uid="12345678",
        kubelet_plugins_dir=Path(root, "plugins"),
        kubelet_registry_dir=Path(root, "plugins_registry"),
    )

    assert max(len(os.fsencode(path)) for path in (settings.dra_socket, settings.registrar_socket)) == 107


def test_the_program_is_called_by_its_name_where_path_has_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))

    assert place.program() == "gpu-dra"


@pytest.mark.parametrize(
    ("here", "written"), [(Path(sys.executable).parents[1], "bin/gpu-dra"), (Path("/"), sys.executable)]
)
def test_the_program_is_called_by_its_path_elsewhere(monkeypatch: pytest.MonkeyPatch, here: Path, written: str):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(here)

    assert place.program().strip("'").endswith(str(Path(written).with_name("gpu-dra")).lstrip("/"))


def test_a_path_with_a_space_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    assert place.typed(tmp_path / "my dir" / "file") == "'my dir/file'"
