"""All accounts, and the claims that are open: what the watches tell comes in, accounts to be written go out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from driver.cluster.accountant.annotation import AnnotationError, read_account
from driver.cluster.accountant.ledger import Account, Held, closed, moved, opened, opening, resumed, settled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from driver.cluster.accountant.budget import Quota
    from driver.cluster.objects import Claim, Key


@dataclass(slots=True)
class Known:
    """A claim that has devices of ours."""

    claim: Claim
    since: int
    weight: int | None = None
    """None until its slices have been asked, which happens in namespaces with a budget only."""


@dataclass(slots=True)
class Budget:
    """A quota, and its account as far as it has come."""

    quota: Quota
    account: Account | None = None
    """None while the weight of any claim in the namespace is not known."""
    base: str | None = None
    """The annotation that the account goes on from."""
    pending: str | None = None
    """One that was sent, and may have been written or not."""
    damaged: str = ""
    """Why the annotation that was found cannot be read."""


class Books:
    """Every change costs what the budgets of one namespace cost."""

    def __init__(self) -> None:
        self.budgets: dict[Key, Budget] = {}
        self.claims: dict[Key, Known] = {}
        self._names: dict[str, dict[str, None]] = {}
        """Names of claims by namespace."""
        self._quotas: dict[str, dict[str, None]] = {}
        self.unweighed: dict[Key, None] = {}
        """Claims whose weight somebody has to find out, in order."""

    # -- claims ------------------------------------------------------------------------------------------------------

    def put_claim(self, key: Key, claim: Claim | None, now: int, *, since: int, seen: int | None = None) -> None:
        """What a watch says of a claim; ``seen``: when it was last known to be as we had it, if that was not now."""
        known = self.claims.get(key)
        if known and claim and (known.claim.uid, known.claim.since) == (claim.uid, claim.since):
            known.claim = claim  # other pods, perhaps
            return
        if known:
            self._end(key, known, now, seen)
        if claim:
            self.claims[key] = Known(claim, min(since, now))
            self._names.setdefault(key[0], {})[key[1]] = None
            if key[0] in self._quotas:
                self.unweighed[key] = None
        self._adopt(key[0], now)

    def list_claims(self, found: Mapping[Key, tuple[Claim, int]], now: int, *, seen: int) -> None:
        """All claims that there are, after nobody knows what: with the times since when they may be held."""
        for key in [key for key in self.claims if key not in found]:
            self.put_claim(key, None, now, since=now, seen=seen)
        for key, (claim, since) in found.items():
            self.put_claim(key, claim, now, since=since, seen=seen)

    def weigh(self, key: Key, claim: Claim, weight: int, now: int) -> None:
        """The weight of a claim has been found out, if it is still that one."""
        known = self.claims.get(key)
        if (
            known is None
            or known.weight is not None
            or known.claim.since != claim.since
            or known.claim.uid != claim.uid
        ):
            return
        known.weight = weight
        self.unweighed.pop(key, None)
        for budget in self._of(key[0]):
            if budget.account is not None:
                held = Held(weight, known.since)
                budget.account = opened(budget.account, held, now)
        self._adopt(key[0], now)

    def _end(self, key: Key, known: Known, now: int, seen: int | None) -> None:
        del self.claims[key]
        self._names[key[0]].pop(key[1])
        self.unweighed.pop(key, None)
        for budget in self._of(key[0]):
            if budget.account is None:
                continue
            if known.weight is not None:
                budget.account = closed(budget.account, known.weight, now, seen=seen)

    # -- budgets -----------------------------------------------------------------------------------------------------

    def put_quota(self, quota: Quota | None, key: Key, now: int) -> None:
        """What a watch says of a quota; None for one that is no budget, or not any more."""
        budget = self.budgets.get(key)
        if quota is None:
            if budget:
                del self.budgets[key]
                del self._quotas[key[0]][key[1]]
                if not self._quotas[key[0]]:
                    self._forget(key[0])
            return
        if budget is None or budget.quota.uid != quota.uid:
            budget = self.budgets[key] = Budget(quota)
            if key[0] not in self._quotas:
                for name in self._names.get(key[0], ()):
                    self.unweighed[key[0], name] = None
            self._quotas.setdefault(key[0], {})[key[1]] = None
        elif quota.text not in {budget.base, budget.pending, None}:
            if budget.account is None or _is_readable(quota):
                # Another accountant has written, or somebody who should not: what stands there is what counts.
                budget.account, budget.damaged = None, ""
            else:
                quota = replace(quota, text=None)  # as if it had been removed: what is known is written over it
        elif budget.account and quota.period != budget.quota.period:
            budget.account = moved(settled(budget.account, now), quota.period)
        budget.quota = quota
        if budget.account is not None:
            budget.base = quota.text
        self._adopt(key[0], now)

    def list_quotas(self, found: Mapping[Key, Quota], now: int) -> None:
        """All budgets that there are."""
        for key in [key for key in self.budgets if key not in found]:
            self.put_quota(None, key, now)
        for key, quota in found.items():
            self.put_quota(quota, key, now)

    def settle(self, budget: Budget, now: int) -> Account | None:
        """Bring an account up to now."""
        if budget.account is not None:
            budget.account = settled(budget.account, now)
        return budget.account

    def open_claims(self, namespace: str) -> Iterator[tuple[Key, Known]]:
        """The claims of a namespace."""
        for name in self._names.get(namespace, ()):
            yield (namespace, name), self.claims[namespace, name]

    def _adopt(self, namespace: str, now: int) -> None:
        """Go on from what stands on the quotas, once all claims of the namespace are known."""
        waiting = [budget for budget in self._of(namespace) if budget.account is None]
        if not waiting:
            return
        claims = [known for _, known in self.open_claims(namespace)]
        held = [Held(known.weight, known.since) for known in claims if known.weight is not None]
        if len(held) < len(claims):
            return
        for budget in waiting:
            try:
                left = _read(budget.quota)
            except AnnotationError as error:
                budget.damaged = str(error)  # to begin anew would give the budget back: an administrator has to say so
                continue
            budget.account = moved(resumed(left, held, now, created=budget.quota.created), budget.quota.period)
            budget.base, budget.pending, budget.damaged = budget.quota.text, None, ""

    def _of(self, namespace: str) -> Iterator[Budget]:
        for name in self._quotas.get(namespace, ()):
            yield self.budgets[namespace, name]

    def _forget(self, namespace: str) -> None:
        """Nobody counts here any more; a budget that comes later starts with weights of its own."""
        del self._quotas[namespace]
        for key, known in self.open_claims(namespace):
            known.weight = None
            self.unweighed.pop(key, None)


def _read(quota: Quota) -> Account:
    """The account that stands on a quota, or is to begin there. Raises AnnotationError."""
    return opening(quota.created, quota.period) if quota.text is None else read_account(quota.text)


def _is_readable(quota: Quota) -> bool:
    try:
        _read(quota)
    except AnnotationError:
        return False
    return True


def with_level(account: Account, level: int, *, spent: bool, heard: int) -> Account:
    """Note what has been told, since when the budget has been spent, and when something was last heard of claims."""
    since = (account.spent if account.spent is not None else account.at) if spent else None
    return replace(account, told=level, spent=since, heard=min(heard, account.at))
