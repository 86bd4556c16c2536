"""What the end of a run says of tests that were skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

ROOT = Path(__file__).parents[2]


def test_skips_are_counted_by_what_they_need_the_most_wanted_first() -> None:
    reasons = [
        "Skipped: there are no lists in 1.35",
        f"Skipped: {needs.NO_ROOT}",
        *["Skipped: " + needs.NO_COMPILER] * 3,
    ]

    assert needs.summary(reasons) == (
        "5 skipped:\n"
        "  3 for want of a C compiler (apt install gcc libc6-dev)\n"
        "  1 for want of root that may mount and make device files (the same with sudo)\n"
        "  1 that do not apply here"
    )


def test_nothing_skipped_is_said_too() -> None:
    assert needs.summary([]) == "none skipped"


@pytest.fixture(params=["0", "2"], ids=["alone", "with-workers"])
def workers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest with our conftest on tests of its own."""
    (directory / "test_it.py").write_text(
        f"import pytest\n@pytest.mark.parametrize('n', range(3))\ndef test(n): pytest.skip({needs.NO_GPU!r})\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        *arguments,
        str(directory),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_run_ends_with_what_was_skipped_for_want_of_what(tmp_path: Path, workers: str) -> None:
    done = run(tmp_path, "-n", workers)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"  3 for want of an NVIDIA GPU ({needs.NO_GPU.split(': ')[1]})" in done.stdout.splitlines()


def test_a_run_that_has_to_prove_something_fails_when_everything_was_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", "0", "--must-run")

    assert done.returncode != 0
    assert "nothing was tested" in done.stdout


@pytest.mark.parametrize(
    ("folder", "user"), [("long" * 20, "root"), ("short", "somebodywithalongname")], ids=["long TMPDIR", "long name"]
)
def test_there_is_room_for_sockets_below_a_tests_directory(tmp_path: Path, folder: str, user: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / "test_place.py").write_text("def test_place(tmp_path): print('place', tmp_path)")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-sq", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    odd = {"TMPDIR": str(tmp_path / folder) if user == "root" else "/tmp", "LOGNAME": user}

    done = subprocess.run(command, cwd=ROOT, env=environment | odd, capture_output=True, text=True, check=False)

    place = re.search(r"place (\S+)", done.stdout)
    assert place is not None, done.stdout + done.stderr
    assert len(place[1]) <= len("/tmp/pytest-of-root/pytest-100/test_place0")
    assert not Path(place[1]).exists()
