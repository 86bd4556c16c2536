import pytest

from driver.sim.scheduler.tolerations import blocking, describe, tolerates

TAINT = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute"}


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "key": "gpu.nvidia.com/xid"}, True),
        ({"operator": "Exists", "key": "other"}, False),
        ({"operator": "Exists", "effect": "NoSchedule"}, False),
        ({"key": "gpu.nvidia.com/xid", "value": "79"}, True),
        ({"key": "gpu.nvidia.com/xid", "operator": "Equal", "value": "48"}, False),
        ({"key": "gpu.nvidia.com/xid", "operator": "Matches"}, False),
    ],
)
def test_tolerations(toleration, expected):
    assert tolerates(toleration, TAINT) is expected


def test_only_known_effects_block():
    informative = {"key": "a", "effect": "None"}
    future = {"key": "b", "effect": "NoIdea"}

    assert blocking([informative, future], []) is None
    assert blocking([informative, TAINT], []) is TAINT
    assert blocking([TAINT], [{"operator": "Exists"}]) is None


def test_describes_a_taint():
    assert describe(TAINT) == "gpu.nvidia.com/xid=79:NoExecute"
    assert describe({"key": "a", "effect": "NoSchedule"}) == "a:NoSchedule"
