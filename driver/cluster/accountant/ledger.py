"""The account of one budget: what was used up to a moment, and what is held at that moment. Pure: State -> State.

Weights are millionths of a GPU, times are milliseconds by the API server's clock, so amounts are whole numbers and sums
are exact. An account needs no list of claims: what is open adds its weight to ``held``, and time passes over that sum.
That is what makes a change O(1), and what fits into one annotation.

Somebody who goes on from an account that another left (after a restart, or as a new leader) knows the claims that are
there now. Those allocated before the other last heard of claims are in its ``held``; so what ``held`` has too much is
the weight of claims that ended unseen since. They are taken to have ended in the middle, wrong by half of the gap at
most.
A watch may stall without a word: what was heard may be older than the account, which goes on as if nothing had changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from driver.cluster.accountant.period import FOREVER, Period

if TYPE_CHECKING:
    from collections.abc import Iterable

WHOLE = 1_000_000
"""The weight of a whole GPU."""
PER_HOUR = WHOLE * 3_600_000
"""Amount of one GPU hour."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What was used in a span, by how much that may be wrong, and for how long nobody looked (ms)."""

    used: int = 0
    unsure: int = 0
    away: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.used + other.used, self.unsure + other.unsure, self.away + other.away)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Everything that was used before ``at``, by span of the period, and the weight that is held at that moment."""

    at: int
    heard: int
    """When something was last heard of claims: what became of them since is not in the account."""
    period: Period = FOREVER
    floor: int
    """Nothing is counted from before: what was used then is in ``spans``, or is of no concern."""
    held: int = 0
    spans: tuple[tuple[int, Amount], ...] = ()
    told: int = 0
    """Percent of the budget that an Event has told of."""
    spent: int | None = None
    """Since when the budget has been used up."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a claim holds, and since when."""

    weight: int
    since: int


def opening(created: int, period: Period) -> Account:
    """The account of a budget that nobody has counted yet: from its creation on."""
    return Account(at=created, heard=created, floor=created, period=period)


def settled(account: Account, now: int) -> Account:
    """Let time pass. A clock that went back changes nothing."""
    if now <= account.at:
        return account
    account = _added(account, account.at, now, used=account.held)
    kept = tuple((span, amount) for span, amount in account.spans if account.period.part(span, now)[0] > 0)
    return replace(account, at=now, spans=kept)


def moved(account: Account, period: Period) -> Account:
    """Count in other periods from now on. What counted until now was used now: nothing is given back by that."""
    if period == account.period:
        return account
    return replace(account, period=period, spans=((period.span(account.at), total(account)),))


def opened(account: Account, claim: Held, now: int) -> Account:
    """A claim was allocated, perhaps a while before we heard of it."""
    account = settled(account, now)
    since = max(claim.since, account.floor)
    account = _added(account, since, account.at, used=claim.weight)
    return replace(account, held=account.held + claim.weight)


def closed(account: Account, weight: int, now: int, *, seen: int | None = None) -> Account:
    """A claim is not allocated any more: since now, or since some moment after ``seen``, when it was last there."""
    account = settled(account, now)
    if seen is not None and seen < account.at:
        account = _ended_unseen(account, weight, max(seen, account.floor))
    return replace(account, held=max(0, account.held - weight))


def resumed(left: Account, claims: Iterable[Held], now: int, *, created: int) -> Account:
    """Go on from an account that was left a while ago, with the claims that are there now; ``created``: the budget."""
    here = sorted(claims, key=lambda claim: claim.since, reverse=True)
    now = max(now, left.at)
    left = replace(left, heard=max(left.heard, created))
    old = sum(claim.weight for claim in here if claim.since <= left.heard)
    gone = max(0, left.held - old)
    unheard = old - left.held
    for claim in here:
        # Allocated just before the last that was heard, which was not of it yet: the newest of them.
        if claim.since <= left.heard and claim.weight <= unheard:
            unheard -= claim.weight
            left = _added(left, max(claim.since, created), left.at, used=claim.weight)
    account = settled(replace(left, held=old + gone, heard=now, floor=left.heard), now)
    account = replace(_ended_unseen(account, gone, left.heard), held=old)
    account = _added(account, left.heard, now, away=1)
    for claim in here:
        if claim.since > left.heard:
            account = opened(account, claim, now)
    return account


def total(account: Account) -> Amount:
    """What counts at the account's moment."""
    result = Amount()
    for span, amount in account.spans:
        part, whole = account.period.part(span, account.at)
        result += Amount(
            amount.used * part // whole, -(-amount.unsure * part // whole), -(-amount.away * part // whole)
        )
    return result


def free_again(account: Account, hard: int) -> int | None:
    """When less than ``hard`` counts, if all that is held goes on being held; None if that is not to be seen."""
    ends = sorted({end for span, _ in account.spans if (end := account.period.leaves(span)) is not None})
    return next((end for end in ends if end > account.at and total(settled(account, end)).used < hard), None)


def _ended_unseen(account: Account, weight: int, seen: int) -> Account:
    """Take back half of what was counted since, and say that it may be wrong by as much."""
    middle = (seen + account.at) // 2
    account = _added(account, middle, account.at, used=-weight)
    return _added(account, middle, account.at, unsure=weight)


def _added(account: Account, start: int, end: int, *, used: int = 0, unsure: int = 0, away: int = 0) -> Account:
    """Add rates over a time, each piece to the span that it is in."""
    if end <= start or not (used or unsure or away):
        return account
    spans = dict(account.spans)
    oldest = account.period.oldest(max(end, account.at))
    start = start if oldest is None else max(start, oldest)
    while start < end:
        span = account.period.span(start)
        after = account.period.start(span + 1)
        piece = (end if after is None else min(after, end)) - start
        spans[span] = spans.get(span, Amount()) + Amount(used * piece, unsure * piece, away * piece)
        start += piece
    return replace(account, spans=tuple(sorted(spans.items())))
