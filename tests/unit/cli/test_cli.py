"""``gpu-dra`` before it does anything: what its help says, and what it refuses at once."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from driver.cli import doctor as cli_doctor
from driver.cli import operate as cli_operate
from driver.cli.main import cli
from driver.operate import cleanup, doctor, page
from driver.sim.process import gpu_dra

FOLDERS = {
    "doctor": (Path(cli_doctor.__file__), *Path(doctor.__path__[0]).glob("*.py"), Path(page.__file__)),
    "cleanup": (Path(cli_operate.__file__), *Path(cleanup.__path__[0]).glob("*.py")),
}
BEHIND = {
    "plugin_dir": {"kubelet_plugins_dir", "driver_name"},
    "host": {"driver_root", "container_driver_root", "sysfs_root", "proc_root", "dev_root"},
}
"""The settings that a property of Settings is made of."""


def gpu_dra_says(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        gpu_dra(*arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_what_every_command_has_to_import_is_little():
    program = (
        "import sys; sys.argv = ['gpu-dra', '--help']; import driver.cli; driver.cli.main(); "
        "print(*sys.modules, file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    imported = {name.partition(".")[0] for name in done.stderr.split()}
    ours = [name for name in done.stderr.split() if name.startswith("driver.")]
    assert "Usage: gpu-dra" in done.stdout
    assert not imported & {"grpc", "aiohttp", "kubernetes", "google", "prometheus_client", "yaml", "pynvml"}
    assert len(ours) <= 15, ours


def test_the_help_has_every_summary_whole_on_80_columns():
    said = gpu_dra_says("--help", COLUMNS="80").stdout

    assert "..." not in said.partition("Commands:")[2]
    assert all(f"  {name} " in said for name in cli.commands)


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_no_help_is_wider_than_80_columns(command: str):
    said = gpu_dra_says(command, "--help", COLUMNS="80").stdout

    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("command", sorted(FOLDERS))
def test_a_command_has_the_settings_that_it_reads_and_no_others(command: str):
    read = {
        setting
        for file in FOLDERS[command]
        for name in re.findall(r"\bsettings\.([a-z_]+)", file.read_text())
        for setting in BEHIND.get(name, {name})
    }

    offered = {option.name for option in cli.commands[command].params if isinstance(option, click.Option)}

    own = {"scope", "output", "dry_run", "force", "cluster", "timeout", "whole_node"}
    assert offered - own == read | {"node_name"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo",),
        ("demo", "--json"),
        ("demo", "--serve"),
        ("run",),
        ("slices",),
        ("explain", "1g.10gb"),
    ],
    ids=" ".join,
)
def test_an_unknown_profile_is_refused_at_once_in_one_line_that_names_those_there_are(arguments: tuple[str, ...]):
    outcome = gpu_dra_says(*arguments, "--devices", "fake:nope")

    assert (outcome.returncode, outcome.stdout) == (2, "")
    [line] = outcome.stderr.splitlines()
    assert line.startswith("gpu-dra: --devices (DEVICES) was given 'fake:nope': no profile is called 'nope'")
    assert "a100x8" in line
    assert "t4x1" in line


def test_a_profile_that_cannot_be_read_is_refused_at_once(tmp_path: Path):
    outcome = gpu_dra_says("run", "--node-name=node-1", "--devices", f"fake:{tmp_path}/none.yaml")

    assert outcome.returncode == 2
    assert "none.yaml: cannot be read: No such file or directory" in outcome.stderr
