"""The page of metrics has every metric that the driver tells, with its labels, and no other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from driver.cluster.accountant.numbers import Numbers
from driver.observe.metrics import Metrics
from driver.usage import collector
from driver.usage.accounts import Line, Spent
from driver.usage.attribution import attribute, holdings
from tests.docs.blocks import DOCUMENTS, ROOT
from tests.unit.usage.examples import A, record, sample, use

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

ROW = re.compile(r"^\| `((?:gpu_dra|dra)_\w+)` \|([^|]*)\|", re.MULTILINE)
SETS = {"CLAIM": collector.CLAIM, "GPU": collector.GPU}
SUFFIX = {"counter": "_total", "info": "_info"}
OF_LIBRARIES = ("process_", "python_")


def documented() -> dict[str, set[str]]:
    """Labels by metric."""
    found = {}
    for name, labels in ROW.findall((ROOT / "docs/monitoring.md").read_text()):
        words = [word.strip().strip("`") for word in labels.split(",") if word.strip()]
        found[name] = {label for word in words for label in SETS.get(word, (word,))}
    return found


def families() -> Iterator[Metric]:
    held = tuple(holdings([record(pods=(A,))], {}))
    yield collector.claims(held)
    yield from collector.times({Line("default", "gpu", "H100", ""): Spent(1, 1, 1)})
    yield from collector.uses(attribute(held, sample(use(sm_active=1.0))))
    yield from collector.gpus({})
    yield from collector.rooms({})
    yield from Metrics(driver_name="gpu.nvidia.com").registry.collect()


def test_the_page_has_every_metric_and_no_other() -> None:
    told = {family.name + SUFFIX.get(family.type, "") for family in families()}

    assert set(documented()) == {name for name in told if not name.startswith(OF_LIBRARIES)}


def test_the_page_about_budgets_has_every_metric_of_the_accountant() -> None:
    page = (ROOT / "docs/budgets.md").read_text()

    assert [family.name for family in Numbers().collect() if f"`{family.name}" not in page] == []


def test_the_page_has_their_labels() -> None:
    page = documented()
    for family in families():
        name = family.name + SUFFIX.get(family.type, "")
        for sample_ in family.samples:
            assert name.startswith(OF_LIBRARIES) or set(sample_.labels) - {"le"} == page[name], name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_metric_that_is_named_is_there(document: str) -> None:
    names = {family.name for family in (*families(), *Numbers().collect())}
    named = set(re.findall(r"(?<![\w:])gpu_dra_\w*[a-z]\b", (ROOT / document).read_text()))

    assert {
        name for name in named if not {name, name.removesuffix("_total"), name.removesuffix("_info")} & names
    } == set()
