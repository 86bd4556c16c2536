"""``gpu-dra bundle``: what whoever reads a bug report asks for."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import click

from driver.cli.flags import NO_NODE, read_settings, settings_options


@click.command()
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to write it, - for standard output; without it a name with node and time, in this directory.",
)
@click.option(
    "--scope",
    type=click.Choice(["auto", "node", "cluster", "both"]),
    default="auto",
    show_default=True,
    help="What to look at: this machine as a node, the cluster through its API, both, or what there is.",
)
@settings_options()
def bundle(*, output: str | None, scope: str, **given: Any) -> None:
    """Write one archive for a bug report; nothing secret in it.

    Versions, settings, status, records, slices, claims, metrics, logs, what NVML says and what the doctor finds, of the
    node that it runs on. Changes nothing. What cannot be had is said inside, in missing.txt. Credentials, values of
    environment variables, and labels and annotations of objects stay out.

    Exit status: 0 it is written, 1 it cannot be written, 2 wrong usage.
    """
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("-o - was given, but standard output is a terminal: redirect it (> bundle.tgz)")
    node_name = given.get("node_name") or ""
    settings = read_settings({**given, "node_name": node_name or NO_NODE})
    from driver.operate import make_bundle

    name, content, missing = asyncio.run(make_bundle(settings, scope=scope, node_name=node_name))
    _write(output or name, content)
    for what, why in sorted(missing.items()):
        click.echo(f"missing: {what}: {why}", err=True)
    click.echo(f"{len(content)} bytes written to {'standard output' if output == '-' else output or name}", err=True)


def _write(output: str, content: bytes) -> None:
    """Only its owner may read it. Raises ClickException."""
    try:
        if output == "-":
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
            return
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written ({error.strerror}); -o names another, or -") from None
