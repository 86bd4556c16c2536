"""The Dockerfile as data, and its build stage run without Docker: the same steps, in the same order, in a directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction; continued lines are joined."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one FROM begins."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def of(self, name: str) -> list[str]:
        return [each.value for each in self.instructions if each.name == name]


def parse(text: str) -> list[Stage]:
    """Stages in their order. Raises ValueError for a line that is no instruction."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        match = re.fullmatch(r"([A-Z]+)\s+(.+)", line)
        if match is None:
            raise ValueError(f"an instruction is expected, found {line!r}")
        name, value = match[1], match[2]
        if name == "FROM":
            base, _, alias = value.partition(" AS ")
            stages.append(Stage(base=base, name=alias, instructions=()))
        else:
            last = stages[-1]
            instruction = Instruction(name=name, value=value)
            stages[-1] = Stage(base=last.base, name=last.name, instructions=(*last.instructions, instruction))
    return stages


def stages() -> list[Stage]:
    return parse((ROOT / "Dockerfile").read_text())


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository in; the last pattern that fits a path or a parent counts."""
    found = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/").rstrip("/")
        parents = [str(parent) for parent in [Path(path), *Path(path).parents]]
        if any(fnmatch(parent, pattern) for parent in parents if parent != "."):
            found = line.startswith("!")
    return found


def build(directory: Path) -> None:
    """Run the build stage below a directory in place of below /."""
    shutil.rmtree(directory, ignore_errors=True)
    source = directory / "src"
    source.mkdir(parents=True)
    # Programs by the names that the base image has for them.
    programs = directory / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "BELOW": str(directory)}
    for instruction in stages()[0].instructions:
        if instruction.name == "COPY":
            *sources, target = instruction.value.split()
            for each in sources:
                _copy(each, source / target)
        elif instruction.name == "RUN":
            command = below(instruction.value)
            print(f"RUN {command}", flush=True)
            subprocess.run(["sh", "-ec", command], cwd=source, env=environment, check=True)


def below(command: str) -> str:
    """A command of the Dockerfile with its absolute paths below the directory $BELOW, whatever that is called."""
    return re.sub(r"(?<![\w.])/(opt|dist)\b", r'"$BELOW"/\1', command)


def _copy(name: str, target: Path) -> None:
    path = ROOT / name
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file() and in_context(str(file.relative_to(ROOT))):
                destination = target / file.relative_to(path)
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, destination)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.name)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
