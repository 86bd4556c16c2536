from __future__ import annotations

import pytest

from tests.scale.numbers import Numbers
from tests.scale.observer import Life
from tests.scale.summary import parts, quantiles, requests

PAGE = """\
# TYPE gpu_dra_api_requests counter
gpu_dra_api_requests_total{verb="get",resource="nodes",code="200"} 3
gpu_dra_api_requests_total{verb="get",resource="nodes",code="429"} 1
# TYPE a histogram
a_bucket{le="1"} 2
a_bucket{le="2"} 6
a_bucket{le="+Inf"} 8
a_sum 12
a_count 8
"""


def test_pages_of_many_programs_are_added_up_and_what_has_come_to_them_since() -> None:
    before = Numbers.parse(PAGE)

    after = Numbers.sum([before, before, Numbers.parse(PAGE)]).since(before)

    assert after.total("gpu_dra_api_requests_total") == 8
    assert after.by("gpu_dra_api_requests_total", "code", verb="get") == {"200": 6, "429": 2}


@pytest.mark.parametrize(("share", "expected"), [(0.125, 0.5), (0.5, 1.5), (0.99, 2)])
def test_a_quantile_of_a_histogram_lies_in_its_bucket(share: float, expected: float) -> None:
    assert Numbers.parse(PAGE).quantile(share, "a") == expected


def test_a_mean_is_over_what_was_observed() -> None:
    assert Numbers.parse(PAGE).mean("a") == 1.5
    assert Numbers().mean("a") == Numbers().quantile(0.5, "a") == 0


def test_a_request_that_was_refused_is_told_apart() -> None:
    assert requests(Numbers.parse(PAGE)) == {"get nodes": 3, "get nodes 429": 1}


def test_quantiles_are_samples() -> None:
    assert quantiles(range(100)) == {"n": 100, "p50": 50, "p90": 90, "p99": 99}
    assert quantiles([]) == {}


def test_scheduling_begins_when_the_claim_is_there() -> None:
    life = Life(created=1, claim=2, scheduled=5, running=6)

    found = parts([life, Life(created=1)])

    assert {part: numbers["p50"] for part, numbers in found.items()} == {
        "start": 5,
        "claim": 1,
        "scheduling": 3,
        "kubelet": 1,
    }
