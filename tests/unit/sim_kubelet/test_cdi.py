"""CDI as a runtime reads it: what is refused, which device wins, what a container gets."""

import json

import pytest

from driver.sim.kubelet.cdi import CdiCache
from driver.sim.kubelet.cdispec import CdiError, read
from driver.sim.kubelet.containers import check_mount
from tests.eventually import eventually
from tests.gpu.isolation import script, top_mount_points
from tests.unit.sim_kubelet.fakes import write_spec

KIND = "k8s.gpu.example.com/claim"


def spec(**changes):
    return {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [{"name": "0", "containerEdits": {"env": ["A=1"]}}],
        **changes,
    }


def refusal(tmp_path, content):
    path = tmp_path / "spec.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CdiError) as error:
        read(path)
    return str(error.value)


def device(**edits):
    return [{"name": "0", "containerEdits": edits}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "failed to parse"),
        ('{"kind": "a/b", "kind": "a/b"}', "a key is there twice"),
        (spec(extra=1), "extra: Extra inputs are not permitted"),
        (spec(devices=[{"name": "0", "containerEdits": {"env": ["A=1"]}, "nam": ""}]), "devices.0.nam"),
        (spec(cdiVersion="2.0.0"), 'invalid version "2.0.0"'),
        (spec(cdiVersion="0.4.0"), "the spec version must be at least v0.5.0"),
        (spec(devices=device(additionalGids=[44])), "the spec version must be at least v0.7.0"),
        (spec(kind="k8s.gpu.example.com/claim.v1"), "the spec version must be at least v0.6.0"),
        (spec(annotations={"a": "b"}), "the spec version must be at least v0.6.0"),
        (spec(kind="1vendor/claim"), "kind: String should match"),
        (spec(kind="vendor"), "kind: String should match"),
        (spec(kind="vendor/claim_"), "kind: String should match"),
        (spec(devices=[]), "devices: List should have at least 1 item"),
        (spec(devices=device()), "empty device edits"),
        (spec(devices=device(env=["A=1"]) * 2), "multiple device"),
        (spec(devices=[{"name": "a/b", "containerEdits": {"env": ["A=1"]}}]), "devices.0.name: String"),
        (spec(devices=device(env=["=1"])), "env.0: String"),
        (spec(devices=device(env=["A"])), "env.0: String"),
        (spec(devices=device(deviceNodes=[{"path": ""}])), "at least 1 character"),
        (spec(devices=device(deviceNodes=[{"path": "/dev/x", "type": "x"}])), "type: Input should be"),
        (
            spec(devices=device(deviceNodes=[{"path": "/dev/x", "permissions": "rx"}])),
            "permissions: String",
        ),
        (spec(devices=device(deviceNodes=[{"path": "/dev/x", "major": "195"}])), "major"),
        (spec(devices=device(hooks=[{"hookName": "later", "path": "/x"}])), "hookName: Input should be"),
        (
            spec(devices=device(mounts=[{"hostPath": "/x", "containerPath": ""}])),
            "at least 1 character",
        ),
    ],
)
def test_what_a_runtime_refuses(tmp_path, content, reason):
    assert reason in refusal(tmp_path, content)


def test_device_edits_come_after_those_of_the_spec_and_each_spec_counts_once(tmp_path):
    devices = [{"name": name, "containerEdits": {"env": [f"D{name}=1"]}} for name in "01"]
    (tmp_path / "a.json").write_text(json.dumps(spec(devices=devices, containerEdits={"env": ["COMMON=1"]})))

    injection = CdiCache([tmp_path]).inject([f"{KIND}=0", f"{KIND}=1", f"{KIND}=0"])

    assert injection.env == ("COMMON=1", "D0=1", "D1=1")


def test_all_unresolvable_devices_are_named(tmp_path):
    with pytest.raises(CdiError) as error:
        CdiCache([tmp_path]).inject([f"{KIND}=a", f"{KIND}=b"])

    assert str(error.value) == f"CDI device injection failed: unresolvable CDI devices {KIND}=a, {KIND}=b"


def test_one_bad_file_does_not_take_the_others_with_it(tmp_path):
    write_spec(tmp_path / "good.json", kind=KIND, name="0", env=["A=1"])
    (tmp_path / "bad.json").write_text("{")
    cache = CdiCache([tmp_path])

    assert cache.inject([f"{KIND}=0"]).env == ("A=1",)


def test_a_later_directory_wins(tmp_path):
    low, high = tmp_path / "etc", tmp_path / "run"
    for directory in (low, high):
        directory.mkdir()
        write_spec(directory / "spec.json", kind=KIND, name="0", env=[f"FROM={directory.name}"])

    assert CdiCache([low, high]).inject([f"{KIND}=0"]).env == ("FROM=run",)


def test_other_suffixes_and_subdirectories_are_not_looked_at(tmp_path):
    (tmp_path / "staging").mkdir()
    write_spec(tmp_path / "staging" / "spec.json", kind=KIND, name="0", env=["A=1"])
    write_spec(tmp_path / "spec.tmp", kind=KIND, name="1", env=["A=1"])
    cache = CdiCache([tmp_path])

    cache.refresh()

    assert cache.devices == {}


def test_a_changed_file_is_read_again(tmp_path):
    cache = CdiCache([tmp_path])
    write_spec(tmp_path / "new", kind=KIND, name="0", env=["A=1"]).rename(tmp_path / "spec.json")
    cache.inject([f"{KIND}=0"])
    write_spec(tmp_path / "new", kind=KIND, name="0", env=["A=2"]).rename(tmp_path / "spec.json")

    assert cache.inject([f"{KIND}=0"]).env == ("A=2",)


def test_a_file_that_is_only_moved_in_is_not_noticed(tmp_path):
    cache = CdiCache([tmp_path])
    (tmp_path / "staging").mkdir()
    write_spec(tmp_path / "staging" / "new", kind=KIND, name="0", env=["A=1"]).rename(tmp_path / "spec.json")

    with pytest.raises(CdiError, match="unresolvable CDI devices"):
        cache.inject([f"{KIND}=0"])


def test_a_file_that_is_moved_in_and_then_written_to_is_found(tmp_path):
    cache = CdiCache([tmp_path])
    (tmp_path / "staging").mkdir()
    path = write_spec(tmp_path / "staging" / "new", kind=KIND, name="0", env=["A=1"]).rename(tmp_path / "spec.json")
    with path.open("a") as file:
        file.write("\n")

    assert cache.inject([f"{KIND}=0"]).env == ("A=1",)


def test_what_happens_to_files_with_other_suffixes_is_noticed_only_when_they_go(tmp_path):
    (tmp_path / "staging").mkdir()
    cache = CdiCache([tmp_path])
    write_spec(tmp_path / "staging" / "new", kind=KIND, name="0", env=["A=1"]).rename(tmp_path / "spec.json")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(CdiError):
        cache.inject([f"{KIND}=0"])

    (tmp_path / "notes.txt").unlink()

    assert cache.inject([f"{KIND}=0"]).env == ("A=1",)


def test_a_directory_that_appears_is_read(tmp_path):
    cache = CdiCache([tmp_path / "cdi"])
    (tmp_path / "cdi").mkdir()
    (tmp_path / "new").mkdir()
    write_spec(tmp_path / "new" / "spec.json", kind=KIND, name="0", env=["A=1"]).rename(tmp_path / "cdi" / "spec.json")

    assert cache.inject([f"{KIND}=0"]).env == ("A=1",)


def test_a_directory_that_is_made_anew_is_watched_again(tmp_path):
    directory = tmp_path / "cdi"
    directory.mkdir()
    cache = CdiCache([directory])
    directory.rmdir()
    directory.mkdir()
    write_spec(directory / "spec.json", kind=KIND, name="0", env=["A=1"])
    cache.inject([f"{KIND}=0"])

    write_spec(directory / "spec.json", kind=KIND, name="0", env=["A=2"])

    assert cache.inject([f"{KIND}=0"]).env == ("A=2",)


async def test_a_running_cache_keeps_up_with_the_directory(tmp_path):
    (tmp_path / "staging").mkdir()
    cache = CdiCache([tmp_path])
    with cache.watching():
        write_spec(tmp_path / "one.json", kind=KIND, name="1", env=["A=1"])
        await eventually(lambda: f"{KIND}=1" in cache.devices)

        write_spec(tmp_path / "staging" / "new", kind=KIND, name="2", env=["A=2"]).rename(tmp_path / "two.json")
        with pytest.raises(CdiError):
            cache.inject([f"{KIND}=2"])


def test_a_removed_file_is_forgotten(tmp_path):
    cache = CdiCache([tmp_path])
    path = write_spec(tmp_path / "spec.json", kind=KIND, name="0", env=["A=1"])
    cache.refresh()
    path.unlink()

    with pytest.raises(CdiError):
        cache.inject([f"{KIND}=0"])


def test_a_device_node_takes_its_numbers_from_the_host(tmp_path):
    write_spec(tmp_path / "spec.json", kind=KIND, name="0", deviceNodes=[{"path": "/dev/null"}])

    node = CdiCache([tmp_path]).inject([f"{KIND}=0"]).device_nodes[0]

    assert (node.type, node.major, node.minor) == ("c", 1, 3)


def test_a_device_node_without_numbers_needs_the_hosts_node(tmp_path):
    write_spec(tmp_path / "spec.json", kind=KIND, name="0", deviceNodes=[{"path": "/dev/no-such-gpu"}])

    with pytest.raises(CdiError, match='failed to stat CDI host device "/dev/no-such-gpu"'):
        CdiCache([tmp_path]).inject([f"{KIND}=0"])


def test_a_device_node_with_type_and_major_does_not(tmp_path):
    node = {"path": "/dev/no-such-gpu", "type": "c", "major": 195, "minor": 7}
    write_spec(tmp_path / "spec.json", kind=KIND, name="0", deviceNodes=[node])

    assert CdiCache([tmp_path]).inject([f"{KIND}=0"]).device_nodes[0].minor == 7


def test_a_mount_without_bind_is_refused(tmp_path):
    mount = {"hostPath": "/etc/hostname", "containerPath": "/x", "options": ["ro"]}
    write_spec(tmp_path / "spec.json", kind=KIND, name="0", mounts=[mount])

    with pytest.raises(CdiError, match="no such device"):
        check_mount(CdiCache([tmp_path]).inject([f"{KIND}=0"]).mounts[0])


def test_paths_are_quoted_in_the_setup_of_a_container(tmp_path):
    mount = {"hostPath": "/a b", "containerPath": "/c;d", "options": ["rbind", "ro"]}
    write_spec(tmp_path / "spec.json", kind=KIND, name="0", mounts=[mount])
    mounts = CdiCache([tmp_path]).inject([f"{KIND}=0"]).mounts

    text = script(tmp_path, mount_points=(), nodes=(), mounts=mounts)

    assert "mount --rbind '/a b' \"$root\"'/c;d'" in text
    assert "mount -o remount,bind,ro \"$root\"'/c;d'" in text


def test_mount_points_below_others_and_in_dev_come_along_by_themselves():
    mountinfo = "\n".join(
        f"1 0 0:1 / {point} rw - tmpfs tmpfs rw" for point in ("/", "/dev", "/dev/pts", "/proc", "/run", "/run/lock")
    )

    assert top_mount_points(mountinfo) == ["/proc", "/run"]
