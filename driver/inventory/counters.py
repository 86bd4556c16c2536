"""Counters by which the scheduler can tell which partitions of a GPU go together: pure.

A GPU's instances must not overlap in memory slices, must start where their profile allows it, and a profile has a
largest number of instances (``+me``: one set of media engines to a GPU). The memory-slice counters say the first two
exactly. The others carry NVIDIA's names, but the engines in the row of the biggest profile are no totals: B200 lists
one decoder for 1g and one for 7g. So a counter's total is the most that any layout takes which the hardware allows,
and a rule that no counter happens to express gets one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.hardware import Gpu, MigProfile

MIB = 1 << 20

SCALARS: Mapping[str, Callable[[MigProfile], int]] = {
    "multiprocessors": lambda profile: profile.multiprocessors,
    "copy-engines": lambda profile: profile.copy_engines,
    "decoders": lambda profile: profile.decoders,
    "encoders": lambda profile: profile.encoders,
    "jpeg-engines": lambda profile: profile.jpeg_engines,
    "ofa-engines": lambda profile: profile.ofa_engines,
    "memory": lambda profile: profile.memory_mib * MIB,
}
"""NVIDIA's counters by name, and what a profile takes of each; memory in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRule:
    """At most ``limit`` of ``use`` among all instances of a GPU."""

    counter: str
    """Name of the counter where the rule needs one of its own."""
    limit: int
    use: Mapping[str, int]
    """By profile name; profiles that are not there use nothing."""


def memory_slice(number: int) -> str:
    """The counter of one memory slice."""
    return f"memory-slice-{number}"


def rules(profiles: tuple[MigProfile, ...]) -> tuple[LayoutRule, ...]:
    """What limits layouts besides the placements. Source: NVIDIA MIG User Guide, and NVML's instance counts."""
    found = [
        LayoutRule(counter="media-extensions", limit=1, use={p.name: 1 for p in profiles if p.media_extensions}),
        LayoutRule(
            counter="compute-slices",
            limit=max(p.compute_slices for p in profiles),
            use={p.name: p.compute_slices for p in profiles},
        ),
    ]
    # "+me.all" has all of these engines, so its row says how many there are (RTX PRO 6000 and the like).
    for whole in (p for p in profiles if p.name.endswith("+me.all")):
        for engine in ("decoders", "encoders", "jpeg-engines", "ofa-engines"):
            take = SCALARS[engine]
            use = {p.name: take(p) for p in profiles if take(p)}
            found.append(LayoutRule(counter=f"all-{engine}", limit=take(whole), use=use))
        break
    for profile in profiles:
        label = profile.name.replace(".", "").replace("-", "-no-").replace("+", "-")
        found.append(LayoutRule(counter=f"{label}-instances", limit=profile.max_instances, use={profile.name: 1}))
    # Rules that placements alone keep are dropped: what is left is one or two, and the search below stays small.
    return tuple(rule for rule in found if _most(profiles, lambda p, r=rule: r.use.get(p.name, 0), ()) > rule.limit)  # type: ignore[misc]


@lru_cache(maxsize=64)
def _model(profiles: tuple[MigProfile, ...]) -> tuple[dict[str, int], tuple[LayoutRule, ...]]:
    """Totals of NVIDIA's counters, and the rules that need a counter of their own."""
    limits = rules(profiles)
    most = {name: _most(profiles, take, limits) for name, take in SCALARS.items()}
    return most, tuple(rule for rule in limits if not _expressed(rule, profiles, most))


def totals(gpu: Gpu) -> dict[str, int]:
    """All counters of a GPU with MIG profiles, and how much there is; the whole GPU takes just that.

    Memory is at least what the GPU really has, more than its biggest partition gets.
    """
    most, own = _model(gpu.mig_profiles)
    whole = {**most, "memory": max(most["memory"], gpu.memory_bytes or 0)}
    whole["multiprocessors"] = max(most["multiprocessors"], gpu.multiprocessors or 0)
    return {
        **whole,
        **{rule.counter: rule.limit for rule in own},
        **{memory_slice(number): 1 for number in range(gpu.memory_slices)},
    }


def consumption(gpu: Gpu, profile: MigProfile, start: int) -> dict[str, int]:
    """What one placement takes of the counters."""
    _, own = _model(gpu.mig_profiles)
    return {
        **{name: take(profile) for name, take in SCALARS.items()},
        **{rule.counter: rule.use[profile.name] for rule in own if profile.name in rule.use},
        **{memory_slice(number): 1 for number in range(start, start + profile.size)},
    }


def _expressed(rule: LayoutRule, profiles: tuple[MigProfile, ...], most: Mapping[str, int]) -> bool:
    """Whether one of NVIDIA's counters forbids whatever breaks the rule: the least use of it by limit + 1 is too much.

    Only for rules that count instances; one that weighs them gets its own counter.
    """
    if any(use != 1 for use in rule.use.values()):
        return False
    users = [profile for profile in profiles if profile.name in rule.use]
    return any((rule.limit + 1) * min(take(user) for user in users) > most[name] for name, take in SCALARS.items())


def _most(profiles: tuple[MigProfile, ...], weight: Callable[[MigProfile], int], limits: tuple[LayoutRule, ...]) -> int:
    """The greatest weight of any layout: slice by slice, keeping the best for each use of the rules so far."""
    end = max(start + profile.size for profile in profiles for start in profile.starts)
    best: list[dict[tuple[int, ...], int]] = [{} for _ in range(end + 1)]
    best[0][(0,) * len(limits)] = 0
    for position in range(end):
        for used, total in best[position].items():
            _keep(best[position + 1], used, total)
            for profile in profiles:
                if position not in profile.starts:
                    continue
                more = tuple(u + rule.use.get(profile.name, 0) for u, rule in zip(used, limits, strict=True))
                if all(u <= rule.limit for u, rule in zip(more, limits, strict=True)):
                    _keep(best[position + profile.size], more, total + weight(profile))
    return max(best[end].values())


def _keep(best: dict[tuple[int, ...], int], used: tuple[int, ...], total: int) -> None:
    best[used] = max(total, best.get(used, total))
