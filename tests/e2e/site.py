"""What a test does in a cluster, whichever it is: apply manifests, wait for pods, read what they printed."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import shlex
import uuid
from typing import TYPE_CHECKING, Any

from driver.kube.client import MERGE_PATCH, RESOURCE, ApiError
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from driver.kube.client import Api

DRIVER = "gpu.nvidia.com"
PREFIX = "GPU_DRA_"
PATHS = {
    "DeviceClass": f"{RESOURCE}/deviceclasses",
    "ResourceClaim": f"{RESOURCE}/namespaces/{{namespace}}/resourceclaims",
    "ResourceClaimTemplate": f"{RESOURCE}/namespaces/{{namespace}}/resourceclaimtemplates",
    "DeviceTaintRule": f"{RESOURCE}/devicetaintrules",
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{namespace}/resourcequotas",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
}


class LackingError(Exception):
    """The cluster cannot do what a manifest asks for: it does not know the kind, or drops a field."""


class Site:
    """One node with GPUs in a cluster. ``patience`` is how many seconds a pod may take to become what is expected."""

    def __init__(self, api: Api, *, namespace: str, node: str, patience: float, image: str = "") -> None:
        self.api = api
        self.namespace = namespace
        self.node = node
        self.patience = patience
        self._image = image
        self._created: list[str] = []

    @property
    def can_fault(self) -> bool:
        """Whether there is a way to break a GPU."""
        raise NotImplementedError

    @property
    def can_restart(self) -> bool:
        """Whether there is a way to restart the driver."""
        raise NotImplementedError

    async def scheduler_defect(self) -> str:
        """Why DeviceTaintRules cannot be tried on this cluster; empty if they can."""
        return ""

    async def fault(self, device: str, *arguments: str) -> None:
        """Break a GPU, or mend it."""
        raise NotImplementedError

    async def restart_driver(self) -> None:
        """Kill the driver and start it again; it is ready when this returns."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def fresh_namespace(self) -> AsyncIterator[None]:
        """A namespace for one test; all that the test creates is gone afterwards."""
        self.namespace = f"gpu-dra-e2e-{uuid.uuid4().hex[:8]}"
        self._created = []
        await self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}])
        try:
            yield
        finally:
            await self.delete_all()

    async def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Create objects; those without a namespace go to the test's own. Classes that are there are left as they are.

        Raises LackingError for what this cluster does not know.
        """
        for obj in objects:
            body = self._fit(obj)
            collection = PATHS[body["kind"]].format(namespace=body["metadata"].get("namespace", self.namespace))
            await eventually(lambda b=body, c=collection: self._create(c, b))

    async def delete_all(self) -> None:
        """Delete what the test has created, and wait until it is gone."""
        gone = reversed(self._created)
        for path in gone:
            with contextlib.suppress(ApiError):
                await self.api.request("DELETE", path, params={"propagationPolicy": "Background"})
        for path in self._created:
            await eventually(lambda path=path: self.missing(path), within=self.patience, what=f"{path} is gone")

    async def pod(self, name: str, namespace: str = "") -> dict[str, Any]:
        return await self.api.get(f"/api/v1/namespaces/{namespace or self.namespace}/pods/{name}")

    async def pods(self, selector: str) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items: list[dict[str, Any]] = (await self.api.get(path, {"labelSelector": selector}))["items"]
        return items

    async def claims(self, namespace: str = "") -> list[dict[str, Any]]:
        """The claims of a namespace, the test's own unless told otherwise."""
        path = PATHS["ResourceClaim"].format(namespace=namespace or self.namespace)
        items: list[dict[str, Any]] = (await self.api.get(path))["items"]
        return items

    async def log(self, pod: Mapping[str, Any], container: str) -> str:
        """What a container has written so far."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        return await self.api.get_text(path, {"container": container})

    async def events(self, reason: str, namespace: str = "") -> list[str]:
        """The messages of the events with this reason."""
        items = (await self.api.get(f"/api/v1/namespaces/{namespace or self.namespace}/events"))["items"]
        return [event["message"] for event in items if event.get("reason") == reason]

    async def resize(self, pod: Mapping[str, Any], **amounts: str) -> None:
        """Give the containers of a running pod other requests and limits."""
        containers = copy.deepcopy(pod["spec"]["containers"])
        for container in containers:
            for kind in ("requests", "limits"):
                container["resources"][kind] |= amounts
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/resize"
        body = {"spec": {"containers": containers}}
        await self.api.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def phase(self, name: str, *phases: str, namespace: str = "") -> dict[str, Any]:
        """Wait until a pod is in one of these phases."""

        async def there() -> dict[str, Any] | None:
            found = await self.pod(name, namespace)
            return found if found.get("status", {}).get("phase") in phases else None

        try:
            return await eventually(there, within=self.patience, what=f"pod {name} is {' or '.join(phases)}")
        except AssertionError as error:
            events = (await self.api.get(f"/api/v1/namespaces/{namespace or self.namespace}/events"))["items"]
            about = [f"{e['reason']}: {e['message']}" for e in events if e["involvedObject"].get("name") == name]
            raise AssertionError("\n".join([str(error), *about])) from error

    async def gpus(self, pod: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """By container: what it printed of its GPUs, as device name -> UUID. The pod must have printed it already."""
        found = {}
        for container in pod["spec"]["containers"]:
            log = await self.log(pod, container["name"])
            lines = (line.partition("=") for line in log.splitlines() if line.startswith(PREFIX))
            found[container["name"]] = {
                name.removeprefix(PREFIX).lower().replace("_", "-"): value for name, _, value in lines
            }
        return found

    async def devices(self) -> dict[str, dict[str, Any]]:
        """What the node's slices offer, by device name: GPUs and perhaps partitions of them."""
        slices = (await self.api.get(f"{RESOURCE}/resourceslices"))["items"]
        specs = [obj["spec"] for obj in slices]
        mine = [spec for spec in specs if (spec["driver"], spec.get("nodeName")) == (DRIVER, self.node)]
        return {device["name"]: device for device in itertools.chain(*(spec.get("devices") or [] for spec in mine))}

    async def whole_gpus(self) -> dict[str, dict[str, Any]]:
        """The GPUs that the node's slices offer, by device name."""
        devices = await self.devices()
        return {name: device for name, device in devices.items() if device["attributes"]["type"]["string"] == "gpu"}

    def sleeper(self, name: str, *, template: str, seconds: int) -> dict[str, Any]:
        """A pod that prints its GPU, holds it for a while and ends."""
        command = f"env | grep ^GPU_DRA_; sleep {seconds} & wait"
        container = {
            "name": "main",
            "image": "busybox:1.37",
            "command": ["sh", "-c", command],
            "resources": {"claims": [{"name": "gpu"}]},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": template}],
                "containers": [container],
            },
        }

    async def _create(self, collection: str, body: dict[str, Any]) -> str:
        what = f"{body['kind']} {body['metadata']['name']}"
        try:
            stored = await self.api.request("POST", collection, body=body)
        except ApiError as error:
            if error.status == 409 and body["kind"] in {"DeviceClass", "Namespace"}:
                return "exists"
            if error.status == 403 and "serviceaccount" in str(error):  # it is made soon after its namespace
                return ""
            if error.status == 404 and body["apiVersion"] == "resource.k8s.io/v1" and body["kind"] == "DeviceTaintRule":
                # Stable since Kubernetes 1.37.
                older = "resource.k8s.io/v1beta2"
                return await self._create(f"/apis/{older}/devicetaintrules", {**body, "apiVersion": older})
            if error.status == 404 and "v1beta" in body["apiVersion"]:
                raise LackingError(f"this cluster does not serve {body['kind']} in {body['apiVersion']}") from error
            if error.status == 422 and "undefined field 'allowMultipleAllocations'" in str(error):
                raise LackingError(
                    f"this cluster's CEL does not know device.allowMultipleAllocations: {what}"
                ) from error
            raise
        self._created.append(f"{collection}/{body['metadata']['name']}")
        # A class is for other examples, too, which may do without the field.
        if body["kind"] != "DeviceClass" and (lost := dropped(body.get("spec", {}), stored.get("spec"))):
            raise LackingError(f"this cluster drops {', '.join(lost)} of {what}: a feature gate is off")
        return "created"

    async def missing(self, path: str) -> bool:
        try:
            await self.api.get(path)
        except ApiError as error:
            return error.status == 404
        return False

    def _fit(self, obj: Mapping[str, Any]) -> dict[str, Any]:
        body = copy.deepcopy(dict(obj))
        for spec in _pod_specs(body):
            for container in spec["containers"]:
                if self._image:  # one that was loaded onto the node: of :latest the kubelet would ask a registry again
                    container |= {"image": self._image, "imagePullPolicy": "IfNotPresent"}
        return body


async def run(*command: str) -> str:
    """Run a command and return what it says. Raises AssertionError with that if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{shlex.join(command)}: {output.decode()}"
    return output.decode()


def dropped(sent: Any, stored: Any, path: str = "spec") -> list[str]:
    """Fields that were sent and are not there any more."""
    if isinstance(sent, dict):
        if not isinstance(stored, dict):
            return [path] if sent else []
        return [lost for key, value in sent.items() for lost in dropped(value, stored.get(key), f"{path}.{key}")]
    if isinstance(sent, list) and isinstance(stored, list):
        pairs = itertools.zip_longest(sent, stored)
        return [lost for index, (a, b) in enumerate(pairs) for lost in dropped(a, b, f"{path}[{index}]")]
    return [path] if stored is None and sent is not None else []


def _pod_specs(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if body["kind"] == "Pod":
        yield body["spec"]
    elif body["kind"] == "Job":
        yield body["spec"]["template"]["spec"]
