"""Numbers that programs tell of themselves at ``/metrics``: read, added up, and what has come to them since."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Labels = frozenset[tuple[str, str]]


class Numbers(Counter):
    """Values by name and labels: ``{("a_total", frozenset({("code", "200")})): 3.0}``. Add them, subtract them."""

    @classmethod
    def parse(cls, text: str) -> Numbers:
        """A page of metrics."""
        found = cls()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name, frozenset(sample.labels.items())] = sample.value
        return found

    @classmethod
    def sum(cls, pages: Iterable[Numbers]) -> Numbers:
        """Of many programs that are alike."""
        found = cls()
        for page in pages:
            found.update(page)
        return found

    def since(self, before: Numbers) -> Numbers:
        """What has been added."""
        return Numbers({key: value - before[key] for key, value in self.items()})

    def of(self, name: str, /, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of each sample with these labels, and maybe more."""
        for (found, has), value in self.items():
            if found == name and has >= set(labels.items()):
                yield dict(has), value

    def total(self, name: str, /, **labels: str) -> float:
        """All of them together."""
        return sum(value for _, value in self.of(name, **labels))

    def by(self, name: str, /, *labels: str, **only: str) -> dict[str, float]:
        """Added up by the values of some labels, those that are not 0: ``{"watch resourceslices": 1.0}``."""
        found: Counter[str] = Counter()
        for has, value in self.of(name, **only):
            found[" ".join(has.get(label, "") for label in labels)] += value
        return {key: found[key] for key in sorted(found) if found[key]}

    def mean(self, name: str, /, **labels: str) -> float:
        """Of a histogram; 0 where nothing was observed."""
        count = self.total(f"{name}_count", **labels)
        return self.total(f"{name}_sum", **labels) / count if count else 0.0

    def quantile(self, share: float, name: str, /, **labels: str) -> float:
        """Of a histogram, linear in its bucket as Prometheus has it; 0 where nothing was observed."""
        at_most: Counter[float] = Counter()
        for has, value in self.of(f"{name}_bucket", **labels):
            at_most[float(has["le"])] += value
        bounds = sorted(at_most)
        wanted = share * at_most[float("inf")]
        below, low = 0.0, 0.0
        for bound in bounds:
            if at_most[bound] >= wanted > below:
                inside = (wanted - below) / (at_most[bound] - below)
                return low if bound == float("inf") else low + (bound - low) * inside
            below, low = at_most[bound], bound
        return 0.0
