import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.hardware.model import Account, Cause, Cleared, Event, Fault, InventoryChanged, Occurred, Quiet
from driver.health.conditions import Condition, Conditions, difference, fold
from driver.health.report import MAX_MESSAGE_BYTES, Health, device_health
from driver.health.taints import DEFAULT_EFFECTS, Effect, device_taints
from driver.health.xids import (
    APPLICATION_XIDS,
    PASSING_XIDS,
    UNACCOUNTED_XIDS,
    UNUSABLE_XIDS,
    Severity,
    XidRules,
    parse_xids,
    severity,
)

GPU = "GPU-1"
LOST = Fault(cause=Cause.GPU_LOST)
ECC = Fault(cause=Cause.ECC, detail="double-bit")
BLIND = Fault(cause=Cause.UNMONITORED)


def xid(number: int) -> Fault:
    return Fault(cause=Cause.XID, detail=str(number))


def after(*events: Event) -> Conditions:
    """Conditions after events that happen one per second, from second 100."""
    conditions: Conditions = {}
    for now, event in enumerate(events, 100):
        conditions = fold(conditions, event, now + 0.9)
    return conditions


def occurred(*faults: Fault) -> list[Event]:
    return [Occurred(gpu_uuid=GPU, fault=fault) for fault in faults]


def taints_after(*faults: Fault) -> list[tuple[str, str, str, str]]:
    found = device_taints(after(*occurred(*faults)).get(GPU, ()), driver_name="gpu.nvidia.com")
    return [(t["key"].partition("/")[2], t.get("value", ""), t["effect"], t["timeAdded"]) for t in found]


def test_a_fault_begins_when_it_occurs_first():
    assert after(*occurred(LOST)) == {GPU: (Condition(fault=LOST, since=100),)}


def test_a_fault_that_repeats_keeps_its_beginning_and_changes_nothing():
    once = after(*occurred(xid(79)))

    assert fold(once, Occurred(gpu_uuid=GPU, fault=xid(79)), 500) is once


def test_several_faults_stand_side_by_side():
    assert [c.fault for c in after(*occurred(xid(79), ECC, xid(31)))[GPU]] == [xid(79), ECC, xid(31)]


def test_clearing_removes_the_gpu():
    assert after(*occurred(xid(79), ECC), Cleared(gpu_uuid=GPU)) == {}


def test_what_ends_with_a_program_is_over_when_the_gpu_has_been_quiet():
    conditions = after(*occurred(xid(31), xid(94), xid(48), ECC, BLIND), Quiet(gpu_uuid=GPU))

    assert [condition.fault for condition in conditions[GPU]] == [xid(48), ECC, BLIND]
    assert fold(conditions, Quiet(gpu_uuid=GPU), 500) is conditions


def test_an_error_after_which_a_gpu_cannot_be_used_never_ends_with_a_program():
    assert not PASSING_XIDS & UNUSABLE_XIDS


def test_a_gpu_that_was_lost_and_is_well_has_been_reset():
    looked_at = frozenset({Cause.GPU_LOST, Cause.INCOMPLETE, Cause.REPAIR, Cause.UNMONITORED})
    lost = [*occurred(xid(79), ECC, LOST)]

    back = Cleared(gpu_uuid=GPU, remaining=frozenset({BLIND}), causes=looked_at)
    assert [c.fault for c in after(*lost, back)[GPU]] == [BLIND]
    silent = Fault(cause=Cause.INCOMPLETE, detail="no-answer")
    not_read = Cleared(gpu_uuid=GPU, remaining=frozenset({silent}), causes=looked_at)
    assert [c.fault for c in after(*lost, not_read)[GPU]] == [xid(79), ECC, silent]
    never_lost = after(*occurred(xid(79), ECC), back)
    assert [c.fault for c in never_lost[GPU]] == [xid(79), ECC, BLIND]


def test_what_remains_after_clearing_keeps_its_beginning():
    conditions = after(*occurred(ECC, xid(79)), Cleared(gpu_uuid=GPU, remaining=frozenset({ECC, LOST})))

    assert conditions == {GPU: (Condition(fault=ECC, since=100), Condition(fault=LOST, since=102))}


@pytest.mark.parametrize("event", [Cleared(gpu_uuid="GPU-9"), InventoryChanged()])
def test_events_that_change_nothing(event):
    conditions = after(*occurred(ECC))

    assert fold(conditions, event, 500) is conditions


def test_other_gpus_are_not_touched():
    conditions = after(*occurred(ECC), Occurred(gpu_uuid="GPU-2", fault=LOST), Cleared(gpu_uuid=GPU))

    assert conditions == {"GPU-2": (Condition(fault=LOST, since=101),)}


def test_application_xids_are_information():
    assert {13, 31, 43, 45, 68, 109} == APPLICATION_XIDS
    assert {severity(number) for number in APPLICATION_XIDS} == {Severity.INFORMATION}


@pytest.mark.parametrize("number", sorted(UNUSABLE_XIDS))
def test_xids_after_which_nothing_goes_on(number):
    assert severity(number) is Severity.UNUSABLE


@pytest.mark.parametrize("number", [48, 63, 64, 74, 94, 500])
def test_other_xids_and_unknown_ones_degrade(number):
    assert severity(number) is Severity.DEGRADED


@pytest.mark.parametrize("number", [31, 48, 79, 500])
@pytest.mark.parametrize(
    ("recovery", "bad"),
    [
        ("none", Severity.INFORMATION),
        ("drain-p2p", Severity.DEGRADED),
        ("drain-and-reset", Severity.DEGRADED),
        ("recover-imex-domain", Severity.DEGRADED),
        ("action-99", Severity.DEGRADED),
        ("gpu-reset", Severity.UNUSABLE),
        ("bus-reset", Severity.UNUSABLE),
        ("node-reboot", Severity.UNUSABLE),
        ("system-reboot", Severity.UNUSABLE),
    ],
)
def test_what_the_gpu_asks_for_says_how_bad_an_xid_is_whatever_the_table_has(number, recovery, bad):
    assert severity(number, recovery) is bad


@pytest.mark.parametrize("number", sorted(UNACCOUNTED_XIDS))
def test_that_nothing_is_asked_for_means_nothing_after_xids_that_do_not_change_it(number):
    assert severity(number, "none") is severity(number)
    assert severity(number, "drain-p2p") is Severity.DEGRADED


@pytest.mark.parametrize("number", [8, 69, 71, 94, 105, 131, 139, 63, 92, 121, 160])
def test_what_the_catalogue_asks_no_reset_for_ends_with_the_program(number):
    assert not fold(after(*occurred(xid(number))), Quiet(gpu_uuid=GPU), 500)


@pytest.mark.parametrize("number", [46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 140, 143, 145, 154, 155, 158, 171, 900])
def test_what_needs_a_reset_or_is_not_known_stays(number):
    assert number not in PASSING_XIDS


def test_what_a_gpu_asks_for_later_counts_for_the_xids_of_before():
    once = after(Occurred(gpu_uuid=GPU, fault=xid(500), recovery="none"))
    assert [c.severity for c in once[GPU]] == [Severity.INFORMATION]

    later = fold(once, Account(gpu_uuid=GPU, recovery="gpu-reset"), 500)

    assert [(c.severity, c.since) for c in later[GPU]] == [(Severity.UNUSABLE, 100)]
    assert fold(later, Account(gpu_uuid=GPU, recovery="gpu-reset"), 600) is later
    assert fold({}, Account(gpu_uuid=GPU, recovery="gpu-reset"), 600) == {}


def test_a_change_of_severity_is_told_and_its_end_once():
    bad = after(Occurred(gpu_uuid=GPU, fault=xid(500), recovery="gpu-reset"))
    mild = fold(bad, Account(gpu_uuid=GPU, recovery="none"), 500)

    assert list(difference({}, bad)) == [(GPU, bad[GPU][0], True)]
    assert list(difference(mild, bad)) == [(GPU, bad[GPU][0], True)]
    assert list(difference(bad, mild)) == [(GPU, mild[GPU][0], True), (GPU, bad[GPU][0], False)]


def test_an_administrators_word_counts_more_than_account_and_table():
    rules = XidRules(severities={48: Severity.INFORMATION, 31: Severity.UNUSABLE})
    conditions: Conditions = {}
    for number in (48, 31, 79):
        event = Occurred(gpu_uuid=GPU, fault=xid(number), recovery="drain-p2p")
        conditions = fold(conditions, event, 100, rules=rules)

    assert [c.severity for c in conditions[GPU]] == [Severity.INFORMATION, Severity.UNUSABLE, Severity.DEGRADED]


def test_an_administrators_word_on_all_others():
    rules = XidRules(severities={79: Severity.UNUSABLE}, others=Severity.INFORMATION)
    conditions = fold({}, Occurred(gpu_uuid=GPU, fault=xid(900)), 100, rules=rules)
    conditions = fold(conditions, Occurred(gpu_uuid=GPU, fault=xid(79)), 100, rules=rules)
    assert [c.severity for c in conditions[GPU]] == [Severity.INFORMATION, Severity.UNUSABLE]

    quiet = fold(conditions, Quiet(gpu_uuid=GPU), 500, rules=rules)

    assert [c.fault for c in quiet[GPU]] == [xid(79)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("48", {48}), (" 48, 74,,", {48, 74}), ("all", None), ("XIDS", None), ("31,xids", None)],
)
def test_xids_as_nvidias_flag_takes_them(text, numbers):
    assert parse_xids(text) == numbers


@pytest.mark.parametrize("text", ["", ",", "4x", "-1", "48 74", "1" * 9, "²"])
def test_what_is_no_list_of_xids(text):
    with pytest.raises(ValueError, match="XID numbers with commas"):
        parse_xids(text)


@pytest.mark.parametrize(
    ("fault", "taint"),
    [
        (xid(31), ("xid", "31", "None", "1970-01-01T00:01:40Z")),
        (xid(48), ("xid", "48", "NoSchedule", "1970-01-01T00:01:40Z")),
        (xid(79), ("xid", "79", "NoExecute", "1970-01-01T00:01:40Z")),
        (ECC, ("ecc", "double-bit", "NoSchedule", "1970-01-01T00:01:40Z")),
        (LOST, ("gpu-lost", "", "NoExecute", "1970-01-01T00:01:40Z")),
        (BLIND, ("unmonitored", "", "None", "1970-01-01T00:01:40Z")),
    ],
)
def test_taint_of_a_fault(fault, taint):
    assert taints_after(fault) == [taint]


def test_a_gpu_that_is_well_has_no_taints():
    assert taints_after() == []


def test_several_causes_give_several_taints():
    assert [taint[0] for taint in taints_after(LOST, xid(79), ECC, BLIND)] == ["ecc", "gpu-lost", "unmonitored", "xid"]


@pytest.mark.parametrize("later", [31, 48])
def test_a_fatal_xid_is_not_downgraded_by_a_later_one(later):
    assert taints_after(xid(79), xid(later)) == [("xid", "79", "NoExecute", "1970-01-01T00:01:40Z")]


def test_a_worse_xid_takes_over_with_its_own_beginning():
    assert taints_after(xid(31), xid(79)) == [("xid", "79", "NoExecute", "1970-01-01T00:01:41Z")]


def test_of_equal_xids_the_older_one_stays():
    assert taints_after(xid(95), xid(79)) == [("xid", "95", "NoExecute", "1970-01-01T00:01:40Z")]


def test_effects_can_be_chosen_per_row():
    effects = {**DEFAULT_EFFECTS, (Cause.ECC, Severity.DEGRADED): Effect.NO_EXECUTE}

    (taint,) = device_taints(after(*occurred(ECC))[GPU], driver_name="gpu.example.com", effects=effects)

    assert (taint["key"], taint["effect"]) == ("gpu.example.com/ecc", "NoExecute")


def test_a_detail_that_is_no_label_value_becomes_one():
    (taint,) = taints_after(Fault(cause=Cause.ECC, detail="_DRAM: bank 3/ü" + "x" * 80))

    assert taint[1].startswith("DRAM--bank-3--x")
    assert len(taint[1]) == 62


@given(st.lists(st.sampled_from([xid(13), xid(48), xid(79), ECC, LOST, BLIND]), min_size=1))
def test_conditions_do_not_depend_on_repetition_and_never_get_better_by_faults(faults):
    worst = Severity.INFORMATION
    conditions: Conditions = {}
    for now, fault in enumerate(faults):
        conditions = fold(conditions, Occurred(gpu_uuid=GPU, fault=fault), now)
        before, worst = worst, max(condition.severity for condition in conditions[GPU])
        assert worst >= before

    assert len(conditions[GPU]) == len(set(faults))
    assert {c.fault: c.since for c in conditions[GPU]} == {f: faults.index(f) for f in faults}


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ([], Health.HEALTHY),
        ([xid(31)], Health.HEALTHY),
        ([BLIND], Health.UNKNOWN),
        ([BLIND, xid(31)], Health.UNKNOWN),
        ([ECC], Health.UNHEALTHY),
        ([xid(79), BLIND], Health.UNHEALTHY),
        ([LOST], Health.UNHEALTHY),
    ],
)
def test_health_for_the_kubelet(faults, status):
    assert device_health("gpu-0", after(*occurred(*faults)).get(GPU, ())).status is status


def test_health_message_begins_with_the_worst():
    message = device_health("gpu-0", after(*occurred(xid(31), xid(79)))[GPU]).message

    assert message == (
        "XID 79: GPU has fallen off the bus (since 1970-01-01T00:01:41Z); "
        "XID 31: page fault of a program (since 1970-01-01T00:01:40Z)"
    )


def test_health_message_fits_the_kubelet():
    faults = [Fault(cause=Cause.ECC, detail=f"{n}" + "ü" * 200) for n in range(9)]

    message = device_health("gpu-0", after(*occurred(*faults))[GPU]).message

    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    assert message.endswith("...")
