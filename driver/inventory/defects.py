"""What is wrong with the node as a whole: told as an Event when it begins and when it ends, and shown meanwhile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from driver.hardware import Defect
    from driver.kube import NodeEvents
    from driver.observe import Metrics

MEANWHILE = "Until this is over, no new claim gets a device of this node"

logger = logging.getLogger(__name__)


class Defects:
    """Several look at the node, each for other defects; ``found`` is what one of them sees now."""

    def __init__(self, *, events: NodeEvents, metrics: Metrics) -> None:
        self._events = events
        self._metrics = metrics
        self._by_source: dict[str, tuple[Defect, ...]] = {}

    def __iter__(self) -> Iterator[Defect]:
        """All that there are now."""
        return (defect for found in self._by_source.values() for defect in found)

    @property
    def blocking(self) -> str:
        """Why nothing can be prepared, in one word; empty if it can."""
        return next((defect.kind for defect in self if defect.blocks), "")

    def not_ready(self) -> list[str]:
        """Why nothing can be prepared, a line each."""
        return [f"node: {defect.kind}: {defect.why}" for defect in self if defect.blocks]

    def found(self, source: str, *defects: Defect) -> bool:
        """Take over all that ``source`` sees; whether that is something else than before."""
        before, now = self._kinds(source), {defect.kind: defect for defect in defects}
        self._by_source[source] = defects
        for kind in now.keys() - before.keys():
            self._metrics.defects.labels(kind).set(1)
            text = ". ".join(filter(None, (now[kind].why, now[kind].remedy, MEANWHILE if now[kind].blocks else "")))
            logger.error("%s: %s", kind, text)
            self._events.warn("NodeDefect", f"{kind}: {text}")
        for kind in before.keys() - now.keys():
            self._metrics.defects.labels(kind).set(0)
            logger.info("no longer: %s: %s", kind, before[kind].why)
            self._events.tell("Normal", "NodeDefectMended", f"{kind}: this is over: {before[kind].why}")
        return before.keys() != now.keys()

    def _kinds(self, source: str) -> Mapping[str, Defect]:
        return {defect.kind: defect for defect in self._by_source.get(source, ())}
