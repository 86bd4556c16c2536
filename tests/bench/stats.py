"""Samples, what they come to, and the target that they are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.known import KNOWN, Miss


def quantile(ordered: list[float], share: float) -> float:
    """The nearest-rank quantile of sorted samples."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One series of samples, in milliseconds unless the case says otherwise."""

    n: int
    p50: float
    p90: float
    p99: float
    max: float
    throughput: float
    """Samples a second."""

    @classmethod
    def of(cls, samples: list[float], *, seconds: float | None = None) -> Stats:
        """``seconds``: how long it took to take them all, when they were taken at the same time."""
        ordered = sorted(samples)
        took = sum(samples) / 1000 if seconds is None else seconds
        return cls(
            n=len(ordered),
            p50=quantile(ordered, 0.5),
            p90=quantile(ordered, 0.9),
            p99=quantile(ordered, 0.99),
            max=ordered[-1],
            throughput=len(ordered) / took if took else 0.0,
        )

    def as_dict(self) -> dict[str, float]:
        """For the file."""
        values = {name: getattr(self, name) for name in ("n", "p50", "p90", "p99", "max", "throughput")}
        return {name: round(value, 4) for name, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A number that has to stay on one side of a limit."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it does."""
        return self.within(self.limit)

    def within(self, limit: float) -> bool:
        """Whether the number is on the right side of another limit."""
        return self.value >= limit if self.at_least else self.value <= limit

    def __str__(self) -> str:
        return f"{self.what} {self.value:.4g} {'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass(slots=True, kw_only=True)
class Case:
    """The outcome of one case. ``key`` is its place in the file; dots go one level down."""

    key: str
    stats: Stats | None = None
    unit: str = "ms"
    cpu_us: float | None = None
    """CPU time of the driver for one of them, which says more than time where others are at work."""
    plain: Case | None = None
    """The same with an API server without TLS, for comparison."""
    targets: list[Target] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """More numbers for the file."""

    def as_dict(self) -> dict[str, Any]:
        """For the file."""
        return {
            "unit": self.unit,
            **(self.stats.as_dict() if self.stats else {}),
            **({} if self.cpu_us is None else {"driver_cpu_us": round(self.cpu_us, 1)}),
            **{name: round(fact, 4) if isinstance(fact, float) else fact for name, fact in self.facts.items()},
            "targets": [
                {
                    "what": target.what,
                    "value": round(target.value, 4),
                    "limit": target.limit,
                    "rule": ">=" if target.at_least else "<=",
                    "met": target.met,
                }
                for target in self.targets
            ],
            **({"plain": self.plain.as_dict()} if self.plain else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the targets come to."""

    missed: tuple[str, ...]
    """Targets that are missed and should not be, or are missed by more than is known. Any of these is a failure."""
    known: tuple[str, ...]
    """Misses that are known, with the reason."""
    over: tuple[str, ...]
    """Known misses that are none any more."""


def judge(cases: list[Case], known: dict[tuple[str, str], Miss] = KNOWN) -> Verdict:
    """Hold the targets against what is known of them."""
    missed, excused, over = [], [], []
    for case in cases:
        for target in case.targets:
            line, miss = f"{case.key}: {target}", known.get((case.key, target.what))
            if target.met:
                over += [line] if miss else []
            elif miss is None:
                missed.append(line)
            elif target.within(miss.limit):
                excused.append(f"{line}, {miss.why}")
            else:
                missed.append(f"{line}, and by more than is known: it was {miss.limit:g} at the worst")
    return Verdict(missed=tuple(missed), known=tuple(excused), over=tuple(over))


def memory_mib(pid: int, size: str) -> float:
    """Of a process, 0 when it has ended: ``VmRSS`` is resident now, ``VmHWM`` at most so far.

    ``ru_maxrss`` begins with that of whoever started it.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split(f"{size}:")[1].split()[0]) / 1024 if size in status else 0.0
