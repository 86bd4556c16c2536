"""Installs a set of locked requirements into a virtual environment, and says how far it is.

``python3 requirements/install.py .venv demo --checkout``: with the package of this checkout, to be edited.
Runs on whatever ``python3`` is, to say what it is not: no newer syntax.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)


def lacking(version: "tuple[int, ...]", *, environments: bool) -> str:
    """What has to be there before anything can be installed; empty if it is.

    ``environments``: whether this Python can make virtual ones.
    """
    if version < OLDEST:
        found, wanted = (".".join(map(str, numbers[:3])) for numbers in (version, OLDEST))
        return (
            f"Python {wanted} or newer is needed, {sys.executable} is {found}; name another: make PYTHON=python3.12 …"
        )
    if not environments:
        return f"{sys.executable} cannot make virtual environments: apt install python3-venv"
    return ""


def install(venv: Path, name: str, *, checkout: bool) -> None:
    """Make the environment unless it is there, and have pip do its work."""
    lock = ROOT / "requirements" / f"{name}.txt"
    count = sum("==" in line and ";" not in line for line in lock.read_text(encoding="utf-8").splitlines())
    started = time.monotonic()
    say(f"Installing {count} packages for {name} into {venv} …")
    again = ["--clear"] if of_another_python(venv) else []
    follow([sys.executable, "-m", "venv", *again, str(venv)], 0)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    follow([*pip, "--require-hashes", "-r", str(lock)], count)
    if checkout:
        follow([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], 1)
        point_from_here(venv, ROOT)
    say(f"Installed in {time.monotonic() - started:.0f} s")


def point_from_here(venv: Path, checkout: Path) -> None:
    """Name the checkout by how it is reached from the packages, not by its path.

    Python 3.11 and 3.12 do not start at all when that has letters that the locale has not.
    """
    for pointer in venv.glob("lib/*/site-packages/_editable_impl_*.pth"):
        pointer.write_text(os.path.relpath(checkout, pointer.parent) + "\n", encoding="utf-8")


def of_another_python(venv: Path) -> bool:
    """Whether an environment belongs to another interpreter, or was begun and never finished."""
    try:
        asked = [str(venv / "bin" / "python"), "-c", "import pip, sys; print(sys.version_info[:2])"]
        said = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return True
    return said.decode().strip() != str(sys.version_info[:2])


def follow(command: "list[str]", count: int) -> None:
    """Run a step, and show what pip is at; all that it said when it fails."""
    lines, seen = [], 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as step:
        for line in (raw.decode(errors="replace") for raw in step.stdout or ()):
            lines.append(line)
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                seen += 1
                what = line.split(": ")[-1] if ": " in line else line.partition(" ")[2]
                say(f"  {seen} of {max(seen, count)}: {what.split()[0]}", passing=True)
            elif line.startswith(("Installing collected", "Preparing editable")):
                say("  unpacking …" if count > 1 else "  the checkout …", passing=True)
    if step.returncode:
        sys.exit("".join(lines) + f"{' '.join(command[1:4])} has failed, see above")


def say(text: str, *, passing: bool = False) -> None:
    """Print a line; the next one takes the place of a passing one, which is for terminals only."""
    if sys.stdout.isatty():
        print("\r\033[K" + text, end="" if passing else "\n", flush=True)
    elif not passing:
        print(text, flush=True)


if __name__ == "__main__":
    problem = lacking(sys.version_info[:3], environments=importlib.util.find_spec("ensurepip") is not None)
    if problem:
        sys.exit(problem)
    sys.stdout.reconfigure(errors="replace")
    try:
        install(Path(sys.argv[1]), sys.argv[2], checkout="--checkout" in sys.argv)
    except KeyboardInterrupt:
        sys.exit("\nStopped: the same command goes on from here.")
