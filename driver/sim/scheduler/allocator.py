"""The allocator: which devices of a node satisfy a pod's claims. Pure; the first fit of the documented order wins.

Follows the "incubating" allocator that Kubernetes 1.36 uses with default gates, in what it allocates and in what order.
What a driver's author should know of it:

* admin access needs free shared counters too, and an allocation with admin access consumes none;
* an allocated device that left the slices, or changed its ``consumesCounters``, no longer counts as it did;
* a pool whose counters are overdrawn gives no device that consumes counters.

Its defects are copied too: counters of a device that is refused *after* the counter check (taint, constraint, capacity)
stay taken for the rest of the attempt, and those of a shared device are not given back when the search steps back, both
of which hides solutions; distinctAttribute forgets values. Not copied: its counters mix up pools of one name from
different drivers.
"""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from driver.sim import quantity
from driver.sim.scheduler import capacity, cel, tolerations
from driver.sim.scheduler.constraints import Constraint
from driver.sim.scheduler.pools import Candidate, Counters, DeviceId, InUse, Pool, gather
from driver.sim.scheduler.requests import MAX_RESULTS, Request, RequestError, alternatives, key
from driver.sim.scheduler.results import Chosen, allocation_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from fractions import Fraction

FILTER_TIMEOUT = 10.0
"""Seconds that the search may take for one node."""


class UnschedulableError(Exception):
    """The claims cannot be allocated on this node as things are; other nodes may do."""


class AllocationError(Exception):
    """Scheduling of the pod is aborted: a broken selector, an unknown class, no time left."""


def allocate(
    node: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    *,
    classes: Mapping[str, Mapping[str, Any]],
    slices: Sequence[Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]] = (),
    allocated: Iterable[Mapping[str, Any]] = (),
    share_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    clock: Callable[[], float] = time.monotonic,
    timeout: float = FILTER_TIMEOUT,
) -> list[dict[str, Any]]:
    """Return a ``status.allocation`` for each claim, all or nothing.

    ``classes`` are DeviceClasses by name, ``rules`` DeviceTaintRules, ``allocated`` all claims of the cluster that hold
    an allocation. Raises UnschedulableError (this node cannot) or AllocationError (no use to try others).
    """
    pools = gather(node, slices, rules)
    try:
        wanted = [alternatives(claim, classes) for claim in claims]
        constraints = [
            [Constraint(c) for c in (claim["spec"].get("devices") or {}).get("constraints") or []] for claim in claims
        ]
    except RequestError as error:
        raise AllocationError(str(error)) from error
    out_of_time = clock() + timeout
    search = _Search(
        node, claims, pools, wanted, constraints, InUse.by(allocated), share_id, lambda: clock() > out_of_time
    )
    if not search.run():
        if any(pool.invalid for pool in pools):
            reasons = "; ".join(f"{p.driver}/{p.name}: {p.invalid}" for p in pools if p.invalid)
            raise UnschedulableError(f"invalid resource pools were encountered: {reasons}")
        raise UnschedulableError("cannot allocate all claims")
    return [
        allocation_result(
            node["metadata"]["name"], claim, [alts[search.picked[c, r]] for r, alts in enumerate(want)], got
        )
        for c, (claim, want, got) in enumerate(zip(claims, wanted, search.chosen, strict=True))
    ]


class _TooManyError(Exception):
    """No way to stay within the maximum number of results from here on."""


class _Search:
    """Depth-first search with backtracking over claims, requests, alternatives and devices."""

    def __init__(
        self,
        node: Mapping[str, Any],
        claims: Sequence[Mapping[str, Any]],
        pools: Sequence[Pool],
        wanted: Sequence[Sequence[Sequence[Request]]],
        constraints: Sequence[Sequence[Constraint]],
        in_use: InUse,
        share_id: Callable[[], str],
        out_of_time: Callable[[], bool],
    ) -> None:
        self.node, self.claims, self.pools, self.wanted = node, claims, pools, wanted
        self.constraints, self.in_use, self.share_id, self.out_of_time = constraints, in_use, share_id, out_of_time
        self.chosen: list[list[Chosen]] = [[] for _ in claims]
        self.picked: dict[tuple[int, int], int] = {}
        self._devices = [(pool, device) for pool in pools if pool.usable for device in pool.devices]
        self._matches: dict[tuple[int, int], bool] = {}
        self._taken: dict[DeviceId, list[int]] = {}
        self._shares: dict[DeviceId, list[dict[str, Fraction]]] = {}
        self._free: dict[tuple[str, str], Counters] = {}
        self._all: dict[int, list[tuple[Pool, Candidate]]] = {}

    def run(self) -> bool:
        """Find the first solution and leave it in ``chosen`` and ``picked``."""
        for claim, want in zip(self.claims, self.wanted, strict=True):
            least = 0
            for options in want:
                for request in options:
                    if request.everything:
                        self._all[id(request)] = self._everything(claim, request)
                least += min(self._count(request) for request in options)
            if least > MAX_RESULTS:
                raise AllocationError(
                    f"claim {key(claim)}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
                )
        try:
            return self._claim(0)
        except _TooManyError:
            return False

    # --- the levels of the search -------------------------------------------------------------------------------

    def _claim(self, c: int) -> bool:
        if c >= len(self.claims):
            return True
        return self._request(c, 0)

    def _request(self, c: int, r: int) -> bool:
        if r >= len(self.wanted[c]):
            try:
                return self._claim(c + 1)
            except _TooManyError:
                return False  # another choice here may leave the next claim one that needs fewer devices
        options = self.wanted[c][r]
        if not options[0].subrequest:
            self.picked[c, r] = 0
            return self._device(c, r, options[0], 0, 0)
        only_too_many = True
        for index, request in enumerate(options):
            self.picked[c, r] = index
            try:
                if self._device(c, r, request, 0, 0):
                    self.picked[c, r] = index
                    return True
            except _TooManyError:
                continue
            only_too_many = False
        if only_too_many:
            raise _TooManyError
        return False

    def _device(self, c: int, r: int, request: Request, d: int, start: int) -> bool:
        if self.out_of_time():
            raise AllocationError(f"node {self.node['metadata']['name']}: timed out trying to allocate devices")
        count = self._count(request)
        if request.everything and count == 0:
            return False
        if d >= count:
            return self._request(c, r + 1)
        if len(self.chosen[c]) + count - d > MAX_RESULTS:
            raise _TooManyError
        if request.everything:
            pool, device = self._all[id(request)][d]
            return self._attempt(c, request, pool, device, partial(self._device, c, r, request, d + 1, 0), must=True)
        for index in range(start, len(self._devices)):
            pool, device = self._devices[index]
            if self._busy(c, request, device) or not self._selected(self.claims[c], request, device):
                continue
            if self._over_capacity(request, device):
                continue
            if self._attempt(c, request, pool, device, partial(self._device, c, r, request, d + 1, index + 1)):
                return True
        return False

    def _attempt(
        self,
        c: int,
        request: Request,
        pool: Pool,
        device: Candidate,
        proceed: Callable[[], bool],
        *,
        must: bool = False,
    ) -> bool:
        """Take the device if it may be taken, go on, and give it back if that leads nowhere."""
        if self._busy(c, request, device) or self._lacks_counters(pool, device):
            return False
        charged = self._charge(pool, device)
        if tolerations.blocking(device.taints, request.tolerations):
            return False
        for number, constraint in enumerate(self.constraints[c]):
            if constraint.add(request.name, request.subrequest, device):
                continue
            if must:
                raise AllocationError(
                    f"claim {key(self.claims[c])}, request {request.subrequest or request.name}: cannot add device "
                    f"{device.id} because a claim constraint would not be satisfied"
                )
            for added in self.constraints[c][:number]:
                added.remove(request.name, request.subrequest)
            return False
        fits = not self._over_capacity(request, device)  # of "all" devices it was checked before others were taken
        consumed: dict[str, str] = {}
        if not device.shared:
            self._taken.setdefault(device.id, []).append(c)
        elif fits:
            consumed = capacity.consumed(device.spec, request.capacities)
            amounts = {name: quantity.parse(amount) for name, amount in consumed.items()}
            self._shares.setdefault(device.id, []).append(amounts)
        share = self.share_id() if device.shared else None
        self.chosen[c].append(Chosen(request=request, device=device, share_id=share, consumed=consumed))
        done = False
        try:
            done = fits and proceed()
        finally:
            if not done:
                self.chosen[c].pop()
                if fits:
                    self._release(c, request, pool, device, charged)
        return done

    def _release(self, c: int, request: Request, pool: Pool, device: Candidate, charged: Counters) -> None:
        for constraint in self.constraints[c]:
            constraint.remove(request.name, request.subrequest)
        if device.shared:
            self._shares[device.id].pop()
            return
        self._taken[device.id].remove(c)
        for counter, amount in charged.items():
            self._free[pool.driver, pool.name][counter] += amount

    # --- what is known about one device -------------------------------------------------------------------------

    def _count(self, request: Request) -> int:
        return len(self._all[id(request)]) if request.everything else request.count

    def _everything(self, claim: Mapping[str, Any], request: Request) -> list[tuple[Pool, Candidate]]:
        where = f"claim {key(claim)}, request {request.subrequest or request.name}"
        found: list[tuple[Pool, Candidate]] = []
        for pool in self.pools:
            if not pool.usable:
                state = "being updated" if pool.incomplete else "invalid"
                raise AllocationError(
                    f"{where}: asks for all devices, but resource pool {pool.driver}/{pool.name} is currently {state}"
                )
            found += [
                (pool, device)
                for device in pool.devices
                if self._selected(claim, request, device) and not self._over_capacity(request, device)
            ]
        return found

    def _busy(self, c: int, request: Request, device: Candidate) -> bool:
        taken = self._taken.get(device.id, ())
        if request.admin:
            return c in taken
        return device.id in self.in_use.exclusive or bool(taken)

    def _over_capacity(self, request: Request, device: Candidate) -> str:
        used: dict[str, Fraction] = dict(self.in_use.shared.get(device.id, {}))
        for share in self._shares.get(device.id, ()):
            for name, amount in share.items():
                used[name] = used.get(name, quantity.parse(0)) + amount
        return capacity.refusal(device.spec, request.capacities, used)

    def _needs_counters(self, device: Candidate) -> bool:
        """Whether counters are at stake: not for a shared device of which a part is in use already."""
        partly_used = device.shared and (device.id in self.in_use.shared or self._shares.get(device.id))
        return bool(device.counters) and not partly_used

    def _lacks_counters(self, pool: Pool, device: Candidate) -> bool:
        if not self._needs_counters(device):
            return False
        free = self._free_counters(pool)
        overdrawn = any(amount < 0 for amount in free.values())
        return overdrawn or any(free[counter] < amount for counter, amount in device.counters.items())

    def _charge(self, pool: Pool, device: Candidate) -> Counters:
        if not self._needs_counters(device):
            return {}
        free = self._free_counters(pool)
        for counter, amount in device.counters.items():
            free[counter] -= amount
        return device.counters

    def _free_counters(self, pool: Pool) -> Counters:
        free = self._free.get((pool.driver, pool.name))
        if free is None:
            free = self._free[pool.driver, pool.name] = dict(pool.counters)
            for device in (*pool.devices, *pool.elsewhere):
                if self.in_use.holds(device.id):
                    for counter, amount in device.counters.items():
                        free[counter] -= amount
        return free

    def _selected(self, claim: Mapping[str, Any], request: Request, device: Candidate) -> bool:
        """Whether the selectors of class and request pick the device; remembered, as nothing changes it."""
        known = self._matches.get((id(request), id(device)))
        if known is None:
            known = self._evaluate(claim, request, device)
            self._matches[id(request), id(device)] = known
        return known

    def _evaluate(self, claim: Mapping[str, Any], request: Request, device: Candidate) -> bool:
        of_class = request.device_class
        sources = (
            (f"class {of_class['metadata']['name']}", (of_class.get("spec") or {}).get("selectors") or []),
            (f"claim {key(claim)}", request.spec.get("selectors") or []),
        )
        for source, selectors in sources:
            for index, selector in enumerate(selectors):
                where, expression = f"{source}: selector #{index}", selector["cel"]["expression"]
                try:
                    compiled = cel.selector(expression)
                except cel.CelError as error:
                    raise AllocationError(f"{where}: CEL compile error: {error}") from error
                try:
                    if not compiled.matches(device.id.driver, device.spec):
                        return False
                except cel.CelError as error:
                    raise AllocationError(f"{where}: CEL runtime error: {error}") from error
        return True
