import json
import os

import pytest

from driver.hardware.model import Cause, Fault
from driver.health.conditions import Condition
from driver.health.store import CONDITIONS_FILE, ConditionStore
from driver.health.xids import Severity, XidRules

CONDITIONS = {
    "GPU-1": (
        Condition(fault=Fault(cause=Cause.XID, detail="79"), since=1000),
        Condition(fault=Fault(cause=Cause.GPU_LOST), since=1001),
        Condition(fault=Fault(cause=Cause.XID, detail="94", slots=frozenset({4, 5})), since=1002, recovery="none"),
    )
}


@pytest.fixture
def store(tmp_path):
    return ConditionStore(tmp_path, boot_id="boot-1")


def test_what_is_saved_is_loaded(store):
    store.save(CONDITIONS)

    assert store.load() == CONDITIONS


def test_what_was_saved_is_judged_by_the_rules_of_today(store, tmp_path):
    store.save(CONDITIONS)
    rules = XidRules(severities={79: Severity.DEGRADED})

    loaded = ConditionStore(tmp_path, boot_id="boot-1", rules=rules).load()

    assert [c.severity for present in loaded.values() for c in present if c.fault.detail == "79"] == [Severity.DEGRADED]
    assert store.load() == CONDITIONS


def test_saving_leaves_no_other_file(store, tmp_path):
    store.save(CONDITIONS)

    assert [path.name for path in tmp_path.iterdir()] == [CONDITIONS_FILE]


def test_nothing_was_ever_saved(store):
    assert store.load() == {}


def test_a_reboot_voids_all_conditions(store, tmp_path):
    store.save(CONDITIONS)

    assert ConditionStore(tmp_path, boot_id="boot-2").load() == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '{"bootID": "boot-1"}',
        '{"bootID": "boot-1", "conditions": []}',
        '{"bootID": "boot-1", "conditions": {"GPU-1": [{}]}}',
        '{"bootID": "boot-1", "conditions": {"GPU-1": [{"cause": "xid", "detail": "79", "since": "soon"}]}}',
        '{"bootID": "boot-1", "conditions": {"GPU-1": [{"cause": ["xid"]}]}}',
        '{"bootID": "boot-1", "conditions": {"GPU-1": [{"cause": "xid", "detail": "79", "since": 1e99}]}}',
        '{"bootID": "boot-1", "conditions": {"GPU-1": [{"cause": "xid", "detail": "79", "since": Infinity}]}}',
        '{"bootID": "boot-1", "conditions": {"GPU-1": [{"cause": "xid", "detail": "' + "7" * 5000 + '", "since": 1}]}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_file_is_set_aside(store, tmp_path, content, caplog):
    (tmp_path / CONDITIONS_FILE).write_bytes(content.encode("latin-1"))

    assert store.load() == {}

    assert (tmp_path / f"{CONDITIONS_FILE}.damaged").read_bytes() == content.encode("latin-1")
    assert not (tmp_path / CONDITIONS_FILE).exists()
    assert "is damaged" in caplog.text


def test_whoever_looks_on_leaves_a_damaged_file_where_it_is(store, tmp_path):
    (tmp_path / CONDITIONS_FILE).write_text("{")

    assert store.peek() == {}

    assert (tmp_path / CONDITIONS_FILE).read_text() == "{"


def test_causes_of_a_newer_version_are_skipped(store, tmp_path):
    store.save(CONDITIONS)
    document = json.loads((tmp_path / CONDITIONS_FILE).read_text())
    document["conditions"]["GPU-1"].append({"cause": "melted", "detail": "", "since": 1})
    document["news"] = True
    (tmp_path / CONDITIONS_FILE).write_text(json.dumps(document))

    assert store.load() == CONDITIONS


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_the_file_is_set_aside(store, tmp_path, make):
    make(tmp_path / CONDITIONS_FILE)

    assert store.load() == {}

    store.save(CONDITIONS)
    assert store.load() == CONDITIONS


def test_a_failed_save_keeps_the_old_content_and_leaves_nothing(store, tmp_path):
    (tmp_path / CONDITIONS_FILE).mkdir()

    with pytest.raises(OSError, match="directory"):
        store.save(CONDITIONS)

    assert [path.name for path in tmp_path.iterdir()] == [CONDITIONS_FILE]
