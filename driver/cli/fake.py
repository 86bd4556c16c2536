"""``gpu-dra fault`` and ``gpu-dra load``: what fake GPUs report while a driver runs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

_DEVICES_OF = (
    click.option(
        "--driver-name", envvar="DRIVER_NAME", default="gpu.nvidia.com", show_default=True, help="The driver meant."
    ),
    click.option(
        "--kubelet-plugins-dir",
        envvar="KUBELET_PLUGINS_DIR",
        type=click.Path(path_type=Path),
        default=Path("/var/lib/kubelet/plugins"),
        show_default=True,
        help="The kubelet's directory for plugin data, as the driver has it.",
    ),
)


def _of_a_driver(command: Callable[..., None]) -> Callable[..., None]:
    """Options by which a running driver is found."""
    for option in reversed(_DEVICES_OF):
        command = option(command)
    return command


@click.command()
@click.option("--device", required=True, metavar="NAME", help="Device name, for example gpu-3, or a GPU's UUID.")
@click.option("--xid", type=int, metavar="N", help="An XID error that happens now (79: fallen off the bus).")
@click.option("--lost", is_flag=True, help="The GPU is lost.")
@click.option("--ecc", is_flag=True, help="An uncorrectable memory error.")
@click.option("--recovery", metavar="ACTION", help="What the GPU asks for: none, gpu-reset, ...; unknown: no account.")
@click.option("--quiet", is_flag=True, help="There is no error for a while: what ends with a program is over.")
@click.option("--latency-ms", type=int, metavar="N", help="How much slower the GPU's hardware operations are.")
@click.option("--fail-next", type=int, metavar="N", help="How many of the next hardware operations fail.")
@click.option("--clear", is_flag=True, help="Mend everything, as a reset does (before the faults given along with it).")
@_of_a_driver
def fault(
    *,
    device: str,
    xid: int | None,
    lost: bool,
    ecc: bool,
    recovery: str | None,
    quiet: bool,
    latency_ms: int | None,
    fail_next: int | None,
    clear: bool,
    driver_name: str,
    kubelet_plugins_dir: Path,
) -> None:
    """Break a fake GPU of a running driver, or mend it.

    The driver runs on this node, with --devices fake:PROFILE.
    """
    from driver.hardware import ChangeError, inject, read_boot_id

    try:
        outcome = inject(
            kubelet_plugins_dir / driver_name,
            boot_id=read_boot_id(),
            device=device,
            xid=xid,
            lost=lost,
            ecc=ecc,
            recovery=recovery,
            quiet=quiet,
            clear=clear,
            latency_ms=latency_ms,
            fail_next=fail_next,
        )
    except ChangeError as error:
        raise click.UsageError(str(error)) from None
    click.echo(outcome)


@click.command()
@click.option(
    "--device",
    required=True,
    metavar="NAME",
    help="Device name, for example gpu-3 or gpu-3-mig-1g10gb-19-0, or a GPU's UUID.",
)
@click.option("--utilisation", "--utilization", type=int, metavar="PERCENT", help="How busy it is.")
@click.option("--memory", metavar="QUANTITY", help="How much of its memory is used, for example 40Gi.")
@click.option("--temperature", type=int, metavar="CELSIUS", help="How hot the GPU is.")
@click.option("--power", type=int, metavar="WATTS", help="How much power the GPU takes.")
@click.option(
    "--throttled", multiple=True, metavar="REASON", help="Why the GPU's clocks are held down; may be repeated."
)
@click.option("--clear", is_flag=True, help="Nothing runs on it (before what is given along with it).")
@_of_a_driver
def load(
    *,
    device: str,
    utilisation: int | None,
    memory: str | None,
    temperature: int | None,
    power: int | None,
    throttled: tuple[str, ...],
    clear: bool,
    driver_name: str,
    kubelet_plugins_dir: Path,
) -> None:
    """Set what a fake GPU reports of its use.

    Of a GPU, or a partition of one, of a running driver on this node, with --devices fake:PROFILE. Metrics follow
    within seconds; where several pods have the device, each is taken to use its part.
    """
    from driver.hardware import ChangeError, read_boot_id
    from driver.hardware import load as change_load

    try:
        outcome = change_load(
            kubelet_plugins_dir / driver_name,
            boot_id=read_boot_id(),
            device=device,
            utilisation=utilisation,
            memory=memory,
            temperature=temperature,
            power=power,
            throttled=throttled,
            clear=clear,
        )
    except ChangeError as error:
        raise click.UsageError(str(error)) from None
    click.echo(outcome)
