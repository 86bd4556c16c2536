"""The control plane that is measured: the embedded one, or a real one by its kubeconfig."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from driver.kube import LARGE_BODY, Api, ApiError
from driver.sim.apiserver import V1_36, ApiServer
from driver.sim.controllers.manager import ControlPlane
from driver.sim.scheduler.cel import compile_error
from tests.scale.numbers import Numbers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MANIFESTS = Path(__file__).parents[2] / "deploy/manifests/fake.yaml"
GONE = 404
EXISTS = 409
API_SERVER = "API server"


@dataclass(slots=True, kw_only=True)
class Site:
    """One control plane."""

    api: Api
    kubeconfig: Path
    server: ApiServer | None
    """The embedded one."""
    components: dict[str, Api]
    """Whoever has ``/metrics``, by name."""
    created: list[str] = field(default_factory=list)
    account: tuple[str, str] = ("", "")
    """Namespace and name of the driver's ServiceAccount."""

    async def metrics(self) -> dict[str, Numbers]:
        """The pages of all components."""
        pages = [api.get_text("/metrics", timeout=30) for api in self.components.values()]
        return dict(zip(self.components, map(Numbers.parse, await asyncio.gather(*pages)), strict=True))

    async def create(self, obj: Mapping[str, Any]) -> bool:
        """Create an object and remember it for ``clean_up``; False if there is one of its name."""
        path = await self._collection(obj)
        try:
            await self.api.request("POST", path, body=obj)
        except ApiError as error:
            if error.status != EXISTS:
                raise
            return False
        self.created.append(f"{path}/{obj['metadata']['name']}")
        return True

    async def _collection(self, obj: Mapping[str, Any]) -> str:
        version, kind = obj["apiVersion"], obj["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        found = next(
            resource
            for resource in (await self.api.get(root))["resources"]
            if resource["kind"] == kind and "/" not in resource["name"]
        )
        within = f"/namespaces/{obj['metadata'].get('namespace', 'default')}" if found["namespaced"] else ""
        return f"{root}{within}/{found['name']}"

    async def install(self) -> None:
        """Everything of the chart but the DaemonSet: its pods are processes here."""
        for obj in yaml.safe_load_all(MANIFESTS.read_text(encoding="utf-8")):
            if obj["kind"] == "DaemonSet":
                name = obj["spec"]["template"]["spec"]["serviceAccountName"]
                self.account = obj["metadata"]["namespace"], name
            else:
                await self.create(obj)

    async def write_driver_kubeconfig(self, path: Path, node: str) -> None:
        """What the driver's pod on a node has: a token of the chart's account that is bound to it."""
        found = yaml.safe_load(self.kubeconfig.read_text(encoding="utf-8"))
        namespace, name = self.account
        if self.server is not None:
            token = self.server.service_account_token(namespace, name, node=node)
        else:
            uid = (await self.api.get(f"/api/v1/nodes/{node}"))["metadata"]["uid"]
            bound = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
            answer = await self.api.request(
                "POST",
                f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
                body={
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenRequest",
                    "spec": {"boundObjectRef": bound, "expirationSeconds": 24 * 3600},
                },
            )
            token = answer["status"]["token"]
        for user in found["users"]:
            user["user"] = {"token": token}
        path.write_text(json.dumps(found), encoding="utf-8")
        path.chmod(0o600)

    async def clean_up(self) -> None:
        """Delete what was created, the latest first."""
        for path in reversed(self.created):
            with contextlib.suppress(ApiError):
                await self.api.request("DELETE", path, params={"propagationPolicy": "Background"})
        self.created.clear()


@contextlib.asynccontextmanager
async def embedded(root: Path, *, connections: int) -> AsyncIterator[Site]:
    """API server, scheduler and controllers in this process."""
    kubeconfig = root / "kubeconfig"
    async with ApiServer(release=V1_36, compile_cel=compile_error) as server:
        server.write_kubeconfig(kubeconfig)
        async with await Api.connect(kubeconfig, max_body=LARGE_BODY, max_connections=connections) as api:
            control_plane = asyncio.create_task(ControlPlane(api, taint_rules=V1_36.taint_rules).run())
            try:
                yield Site(api=api, kubeconfig=kubeconfig, server=server, components={})
            finally:
                control_plane.cancel()
                await asyncio.gather(control_plane, return_exceptions=True)


@contextlib.asynccontextmanager
async def real(kubeconfig: Path, root: Path, *, connections: int, pages: Mapping[str, str]) -> AsyncIterator[Site]:
    """Somebody's control plane. ``pages``: URL of each further component that has ``/metrics``, by its name."""
    async with contextlib.AsyncExitStack() as stack:
        api = await Api.connect(kubeconfig, max_body=LARGE_BODY, max_connections=connections)
        await stack.enter_async_context(api)
        components = {API_SERVER: api}
        for name, url in pages.items():
            other = _elsewhere(kubeconfig, url, root / f"{name.replace(' ', '-')}.kubeconfig")
            components[name] = await stack.enter_async_context(await Api.connect(other, max_body=LARGE_BODY))
        yield Site(api=api, kubeconfig=kubeconfig, server=None, components=components)


def _elsewhere(kubeconfig: Path, url: str, path: Path) -> Path:
    """The same user at another server, whose certificate is its own."""
    found = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    for cluster in found["clusters"]:
        cluster["cluster"] = {"server": url, "insecure-skip-tls-verify": True}
    path.write_text(json.dumps(found), encoding="utf-8")
    path.chmod(0o600)
    return path
