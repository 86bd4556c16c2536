"""The node config file."""

import os
from pathlib import Path

import pytest

from driver.hardware.model import Cause
from driver.health.taints import DEFAULT_EFFECTS, Effect
from driver.health.xids import Severity, XidRules
from driver.inventory.host_resources import HostNeeds, HostResources
from driver.inventory.options import DeviceOptions, Override, Partitioning, ShareBy, Shares, parse_memory
from driver.node.config_file import (
    NodeConfig,
    NodeConfigError,
    json_schema,
    parse,
    read_node_config,
)
from driver.node.settings import Settings

SCHEMA = Path(__file__).parents[3] / "deploy" / "node-config.schema.json"
FULL = """
partitioning: dynamic
shares: 4
sharesMemoryReserve: 1Gi
listAttributes: true
hostResources:
  gpu: {memory: 4Gi, cpu: 2}
  share: {cpu: 250m}
gpus:
- match: {name: gpu-3}
  partitioning: none
  shares: memory
- match: {product: NVIDIA A30, uuid: GPU-1}
  sharesMemoryReserve: 0
xids:
  information: "145, 146"
  degraded: 79
  unusable: xids
taints:
  xid: {unusable: NoSchedule}
  ecc: None
"""


def settings(**more: object) -> Settings:
    return Settings.model_validate({"node_name": "node-1", **more})


def test_the_files_word_counts_more_than_the_flags():
    options = parse(FULL, "c").device_options(settings(partitioning="static", shares="unlimited"))

    shares = Shares(mode=ShareBy.COUNT, count=4, memory_reserve=1 << 30)
    assert options.default == DeviceOptions(partitioning=Partitioning.DYNAMIC, shares=shares)
    assert options.list_attributes


def test_what_the_file_leaves_out_is_as_the_flags_say():
    given = settings(partitioning="static", shares="memory", shares_memory_reserve="2G")

    options = NodeConfig().device_options(given)

    shares = Shares(mode=ShareBy.MEMORY, memory_reserve=2_000_000_000)
    assert options.default == DeviceOptions(partitioning=Partitioning.STATIC, shares=shares)


def test_single_gpus_differ():
    options = parse(FULL, "c").device_options(settings())

    assert options.overrides == (
        Override(name="gpu-3", partitioning=Partitioning.NONE, shares=(ShareBy.MEMORY, None)),
        Override(product="NVIDIA A30", uuid="GPU-1", memory_reserve=0),
    )


def test_effects_of_taints_differ_by_cause():
    effects = parse(FULL, "c").taint_effects()

    assert effects == {
        **DEFAULT_EFFECTS,
        (Cause.XID, Severity.UNUSABLE): Effect.NO_SCHEDULE,
        (Cause.ECC, Severity.DEGRADED): Effect.NONE,
    }


def test_xids_are_as_bad_as_the_file_says():
    rules = parse(FULL, "c").xid_rules()

    assert [rules.of(number) for number in (145, 146, 79, 31)] == [
        Severity.INFORMATION,
        Severity.INFORMATION,
        Severity.DEGRADED,
        Severity.UNUSABLE,
    ]
    assert parse("shares: 4\n", "c").xid_rules() == XidRules()


def test_pods_need_of_their_node_what_the_file_says_for_their_device():
    assert parse(FULL, "c").host_needs() == HostResources(
        gpu=HostNeeds(memory=4 << 30, cpu=2000), share=HostNeeds(cpu=250)
    )
    assert NodeConfig().host_needs() == HostResources()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partioning: dynamic\n", "c.yaml:1:13: partioning: unknown key; known are partitioning, shares, shares"),
        ("shares: some\n", "c.yaml:1:9: shares: 'some': 'disabled', 'memory', 'unlimited' or a number from 1 to 1024"),
        ("shares: 0\n", "c.yaml:1:9: shares: .*a number from 1 to 1024 is expected"),
        ("shares: yes\n", "c.yaml:1:9: shares: yes: 'disabled', 'memory', 'unlimited' or a number is expected"),
        ("sharesMemoryReserve: -1Gi\n", "c.yaml:1:22: sharesMemoryReserve: .*for example 512Mi"),
        ("partitioning: on\n", "c.yaml:1:15: partitioning: on"),
        ("gpus:\n- match: {}\n  shares: 4\n", r"c.yaml:2:3: gpus\[0\].match: at least one of name, uuid, product"),
        ("gpus:\n- match: {name: gpu-1}\n", r"c.yaml:2:3: gpus\[0\]: changes nothing"),
        (
            "gpus:\n- match: {nam: gpu-1}\n",
            r"c.yaml:2:16: gpus\[0\].match.nam: unknown key; known are name, uuid, prod",
        ),
        ("xids: {degraded: nvlink}\n", "c.yaml:1:18: xids.degraded: .*XID numbers with commas"),
        ("xids: {degraded: yes}\n", "c.yaml:1:18: xids.degraded: .*XID numbers with commas"),
        ("xids: {degraded: [48]}\n", "c.yaml:1:8: xids.degraded: .*XID numbers with commas"),
        ("xids: {information: all, unusable: xids}\n", "c.yaml:1:36: xids.unusable: all is information already"),
        ("xids: {information: '48,74', unusable: 74}\n", "xids.unusable: 74 is information already"),
        ("taints: {gpuLost: NoSchedul}\n", "c.yaml:1:19: taints.gpuLost: 'NoSchedul'.*'NoExecute'"),
        ("taints: {xid: NoSchedule}\n", "c.yaml:1:15: taints.xid: .*is not a mapping"),
        ("hostResources: {gpu: {cpu: 0.5}}\n", "c.yaml:1:28: hostResources.gpu.cpu: .*for example 2 or 500m"),
        ("hostResources: {gpu: {memory: 4GB}}\n", "c.yaml:1:31: hostResources.gpu.memory: .*for example 512Mi"),
        ("hostResources: {mig: {memory: 4Gi}}\n", "hostResources.mig: unknown key; known are gpu, partition, share"),
        ("shares: 4\nshares: 5\n", "c.yaml:2:1: the key 'shares' is there twice"),
        ("", "c.yaml:1:1: the file is empty; expected: partitioning, shares, sharesMemoryReserve"),
        ("[", "c.yaml:1:2"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_column(text: str, message: str):
    with pytest.raises(NodeConfigError, match=message):
        parse(text, "c.yaml")


def test_a_file_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(NodeConfigError, match=r"missing.yaml: cannot be read: No such file"):
        read_node_config(settings(config=str(tmp_path / "missing.yaml")))


def test_the_schema_that_we_ship_is_that_of_the_code():
    """``UPDATE_GOLDEN=1`` writes it anew."""
    if os.environ.get("UPDATE_GOLDEN"):
        SCHEMA.write_text(json_schema())

    assert SCHEMA.read_text() == json_schema()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512Mi", 512 << 20), ("1Gi", 1 << 30), ("2G", 2 * 10**9), ("3k", 3000), ("5Ti", 5 << 40), ("7", 7)],
)
def test_amounts_of_memory(text: str, size: int):
    assert parse_memory(text) == size
