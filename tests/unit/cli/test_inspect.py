"""``gpu-dra slices`` and ``gpu-dra explain`` as commands."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from driver.cli.main import cli
from driver.hardware.fake import profile
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.model import Cause, Fault
from driver.hardware.open import read_boot_id
from driver.health.conditions import Condition
from driver.health.store import ConditionStore
from driver.sim.process import gpu_dra


def run(*arguments: str, state: Path) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--node-name", "node-1", "--kubelet-plugins-dir", str(state)])


def test_slices_are_printed_as_they_would_be_sent(tmp_path: Path):
    result = run("slices", "--devices", "fake:h100x8", "--partitioning", "dynamic", state=tmp_path)

    documents = list(yaml.safe_load_all(result.stdout))
    assert result.exit_code == 0
    assert [document["metadata"]["name"] for document in documents] == [
        f"{index:05x}-gpu.nvidia.com-node-1" for index in range(9)
    ]
    assert documents[0]["spec"]["pool"] == {"name": "node-1", "generation": 1, "resourceSliceCount": 9}
    assert sum(len(document["spec"].get("devices", ())) for document in documents) == 208


def test_what_pods_need_of_the_node_is_printed_in_the_form_of_1_37(tmp_path: Path):
    config = tmp_path / "node.yaml"
    config.write_text("hostResources: {gpu: {memory: 4Gi}}\n")

    result = run("slices", "--devices", "fake:t4x1", f"--config={config}", state=tmp_path)

    [device] = yaml.safe_load(result.stdout)["spec"]["devices"]
    assert device["nodeAllocatableResources"] == {"memory": {"overhead": {"perPod": "4Gi"}}}


def test_looking_leaves_no_traces(tmp_path: Path):
    run("slices", "--devices", "fake:h100x8", state=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_table_is_for_people(tmp_path: Path):
    result = run("slices", "--devices", "fake:t4x1", "--shares", "4", "-o", "table", state=tmp_path)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "DEVICE  TYPE  PROFILE  SLICES  MEMORY   SHARES  TAINTS",
        "gpu-0   gpu                    14848Mi  4",
    ]


@pytest.mark.parametrize("command", [("slices", "-o", "table"), ("explain",)])
def test_a_plain_install_has_all_that_these_commands_need(tmp_path: Path, command: tuple[str, ...]):
    arguments = f"sys.modules['rich'] = None; sys.argv[1:] = {list(command)}"
    program = f"import sys; {arguments}; from driver.cli import main; main()"
    environment = {"NODE_NAME": "node-1", "DEVICES": "fake:t4x1", "KUBELET_PLUGINS_DIR": str(tmp_path)}

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )

    assert "gpu-0" in result.stdout, result.stderr


def test_what_is_not_offered_is_said_beside_the_slices(tmp_path: Path):
    result = run("slices", "--devices", "fake:a30x4", "--partitioning", "static", state=tmp_path)

    (document,) = yaml.safe_load_all(result.stdout)
    assert [device["name"] for device in document["spec"]["devices"]] == [
        "gpu-0",
        "gpu-1",
        "gpu-3-mig-1g6gb-14-2",
        "gpu-3-mig-1g6gb-me-21-3",
        "gpu-3-mig-2g12gb-5-0",
    ]
    assert "gpu-2 (GPU-c377ce32-dde6-5c99-b4be-3b5ca7f5ee45) is not offered as asked for" in result.stderr


def test_the_config_file_counts(tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text("gpus: [{match: {name: gpu-0}, partitioning: dynamic}]\n")

    result = run("slices", "--devices", "fake:h100x8", "--config", str(config), state=tmp_path / "state")

    devices = [d for document in yaml.safe_load_all(result.stdout) for d in document["spec"].get("devices", ())]
    assert len(devices) == 26 + 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slices", "--devices", "fake:h100x9"), "no profile is called 'h100x9'"),
        (("slices", "--devices", "fake:t4x1", "--shares", "many"), "--shares (SHARES) was given 'many'"),
        (("slices", "--devices", "fake:t4x1", "--config", "/missing.yaml"), "/missing.yaml: cannot be read"),
        (("explain", "9g.1gb", "--devices", "fake:h100x8"), "which offers gpu; see --partitioning"),
        (("explain", "gpu", "--on", "gpu-9", "--devices", "fake:t4x1"), "--on gpu-9: no such GPU; there are gpu-0"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str):
    result = run(*arguments, state=tmp_path)

    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has NVIDIA's driver")
def test_a_machine_without_a_driver_explains_itself(tmp_path: Path):
    # In a process of its own: a library that another test has loaded would be found again.
    command = gpu_dra("slices", "--devices=nvml", "--node-name=node-1", f"--kubelet-plugins-dir={tmp_path}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "Install or load NVIDIA's driver" in result.stderr


def test_a_gpu_that_the_driver_found_to_be_sick_is_not_free(tmp_path: Path):
    inventory = FakeBackend(profile.load_profile("h100x8"), name="h100x8", state_dir=tmp_path, boot_id="").inventory()
    sick = Condition(fault=Fault(cause=Cause.XID, detail="79"), since=0)
    (tmp_path / "gpu.nvidia.com").mkdir()
    ConditionStore(tmp_path / "gpu.nvidia.com", boot_id=read_boot_id()).save({inventory.gpus[1].uuid: (sick,)})

    result = run("explain", "gpu", "--on", "gpu-1", "--devices", "fake:h100x8", state=tmp_path)

    assert result.stdout.splitlines() == ["gpu-1: 0 of 1 free", "  gpu-1  tainted gpu.nvidia.com/xid=79:NoExecute"]


def test_explain_lists_placements_by_gpu(tmp_path: Path):
    result = run(
        "explain", "3g.40gb", "--on", "gpu-1", "--devices", "fake:h100x8", "--partitioning", "dynamic", state=tmp_path
    )

    assert result.stdout.splitlines() == [
        "gpu-1: 2 of 2 free",
        "  gpu-1-mig-3g40gb-9-4  free",
        "  gpu-1-mig-3g40gb-9-0  free",
    ]
