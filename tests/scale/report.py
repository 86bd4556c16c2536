"""Results as a table for a terminal and for the page, and as a picture: both from one list of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pygal
from pygal.style import CleanStyle
from rich.table import Table

from tests.scale.load import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/scale.md"
PICTURE = ROOT / "docs/pictures/scale.svg"
Result = dict[str, Any]
Read = Callable[[Result], Any]
NOTHING = "-"


def _seconds(phase: str, part: str) -> Read:
    def read(result: Result) -> str:
        found = result[phase][part]
        return " / ".join(f"{found[share]:.2f}" for share in ("p50", "p90", "p99"))

    return read


def _prepare(phase: str, operation: str, by: str) -> Read:
    def read(result: Result) -> str:
        found = result[phase]["prepare"][operation][by]
        if not any(found.values()):
            return NOTHING
        return " / ".join(f"{found[share] * 1000:.1f}" for share in ("p50", "p90", "p99"))

    return read


def our_part(phase: str) -> Read:
    """The driver's part of a pod's start: prepare and unprepare of the driver, p50 to p50."""

    def read(result: Result) -> str:
        calls = result[phase]["prepare"]
        ours = sum(calls[operation]["driver"]["p50"] for operation in ("prepare", "unprepare"))
        return f"{ours / result[phase]['start']['p50']:.2%}" if ours else NOTHING

    return read


def _counted(requests: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {what}" for what, count in sorted(requests.items())) or "none"


def _per_pod(result: Result) -> str:
    return ", ".join(
        f"{count:.2f} {what}" for what, count in result["fill"]["requests_per_pod"].items() if count >= 0.005
    )


def _at(path: str, form: str = "g", unit: float = 1) -> Read:
    """One number by the keys that lead to it, ``phase.key``; ``unit`` is what it is divided by."""

    def read(result: Result) -> str:
        found: Any = result
        for key in path.split("."):
            found = found[key]
        return format(found / unit, form)

    return read


def _idle(result: Result) -> str:
    return f"{_counted(result['idle']['requests'])} in {result['idle']['seconds']:.0f} s"


def _driver_cpu(result: Result) -> str:
    return f"{1000 * result['fill']['driver_cpu_seconds'] / result['fill']['pods']:.1f}"


def _cpu_of(phase: str, component: str) -> Read:
    def read(result: Result) -> str:
        found = result[phase]
        return f"{1000 * found['components'][component]['cpu_seconds'] / found['pods']:.1f}"

    return read


def _memory(result: Result) -> str:
    return f"{result['driver_mib']['resident']:.0f} ({result['driver_mib']['proportional']:.0f})"


def _slices(result: Result) -> str:
    found, nodes = result["slices"], result["plan"]["nodes"]
    return f"{found['slices'] / nodes:g}, {found['devices'] / nodes:g}, {found['json_bytes'] / nodes / 1000:.1f}"


def _stored(result: Result) -> str:
    stored = result["slices"]["stored_bytes"]
    return f"{stored / result['plan']['nodes'] / 1000:.1f}" if stored > 0 else NOTHING


def _taint(result: Result) -> str:
    return f"{result['taint']['slice_writes']:g}, {sum(result['taint']['bytes']) / 1000:.1f}"


def _failed(result: Result) -> str:
    return f"{sum(result['failed'].values())} of pods, {result['failed_calls']} calls"


def _left(result: Result) -> str:
    return ", ".join(f"{count} {what}" for what, count in result["left"].items())


def _late(result: Result) -> str:
    return f"{result['observer_lag_ms']['p50']:.1f} / {result['observer_lag_ms']['p99']:.0f}"


_MANAGER = "components.controller manager"
ROWS: tuple[tuple[str, Read], ...] = (
    ("fill: pod created to running, s (p50 / p90 / p99)", _seconds("fill", "start")),
    ("of it: until the claim is there", _seconds("fill", "claim")),
    ("of it: scheduling", _seconds("fill", "scheduling")),
    ("of it: kubelet, with prepare", _seconds("fill", "kubelet")),
    ("churn: pods", _at("churn.pods")),
    ("churn: pod created to running, s (p50 / p90 / p99)", _seconds("churn", "start")),
    ("of it: until the claim is there", _seconds("churn", "claim")),
    ("of it: scheduling", _seconds("churn", "scheduling")),
    ("of it: kubelet, with prepare", _seconds("churn", "kubelet")),
    ("fill: prepare, in the driver, ms (p50 / p90 / p99)", _prepare("fill", "prepare", "driver")),
    ("of it: GET of the claim, ms", _prepare("fill", "prepare", "claim_read")),
    ("fill: prepare, as the kubelet sees it, ms", _prepare("fill", "prepare", "kubelet")),
    ("churn: prepare, in the driver, ms (p50 / p90 / p99)", _prepare("churn", "prepare", "driver")),
    ("of it: GET of the claim, ms", _prepare("churn", "prepare", "claim_read")),
    ("churn: prepare, as the kubelet sees it, ms", _prepare("churn", "prepare", "kubelet")),
    ("churn: unprepare, in the driver, ms", _prepare("churn", "unprepare", "driver")),
    ("churn: unprepare, as the kubelet sees it, ms", _prepare("churn", "unprepare", "kubelet")),
    ("the driver's part of a pod's start, p50 to p50: fill", our_part("fill")),
    ("the driver's part of a pod's start, p50 to p50: churn", our_part("churn")),
    ("burst: pods", _at("burst.pods")),
    ("scheduler: pods a second of a burst", _at("burst.scheduled_per_second", ".1f")),
    ("scheduler: algorithm, burst, mean ms", _at("burst.components.scheduler.scheduling_algorithm_mean_ms", ".2f")),
    ("scheduler: algorithm, churn, p99 ms", _at("churn.components.scheduler.scheduling_algorithm_p99_ms", ".2f")),
    ("scheduler: SLI of pods, fill, p99 s", _at("fill.components.scheduler.pod_scheduling_sli_p99_s", ".2f")),
    ("scheduler: CPU ms for a pod, burst", _cpu_of("burst", "scheduler")),
    ("scheduler: CPU ms for a pod, fill", _cpu_of("fill", "scheduler")),
    ("scheduler: CPU ms for a pod, churn", _cpu_of("churn", "scheduler")),
    ("scheduler: MiB", _at("churn.components.scheduler.resident_mib", ".0f")),
    ("controller manager: claims queued a second, fill", _at(f"fill.{_MANAGER}.claim_queue_adds_per_s", ".1f")),
    ("controller manager: work on a claim, fill, p99 ms", _at(f"fill.{_MANAGER}.claim_queue_work_p99_ms", ".1f")),
    ("controller manager: CPU ms for a pod, fill", _cpu_of("fill", "controller manager")),
    ("controller manager: MiB", _at(f"churn.{_MANAGER}.resident_mib", ".0f")),
    ("API server: requests a second, fill", _at("fill.components.API server.requests_per_s", ".0f")),
    ("API server: CPU ms for a pod, fill", _cpu_of("fill", "API server")),
    ("API server: MiB", _at("churn.components.API server.resident_mib", ".0f")),
    ("drivers: requests of all at their start", lambda result: _counted(result["start"]["requests"])),
    ("drivers: requests for one pod", _per_pod),
    ("drivers: requests of all while idle", _idle),
    ("drivers: requests of all in churn and rolling restart", lambda result: _counted(result["churn"]["requests"])),
    ("drivers: requests of all, restarted at once", lambda result: _counted(result["restart"]["requests"])),
    ("drivers: slices written then", _at("restart.slice_writes")),
    ("drivers: seconds until all were ready then", _at("restart.seconds", ".0f")),
    ("drivers: requests refused with 429", _at("refused_429")),
    ("a driver: cores while idle", _at("idle.cpu_of_a_core", ".2%")),
    ("a driver: CPU seconds of a start", _at("start.cpu_seconds_each", ".2f")),
    ("drivers: CPU ms for a pod, fill", _driver_cpu),
    ("a driver: MiB resident (its share of common pages)", _memory),
    ("slices of a node: number, devices, kB of JSON", _slices),
    ("slices of a node: kB in etcd", _stored),
    ("one GPU tainted: slices written, kB of JSON", _taint),
    ("prepares and unprepares that failed", _failed),
    ("left behind", _left),
    ("load of the machine before", _at("load")),
    ("this rig: late by, ms (p50 / p99)", _late),
)
"""What is shown of a result, in this order."""


def rows(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Label and a cell for each mode: all runs of it, the latest last. Rows that say nothing are left out."""
    for label, read in ROWS:
        cells = ["; ".join(_cell(read, result) for result in runs) for runs in _runs(results).values()]
        if any(cell.strip(f"{NOTHING}; ") for cell in cells):
            yield label, cells


def _cell(read: Read, result: Result) -> str:
    try:
        return str(read(result)) or NOTHING
    except KeyError:  # of a mode, or of a control plane, that does not have it
        return NOTHING


def titles(results: Mapping[str, Any]) -> list[str]:
    """What the columns are called."""
    return [MODES[mode].title for mode in _runs(results)]


def _runs(results: Mapping[str, Any]) -> dict[str, list[Result]]:
    """In the order of the modes, whichever was run first."""
    return {mode: results["modes"][mode] for mode in MODES if mode in results["modes"]}


def table(results: Mapping[str, Any]) -> Table:
    """For a terminal."""
    out = Table(title=headline(results), title_justify="left", show_lines=False)
    out.add_column("")
    for title in titles(results):
        out.add_column(title)
    for label, cells in rows(results):
        out.add_row(label, *cells)
    return out


def headline(results: Mapping[str, Any]) -> str:
    """What was run, where and when."""
    plan, place = results["plan"], results["machine"]
    long = round(plan["nodes"] * plan["gpus"] * plan["fill"])
    dates = sorted(result["date"] for runs in results["modes"].values() for result in runs)
    control_plane = results["cluster"]
    return (
        f"{plan['nodes']} nodes with {plan['gpus']} GPUs; {long} pods that stay, "
        f"{plan['nodes'] * plan['gpus'] - long} jobs whose pods follow each other, {plan['seconds']:g} s each; "
        f"{plan['rate']:g} jobs created a second; control plane {control_plane}, all on one machine with "
        f"{place['cores']} cores and {place['memory_gib']:.0f} GiB; "
        f"Python {place['python']}; {dates[-1][:10]}"
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The same for a page."""
    lines = [
        headline(results) + ".",
        "",
        f"| | {' | '.join(titles(results))} |",
        "|---|" + "---|" * len(titles(results)),
    ]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows(results)]
    return "\n".join(lines)


FLEETS = (1000, 5000)
SLICE_WATCHERS = 3
"""Scheduler, the controller that evicts by taints, and the node's own driver; each ``gpu-dra top`` is one more."""
SURGE = 30.0
"""Seconds for which a DaemonSet with ``maxSurge: 1`` and ``minReadySeconds: 5`` is at one node, images included."""
TOP_MIB = 126.0
"""Of ``gpu-dra top`` on 1,000 nodes in dynamic mode, see performance.md."""


def arithmetic(results: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers of a node come to for many: rows of a table; what has not been measured is left out."""
    last = {mode: runs[-1] for mode, runs in _runs(results).items()}
    yield f"| | a node, measured | {' | '.join(f'{fleet:,} nodes, computed' for fleet in FLEETS)} |"
    yield "|---|" + "---|" * (1 + len(FLEETS))
    for mode, result in last.items():
        if "slices" in result:
            yield from _of_mode(result, last.get("none"), f", {MODES[mode].title}")
    hours = SURGE / 3600
    yield _row("rolling upgrade, one node after the other (30 s assumed)", hours, "h", hours)
    yield _row("`gpu-dra top`, partitions", TOP_MIB / 1000, "MiB", TOP_MIB / 1000)


def _of_mode(result: Result, without: Result | None, mode: str) -> Iterator[str]:
    nodes, found = result["plan"]["nodes"], result["slices"]
    yield _row(f"slices, JSON{mode}", found["json_bytes"] / nodes / 1e6, "MB")
    if found["stored_bytes"] > 0:
        yield _row(f"slices in etcd{mode}", found["stored_bytes"] / nodes / 1e6, "MB")
    sent = sum(result["taint"]["bytes"]) * SLICE_WATCHERS / 1e3
    yield _row(f"a GPU breaks: JSON to {SLICE_WATCHERS} watchers{mode}", sent, "kB", 0, fixed=sent)
    asked = sum(count for what, count in result["churn"]["requests"].items() if "claims" not in what) / nodes
    yield _row(f"rolling upgrade: requests{mode}", asked, "")
    scheduler = result["churn"]["components"].get("scheduler")
    if scheduler and without:
        more = scheduler["resident_mib"] - without["churn"]["components"]["scheduler"]["resident_mib"]
        yield _row(f"scheduler: memory more than without claims{mode}", max(0.0, more) / nodes, "MiB")


def _row(label: str, one: float, unit: str, each: float | None = None, *, fixed: float = 0.0) -> str:
    """``one``: of a node; ``each``: what another node adds to ``fixed``, as much as the first unless told otherwise."""
    grown = [fixed + fleet * (one if each is None else each) for fleet in FLEETS]
    return f"| {label} | {one:.4g} {unit} | {' | '.join(f'{value:,.0f} {unit}' for value in grown)} |"


def picture(results: Mapping[str, Any]) -> str:
    """Seconds from a pod's creation until it runs, by mode: an SVG."""
    chart = pygal.Bar(
        title="Pod created to running, seconds",
        style=CleanStyle,
        width=840,
        height=360,
        print_values=True,
        value_formatter=lambda value: f"{value:.2f}",
        legend_at_bottom=True,
        js=(),
        disable_xml_declaration=True,
        explicit_size=False,
    )
    marks = [(phase, share) for phase in ("fill", "churn") for share in ("p50", "p90", "p99")]
    chart.x_labels = [f"{phase} {share}" for phase, share in marks]
    for title, runs in zip(titles(results), _runs(results).values(), strict=True):
        chart.add(title, [runs[-1][phase]["start"].get(share) for phase, share in marks])
    return str(chart.render(is_unicode=True)) + "\n"


def write_page(results: Mapping[str, Any], *, page: Path = PAGE, drawing: Path = PICTURE) -> None:
    """The tables between their marks in the page, and the picture beside it."""
    text = page.read_text(encoding="utf-8")
    text = _replaced(text, "table", markdown(results))
    text = _replaced(text, "arithmetic", "\n".join(arithmetic(results)))
    page.write_text(text, encoding="utf-8")
    drawing.write_text(picture(results), encoding="utf-8")


def _replaced(text: str, name: str, made: str) -> str:
    begin, end = (f"<!-- made by make scale: {mark} of {name} -->" for mark in ("begin", "end"))
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no marks {begin} and {end}")
    return f"{before}{begin}\n{made}\n{end}{after}"
