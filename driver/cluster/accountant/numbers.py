"""The metrics of the accountant: read from the books when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from driver.cluster.accountant.ledger import PER_HOUR, WHOLE, settled, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from driver.cluster.accountant.books import Books


class Numbers(Collector):
    """What the accountant knows, as metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.books: Books | None = None
        """None while another instance counts."""
        self.now: Callable[[], int] = lambda: 0
        self.writes: Mapping[str, int] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All of them at this moment."""
        labels = ["namespace", "quota"]

        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"gpu_dra_budget_{name}", text, labels=labels)

        used = gauge("hours_used", "GPU hours that count against the budget.")
        unsure = gauge("hours_unsure", "By how many GPU hours that may be wrong, in either direction.")
        away = gauge("away_seconds", "Seconds of the period in which nobody counted.")
        hard = gauge("hours_hard", "GPU hours of the budget.")
        held = gauge("gpus_held", "GPUs that claims of the namespace hold at the moment, weighted.")
        gpus = gauge("gpus_hard", "GPUs that the budget allows at a time.")
        books = self.books
        for key, budget in tuple(books.budgets.items()) if books else ():
            if budget.account is None:
                continue
            amount = total(settled(budget.account, self.now()))
            used.add_metric(key, amount.used / PER_HOUR)
            unsure.add_metric(key, amount.unsure / PER_HOUR)
            away.add_metric(key, amount.away / 1000)
            held.add_metric(key, budget.account.held / WHOLE)
            if budget.quota.hours is not None:
                hard.add_metric(key, budget.quota.hours / PER_HOUR)
            if budget.quota.gpus is not None:
                gpus.add_metric(key, budget.quota.gpus / WHOLE)
        yield from (used, unsure, away, hard, held, gpus)
        counts = GaugeMetricFamily("gpu_dra_accountant_counts", "Whether this instance is the one that counts.")
        counts.add_metric([], int(books is not None))
        yield counts
        unweighed = GaugeMetricFamily("gpu_dra_accountant_unweighed_claims", "Claims whose devices are not known yet.")
        unweighed.add_metric([], len(books.unweighed) if books else 0)
        yield unweighed
        writes = CounterMetricFamily("gpu_dra_accountant_writes", "Accounts written, by result.", labels=["result"])
        for result, count in self.writes.items():
            writes.add_metric([result], count)
        yield writes
