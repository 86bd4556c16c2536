"""Where the demo runs: a directory that sockets fit into, and how its reader calls the programs from here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOM = 57
"""Bytes that the cluster's directory may have: a socket's path has at most 107, and the longest name below takes 50."""
PREFIX = "gpu-dra-"


def directories(environment: Mapping[str, str]) -> Iterable[Path]:
    """Where temporary files may go, as the user wishes and as every system has it; the best first."""
    yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # noqa: S108 - mkdtemp makes a name there that nobody can guess, for us alone
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime)


def new_root(candidates: Iterable[Path]) -> Path:
    """A new directory, for us alone, in the first of these that sockets fit below. Raises OSError if there is none."""
    problems = []
    for parent in candidates:
        if len(os.fsencode(parent / PREFIX)) + 8 > ROOM:  # mkdtemp adds eight characters
            problems.append(f"{parent} is too long for the paths of sockets below it")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            problems.append(f"{parent}: {error.strerror}")
    raise OSError(f"no directory for the cluster's sockets: {'; '.join(problems)}; set TMPDIR to a short one")


def program() -> str:
    """``gpu-dra`` as it can be typed here and now: by its name if PATH has it, else by its path."""
    ours = Path(sys.executable).parent / "gpu-dra"
    found = shutil.which("gpu-dra")
    if found and Path(found).resolve() == ours.resolve():
        return "gpu-dra"
    return typed(ours) if ours.exists() else f"{shlex.quote(sys.executable)} -m driver"


def kubectl() -> str:
    """``kubectl`` as it can be typed: the one on PATH, or the one that ``make tools`` fetched; empty without any."""
    fetched = Path(__file__).parents[3] / "build" / "tools" / "kubectl"
    return "kubectl" if shutil.which("kubectl") else typed(fetched) if fetched.exists() else ""


def examples_directory() -> Path:
    """The examples: in the package, or in the repository of an editable install."""
    shipped = Path(str(files("driver.sim") / "examples"))
    return shipped if shipped.is_dir() else Path(__file__).parents[3] / "deploy" / "examples"


def typed(path: Path) -> str:
    """A path as a shell takes it, relative where that is shorter to read."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
