"""Real control daemons, with a stand-in for NVIDIA's program: started, found again, limited, stopped, outlived."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.host.root import DriverRoot
from driver.hardware.mps.daemon import MpsDaemons
from driver.hardware.mps.surroundings import Surroundings, read_surroundings
from driver.hardware.nvml.time_slice import TimeSlices
from driver.hardware.process_sharing import MpsDaemon, MpsLimits, TimeSlice
from tests import processes
from tests.eventually import PATIENCE, eventually
from tests.needs import NO_ROOT

CONTROL = """\
#!{python}
import os, socket, sys
pipes = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
path, book = pipes + "/control", open(os.environ["CUDA_MPS_LOG_DIRECTORY"] + "/book", "a", buffering=1)
if "-f" not in sys.argv:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(path)
    except OSError:
        sys.exit("Cannot find MPS control daemon process")
    line.sendall(sys.stdin.buffer.read())
    line.shutdown(socket.SHUT_WR)
    sys.stdout.write(line.makefile().read())
    sys.exit()
MODE = open(os.path.dirname(os.path.realpath(__file__)) + "/mode").read()
if "old" in MODE and "--multiuser-server" in sys.argv or "broken" in MODE:
    print("unknown option" if "old" in MODE else "out of order", flush=True)
    sys.exit(1)
if "deaf" in MODE:
    import time
    time.sleep(60)
book.write("started " + " ".join(sys.argv[1:]) + " for " + os.environ["CUDA_VISIBLE_DEVICES"] + chr(10))
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
while True:
    client, _ = server.accept()
    for command in client.makefile().read().splitlines():
        book.write(command + chr(10))
        if command == "get_server_list":
            client.sendall(b"4711" + bytes([10]))
        if command == "quit" and "stubborn" not in MODE:
            sys.exit()
    client.close()
"""
SMI = """\
#!/bin/sh
echo "$@" >> {book}
if [ -e {book}.fails ]; then echo "Not Supported" >&2; exit 3; fi
if [ "$4" = --list ]; then printf '+---+\\n| GPU compute policies: |\\n|  0  Timeslice   Medium |\\n+---+\\n'; fi
"""
DAEMON = MpsDaemon(id="claim-1", gpu_uuids=("GPU-0",), devices=("GPU-0",), memory_mib=(1024,), thread_percentage=25)


def may_unshare() -> bool:
    """Whether a mount namespace can be made, and entered with the same files in it: who enters one leaves a chroot."""
    entered = ["unshare", "--mount", "nsenter", "--mount=/proc/self/ns/mnt", "test", "-e", __file__]
    return subprocess.run(entered, capture_output=True, check=False).returncode == 0


class Place:
    """A driver root with the stand-ins, and a plugin directory."""

    def __init__(self, base: Path, *, isolate: bool) -> None:
        self.base = base
        self.root = base / "root"
        (self.root / "usr/bin").mkdir(parents=True)
        program = self.root / "usr/bin/nvidia-cuda-mps-control"
        # A short link to what a virtual environment comes from: the kernel takes no path with a space after #!, and the
        # daemon has a /tmp of its own, where this checkout may be.
        python = self.root / "usr/bin/python"
        python.symlink_to(Path(sys.executable).resolve())
        program.write_text(CONTROL.replace("{python}", str(python)))
        program.chmod(0o755)
        self.behave("")
        (base / "shm").mkdir()
        self.isolate = isolate
        self.daemons = self.open()

    def open(self) -> MpsDaemons:
        """As another instance of the driver finds it."""
        return MpsDaemons(
            self.base / "plugin" / "mps",
            DriverRoot(path=self.root, host=str(self.root)),
            surroundings=Surroundings(cgroups=None, isolate=self.isolate),
            shm=str(self.base / "shm"),
            ready_seconds=PATIENCE,
            stop_seconds=0.5,
        )

    def behave(self, mode: str) -> None:
        (self.root / "usr/bin/mode").write_text(mode)

    def directory(self, name: str = "claim-1") -> Path:
        return self.base / "plugin" / "mps" / name

    def told(self, name: str = "claim-1") -> list[str]:
        lines = (self.directory(name) / "log" / "book").read_text().splitlines()
        return [line for line in lines if not line.startswith("get_default_active")]

    def pid(self) -> int:
        pid = self.daemons._pid("claim-1")
        assert pid is not None
        return pid


@pytest.fixture(params=["isolated", "plain"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "isolated" and not may_unshare():
        pytest.skip(NO_ROOT)
    base = Path(tempfile.mkdtemp(prefix="gm-", dir="/var/tmp"))  # /tmp is another one for the daemon
    place = Place(base, isolate=request.param == "isolated")
    yield place
    place.behave("")
    for directory in (base / "plugin" / "mps").glob("*"):
        place.daemons.stop(directory.name)
    shutil.rmtree(base)


def test_a_daemon_that_was_started_answers_and_has_its_limits(place: Place) -> None:
    place.daemons.start(DAEMON)

    assert place.daemons.runs("claim-1")
    assert place.told() == [
        "started -f for GPU-0",
        "set_default_device_pinned_mem_limit 0 1024M",
        "set_default_active_thread_percentage 25",
    ]


def test_it_is_not_started_twice(place: Place) -> None:
    place.daemons.start(DAEMON)
    pid, told = place.pid(), place.told()

    place.daemons.start(DAEMON)

    assert (place.pid(), place.told()) == (pid, told)


def test_another_instance_adopts_it_and_changes_only_its_limits(place: Place) -> None:
    place.daemons.start(DAEMON)
    pid = place.pid()

    place.open().start(replace(DAEMON, memory_mib=(2048,)))

    assert place.pid() == pid
    assert place.told()[3:] == [
        "get_server_list",
        "set_default_device_pinned_mem_limit 0 2048M",
        "set_device_pinned_mem_limit 4711 0 2048M",
    ]


def test_it_outlives_the_process_that_started_it(place: Place) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from driver.hardware.host.root import DriverRoot; from driver.hardware.mps.daemon import MpsDaemons\n"
        "from driver.hardware.process_sharing import MpsDaemon\n"
        "from driver.hardware.mps.surroundings import Surroundings\n"
        "base = Path(sys.argv[1]); root = DriverRoot(path=base / 'root', host=str(base / 'root'))\n"
        f"here = Surroundings(cgroups=None, isolate={place.isolate})\n"
        "daemons = MpsDaemons(base / 'plugin/mps', root, surroundings=here, shm=str(base / 'shm'))\n"
        f"daemons.start({DAEMON!r})\n"
        "import os, signal; os.killpg(0, signal.SIGKILL)\n"
    )
    repository = str(Path(__file__).parents[3])

    starter = subprocess.run(
        [sys.executable, "-c", script, str(place.base), repository],
        start_new_session=True,
        check=False,
        timeout=PATIENCE,
    )

    assert starter.returncode == -signal.SIGKILL
    assert place.daemons.runs("claim-1")
    place.daemons.start(DAEMON)
    assert len(place.told()) == 3


def test_its_end_leaves_neither_process_nor_directory(place: Place) -> None:
    place.daemons.start(DAEMON)
    pid = place.pid()

    place.daemons.stop("claim-1")

    assert not place.daemons.runs("claim-1")
    assert not place.directory().exists()
    assert list((place.base / "shm").iterdir()) == []
    assert processes.ended(pid)


def test_stopping_what_never_ran_is_a_success(place: Place) -> None:
    place.daemons.stop("claim-9")


def test_one_that_does_not_listen_to_quit_is_killed(place: Place) -> None:
    place.behave("stubborn")
    place.daemons.start(DAEMON)

    place.daemons.stop("claim-1")

    assert not place.daemons.runs("claim-1")


async def test_one_that_died_is_noticed_and_started_again(place: Place) -> None:
    place.daemons.start(DAEMON)
    os.kill(place.pid(), signal.SIGKILL)
    await eventually(lambda: not place.daemons.runs("claim-1"))

    place.daemons.start(DAEMON)

    assert place.daemons.runs("claim-1")
    assert place.told()[0] == "started -f for GPU-0"


def test_a_process_that_has_the_same_number_is_not_taken_for_it(place: Place) -> None:
    place.directory().mkdir(parents=True)
    (place.directory() / "daemon.json").write_text(f'{{"pid": {os.getpid()}, "start": 1}}')

    assert not place.daemons.runs("claim-1")


def test_a_driver_that_does_not_know_several_users_serves_one_at_a_time(place: Place) -> None:
    place.behave("old")

    place.daemons.start(replace(DAEMON, multi_user=True))

    assert place.told()[0] == "started -f for GPU-0"


def test_several_users_are_served_where_the_driver_can(place: Place) -> None:
    place.daemons.start(replace(DAEMON, multi_user=True))

    assert place.told()[0] == "started -f --multiuser-server for GPU-0"


def test_one_that_ends_at_once_is_told_in_its_own_words(place: Place) -> None:
    place.behave("broken")

    with pytest.raises(BackendError, match="start MPS daemon claim-1: it ended at once: out of order"):
        place.daemons.start(DAEMON)


def test_one_that_never_answers_is_given_up_and_can_be_stopped(place: Place) -> None:
    place.behave("deaf")
    daemons = place.open()
    daemons._ready_seconds = 0.5

    with pytest.raises(BackendError, match=r"it does not answer within 0\.5 s"):
        daemons.start(DAEMON)
    daemons.stop("claim-1")

    assert not daemons.runs("claim-1")


def test_a_root_without_the_program_says_what_to_install(place: Place) -> None:
    (place.root / "usr/bin/nvidia-cuda-mps-control").unlink()

    with pytest.raises(BackendError, match="install NVIDIA's compute utilities"):
        place.daemons.start(DAEMON)


def test_clients_find_pipes_and_memory_that_exist(place: Place) -> None:
    place.daemons.start(DAEMON)

    edits = place.daemons.edits("claim-1", MpsLimits(memory_mib=5))

    assert [mount.container_path for mount in edits.mounts] == ["/tmp/nvidia-mps", "/dev/shm"]
    assert all(Path(mount.host_path).is_dir() for mount in edits.mounts)
    assert (Path(edits.mounts[0].host_path) / "control").is_socket()
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=5M" in edits.env


def test_the_daemon_has_its_directories_where_clients_have_them() -> None:
    if not may_unshare():
        pytest.skip(NO_ROOT)
    base = Path(tempfile.mkdtemp(prefix="gm-", dir="/var/tmp"))
    place = Place(base, isolate=True)
    try:
        place.daemons.start(DAEMON)
        inside = Path(f"/proc/{place.pid()}/root")

        assert (inside / "tmp/nvidia-mps/control").is_socket()
        assert (inside / "dev/shm").stat().st_ino == next((base / "shm").iterdir()).stat().st_ino
        assert not Path("/tmp/nvidia-mps/control").exists()
    finally:
        place.daemons.stop("claim-1")
        shutil.rmtree(base)


def test_a_cgroup_of_its_own_is_joined_and_goes_with_it(place: Place) -> None:
    cgroups = place.base / "cgroup"
    cgroups.mkdir()
    (cgroups / "cgroup.controllers").touch()
    surroundings = Surroundings(cgroups=cgroups, isolate=place.isolate)
    daemons = MpsDaemons(
        place.base / "plugin" / "mps",
        DriverRoot(path=place.root, host=str(place.root)),
        surroundings=surroundings,
        shm=str(place.base / "shm"),
        stop_seconds=0.2,
    )

    daemons.start(DAEMON)

    assert (cgroups / "gpu-dra-mps/claim-1/cgroup.procs").read_text() == "0"
    daemons.stop("claim-1")
    assert (cgroups / "gpu-dra-mps/claim-1/cgroup.kill").read_text() == "1"


def test_from_a_pod_it_lands_in_the_hosts_namespaces(place: Place) -> None:
    if not place.isolate:
        pytest.skip("has no namespace of its own")
    (place.base / "marker").mkdir()
    order = f"mount -t tmpfs none {place.base}/marker && touch {place.base}/marker/host && echo ready && exec sleep 60"
    host = subprocess.Popen(["unshare", "--mount", "sh", "-c", order], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        surroundings = Surroundings(target=host.pid, root=Path(f"/proc/{host.pid}/root"), cgroups=None)
        root = DriverRoot(path=place.root, host=str(place.root))
        daemons = MpsDaemons(
            place.base / "plugin" / "mps", root, surroundings=surroundings, shm=str(place.base / "shm")
        )

        daemons.start(DAEMON)

        assert (Path(f"/proc/{place.pid()}/root{place.base}") / "marker/host").exists()
        assert not (place.base / "marker/host").exists()
        daemons.start(replace(DAEMON, memory_mib=(1,)))
        daemons.stop("claim-1")
        assert list((place.base / "shm").iterdir()) == []
    finally:
        host.kill()
        host.wait()


def links(proc: Path, first: str, own: str) -> Path:
    for pid, target in (("1", first), ("self", own)):
        (proc / pid / "ns").mkdir(parents=True)
        (proc / pid / "ns/mnt").symlink_to(target)
    return proc


def test_a_pod_that_sees_no_processes_of_the_host_is_told_which_value_to_set(tmp_path: Path) -> None:
    found = read_surroundings(links(tmp_path, "mnt:[2]", "mnt:[2]"), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})

    assert "as the chart does with devices=nvml" in found.refused


def test_a_pod_that_may_not_enter_the_host_is_told_which_value_to_set(tmp_path: Path) -> None:
    found = read_surroundings(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})

    assert "as the chart does with devices=nvml" in found.refused


def test_a_pod_with_the_hosts_processes_goes_through_the_first_of_them(tmp_path: Path) -> None:
    found = read_surroundings(links(tmp_path, "mnt:[1]", "mnt:[2]"), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})

    assert (found.target, found.root, found.refused) == (1, tmp_path / "1/root", "")


def test_a_refusal_reaches_whoever_wants_a_daemon(tmp_path: Path) -> None:
    daemons = MpsDaemons(tmp_path, DriverRoot(path=tmp_path), surroundings=Surroundings(refused="not here"))

    with pytest.raises(BackendError, match="start MPS daemon claim-1: not here"):
        daemons.start(DAEMON)


# Time slices


@pytest.fixture
def slices(tmp_path: Path) -> TimeSlices:
    (tmp_path / "usr/bin").mkdir(parents=True)
    program = tmp_path / "usr/bin/nvidia-smi"
    program.write_text(SMI.format(book=tmp_path / "book"))
    program.chmod(0o755)
    return TimeSlices(DriverRoot(path=tmp_path))


def test_a_time_slice_is_read_from_nvidias_tool(slices: TimeSlices) -> None:
    assert slices.get("GPU-0") is TimeSlice.MEDIUM


def test_a_time_slice_is_set_by_its_number(slices: TimeSlices, tmp_path: Path) -> None:
    slices.set("GPU-0", TimeSlice.LONG)

    assert (tmp_path / "book").read_text() == "compute-policy -i GPU-0 --set-timeslice 3\n"


def test_a_gpu_without_the_setting_is_told_in_the_tools_words(slices: TimeSlices, tmp_path: Path) -> None:
    (tmp_path / "book.fails").touch()

    with pytest.raises(BackendError, match="set the time slice of GPU-0 to Short: Not Supported"):
        slices.set("GPU-0", TimeSlice.SHORT)


def test_without_the_tool_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="nvidia-smi is not below"):
        TimeSlices(DriverRoot(path=tmp_path)).get("GPU-0")
