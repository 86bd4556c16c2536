"""The Dockerfile: what can be told without building it. `make image` runs the steps of its build stage."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT, Stage, below, in_context, parse, stages

KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "LABEL", "RUN", "USER", "WORKDIR"}


def final() -> Stage:
    return stages()[-1]


def test_each_line_is_an_instruction_that_there_is() -> None:
    names = {instruction.name for stage in stages() for instruction in stage.instructions}

    assert names <= KNOWN


def test_a_line_that_is_none_is_noticed() -> None:
    with pytest.raises(ValueError, match="pip install"):
        parse("FROM scratch\npip install x")


def test_what_is_copied_exists_and_docker_may_see_it() -> None:
    for stage in stages():
        for value in stage.of("COPY"):
            if not value.startswith("--from="):
                for source in value.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    files = [p for p in (ROOT / source).rglob("*") if p.is_file()] or [ROOT / source]
                    assert any(in_context(str(path.relative_to(ROOT))) for path in files), source


def test_stages_are_copied_from_after_they_are_made() -> None:
    made: set[str] = set()
    for stage in stages():
        assert {value.split()[0].removeprefix("--from=") for value in stage.of("COPY") if "--from=" in value} <= made
        made.add(stage.name)


def test_the_final_image_is_assembled_and_runs_nothing_while_it_is_built() -> None:
    assert final().base == "scratch"
    assert not final().of("RUN")
    assert final().of("ENTRYPOINT") == ['["gpu-dra"]']
    assert final().of("CMD") == ['["run"]']


def test_pip_is_removed_from_both_halves_of_the_final_image() -> None:
    copied = {value.split()[0].removeprefix("--from=") for value in final().of("COPY")}

    for stage in stages():
        if stage.name in copied:
            assert any("pip uninstall --yes pip setuptools" in step for step in stage.of("RUN"))


def test_everything_installed_is_locked() -> None:
    for stage in stages():
        for step in stage.of("RUN"):
            for command in re.findall(r"pip (?:install|wheel) [^&]+", step):
                assert "--require-hashes" in command or "--no-deps" in command, command


def test_what_builds_the_wheel_is_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = (ROOT / "requirements" / "build.in").read_text().splitlines()

    assert sorted(line for line in wanted if not line.startswith("#")) == sorted(project["build-system"]["requires"])
    assert f'image.version="{project["project"]["version"]}"' in final().of("LABEL")[0]


def test_whatever_ships_in_the_wheel_besides_the_code_is_there_when_the_wheel_is_built() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    copied = {value.split()[0].rstrip("/") for value in stages()[0].of("COPY")}

    assert included.keys() <= copied
    assert [name for name in included if not in_context(f"{name}/any.yaml")] == []


def test_the_client_library_that_the_image_lacks_is_imported_where_that_is_said_and_nowhere_else() -> None:
    package = ROOT / "driver"
    importing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "sim" not in path.relative_to(package).parts  # whose own dependencies the image lacks anyway
        and re.search(r"^\s*(from|import) kubernetes\b", path.read_text(), re.MULTILINE)
    }

    assert importing == {"kube/kubeconfig.py"}


def test_what_is_of_no_use_in_the_image_is_not_in_the_context() -> None:
    assert not in_context("deploy/chart/values.yaml")
    assert not in_context("driver/wire/dra_v1_pb2.py")


def test_steps_run_below_a_directory_with_any_name(tmp_path: Path) -> None:
    directory = tmp_path / "a name with 'spaces' & größe"
    (directory / "dist").mkdir(parents=True)
    (directory / "dist" / "a.whl").write_text("found")

    done = subprocess.run(
        ["sh", "-ec", below("cat /dist/*.whl && ls /opt || echo none")],
        env={"BELOW": str(directory), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "foundnone\n"


def test_the_build_stage_runs_on_any_python_that_the_project_runs_on() -> None:
    assert [step for step in stages()[0].of("RUN") if re.search(r"python3\.\d", step)] == []
