"""What a spec means, and what containers mean for a pod's status."""

import pytest

from driver.sim.kubelet.containers import Container, Exit
from driver.sim.kubelet.podspec import ConfigError, Slot, argv, conditions, environment, expand, phase, should_restart

WAITING = {"waiting": {"reason": "ContainerCreating"}}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def ended(code):
    return {"terminated": {"exitCode": code}}


def slot(state, *, name="c", last=None):
    return Slot(spec={"name": name}, state=state, last_state=last or {})


def pod(policy="Always"):
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"restartPolicy": policy}}


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Always", [WAITING], "Pending"),
        ("Always", [RUNNING, WAITING], "Pending"),
        ("Always", [RUNNING, ended(1)], "Running"),
        ("Always", [ended(0)], "Running"),
        ("OnFailure", [ended(1)], "Running"),
        ("OnFailure", [ended(0)], "Succeeded"),
        ("Never", [ended(0), RUNNING], "Running"),
        ("Never", [ended(0), ended(0)], "Succeeded"),
        ("Never", [ended(0), ended(1)], "Failed"),
    ],
)
def test_phase(policy, states, expected):
    assert phase(pod(policy), [slot(state) for state in states], terminal=False) == expected


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (Exit(code=0, finished=2), "Completed"),
        (Exit(code=1, finished=2), "Error"),
    ],
)
def test_a_status_says_how_a_container_ended(end, reason):
    ending = slot(RUNNING)
    ending.started(Container(id="a", name="c", attempt=0, pid=1, ticks=1, started=1, log="l", exit_file="e"))

    ending.ended(end)

    terminated = ending.state["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (end.code, reason)


def test_a_deleted_pod_that_would_always_restart_ends_by_its_exit_codes():
    assert phase(pod("Always"), [slot(ended(143))], terminal=True) == "Failed"
    assert phase(pod("Always"), [slot(ended(0))], terminal=True) == "Succeeded"


def test_a_container_that_waits_for_a_restart_counts_as_running():
    assert phase(pod(), [slot(WAITING, last=ended(1))], terminal=False) == "Running"


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 1, False),
    ],
)
def test_restart(policy, code, expected):
    assert should_restart(policy, code) is expected


def test_a_condition_keeps_its_time_until_its_status_changes():
    old = [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "DisruptionTarget", "status": "True"},
    ]

    kept = {c["type"]: c for c in conditions(old, [slot(WAITING)], now=0, sandbox=False, phase_="Pending")}
    changed = {c["type"]: c for c in conditions(old, [slot(RUNNING)], now=0, sandbox=True, phase_="Running")}

    assert kept["Ready"]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert kept["Ready"]["message"] == "containers with unready status: [c]"
    assert changed["Ready"] == {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}
    assert "DisruptionTarget" in kept


def test_known_references_are_expanded():
    env = {"A": "1"}

    assert expand("$(A) $$(A) $(B) $A", env) == "1 $(A) $(B) $A"


def test_variables_may_use_those_before_them():
    container = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}]}

    assert environment(pod(), container)["B"] == "12"


@pytest.mark.parametrize(
    "container",
    [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"envFrom": [{"configMapRef": {"name": "c"}}]},
    ],
)
def test_sources_that_do_not_exist_here_are_errors(container):
    with pytest.raises(ConfigError):
        environment(pod(), container)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"command": ["sh"], "args": ["-c"]}, ["sh", "-c"]),
        ({"args": ["true"]}, ["true"]),
        ({}, ["sleep", "infinity"]),
    ],
)
def test_a_container_without_a_command_sleeps(container, expected):
    assert argv(container, {}) == expected
