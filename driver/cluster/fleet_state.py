"""The cluster's objects as they come and go, and the model of them: a change touches the nodes that it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from driver.cluster.build import build_node
from driver.cluster.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.cluster.fleet import Node
    from driver.cluster.objects import Claim, Key, Pod, Rule, Slice

T = TypeVar("T")


class State:
    """What is there. ``put`` and ``replace`` say what has changed, ``fleet`` works out what that means."""

    def __init__(self) -> None:
        self._slices: dict[Key, Slice] = {}
        self._claims: dict[Key, Claim] = {}
        self._pods: dict[Key, Pod] = {}
        self._rules: dict[Key, Rule] = {}
        self._slices_of: dict[str, dict[Key, Slice]] = {}
        """By pool."""
        self._claims_on: dict[str, dict[Key, Claim]] = {}
        """By pool."""
        self._claims_for: dict[Key, set[Key]] = {}
        """By pod."""
        self._nodes: dict[str, Node] = {}
        """By pool."""
        self._outdated: set[str] = set()
        """Pools."""

    def put_slice(self, key: Key, found: Slice | None) -> None:
        """A slice is like this now; None: it is gone."""
        before = self._slices.get(key)
        if before == found:
            return
        if before is not None:
            self._outdated.add(before.pool)
            _discard(self._slices_of, before.pool, key)
        if found is not None:
            self._outdated.add(found.pool)
            self._slices_of.setdefault(found.pool, {})[key] = found
        _set(self._slices, key, found)

    def put_claim(self, key: Key, found: Claim | None) -> None:
        """A claim is like this now; None: it is gone, or has nothing of ours."""
        before = self._claims.get(key)
        if before == found:
            return
        if before is not None:
            for pool in {result.pool for result in before.results}:
                self._outdated.add(pool)
                _discard(self._claims_on, pool, key)
            for pod in before.pods:
                holds = self._claims_for.get((before.namespace, pod), set())
                holds.discard(key)
                if not holds:
                    self._claims_for.pop((before.namespace, pod), None)
        if found is not None:
            for pool in {result.pool for result in found.results}:
                self._outdated.add(pool)
                self._claims_on.setdefault(pool, {})[key] = found
            for pod in found.pods:
                self._claims_for.setdefault((found.namespace, pod), set()).add(key)
        _set(self._claims, key, found)

    def put_pod(self, key: Key, found: Pod | None) -> None:
        """A pod is like this now; None: it is gone."""
        if self._pods.get(key) == found:
            return
        _set(self._pods, key, found)
        for claim in self._claims_for.get(key, ()):
            self._outdated.update(result.pool for result in self._claims[claim].results)

    def put_rule(self, key: Key, found: Rule | None) -> None:
        """A DeviceTaintRule is like this now; None: it is gone, or selects nothing of ours."""
        before = self._rules.get(key)
        if before == found:
            return
        for rule in (before, found):
            if rule is not None:
                self._outdated.update([rule.pool] if rule.pool else self._slices_of)
        _set(self._rules, key, found)

    def replace_slices(self, found: Mapping[Key, Slice]) -> None:
        """These slices are there, and no others."""
        for key in _all(self._slices, found):
            self.put_slice(key, found.get(key))

    def replace_claims(self, found: Mapping[Key, Claim]) -> None:
        """These claims are there, and no others."""
        for key in _all(self._claims, found):
            self.put_claim(key, found.get(key))

    def replace_pods(self, found: Mapping[Key, Pod]) -> None:
        """These pods are there, and no others."""
        for key in _all(self._pods, found):
            self.put_pod(key, found.get(key))

    def replace_rules(self, found: Mapping[Key, Rule]) -> None:
        """These rules are there, and no others."""
        for key in _all(self._rules, found):
            self.put_rule(key, found.get(key))

    def fleet(self) -> Fleet:
        """The model as of now; a node that nothing has happened to is the same object as before."""
        for pool in self._outdated:
            slices, claims = self._slices_of.get(pool, {}), self._claims_on.get(pool, {})
            if slices or claims:
                rules = self._rules.values()
                self._nodes[pool] = build_node(pool, slices.values(), claims.values(), self._pods, rules)
            else:
                self._nodes.pop(pool, None)
        self._outdated.clear()
        return Fleet(nodes=tuple(sorted(self._nodes.values(), key=lambda node: (node.name, node.pool))))


def _all(known: Mapping[Key, object], found: Mapping[Key, object]) -> Iterable[Key]:
    return [*(key for key in known if key not in found), *found]


def _set(objects: dict[Key, T], key: Key, found: T | None) -> None:
    if found is None:
        objects.pop(key, None)
    else:
        objects[key] = found


def _discard(index: dict[str, dict[Key, T]], name: str, key: Key) -> None:
    members = index.get(name, {})
    members.pop(key, None)
    if not members:
        index.pop(name, None)
