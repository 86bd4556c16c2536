"""What could still be placed on a GPU: exactly what the scheduler's counters allow. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.cluster.objects import Amount, Amounts

STEPS = 20_000
"""Of a search at most; for a real GPU it takes a few dozen, and what takes more is told as at least so many."""


def left_of(total: Amounts, taken: Sequence[Amounts]) -> Amounts:
    """What is left of counters."""
    left = dict(total)
    for amounts in taken:
        for name, amount in amounts:
            left[name] = left.get(name, 0) - amount
    return tuple(left.items())


@lru_cache(maxsize=4096)
def most_together(takes: tuple[Amounts, ...], left: Amounts) -> int:
    """How many of these devices, given what each takes, go together into what is left of their counters.

    Tries in order, with and without each device, until no more can be had.
    """
    whole = dict(left)
    fitting = [amounts for amounts in takes if _fits(amounts, whole)]
    bound = _bound(fitting, whole)
    best = 0
    open_ends = [(0, 0, whole)]
    for _ in range(STEPS):
        if not open_ends or best >= bound:
            break
        index, count, available = open_ends.pop()
        best = max(best, count)
        if count + len(fitting) - index <= best:
            continue
        open_ends.append((index + 1, count, available))
        if _fits(amounts := fitting[index], available):
            rest = {**available, **{name: available[name] - amount for name, amount in amounts if amount}}
            open_ends.append((index + 1, count + 1, rest))
    return best


def _bound(fitting: Sequence[Amounts], available: Mapping[str, Amount]) -> int:
    """No more than this many: each takes at least the least that any of them takes."""
    least = dict(fitting[0]) if fitting else {}
    for amounts in fitting:
        found = dict(amounts)
        least = {name: min(amount, found.get(name, 0)) for name, amount in least.items()}
    return min([len(fitting), *(int(available[name] // amount) for name, amount in least.items() if amount)])


def _fits(amounts: Amounts, available: Mapping[str, Amount]) -> bool:
    return all(amount <= available.get(name, 0) for name, amount in amounts)
