"""The targets, what an installation says before it begins, and what the locked sets have to do with each other."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.signals import HEARS

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
SCRIPT = REQUIREMENTS / "install.py"
_spec = importlib.util.spec_from_file_location("install", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
install = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(install)


@pytest.mark.parametrize(
    ("version", "environments", "words"),
    [
        ((3, 10, 13), True, "Python 3.11 or newer is needed"),
        ((3, 11, 2), False, "apt install python3-venv"),
    ],
)
def test_what_is_lacking_is_told_with_what_to_do(version: tuple[int, ...], environments: bool, words: str) -> None:
    assert words in install.lacking(version, environments=environments)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 1), (4, 0, 0)])
def test_nothing_is_lacking_on_a_python_that_is_new_enough(version: tuple[int, ...]) -> None:
    assert install.lacking(version, environments=True) == ""


def test_an_old_python_can_read_the_script_that_says_so() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))


def stopped_at_once(venv: Path, **env: str) -> tuple[str, str, int]:
    """The first line of an installation, what it says to a Ctrl-C after it, and how it ends."""
    with subprocess.Popen(
        [*HEARS, sys.executable, SCRIPT, venv, "demo"],
        env={**os.environ, "PIP_NO_INDEX": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as installing:
        assert installing.stdout is not None
        begun = installing.stdout.readline()
        os.killpg(installing.pid, signal.SIGINT)
        said = installing.stdout.read()
    return begun, said, installing.returncode


def test_ctrl_c_says_how_to_go_on_and_nothing_of_where_it_struck(tmp_path: Path) -> None:
    _, said, status = stopped_at_once(tmp_path / "venv")

    assert said.strip() == "Stopped: the same command goes on from here."
    assert status == 1


def test_a_terminal_that_knows_no_dots_gets_a_question_mark(tmp_path: Path) -> None:
    begun, _, _ = stopped_at_once(tmp_path / "venv", PYTHONIOENCODING="ascii")

    assert re.fullmatch(r"Installing \d+ packages for demo into .+ \?\n", begun)


def test_python_starts_where_the_locale_lacks_letters_of_the_checkouts_path(tmp_path: Path) -> None:
    checkout = tmp_path / "läuft"
    (checkout / "driver").mkdir(parents=True)
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    [packages] = venv.glob("lib/*/site-packages")
    (packages / "_editable_impl_some.pth").write_text(str(checkout), encoding="utf-8")

    install.point_from_here(venv, checkout)

    command = [venv / "bin" / "python", "-c", "import driver; print(*map(ascii, driver.__path__))"]
    done = subprocess.run(command, cwd=tmp_path, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == ascii(str(checkout / "driver")), done.stderr


def test_the_demo_takes_nothing_along_that_the_tests_have_not() -> None:
    def locked(name: str) -> set[tuple[str, str]]:
        return set(re.findall(r"^([\w.-]+)==(\S+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE))

    assert locked("run") < locked("demo") < locked("dev")


@pytest.mark.parametrize("name", ["run", "build", "demo", "dev"])
def test_no_lock_names_an_index(name: str) -> None:
    assert "://" not in (REQUIREMENTS / f"{name}.txt").read_text()


def test_the_targets_are_listed_within_80_columns() -> None:
    said = subprocess.run(["make", "help"], cwd=SCRIPT.parents[1], capture_output=True, text=True, check=True).stdout

    assert said.count("\n") > 10
    assert max(map(len, said.splitlines())) <= 80
