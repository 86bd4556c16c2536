"""A DRA plugin with knobs, and objects to feed a kubelet with."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc

from driver.kube.client import MERGE_PATCH, RESOURCE, Api, ApiError
from driver.wire import (
    dra_health_v1_pb2,
    dra_health_v1_pb2_grpc,
    dra_health_v1alpha1_pb2_grpc,
    dra_v1_pb2,
    pluginregistration_pb2,
    pluginregistration_pb2_grpc,
)
from tests.eventually import eventually

DRIVER = "gpu.example.com"
NODE = "node-1"
NAMESPACE = "default"


class FakePlugin(pluginregistration_pb2_grpc.RegistrationServicer):
    """One instance of a driver. Each claim gets one device that sets ``CLAIM_<name>``, dashes as underscores."""

    def __init__(self, root: Path, *, driver: str = DRIVER, instance: str = "a") -> None:
        self.driver = driver
        self.cdi_dir = root / "cdi"
        self.cdi_dir.mkdir(exist_ok=True)
        self.endpoint = root / "plugins" / f"{driver}-{instance}.sock"
        self.registrar = root / "plugins_registry" / f"{driver}-{instance}-reg.sock"
        self.info = pluginregistration_pb2.PluginInfo(
            type="DRAPlugin",
            name=driver,
            endpoint=str(self.endpoint),
            supported_versions=["v1.DRAPlugin", "v1.DRAResourceHealth"],
        )
        self.calls: list[tuple[str, list[str]]] = []
        """Method and UIDs of each call, in order."""
        self.statuses: list[pluginregistration_pb2.RegistrationStatus] = []
        self.get_info_errors = 0
        self.notify_errors = 0
        self.prepare_error: dict[str, str] = {}
        """By claim name."""
        self.unprepare_error: dict[str, str] = {}
        self.skip_claims = False
        self.service_name = "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"
        self.share_id: str | None = None
        self.extra_claims: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.health: asyncio.Queue[Any] = asyncio.Queue()
        self.streams = 0
        self._servers: list[grpc.aio.Server] = []

    async def start(self) -> "FakePlugin":
        await self.serve()
        await self.register()
        return self

    async def serve(self) -> None:
        server = grpc.aio.server()
        handlers = {
            "NodePrepareResources": grpc.unary_unary_rpc_method_handler(
                self.NodePrepareResources,
                request_deserializer=dra_v1_pb2.NodePrepareResourcesRequest.FromString,
                response_serializer=dra_v1_pb2.NodePrepareResourcesResponse.SerializeToString,
            ),
            "NodeUnprepareResources": grpc.unary_unary_rpc_method_handler(
                self.NodeUnprepareResources,
                request_deserializer=dra_v1_pb2.NodeUnprepareResourcesRequest.FromString,
                response_serializer=dra_v1_pb2.NodeUnprepareResourcesResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(self.service_name, handlers)])
        dra_health_v1_pb2_grpc.add_DRAResourceHealthServicer_to_server(self, server)
        dra_health_v1alpha1_pb2_grpc.add_DRAResourceHealthServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{self.endpoint}")
        await server.start()
        self._servers.append(server)

    async def register(self) -> None:
        server = grpc.aio.server()
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{self.registrar}")
        await server.start()
        self._servers.append(server)

    async def stop(self) -> None:
        """What a driver does on SIGTERM: its sockets are gone afterwards."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.stop(None)
        self.endpoint.unlink(missing_ok=True)
        self.registrar.unlink(missing_ok=True)

    async def stop_serving(self) -> None:
        """The DRA service alone goes away; the registrar stays."""
        await self._servers.pop(0).stop(None)

    @property
    def registered(self) -> bool:
        return bool(self.statuses) and self.statuses[-1].plugin_registered

    def count(self, method: str) -> int:
        return sum(1 for called, _ in self.calls if called == method)

    async def GetInfo(self, request, context):  # noqa: N802
        if self.get_info_errors:
            self.get_info_errors -= 1
            await context.abort(grpc.StatusCode.INTERNAL, "no info today")
        return self.info

    async def NotifyRegistrationStatus(self, request, context):  # noqa: N802
        self.statuses.append(request)
        if self.notify_errors:
            self.notify_errors -= 1
            await context.abort(grpc.StatusCode.INTERNAL, "do not tell me")
        return pluginregistration_pb2.RegistrationStatusResponse()

    async def NodePrepareResources(self, request, context):  # noqa: N802
        self.calls.append(("prepare", [claim.uid for claim in request.claims]))
        await self.hold.wait()
        response = dra_v1_pb2.NodePrepareResourcesResponse()
        for uid in self.extra_claims:
            response.claims[uid].error = ""
        for claim in [] if self.skip_claims else request.claims:
            result = response.claims[claim.uid]
            if claim.name in self.prepare_error:
                result.error = self.prepare_error[claim.name]
                continue
            write_cdi(self.cdi_dir, self.driver, claim.uid, env=[f"CLAIM_{claim.name.replace(chr(45), chr(95))}=yes"])
            result.devices.add(
                pool_name="pool",
                device_name="gpu-0",
                request_names=["gpu"],
                cdi_device_ids=[cdi_id(claim.uid, self.driver)],
                share_id=self.share_id,
            )
        return response

    async def NodeUnprepareResources(self, request, context):  # noqa: N802
        self.calls.append(("unprepare", [claim.uid for claim in request.claims]))
        response = dra_v1_pb2.NodeUnprepareResourcesResponse()
        for claim in [] if self.skip_claims else request.claims:
            response.claims[claim.uid].error = self.unprepare_error.get(claim.name, "")
        return response

    async def NodeWatchResources(self, request, context):  # noqa: N802
        self.streams += 1
        while (devices := await self.health.get()) is not None:
            yield dra_health_v1_pb2.NodeWatchResourcesResponse(devices=devices)


def device_health(health: int, message: str = "", timeout: int = 0) -> dra_health_v1_pb2.DeviceHealth:
    return dra_health_v1_pb2.DeviceHealth(
        device=dra_health_v1_pb2.DeviceIdentifier(pool_name="pool", device_name="gpu-0"),
        health=health,
        message=message,
        health_check_timeout_seconds=timeout,
    )


def cdi_id(uid: str, driver: str = DRIVER) -> str:
    return f"k8s.{driver}/claim={uid}-gpu-0"


def write_cdi(directory: Path, driver: str, uid: str, **edits: Any) -> Path:
    return write_spec(directory / f"{uid}.json", kind=f"k8s.{driver}/claim", name=f"{uid}-gpu-0", **edits)


def write_spec(path: Path, *, kind: str, name: str, version: str = "0.5.0", **edits: Any) -> Path:
    spec = {"cdiVersion": version, "kind": kind, "devices": [{"name": name, "containerEdits": edits}]}
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


def pod(name: str = "pod-1", *, claims: dict[str, str] | None = None, script: str = "env; exec sleep 100", **spec: Any):
    """A pod bound to the node, with one container that uses all the claims; ``claims`` is entry name -> claim name."""
    entries = claims or {}
    container = {"name": "main", "image": "busybox:1", "command": ["sh", "-c", script]}
    if entries:
        container["resources"] = {"claims": [{"name": entry} for entry in entries]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodeName": NODE,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "resourceClaims": [{"name": entry, "resourceClaimName": claim} for entry, claim in entries.items()],
            "containers": [container],
            **spec,
        },
    }


class Cluster:
    """Short forms for what a test asks of the API server."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def create_claim(self, name: str = "claim-1", *, drivers: tuple[str, ...] = (DRIVER,)) -> dict[str, Any]:
        body = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "devices": {
                    "requests": [
                        {"name": f"gpu{i or ''}", "exactly": {"deviceClassName": driver}}
                        for i, driver in enumerate(drivers)
                    ]
                }
            },
        }
        await self.api.request("POST", f"{RESOURCE}/namespaces/{NAMESPACE}/resourceclaims", body=body)
        results = [
            {"request": f"gpu{i or ''}", "driver": driver, "pool": "pool", "device": "gpu-0"}
            for i, driver in enumerate(drivers)
        ]
        return await self.claim_status(name, {"allocation": {"devices": {"results": results}}})

    async def claim_status(self, name: str, status: dict[str, Any]) -> dict[str, Any]:
        path = f"{RESOURCE}/namespaces/{NAMESPACE}/resourceclaims/{name}/status"
        return await self.api.request("PATCH", path, body={"status": status}, content_type=MERGE_PATCH)

    async def create_pod(self, body: dict[str, Any], *, reserve: bool = True) -> dict[str, Any]:
        """Create a pod, and reserve its claims for it as a scheduler would have done before."""
        bound = body["spec"].pop("nodeName")
        created = await self.api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body=body)
        metadata = created["metadata"]
        for entry in body["spec"].get("resourceClaims") or [] if reserve else []:
            claim = await self.get(f"{RESOURCE}/namespaces/{NAMESPACE}/resourceclaims/{entry['resourceClaimName']}")
            reserved = (claim.get("status") or {}).get("reservedFor") or []
            mine = {"resource": "pods", "name": metadata["name"], "uid": metadata["uid"]}
            await self.claim_status(entry["resourceClaimName"], {"reservedFor": [*reserved, mine]})
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "namespace": NAMESPACE},
            "target": {"apiVersion": "v1", "kind": "Node", "name": bound},
        }
        await self.api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/{metadata['name']}/binding", body=binding)
        return created

    async def get(self, path: str) -> dict[str, Any] | None:
        try:
            return await self.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def pod(self, name: str = "pod-1") -> dict[str, Any] | None:
        return await self.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")

    async def delete_pod(self, name: str = "pod-1", *, grace: int | None = None) -> None:
        body = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        await self.api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}", body=body)

    async def phase(self, expected: str, name: str = "pod-1") -> dict[str, Any]:
        """Wait for a phase and return the pod."""

        async def there():
            found = await self.pod(name)
            return found if found and (found.get("status") or {}).get("phase") == expected else None

        return await eventually(there, what=f"pod {name} {expected}")

    async def event(self, reason: str, *, containing: str = "") -> dict[str, Any]:
        """Wait for an event and return it."""

        async def there():
            events = (await self.api.get(f"/api/v1/namespaces/{NAMESPACE}/events"))["items"]
            return next((e for e in events if e["reason"] == reason and containing in e["message"]), None)

        return await eventually(there, what=f"event {reason} {containing}")

    async def gone(self, name: str = "pod-1") -> None:
        async def missing():
            return await self.pod(name) is None

        await eventually(missing, what=f"pod {name} gone")
