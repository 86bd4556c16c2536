import pytest

from driver.sim import quantity
from driver.sim.scheduler import capacity


def shared(value="80Gi", **policy):
    return {"allowMultipleAllocations": True, "capacity": {"memory": {"value": value, "requestPolicy": policy}}}


RANGE = {"validRange": {"min": "1Gi", "step": "1Gi", "max": "40Gi"}, "default": "10Gi"}
VALUES = {"validValues": ["10Gi", "20Gi", "40Gi"], "default": "10Gi"}


@pytest.mark.parametrize(
    ("policy", "wanted", "taken"),
    [
        ({}, None, "80Gi"),
        ({}, "3G", "3G"),
        (RANGE, None, "10Gi"),
        (RANGE, "1Mi", "1Gi"),
        (RANGE, "2Gi", "2Gi"),
        (RANGE, "2049Mi", "3Gi"),
        (RANGE, "1500m", "1Gi"),
        ({"validRange": {"min": "1Gi"}, "default": "1Gi"}, "1500Mi", "1500Mi"),
        (VALUES, "11Gi", "20Gi"),
        (VALUES, "10Gi", "10Gi"),
    ],
)
def test_rounds_up_as_the_policy_says(policy, wanted, taken):
    requests = {"memory": wanted} if wanted else {}

    assert capacity.consumed(shared(**policy), requests) == {"memory": taken}


@pytest.mark.parametrize(
    ("policy", "wanted"), [(RANGE, "41Gi"), (VALUES, "41Gi")], ids=["over the maximum", "over all valid values"]
)
def test_refuses_what_the_policy_does_not_allow(policy, wanted):
    assert "not allowed" in capacity.refusal(shared(**policy), {"memory": wanted}, {})


def test_refuses_a_capacity_that_the_device_lacks():
    assert capacity.refusal(shared(), {"shares": "1"}, {}) == "no capacity shares"


def test_refuses_more_than_is_left():
    used = {"memory": quantity.parse("50Gi")}

    assert capacity.refusal(shared(**RANGE), {"memory": "30Gi"}, used) == ""
    assert capacity.refusal(shared(**RANGE), {"memory": "31Gi"}, used) == "insufficient capacity memory"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1000, "1000"), (1024, "1Ki"), (3 << 30, "3Gi"), (1536, "1536")])
def test_formats_binary_quantities(value, text):
    assert quantity.binary(value) == text
