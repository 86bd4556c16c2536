"""The command ``gpu-dra``."""

from __future__ import annotations

import sys
from typing import Any

import click

from driver.base.text import never_fail
from driver.cli.accountant import accountant
from driver.cli.bundle import bundle
from driver.cli.doctor import doctor
from driver.cli.fake import fault, load
from driver.cli.flags import check_devices, read_settings, settings_options
from driver.cli.inspect import explain, slices
from driver.cli.operate import cleanup, drain_check
from driver.cli.top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gpu-dra-driver", prog_name="gpu-dra")
def cli() -> None:
    """Dynamic Resource Allocation for GPUs: the driver of one node, and tools around it."""


@cli.command()
@settings_options()
def run(**given: Any) -> None:
    """Serve this node's GPUs to its kubelet until SIGTERM."""
    check_devices(given["devices"])
    settings = read_settings(given)
    # The official Kubernetes client imports a validator where one is installed; a node agent has no use for it.
    sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]
    from driver.node import run_node

    sys.exit(run_node(settings))


@cli.command()
@click.option(
    "--devices", default="fake:h100x8", show_default=True, metavar="TEXT", help="Fake devices, as for gpu-dra run."
)
@click.option("--serve", is_flag=True, help="Keep the cluster up and say how to use kubectl on it.")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but the outcome, for machines.")
def demo(*, devices: str, serve: bool, as_json: bool) -> None:
    """Watch pods get GPUs in a cluster inside this process.

    Needs no cluster and no GPU.
    """
    if not devices.startswith("fake:"):
        raise click.UsageError(f"--devices was given {devices!r}: fake devices are expected, for example fake:h100x8")
    if serve and as_json:
        raise click.UsageError("--serve and --json do not go together")
    check_devices(devices)
    try:
        from driver.sim import demo as story
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; the demo needs more packages: pip install '.[sim]'") from None
    sys.exit(story.serve(devices=devices) if serve else story.run_demo(devices=devices, json=as_json))


cli.add_command(accountant)
cli.add_command(slices)
cli.add_command(explain)
cli.add_command(drain_check)
cli.add_command(cleanup)
cli.add_command(doctor)
cli.add_command(bundle)
cli.add_command(fault)
cli.add_command(load)
cli.add_command(top)


def main() -> None:
    """Entry point of ``gpu-dra``."""
    _run(cli)


def kubectl_gpu() -> None:
    """Entry point of ``kubectl-gpu``, which kubectl runs for ``kubectl gpu``."""
    _run(top, prog_name="kubectl gpu")


def _run(command: click.Command, **more: Any) -> None:
    """Every error is one line, with an exit status that tells usage errors from failures."""
    never_fail(sys.stdout, sys.stderr)
    try:
        command.main(standalone_mode=False, **more)
    except click.ClickException as error:
        click.echo(f"gpu-dra: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
