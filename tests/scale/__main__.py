"""``make scale``: run the modes, show what comes out, write the file, and the page if it is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from tests.bench.__main__ import machine
from tests.bench.world import home, profile
from tests.scale.fleet import Fleet, lacking
from tests.scale.load import MODES
from tests.scale.measure import Plan, Trial
from tests.scale.report import table, write_page
from tests.scale.site import Site, embedded, real

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

OUTPUT = Path("build/scale.json")


async def measure(
    place: AbstractAsyncContextManager[Site], root: Path, modes: list[str], plan: Plan, parallel: int, keep: Keeper
) -> None:
    """Run modes one after another, on the same nodes."""
    async with place as site:
        keep.results["cluster"] = await _version(site)
        try:
            await site.install()
            fleet = Fleet(site, root, size=plan.nodes, parallel=parallel)
            keep.say(f"{plan.nodes} nodes")
            async with fleet.running():
                await _modes(site, fleet, modes, plan, profile(root, plan.gpus), keep)
        finally:
            keep.say("cleaning up")
            await site.clean_up()


async def _modes(site: Site, fleet: Fleet, modes: list[str], plan: Plan, gpus: Path, keep: Keeper) -> None:
    flags: tuple[str, ...] | None = None
    for mode in modes:
        start: dict[str, Any] = {}
        if flags != MODES[mode].flags:
            flags = MODES[mode].flags
            await fleet.stop()
            before, began = await fleet.numbers(), time.monotonic()
            keep.say(f"{plan.nodes} drivers start")
            cpu = await fleet.start((f"--devices=fake:{gpus}", *flags))
            start = {"seconds": time.monotonic() - began, "cpu_seconds_each": cpu}
            start["requests"] = (
                (await fleet.numbers()).since(before).by("gpu_dra_api_requests_total", "verb", "resource")
            )
        began = time.monotonic()
        result = await Trial(site, fleet, mode, plan, lambda text, mode=mode: keep.say(f"{mode}: {text}")).run()
        result |= {"start": start, "minutes": (time.monotonic() - began) / 60}
        keep.add(mode, result)


async def _version(site: Site) -> str:
    return "embedded" if site.server else str((await site.api.get("/version"))["gitVersion"])


class Keeper:
    """Results as they come: each mode is in the file as soon as it has ended."""

    def __init__(self, path: Path, plan: Plan, console: Console) -> None:
        self._path, self._console = path, console
        self._began = time.monotonic()
        self.results: dict[str, Any] = {"plan": asdict(plan), "modes": {}}
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            # Burst and churn may be shorter in a mode that takes long.
            if {**earlier.get("plan", {}), "times": plan.times, "burst": plan.burst} == self.results["plan"]:
                self.results = earlier
        self.results["machine"] = machine()

    def say(self, text: str) -> None:
        """Show what happens now."""
        self._console.print(f"[dim]{time.monotonic() - self._began:5.0f} s[/]  {text}", highlight=False)

    def add(self, mode: str, result: dict[str, Any]) -> None:
        """Keep it beside those of earlier runs that were planned alike."""
        result["load"] = self.results["machine"]["load"]
        result["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.results["modes"].setdefault(mode, []).append(result)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An administrator's, of a real control plane; without it the embedded one.",
)
@click.option("--scheduler", metavar="URL", help="Where the scheduler has /metrics.")
@click.option("--controller-manager", metavar="URL", help="Where the controller manager has /metrics.")
@click.option(
    "--modes", default=",".join(MODES), show_default=True, help="Which, in which order; results of others are kept."
)
@click.option("--nodes", default=10, show_default=True)
@click.option("--gpus", default=8, show_default=True, help="Of a node.")
@click.option("--fill", default=0.9, show_default=True, help="Share of the GPUs for pods that stay.")
@click.option("--times", default=10, show_default=True, help="Pods one after the other on each of the others.")
@click.option("--rate", default=10.0, show_default=True, help="Jobs created in a second.")
@click.option("--seconds", default=2.0, show_default=True, help="For which such a pod runs.")
@click.option("--idle", default=30.0, show_default=True, help="Seconds without any work.")
@click.option("--burst", default=0, help="Pods at once, for the scheduler's rate.  [default: 2 for each node]")
@click.option("--parallel", default=6, show_default=True, help="Drivers that start at the same time.")
@click.option("--page", is_flag=True, help="Write the table and the picture into docs/scale.md.")
@click.option("--fresh", is_flag=True, help="Forget the results of earlier runs.")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(
    kubeconfig: Path | None,
    scheduler: str | None,
    controller_manager: str | None,
    modes: str,
    parallel: int,
    page: bool,
    fresh: bool,
    output: Path,
    **sizes: Any,
) -> None:
    """Run drivers of many nodes on one control plane, and measure."""
    plan = Plan(**{**sizes, "burst": sizes["burst"] or 2 * sizes["nodes"]})
    wanted = modes.split(",")
    if unknown := set(wanted) - set(MODES):
        raise click.UsageError(f"no such mode: {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    if problems := lacking(plan.nodes):
        raise click.ClickException("; ".join(problems))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.basicConfig(filename="build/scale.log", filemode="w", level=logging.WARNING)
    console = Console(width=None if sys.stdout.isatty() else 150)
    if fresh:
        output.unlink(missing_ok=True)
    keep = Keeper(output, plan, console)
    pages = {"scheduler": scheduler, "controller manager": controller_manager}
    with tempfile.TemporaryDirectory(prefix="gs-", dir=home(), ignore_cleanup_errors=True) as root:
        connections = 64 + 4 * plan.nodes
        place = (
            real(kubeconfig, Path(root), connections=connections, pages={k: v for k, v in pages.items() if v})
            if kubeconfig
            else embedded(Path(root), connections=connections)
        )
        try:
            asyncio.run(measure(place, Path(root), wanted, plan, parallel, keep))
        except KeyboardInterrupt:
            console.print("interrupted; modes that had ended are in the file")
            sys.exit(130)
    console.print(table(keep.results))
    if page:
        write_page(keep.results)


if __name__ == "__main__":
    main()
