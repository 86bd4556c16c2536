"""The wire: names, field numbers and types of every message, as kubelets of Kubernetes 1.35 to 1.37 have them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor

from driver.kubelet.registration import SERVICES, RegistrationService
from driver.observe.metrics import Metrics
from driver.wire import dra_health_v1_pb2, dra_health_v1alpha1_pb2, dra_v1_pb2, pluginregistration_pb2

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from google.protobuf.descriptor import Descriptor

DRA = "k8s.io.kubelet.pkg.apis.dra.v1"
SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT64: "int64",
}

HEALTH_MESSAGES = {
    "NodeWatchResourcesRequest": [],
    "DeviceIdentifier": ["string pool_name = 1", "string device_name = 2"],
    "DeviceHealth": [
        "DeviceIdentifier device = 1",
        "HealthStatus health = 2",
        "int64 last_updated_time = 3",
        "int64 health_check_timeout_seconds = 4",
        "string message = 5",
    ],
    "NodeWatchResourcesResponse": ["repeated DeviceHealth devices = 1"],
}
MESSAGES = [
    (
        dra_v1_pb2,
        {
            "NodePrepareResourcesRequest": ["repeated Claim claims = 1"],
            "NodePrepareResourcesResponse": ["map<string, NodePrepareResourceResponse> claims = 1"],
            "NodePrepareResourceResponse": ["repeated Device devices = 1", "string error = 2"],
            "Device": [
                "repeated string request_names = 1",
                "string pool_name = 2",
                "string device_name = 3",
                "repeated string cdi_device_ids = 4",
                "optional string share_id = 5",
            ],
            "NodeUnprepareResourcesRequest": ["repeated Claim claims = 1"],
            "NodeUnprepareResourcesResponse": ["map<string, NodeUnprepareResourceResponse> claims = 1"],
            "NodeUnprepareResourceResponse": ["string error = 1"],
            "Claim": ["string namespace = 1", "string uid = 2", "string name = 3"],
        },
    ),
    (dra_health_v1_pb2, HEALTH_MESSAGES),
    (dra_health_v1alpha1_pb2, HEALTH_MESSAGES),
    (
        pluginregistration_pb2,
        {
            "PluginInfo": [
                "string type = 1",
                "string name = 2",
                "string endpoint = 3",
                "repeated string supported_versions = 4",
            ],
            "RegistrationStatus": ["bool plugin_registered = 1", "string error = 2"],
            "RegistrationStatusResponse": [],
            "InfoRequest": [],
        },
    ),
]
HEALTH_METHOD = "NodeWatchResources(NodeWatchResourcesRequest) returns (stream NodeWatchResourcesResponse)"
METHODS = [
    (
        dra_v1_pb2,
        f"{DRA}.DRAPlugin",
        [
            "NodePrepareResources(NodePrepareResourcesRequest) returns (NodePrepareResourcesResponse)",
            "NodeUnprepareResources(NodeUnprepareResourcesRequest) returns (NodeUnprepareResourcesResponse)",
        ],
    ),
    (dra_health_v1_pb2, "v1.DRAResourceHealth", [HEALTH_METHOD]),
    (dra_health_v1alpha1_pb2, "v1alpha1.DRAResourceHealth", [HEALTH_METHOD]),
    (
        pluginregistration_pb2,
        "pluginregistration.Registration",
        [
            "GetInfo(InfoRequest) returns (PluginInfo)",
            "NotifyRegistrationStatus(RegistrationStatus) returns (RegistrationStatusResponse)",
        ],
    ),
]


@pytest.mark.parametrize(("module", "messages"), MESSAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_messages_have_these_fields_and_no_others(module: ModuleType, messages: dict[str, list[str]]) -> None:
    defined = {
        name: [field_text(field) for field in message.fields]
        for name, message in module.DESCRIPTOR.message_types_by_name.items()
    }

    assert defined == messages


@pytest.mark.parametrize(("module", "service", "methods"), METHODS, ids=[service for _, service, _ in METHODS])
def test_services_have_these_full_names_and_methods(module: ModuleType, service: str, methods: list[str]) -> None:
    [defined] = module.DESCRIPTOR.services_by_name.values()

    assert defined.full_name == service
    assert [
        f"{method.name}({method.input_type.name}) returns "
        f"({'stream ' if method.server_streaming else ''}{method.output_type.name})"
        for method in defined.methods
    ] == methods


@pytest.mark.parametrize("module", [dra_health_v1_pb2, dra_health_v1alpha1_pb2], ids=lambda module: module.__name__)
def test_health_is_unknown_healthy_or_unhealthy(module: ModuleType) -> None:
    values = module.DESCRIPTOR.enum_types_by_name["HealthStatus"].values

    assert [(value.name, value.number) for value in values] == [("UNKNOWN", 0), ("HEALTHY", 1), ("UNHEALTHY", 2)]


def test_a_device_without_a_share_says_so() -> None:
    assert not dra_v1_pb2.Device().HasField("share_id")
    assert dra_v1_pb2.Device(share_id="").HasField("share_id")


def test_the_versions_that_are_announced_are_services_that_exist() -> None:
    known = {"v1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"}

    assert set(SERVICES) <= known


async def test_registration_answers_by_its_wire_names(tmp_path: Path) -> None:
    service = pluginregistration_pb2.DESCRIPTOR.services_by_name["Registration"]
    metrics = Metrics(driver_name="gpu.nvidia.com")
    servicer = RegistrationService(driver_name="gpu.nvidia.com", endpoint=tmp_path / "dra.sock", metrics=metrics)
    assert {method.name for method in service.methods} <= set(dir(servicer))

    answer = await servicer.GetInfo(pluginregistration_pb2.InfoRequest(), None)  # type: ignore[arg-type]

    assert answer == pluginregistration_pb2.PluginInfo(
        type="DRAPlugin",
        name="gpu.nvidia.com",
        endpoint=str(tmp_path / "dra.sock"),
        supported_versions=["v1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"],
    )


def field_text(field: FieldDescriptor) -> str:
    """A field as it stands in a .proto file."""
    return f"{_type(field)} {field.name} = {field.number}"


def _type(field: FieldDescriptor) -> str:
    message: Descriptor | None = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (message.fields_by_name[name] for name in ("key", "value"))
        return f"map<{_type(key)}, {_type(value)}>"
    name = message.name if message else field.enum_type.name if field.enum_type else SCALARS[field.type]
    if field.is_repeated:
        return f"repeated {name}"
    return f"optional {name}" if field.has_presence and message is None else name


async def test_a_server_that_ends_with_a_call_open_writes_nothing_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    called = asyncio.Event()

    async def never(*_: Any) -> bytes:
        called.set()
        await asyncio.Event().wait()
        return b""

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(never)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("service", {"method": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = asyncio.ensure_future(channel.unary_unary("/service/method")(b""))
        await called.wait()
        await server.stop(None)

        with pytest.raises(grpc.aio.AioRpcError):
            await call

    assert capfd.readouterr().err == ""
