"""A driver whose credentials are replaced under it: claims are prepared again, without a restart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from driver.sim import identity
from driver.sim.apiserver import StatusError
from tests.eventually import eventually
from tests.harness import NODE, Kubelet
from tests.tls import TlsFront, put

if TYPE_CHECKING:
    from pathlib import Path

    from driver.sim.apiserver import ApiServer
    from tests.harness import Claims, NodeDirectories


class Revoking(dict[str, Any]):
    """The server's own list of tokens, of which some are not taken any more."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()

    def get(self, token: str, default: Any = None) -> Any:
        if token in self.revoked:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return default


async def test_an_authority_and_a_token_that_were_replaced_are_used_without_a_restart(
    server: ApiServer, node: NodeDirectories, kubeconfig: Path, claims: Claims, run: Any
) -> None:
    tokens = server.tokens = Revoking()
    config = json.loads(kubeconfig.read_text(encoding="utf-8"))
    user = config["users"][0]["user"]
    put(node.root / "token", user.pop("token").encode())
    user["tokenFile"] = "token"
    port = urlsplit(server.url).port
    assert port
    async with TlsFront(port).running() as front:
        put(node.root / "ca.crt", front.ca)
        config["clusters"][0]["cluster"] = {"server": front.url, "certificate-authority": "ca.crt"}
        kubeconfig.write_text(json.dumps(config), encoding="utf-8")
        driver = await run()
        kubelet = Kubelet(driver.registrar)
        await kubelet.notify(registered=True)
        await eventually(driver.ready)
        claim, second = await claims.allocated("a", "gpu-0"), await claims.allocated("b", "gpu-1")

        front.change_authority()
        refused = (await kubelet.prepare(claim, timeout=5))[claim["metadata"]["uid"]]
        assert "CERTIFICATE_VERIFY_FAILED" in refused.error
        put(node.root / "ca.crt", front.ca)
        assert not (await kubelet.prepare(claim))[claim["metadata"]["uid"]].error

        another = identity.write_kubeconfig(server, node.root / "another", node=NODE)
        renewed = json.loads(another.read_text())["users"][0]["user"]["token"].encode()
        old = (node.root / "token").read_text()
        tokens.revoked.add(old)
        refused = (await kubelet.prepare(second))[second["metadata"]["uid"]]
        assert "Unauthorized" in refused.error
        put(node.root / "token", renewed)
        assert not (await kubelet.prepare(second))[second["metadata"]["uid"]].error

        await eventually(driver.ready)
        assert old not in driver.log
        assert driver.status is None
        await kubelet.close()
