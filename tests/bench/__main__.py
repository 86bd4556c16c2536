"""Run the cases, print a table, write the file. Exit status 1 when a target is missed that is not known to be."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.bench.budgets import budgets
from tests.bench.cases import CASES, Bench
from tests.bench.fleet import fleet
from tests.bench.slices import slices
from tests.bench.stats import Case, Target, judge
from tests.bench.world import home

BESIDE_PLAIN = ("serial", "concurrent")
"""Run once more with an API server without TLS."""
ALL = CASES | {"slices": slices, "fleet": fleet, "budgets": budgets}


def nested(cases: list[Case]) -> dict[str, Any]:
    """The cases by the parts of their keys."""
    tree: dict[str, Any] = {}
    for case in cases:
        *above, last = case.key.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = case.as_dict()
    return tree


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
    }


COLUMNS = ("n", "p50", "p90", "p99", "max", "per second", "plain p50", "CPU µs")


def table(cases: list[Case]) -> Table:
    """The cases for a terminal."""
    out = Table(title="Times in ms unless another unit is named", title_justify="left")
    out.add_column("case", no_wrap=True)
    for name in COLUMNS:
        out.add_column(name, justify="right")
    out.add_column("target")
    for case in cases:
        stats = case.stats
        numbers = [""] * 6
        if stats:
            values = (stats.p50, stats.p90, stats.p99, stats.max)
            numbers = [str(stats.n), *(f"{value:.3f}" for value in values), f"{stats.throughput:.0f}"]
        plain = case.plain and case.plain.stats
        numbers += [f"{plain.p50:.3f}" if plain else "", "" if case.cpu_us is None else f"{case.cpu_us:.0f}"]
        name = case.key if case.unit == "ms" else f"{case.key} [dim]({case.unit})[/]"
        out.add_row(name, *numbers, "\n".join(_mark(target) for target in case.targets))
    return out


def _mark(target: Target) -> str:
    return f"[green]✓[/] {target}" if target.met else f"[bold red]✗ {target}[/]"


async def measure(wanted: list[str], rounds: int, console: Console) -> list[Case]:
    """Run cases one after another."""
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="gd-bench-", dir=home()) as directory:
        bench = Bench(Path(directory), rounds)
        for number, name in enumerate(wanted, 1):
            gc.collect()
            gc.freeze()  # this process measures: its collector must not look at what earlier cases left
            console.print(f"{number} of {len(wanted)}: {name} …", highlight=False)
            started = time.monotonic()
            found = await ALL[name](bench)
            if name in BESIDE_PLAIN:
                for case, plain in zip(found, await ALL[name](replace(bench, plain=True)), strict=True):
                    case.plain = plain
            cases += found
            console.print(f"   {time.monotonic() - started:.0f} s", highlight=False)
    return cases


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(ALL)))
@click.option("--rounds", default=3, show_default=True, help="How often each round of claims is repeated.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/bench.json"), show_default=True)
def main(names: tuple[str, ...], rounds: int, output: Path) -> None:
    """Measure the driver's process. NAMES: only these groups of cases."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    cases = asyncio.run(measure(list(names) or list(ALL), rounds, console))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine(), **nested(cases)}, indent=1) + "\n", encoding="utf-8")
    console.print(table(cases))
    load, cores = os.getloadavg()[1], os.cpu_count() or 1
    if load > cores + 1:  # what we do ourselves is one to two
        console.print(f"[yellow]the machine is busy (load {load:.0f} on {cores} cores): ratios tell little[/]")
    verdict = judge(cases)
    for line in verdict.known:
        console.print(f"[yellow]known miss[/] {line}", highlight=False)
    for line in verdict.over:
        console.print(f"[green]no longer missed[/] {line}; take it out of tests/bench/known.py", highlight=False)
    for line in verdict.missed:
        console.print(f"[bold red]missed[/] {line}", highlight=False)
    console.print(f"written to {output}", highlight=False)
    sys.exit(1 if verdict.missed else 0)


if __name__ == "__main__":
    main()
