"""Slices are compared by what they mean; what is stored under our names may be anything."""

from typing import Any

import pytest

from driver.inventory.compare import same_spec, with_known_times

TAINT = {"key": "k", "value": "v", "effect": "NoSchedule"}


def spec(*taints: Any) -> dict[str, Any]:
    return {"devices": [{"name": "gpu-0", "taints": list(taints)}]}


def test_quantities_are_compared_by_value_and_times_to_the_second():
    left = {"devices": [{"name": "gpu-0", "capacity": {"memory": {"value": "1Gi"}}}]}
    right = {"devices": [{"name": "gpu-0", "capacity": {"memory": {"value": "1024Mi"}}}]}

    assert same_spec(left, right)
    first = spec({**TAINT, "timeAdded": "2026-01-01T00:00:00Z"})
    assert same_spec(first, spec({**TAINT, "timeAdded": "2026-01-01T00:00:01Z"}))
    assert not same_spec(first, spec({**TAINT, "timeAdded": "2026-01-01T00:00:02Z"}))


def test_a_taint_that_is_stored_keeps_its_time():
    stored = {"spec": spec({**TAINT, "timeAdded": "2026-01-01T00:00:00Z"})}

    assert with_known_times(spec(TAINT), stored) == stored["spec"]


@pytest.mark.parametrize(
    "devices",
    [7, "x", {"a": 1}, [7], [None], [{"taints": 7}], [{"name": "gpu-0", "taints": [7, None, {}, {"key": []}]}]],
)
def test_what_is_stored_may_be_no_slice_at_all(devices: Any):
    wanted = spec(TAINT)

    assert not same_spec(wanted, {"devices": devices})
    assert with_known_times(wanted, {"spec": {"devices": devices}}) == wanted


@pytest.mark.parametrize("time", ["yesterday", 7, "2026-01-01T00:00:00"])
def test_a_time_that_is_none_is_another_time(time: Any):
    assert not same_spec(spec({**TAINT, "timeAdded": "2026-01-01T00:00:00Z"}), spec({**TAINT, "timeAdded": time}))
