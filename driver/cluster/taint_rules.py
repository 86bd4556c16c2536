"""DeviceTaintRules, in whatever version the cluster serves them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from driver.base.backoff import Backoff
from driver.cluster.read_objects import read_rule
from driver.kube import ApiError, Mirror, check_list, odd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from driver.cluster.objects import Key, Rule
    from driver.kube import Api

RULES = "devicetaintrules"
GROUP = "/apis/resource.k8s.io"
VERSIONS = ("v1", "v1beta2", "v1alpha3")
"""In which releases have them, the newest first: Kubernetes 1.37, 1.36 and 1.35."""
AGAIN = 300.0
"""Seconds after which a cluster without them is asked again: it may have been upgraded."""
NOT_FOUND = 404


async def find_rules(api: Api) -> str:
    """Path of the collection; empty where the cluster has none. Raises ApiError.

    The server's own list is asked: whoever may not list rules is refused them where there are none, too.
    """
    for version in VERSIONS:
        path = f"{GROUP}/{version}"
        try:
            answer: Any = await api.get(path)
        except ApiError as error:
            if error.status == NOT_FOUND:
                continue
            raise
        found = answer.get("resources") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise odd(f"GET {path}", "a list of 'resources'", found)
        if any(isinstance(one, dict) and one.get("name") == RULES for one in found):
            return f"{path}/{RULES}"
    return ""


async def list_rules(api: Api, *, driver: str, pool: str = "") -> tuple[Rule, ...]:
    """Those for devices of this driver, and of this pool, if one is given; by name. Raises ApiError."""
    if not (path := await find_rules(api)):
        return ()
    listing = check_list(await api.get(path, timeout=30), f"GET {path}")
    found = (read_rule(obj, driver=driver, pool=pool) for obj in listing["items"])
    return tuple(sorted((rule for rule in found if rule is not None), key=lambda rule: rule.taint.rule))


class RuleMirror:
    """Rules as a ``Mirror`` has them; none, and in step with that, where the cluster knows no rules."""

    def __init__(
        self, api: Api, mirror: Callable[[str], Mirror], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Dials nothing yet. ``mirror`` makes one of a path."""
        self._api = api
        self._make = mirror
        self._sleep = sleep
        self._mirror: Mirror | None = None
        self._error: ApiError | None = None
        self._absent = asyncio.Event()

    @property
    def objects(self) -> dict[Key, dict[str, Any]]:
        """By namespace, which is empty, and name."""
        return self._mirror.objects if self._mirror else {}

    @property
    def error(self) -> ApiError | None:
        """Why the rules are not known, or not any more."""
        return self._mirror.error if self._mirror else self._error

    @property
    def synced(self) -> asyncio.Event:
        """Set when they were read, or there can be none."""
        return self._mirror.synced if self._mirror else self._absent

    async def run(self) -> None:
        """Look where they are, and follow them for ever. Ends only by cancellation."""
        backoff, failures = Backoff(multiplier=0.25, longest=15), 0
        while True:
            try:
                path = await find_rules(self._api)
            except ApiError as error:
                self._error, failures = error, failures + 1
                await self._sleep(backoff.after(failures, error))
                continue
            self._error, failures = None, 0
            if path:
                self._mirror = self._make(path)
                await self._mirror.run()
            self._absent.set()
            await self._sleep(AGAIN)
