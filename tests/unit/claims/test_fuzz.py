"""Anything at all in calls, claims and parameters: an answer for each UID, and no file but where ours belong."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from driver.claims.config import API_VERSION, KINDS, decode
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.codec import DamagedRecordError, encode
from driver.claims.ledger.codec import decode as decode_record
from driver.claims.ledger.record import Record
from driver.kube.client import ApiError
from driver.kubelet.dra import DraService
from driver.observe.metrics import Metrics
from driver.wire import dra_v1_pb2 as pb

from .conftest import DRIVER, POOL, ClaimApi, Node

FUZZ = settings(max_examples=60, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
NASTY = st.sampled_from(["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", "x" * 10_000, "Ä", "claim", "a.b", "\n"])
UIDS = NASTY | st.text(max_size=70) | st.uuids().map(str)
NAMES = NASTY | st.text(max_size=20)
REFS = st.lists(st.builds(pb.Claim, namespace=NAMES, name=NAMES, uid=UIDS), max_size=6)
FIELDS = [
    *("apiVersion", "kind", "sharing", "strategy", "timeSlicingConfig", "interval", "mpsConfig", "iommu"),
    *("defaultActiveThreadPercentage", "defaultPinnedDeviceMemoryLimit", "defaultPerDevicePinnedMemoryLimit"),
    *("multiUser", "backendPolicy", "enableAPIDevice", "x"),
]
VALUES = st.sampled_from(
    [
        "TimeSlicing",
        "MPS",
        "Default",
        "Long",
        "10Gi",
        "1k",
        "٣Gi",
        "9" * 5000,
        f"{'9' * 400}k",
        50,
        101,
        1e400,
        True,
        None,
    ]
)
PARAMETERS = st.builds(
    lambda known, more: {**more, **known},
    st.fixed_dictionaries({"apiVersion": st.just(API_VERSION) | JSON, "kind": st.sampled_from(list(KINDS)) | JSON}),
    st.recursive(
        st.dictionaries(st.sampled_from(FIELDS), VALUES | JSON, max_size=4),
        lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner | VALUES, max_size=4),
        max_leaves=6,
    ),
)
RESULTS = st.fixed_dictionaries(
    {
        "request": st.text(max_size=10) | st.just("gpu/sub"),
        "driver": st.sampled_from([DRIVER, "other.example.com"]),
        "pool": st.sampled_from([POOL, "elsewhere"]),
        "device": st.sampled_from(["gpu-0", "gpu-1", "../gpu", ""]),
    },
    optional={
        "shareID": st.uuids().map(str) | NASTY,
        "adminAccess": st.booleans() | st.none(),
        "consumedCapacity": st.dictionaries(st.text(max_size=10), st.sampled_from(["1", "10Gi", "x", ""]), max_size=2)
        | st.none(),
    },
)


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@contextlib.asynccontextmanager
async def fresh_node(**options: Any) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "inner" / "root"
        root.mkdir(parents=True)
        yield Path(directory), await Node(root, ClaimApi(), **options).start()


def is_ours(path: str) -> bool:
    return path.startswith(("inner/root/plugin/claims/", "inner/root/plugin/quarantine/", "inner/root/cdi/"))


@FUZZ
@given(claims=REFS)
async def test_any_call_is_answered_for_each_uid_and_writes_nowhere(claims: list[pb.Claim]) -> None:
    async with fresh_node() as (root, node):
        service = DraService(node.engine, Metrics(driver_name=DRIVER))
        context = Mock(**{"time_remaining.return_value": None})

        prepared = await service.NodePrepareResources(pb.NodePrepareResourcesRequest(claims=claims), context)
        unprepared = await service.NodeUnprepareResources(pb.NodeUnprepareResourcesRequest(claims=claims), context)

        wanted = {claim.uid for claim in claims}
        assert set(prepared.claims) == wanted == set(unprepared.claims)
        answers = [answer.error for answer in (*prepared.claims.values(), *unprepared.claims.values())]
        assert not any("unexpected" in error for error in answers)
        assert max(map(len, answers), default=0) < 2000
        assert all(is_ours(path) for path in files_of(root))


@FUZZ
@given(results=st.lists(RESULTS, max_size=4), parameters=st.lists(PARAMETERS, max_size=3), requests=st.lists(NAMES))
async def test_any_allocation_is_prepared_or_refused_with_a_reason(
    results: list[dict[str, Any]], parameters: list[dict[str, Any]], requests: list[str]
) -> None:
    configs = [
        {"source": "FromClaim", "requests": requests, "opaque": {"driver": DRIVER, "parameters": given}}
        for given in parameters
    ]
    async with fresh_node(enforce_shares=bool(requests)) as (root, node):
        claim = {
            "metadata": {"namespace": "default", "name": "claim", "uid": "uid-1"},
            "status": {"allocation": {"devices": {"results": results, "config": configs}}},
        }
        node.api.claims["claim"] = claim

        answer = await node.prepare(claim)
        again = await node.prepare(claim)

        if isinstance(answer, ClaimError):
            assert answer.reason is not Reason.INTERNAL, answer
            assert (again.reason, str(again)) == (answer.reason, str(answer))
        else:
            assert again == answer
        assert await node.unprepare(claim) is None
        left = {path for path in files_of(root) if "/ended/" not in path}
        assert {Path(path).suffix or Path(path).name for path in left} <= {".lock"}


@FUZZ
@given(parameters=PARAMETERS | st.dictionaries(st.text(max_size=8), JSON, max_size=4))
@example({"apiVersion": API_VERSION, "kind": "GpuConfig", "sharing": {"strategy": "MPS", "mpsConfig": {
    "defaultPinnedDeviceMemoryLimit": "9" * 400 + "k"}}})  # fmt: skip
def test_any_parameters_are_decoded_or_refused(parameters: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        assert decode(parameters).api_version == API_VERSION


@FUZZ
@given(answer=JSON)
async def test_any_answer_of_the_api_server_is_an_answer_for_the_kubelet(answer: Any) -> None:
    async with fresh_node() as (_, node):

        async def get(path: str, *, timeout: float = 10) -> bytes:
            if isinstance(answer, int) and 400 <= answer < 600:
                raise ApiError(answer, "no")
            claim = answer if isinstance(answer, dict) else {"metadata": {"uid": "uid-1"}, "status": answer}
            return json.dumps(claim).encode()

        node.api.get_bytes = get
        ref = {"metadata": {"namespace": "default", "name": "claim", "uid": "uid-1"}}

        assert isinstance(await node.prepare(ref, seconds_left=3.2), ClaimError)


def valid_record() -> bytes:
    from driver.claims.allocation import ClaimRef
    from driver.claims.ledger.record import PreparedDevice, State

    device = PreparedDevice(
        requests=("gpu",), pool=POOL, device="gpu-0", cdi_ids=("a=b",), gpu_uuid="GPU-0", slots=(0,), share_id="s-1"
    )
    return encode(
        Record(
            claim=ClaimRef("default", "claim", "uid-1"),
            allocation="f",
            boot_id="boot-1",
            state=State.PREPARED,
            devices=(device,),
            prepared_at="now",
            driver=DRIVER,
        )
    )


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = json.loads(valid_record())
    for _ in range(draw(st.integers(1, 2))):
        target = draw(st.sampled_from([raw, raw["claim"], raw["devices"][0] if raw.get("devices") else raw]))
        target[draw(st.sampled_from([*target, "partition", "placement", "new"]))] = draw(JSON)
        if not isinstance(raw.get("claim"), dict) or not isinstance(raw.get("devices"), list) or not raw["devices"]:
            break
        if not isinstance(raw["devices"][0], dict):
            break
    return json.dumps(raw).encode()


@settings(FUZZ, max_examples=200)
@given(data=damaged() | st.binary(max_size=60) | st.integers(0, 400).map(lambda cut: valid_record()[:cut]))
@example(b"[" * 100_000)
async def test_any_record_file_is_read_or_set_aside_and_never_stops_the_driver(data: bytes) -> None:
    async with fresh_node() as (root, _):
        (root / "inner/root/plugin/claims/uid-1.json").write_bytes(data)
        try:
            decode_record(data, uid="uid-1")
            readable = True
        except DamagedRecordError:
            readable = False

        started = await Node(root / "inner/root", ClaimApi()).start()
        await started.engine.restore()
        ref = {"metadata": {"namespace": "default", "name": "claim", "uid": "uid-1"}}
        outcome = await started.unprepare(ref)

        assert outcome is None
        assert readable or started.quarantined
        assert not (root / "inner/root/plugin/claims/uid-1.json").exists()
