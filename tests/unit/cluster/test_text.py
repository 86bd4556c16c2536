"""What people and machines are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
import pytest

from driver.cluster import RULES, View, as_dict, as_text, duration
from driver.inventory import Partitioning, Shares
from driver.inventory.options import ShareBy
from driver.kube import ApiError
from tests.unit.cluster.test_model import SICK, devices_of, tainted
from tests.unit.cluster.world import claim, fleet, options, pod, rule, slices
from tests.unit.inventory import mig_facts

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
FORBIDDEN = ApiError(403, 'GET /api/v1/pods: pods is forbidden: User "me" cannot list resource "pods"')


def cluster() -> View:
    """Three nodes: one in use, with a GPU that is sick; one that is shared; one of which nobody has anything."""
    published = slices(inventory=mig_facts.node("H100-SXM5-80GB", 4))
    tainted(published, SICK, *devices_of(published, "gpu-3"))
    shared = slices("node-2", offered=options(Partitioning.NONE, Shares(mode=ShareBy.COUNT, count=4)))
    part = {"shareID": "a", "consumedCapacity": {"shares": "1", "memory": "20Gi"}}
    objects = [
        claim("train", "gpu-0", pods=("train-0", "train-1")),
        claim("monitor", "gpu-0", namespace="monitoring", adminAccess=True),
        claim("nb", "gpu-1-mig-3g40gb-9-4", namespace="notebooks", pods=("a-notebook-whose-name-does-not-fit-beside",)),
        claim("small", "gpu-1-mig-1g10gb-19-0", namespace="notebooks"),
        claim("share", "gpu-0", node="node-2", **part),
        pod("train-0"),
        pod("train-1", "Pending"),
    ]
    return View(revision=1, fleet=fleet(*published, *shared, *slices("node-3"), *objects))


TABLE = """\
node-1  4 x H100-SXM5-80GB: 1.57 held
  gpu-0  [aaaaaaaa]  a gpu         2h30m team-a/train-0, team-a/train-1 (Pendin…
                       admin       2h30m monitoring/monitor (no pod)
  gpu-1  [a...bbbb]  a 1g.10gb     2h30m notebooks/small (no pod)
                     b 3g.40gb     2h30m notebooks/a-notebook-whose-name-does-n…
  gpu-2  [........]  free
  gpu-3  [xxxxxxxx]  gpu.nvidia.com/xid=79:NoExecute
  could still be placed: 1 x gpu, 10 x 1g.10gb, 2 x 1g.10gb+me, 5 x 1g.20gb,
    4 x 2g.20gb, 2 x 3g.40gb, 1 x 4g.40gb, 1 x 7g.80gb
node-2  2 x H100-SXM5-80GB: 0.25 held
  gpu-0  [aa......]  a gpu         2h30m team-a/share (no pod)
                       left       3 shares, 61079Mi of memory
  gpu-1  [........]  free
  could still be placed: 2 x gpu
node-3  2 x H100-SXM5-80GB: all free

All nodes: could still be placed: 5 x gpu, 24 x 1g.10gb, 4 x 1g.10gb+me,
    13 x 1g.20gb, 10 x 2g.20gb, 6 x 3g.40gb, 3 x 4g.40gb, 3 x 7g.80gb

NODE    GPU    TAINT                            SINCE  DEVICES
node-1  gpu-3  gpu.nvidia.com/xid=79:NoExecute  3h30m  all

NAMESPACE   DEVICES  GPUS  GPU HOURS
monitoring  0        0     0.0
notebooks   2        0.57  1.4
team-a      2        1.25  3.1"""


def text(view: View, **how: Any) -> str:
    return click.unstyle(as_text(view, now=NOW, **how))


def test_the_table() -> None:
    assert text(cluster()) == TABLE


def test_a_taint_of_an_administrators_rule_has_the_rules_name_beside_it() -> None:
    view = View(fleet=fleet(*slices(offered=options(Partitioning.NONE)), rule("drain", device="gpu-0")))

    assert text(view).splitlines() == [
        "node-1  2 x H100-SXM5-80GB: 0 held",
        "  gpu-0  [xxxxxxxx]  rule drain: example.com/drain:NoSchedule",
        "  gpu-1  [........]  free",
        "  could still be placed: 1 x gpu",
        "",
        "NODE    GPU    TAINT                         SINCE  DEVICES  RULE",
        "node-1  gpu-0  example.com/drain:NoSchedule  2h30m  all      drain",
    ]


def test_without_rules_what_is_tainted_is_said_to_look_free() -> None:
    said = " ".join(text(View(fleet=fleet(*slices()), missing={RULES: FORBIDDEN})).split())

    assert said.startswith("devicetaintrules cannot be read, so what an administrator has tainted looks free: GET")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    view = View(fleet=cluster().fleet, missing={"pods": FORBIDDEN})

    assert max(map(len, text(view, width=width, ellipsis="...").splitlines())) <= width


def test_a_terminal_without_unicode_is_sent_none() -> None:
    assert text(cluster(), ellipsis="...").isascii()


def test_on_a_screen_what_matters_comes_first() -> None:
    lines = text(cluster(), summary_first=True).splitlines()

    assert lines[0].startswith("All nodes: could still be placed")
    assert lines.index("node-3  2 x H100-SXM5-80GB: all free") == len(lines) - 1


def test_a_namespace_sees_its_gpus_and_who_else_is_there() -> None:
    lines = text(cluster(), namespace="monitoring").splitlines()

    assert [line.split()[0] for line in lines[:3]] == ["node-1", "gpu-0", "admin"]
    assert lines[-2:] == ["NAMESPACE   DEVICES  GPUS  GPU HOURS", "monitoring  0        0     0.0"]
    assert text(cluster(), namespace="nobody") == "namespace nobody holds no GPU"


def test_what_is_missing_is_said_with_what_that_means() -> None:
    said = " ".join(text(View(fleet=cluster().fleet, missing={"pods": FORBIDDEN})).split())

    assert said.startswith(
        "pods cannot be read, so it is not shown which pods run: GET /api/v1/pods: pods is forbidden"
    )


def test_without_claims_nobody_says_what_is_free() -> None:
    view = View(fleet=fleet(*slices()), missing={"resourceclaims": FORBIDDEN})

    assert "could still be placed" not in text(view)
    assert as_dict(view, now=NOW)["room"] == {}


def test_with_one_namespaces_claims_only_nobody_says_what_is_free() -> None:
    view = View(fleet=fleet(*slices(), claim("train", "gpu-0")), namespace="team-a")

    assert "claims of team-a only can be read" in text(view)
    assert "could still be placed" not in text(view)


def test_what_may_be_old_is_said_to_be() -> None:
    view = View(fleet=fleet(*slices()), behind={"resourceslices": ApiError(0, "no answer\x1b[2J from https://a")})

    assert text(view).startswith("resourceslices may have changed since: no answer [2J from https://a")


def test_of_a_shared_gpu_that_is_full_nothing_is_left() -> None:
    shared = slices(offered=options(Partitioning.NONE, Shares(mode=ShareBy.MEMORY)))
    half = {"consumedCapacity": {"memory": "40Gi"}, "shareID": "a"}
    rest = {"consumedCapacity": {"memory": "40599Mi"}, "shareID": "b"}

    lines = text(View(fleet=fleet(*shared, claim("one", "gpu-0", **half), claim("two", "gpu-0", **rest)))).splitlines()

    assert [line.split()[0] for line in lines[1:4]] == ["gpu-0", "gpu", "gpu-1"]
    assert "[aaaaaaaa]" in lines[1]


def test_nothing_at_all() -> None:
    assert text(View()) == "no GPU of this driver is published"


def test_what_machines_get() -> None:
    found = as_dict(cluster(), now=NOW)

    assert json.loads(json.dumps(found)) == found
    [node, shared, _] = found["nodes"]
    [part] = [part for part in node["gpus"][1]["parts"] if part["slots"] == [0]]
    assert part == {
        "device": "gpu-1-mig-1g10gb-19-0",
        "kind": "1g.10gb",
        "uuid": "",
        "slots": [0],
        "weight": 0.142857,
        "shared": False,
        "left": {},
        "holders": [
            {
                "namespace": "notebooks",
                "claim": "small",
                "request": "gpu",
                "device": "gpu-1-mig-1g10gb-19-0",
                "pods": [],
                "since": "2026-03-01T10:00:00Z",
                "weight": 0.142857,
                "admin": False,
                "share": "",
                "consumed": {},
            }
        ],
    }
    assert node["gpus"][3]["troubles"][0]["value"] == "79"
    assert shared["gpus"][0]["parts"][0]["left"] == {"shares": "3", "memory": "61079Mi"}
    assert found["namespaces"][2] == {"namespace": "team-a", "holds": 2, "gpus": 1.25, "gpuHours": 3.125}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0s"), (45, "45s"), (60, "1m"), (3600, "1h00m"), (11100, "3h05m"), (2 * 86400 + 4 * 3600, "2d4h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
