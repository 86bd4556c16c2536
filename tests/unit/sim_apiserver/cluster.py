"""Short words for requests, and objects to begin with."""

from typing import Any

import pytest

from driver.kube.client import MERGE_PATCH, Api, ApiError
from tests.eventually import eventually

APPLY_PATCH = "application/apply-patch+yaml"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
CORE = "/api/v1"
DRA = "/apis/resource.k8s.io/v1"
CLAIMS = f"{DRA}/namespaces/default/resourceclaims"
SLICES = f"{DRA}/resourceslices"
PODS = f"{CORE}/namespaces/default/pods"
CONFIGMAPS = f"{CORE}/namespaces/default/configmaps"
NODES = f"{CORE}/nodes"
Object = dict[str, Any]


class Cluster:
    """Requests to one server."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def get(self, path: str, **params: Any) -> Object:
        return await self.api.get(path, params)

    async def names(self, path: str, **params: Any) -> list[str]:
        return [item["metadata"]["name"] for item in (await self.api.get(path, params))["items"]]

    async def create(self, path: str, body: Object, **params: Any) -> Object:
        return await self.api.request("POST", path, body=body, params=params)

    async def put(self, path: str, body: Object, **params: Any) -> Object:
        return await self.api.request("PUT", path, body=body, params=params)

    async def merge(self, path: str, body: Object, **params: Any) -> Object:
        return await self.api.request("PATCH", path, body=body, content_type=MERGE_PATCH, params=params)

    async def strategic(self, path: str, body: Object) -> Object:
        return await self.api.request("PATCH", path, body=body, content_type=STRATEGIC_PATCH)

    async def apply(self, path: str, body: Object, manager: str, *, force: bool = False) -> Object:
        params = {"fieldManager": manager, "force": str(force).lower()}
        return await self.api.request("PATCH", path, body=body, content_type=APPLY_PATCH, params=params)

    async def delete(self, path: str, **options: Any) -> Object:
        return await self.api.request("DELETE", path, body=options)

    async def gone(self, path: str) -> None:
        """Wait until the object is not there."""

        async def missing() -> bool:
            try:
                await self.get(path)
            except ApiError as error:
                if error.status == 404:
                    return True
                raise
            return False

        await eventually(missing, what=f"{path} is gone")


class Refused:
    """``async with refused(409) as refusal``: the block must be refused with this HTTP status."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.message = ""
        self.reason = ""

    async def __aenter__(self) -> "Refused":
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            pytest.fail(f"HTTP {self.status} was expected, the request succeeded")
        if not isinstance(error, ApiError):
            return False
        assert error.status == self.status, str(error)
        self.message, self.reason = str(error).split(": ", 1)[1], error.reason
        return True


def refused(status: int) -> Refused:
    return Refused(status)


def claim(name: str = "claim", **devices: Any) -> Object:
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}
    return {"metadata": {"name": name}, "spec": {"devices": {"requests": [request], **devices}}}


def resource_slice(name: str = "slice", **spec: Any) -> Object:
    base = {
        "driver": "gpu.example.com",
        "nodeName": "node-1",
        "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
    }
    return {
        "metadata": {"name": name},
        "spec": {key: value for key, value in (base | spec).items() if value is not ...},
    }


def pod(name: str = "pod", **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "busybox"}], **spec}}


def result(**fields: Any) -> Object:
    return {"request": "gpu", "driver": "gpu.example.com", "pool": "node-1", "device": "gpu-0", **fields}


def allocation(*results: Object, **fields: Any) -> Object:
    return {"devices": {"results": list(results or [result()])}, **fields}
