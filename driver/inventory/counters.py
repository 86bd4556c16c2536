"""Counters by which the scheduler can tell which partitions of a GPU go together: pure.

A GPU's instances must not overlap in memory slices, must start where their profile allows it, and a profile has a
largest number of instances (``+me``: one set of media engines to a GPU). One counter for each memory slice says the
first two exactly, and a rule that they do not keep gets a counter of its own. That is all: the scheduler adds up every
counter for every candidate, so amounts of engines, which no layout that these counters allow exceeds, are capacities
only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.hardware import Gpu, MigProfile

MIB = 1 << 20

_ENGINES: Mapping[str, Callable[[MigProfile], int]] = {
    "decoders": lambda profile: profile.decoders,
    "encoders": lambda profile: profile.encoders,
    "jpeg-engines": lambda profile: profile.jpeg_engines,
    "ofa-engines": lambda profile: profile.ofa_engines,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRule:
    """At most ``limit`` of ``use`` among all instances of a GPU."""

    counter: str
    """Name of the counter that keeps the rule."""
    limit: int
    use: Mapping[str, int]
    """By profile name; profiles that are not there use nothing."""


def memory_slice(number: int) -> str:
    """The counter of one memory slice."""
    return f"memory-slice-{number}"


@lru_cache(maxsize=64)
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
        for engine, take in _ENGINES.items():
            use = {p.name: take(p) for p in profiles if take(p)}
            found.append(LayoutRule(counter=f"all-{engine}", limit=take(whole), use=use))
        break
    for profile in profiles:
        label = profile.name.replace(".", "").replace("-", "-no-").replace("+", "-")
        found.append(LayoutRule(counter=f"{label}-instances", limit=profile.max_instances, use={profile.name: 1}))
    # First those that placements alone keep: what is left is one or two, and the search stays small.
    kept = [rule for rule in found if not _implied(rule, profiles, ())]
    for rule in tuple(reversed(kept)):
        others = tuple(other for other in kept if other is not rule)
        if _implied(rule, profiles, others):
            kept.remove(rule)
    return tuple(kept)


def totals(gpu: Gpu) -> dict[str, int]:
    """All counters of a GPU with MIG profiles, and how much there is; the whole GPU takes just that."""
    return {
        **{rule.counter: rule.limit for rule in rules(gpu.mig_profiles)},
        **{memory_slice(number): 1 for number in range(gpu.memory_slices)},
    }


def consumption(gpu: Gpu, profile: MigProfile, start: int) -> dict[str, int]:
    """What one placement takes of the counters; what it takes nothing of is left out."""
    return {
        **{rule.counter: use for rule in rules(gpu.mig_profiles) if (use := rule.use.get(profile.name, 0))},
        **{memory_slice(number): 1 for number in range(start, start + profile.size)},
    }


def _implied(rule: LayoutRule, profiles: tuple[MigProfile, ...], others: tuple[LayoutRule, ...]) -> bool:
    """Whether no layout that the placements and the other rules allow breaks the rule."""
    return _most(profiles, lambda profile: rule.use.get(profile.name, 0), others) <= rule.limit


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
