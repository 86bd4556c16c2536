"""Credentials of an API server: what they are read from, and that they never get old."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from driver.base import files
from driver.kube.client import REFUSED_FOR_LONG, Api, ApiError
from driver.kube.credentials import EVERY, ConfigError, Credentials, FileReader, Tls, in_cluster
from driver.kube.kubeconfig import from_kubeconfig
from tests.tls import TlsFront, put
from tests.unit.kube.kubeconfigs import write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "s3cr3t-that-nobody-may-see"


class Server:
    """Knows one token; any, and none, if it is empty."""

    def __init__(self) -> None:
        self.token = ""
        self.seen: list[str] = []
        self.port = 0

    async def respond(self, request: web.BaseRequest) -> web.Response:
        sent = request.headers.get("Authorization", "")
        self.seen.append(sent)
        allowed = not self.token or sent == f"Bearer {self.token}"
        return web.json_response({"is": "here"}, status=200 if allowed else 401)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.respond))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@pytest.fixture
async def front(server: Server) -> AsyncIterator[TlsFront]:
    async with TlsFront(server.port).running() as front:
        yield front


@pytest.fixture
def pod(front: TlsFront, tmp_path: Path) -> Path:
    """The service account's directory of a pod."""
    (tmp_path / "ca.crt").write_bytes(front.ca)
    (tmp_path / "token").write_text("first\n")
    return tmp_path


def service(front: TlsFront) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(front.port)}


async def connect(front: TlsFront, pod: Path, clock: Clock | None = None) -> Api:
    source = in_cluster(service(front), directory=str(pod))
    clock = clock or Clock()
    return Api(await Credentials.load(source, clock=clock), clock=clock)


async def loaded(path: Path) -> Any:
    return await from_kubeconfig(str(path))(FileReader())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pem(certificate: trustme.LeafCert) -> tuple[bytes, bytes]:
    return b"".join(part.bytes() for part in certificate.cert_chain_pems), certificate.private_key_pem.bytes()


async def test_a_pod_trusts_its_authority_and_shows_its_token(server: Server, front: TlsFront, pod: Path) -> None:
    async with await connect(front, pod) as api:
        assert await api.get("/x") == {"is": "here"}

    assert server.seen == ["Bearer first"]


async def test_an_address_of_ipv6_is_written_in_brackets(pod: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}

    access = await in_cluster(environ, directory=str(pod))(FileReader())

    assert access.host == "https://[fd00::1]:443"


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "a"}, {"KUBERNETES_SERVICE_PORT": "443"}])
async def test_outside_of_a_pod_there_are_no_credentials_of_one(environ: dict[str, str], pod: Path) -> None:
    with pytest.raises(ConfigError, match="this is no pod"):
        await in_cluster(environ, directory=str(pod))(FileReader())


async def test_an_authority_that_was_replaced_is_trusted_by_the_request_that_needs_it(
    front: TlsFront, pod: Path
) -> None:
    async with await connect(front, pod) as api:
        await api.get("/x")
        front.change_authority()
        with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await api.get("/x")

        put(pod / "ca.crt", front.ca)

        assert await api.get("/x") == {"is": "here"}
    assert caught.value.transient


async def test_a_token_that_is_refused_is_read_again_and_the_request_sent_once_more(
    server: Server, front: TlsFront, pod: Path
) -> None:
    server.token = "second"
    async with await connect(front, pod) as api:
        with pytest.raises(ApiError) as caught:
            await api.get("/x")
        assert caught.value.status == 401
        assert server.seen == ["Bearer first"]

        put(pod / "token", b"second")

        assert await api.request("POST", "/x", body={"a": 1}) == {"is": "here"}
        assert server.seen == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_token_that_is_still_refused_is_sent_no_third_time(server: Server, front: TlsFront, pod: Path) -> None:
    server.token = "third"
    async with await connect(front, pod) as api:
        put(pod / "token", b"second")

        with pytest.raises(ApiError):
            await api.get("/x")

    assert server.seen == ["Bearer first", "Bearer second"]


async def test_files_are_looked_at_by_monotonic_time(server: Server, front: TlsFront, pod: Path) -> None:
    clock = Clock()
    async with await connect(front, pod, clock) as api:
        put(pod / "token", b"second")
        await api.get("/x")
        clock.now += EVERY
        await api.get("/x")

    assert server.seen == ["Bearer first", "Bearer second"]


async def test_requests_touch_no_file_until_it_is_time(
    front: TlsFront, pod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with await connect(front, pod, clock) as api:
        await api.get("/x")
        touched: list[str] = []
        really_stat, really_read = os.stat, files.read
        monkeypatch.setattr(os, "stat", lambda path, **kw: (touched.append(f"stat {path}"), really_stat(path, **kw))[1])
        monkeypatch.setattr(files, "read", lambda path: (touched.append(f"read {path}"), really_read(path))[1])
        for _ in range(5):
            await api.get("/x")
        assert touched == []

        clock.now += EVERY
        await api.get("/x")
        await api.get("/x")

    assert sorted(touched) == [f"stat {pod}/ca.crt", f"stat {pod}/token"]


async def test_what_cannot_be_read_for_a_while_leaves_the_old_in_use(
    server: Server, front: TlsFront, pod: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with await connect(front, pod, clock) as api:
        for content in (b"", SECRET.encode() + b"\nand more", None):
            if content is None:
                (pod / "token").unlink()
            else:
                put(pod / "token", content)
            for _ in range(3):
                clock.now += EVERY
                await api.get("/x")
        put(pod / "token", b"second")
        clock.now += EVERY
        await api.get("/x")

    assert server.seen == ["Bearer first"] * 9 + ["Bearer second"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [words.split(": ", 1)[1].removeprefix(f"{pod}/") for words in warnings] == [
        "token is empty",
        "token is not a token: one line of visible ASCII characters is expected",
        "token cannot be read: No such file or directory",
    ]
    assert SECRET not in caplog.text


async def test_a_new_token_keeps_the_connections(front: TlsFront, pod: Path) -> None:
    clock = Clock()
    async with await connect(front, pod, clock) as api:
        await api.get("/x")
        put(pod / "token", b"second")
        clock.now += EVERY
        await api.get("/x")

    assert len(front.asked_names) == 1


async def test_credentials_that_are_refused_for_long_are_not_ready(server: Server, front: TlsFront, pod: Path) -> None:
    clock = Clock()
    async with await connect(front, pod, clock) as api:
        server.token = "other"
        with pytest.raises(ApiError):
            await api.get("/x")
        assert api.not_ready() == []

        clock.now += REFUSED_FOR_LONG
        assert [line.startswith(f"API server: {front.url} refuses") for line in api.not_ready()] == [True]

        server.token = ""
        await api.get("/x")
        assert api.not_ready() == []


async def test_a_kubeconfig_may_have_everything_in_it(server: Server, front: TlsFront, tmp_path: Path) -> None:
    clients = trustme.CA()
    front.require(clients)
    certificate, key = pem(clients.issue_cert("somebody"))
    path = write_kubeconfig(
        tmp_path,
        front.url + "/",
        cluster={"certificate-authority-data": encoded(front.ca)},
        user={"client-certificate-data": encoded(certificate), "client-key-data": encoded(key), "token": "mine"},
    )
    before = set(Path("/tmp").iterdir()) | set(tmp_path.iterdir())

    async with await Api.connect(path) as api:
        assert await api.get("/x") == {"is": "here"}

    assert server.seen == ["Bearer mine"]
    left = [path for path in Path("/proc/self/fd").iterdir() if "client-certificate" in os.path.realpath(path)]
    assert left == []
    assert set(tmp_path.iterdir()) <= before


async def test_a_kubeconfig_names_files_relative_to_itself_and_uses_them_as_they_are_now(
    server: Server, front: TlsFront, tmp_path: Path
) -> None:
    clients = trustme.CA()
    front.require(clients)
    certificate, key = pem(clients.issue_cert("somebody"))
    (tmp_path / "pki").mkdir()
    for name, content in {"ca": front.ca, "crt": certificate, "key": key, "token": b"first"}.items():
        (tmp_path / "pki" / name).write_bytes(content)
    path = write_kubeconfig(
        tmp_path,
        front.url,
        cluster={"certificate-authority": "pki/ca"},
        user={
            "client-certificate": "pki/crt",
            "client-key": str(tmp_path / "pki/key"),
            "tokenFile": "pki/token",
            "token": "not this one",
        },
    )

    async with await Api.connect(path) as api:
        await api.get("/x")
        server.token = "second"
        put(tmp_path / "pki/token", b"second")
        front.change_authority()
        put(tmp_path / "pki/ca", front.ca)
        await api.get("/x")

    assert server.seen == ["Bearer first", "Bearer second"]


async def test_a_kubeconfig_that_is_replaced_is_read_again(server: Server, front: TlsFront, tmp_path: Path) -> None:
    def write(token: str) -> Path:
        cluster = {"certificate-authority-data": encoded(front.ca)}
        return write_kubeconfig(tmp_path, front.url, cluster=cluster, user={"token": token})

    async with await Api.connect(write("first")) as api:
        await api.get("/x")
        server.token = "second"
        front.change_authority()
        write("second")

        assert await api.get("/x") == {"is": "here"}


async def test_nobody_is_taken_to_another_cluster_halfway(server: Server, front: TlsFront, tmp_path: Path) -> None:
    cluster, user = {"certificate-authority-data": encoded(front.ca)}, {"token": "first"}
    server.token = "second"
    async with await Api.connect(write_kubeconfig(tmp_path, front.url, cluster=cluster, user=user)) as api:
        write_kubeconfig(tmp_path, "https://other.example", cluster=cluster, user={"token": "second"})
        with pytest.raises(ApiError) as caught:
            await api.get("/x")
        assert caught.value.status == 401

        write_kubeconfig(tmp_path, front.url, cluster=cluster, user={"token": "second"}, current="other")
        assert await api.get("/x") == {"is": "here"}

    assert server.seen == ["Bearer first", "Bearer first", "Bearer second"]


async def test_the_name_that_is_verified_can_be_another_than_the_server_has(server: Server, tmp_path: Path) -> None:
    async with TlsFront(server.port, ("kubernetes.example",)).running() as front:
        cluster = {"certificate-authority-data": encoded(front.ca)}
        async with await Api.connect(write_kubeconfig(tmp_path, front.url, cluster=cluster)) as api:
            with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
                await api.get("/x")

        cluster["tls-server-name"] = "kubernetes.example"
        async with await Api.connect(write_kubeconfig(tmp_path, front.url, cluster=cluster)) as api:
            assert await api.get("/x") == {"is": "here"}

    assert front.asked_names[-1] == "kubernetes.example"


async def test_verification_is_left_out_only_where_the_kubeconfig_says_so(front: TlsFront, tmp_path: Path) -> None:
    async with await Api.connect(write_kubeconfig(tmp_path, front.url)) as api:  # the system's authorities
        with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
            await api.get("/x")

    path = write_kubeconfig(tmp_path, front.url, cluster={"insecure-skip-tls-verify": True})
    async with await Api.connect(path) as api:
        assert await api.get("/x") == {"is": "here"}


def test_connections_are_of_tls_1_2_at_least() -> None:
    context = Tls(ca=trustme.CA().cert_pem.bytes()).context()

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED


async def test_proxies_are_those_of_the_kubeconfig_or_else_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.1")
    near, far = "https://10.0.0.1", "https://10.0.0.2"

    assert (await loaded(write_kubeconfig(tmp_path, far))).proxy == "http://proxy.example:3128"
    assert (await loaded(write_kubeconfig(tmp_path, near))).proxy is None
    own = write_kubeconfig(tmp_path, near, cluster={"proxy-url": "http://other.example:1"})
    assert (await loaded(own)).proxy == "http://other.example:1"


async def test_a_password_of_a_proxy_is_in_no_error(tmp_path: Path) -> None:
    path = write_kubeconfig(tmp_path, "https://10.0.0.1", cluster={"proxy-url": f"http://me:{SECRET}@127.0.0.1:1"})

    async with await Api.connect(path) as api:
        with pytest.raises(ApiError) as caught:
            await api.get("/x")

    assert "127.0.0.1" in str(caught.value)
    assert SECRET not in everything_said(caught.value)


def exec_user(directory: Path, status: dict[str, str]) -> dict[str, Any]:
    """A user whose program says what is in a file."""
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    (directory / "answer.json").write_text(json.dumps(answer))
    show = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"
    arguments = ["-c", show, str(directory / "answer.json")]
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": sys.executable, "args": arguments, "interactiveMode": "Never"}}


async def test_a_program_gives_a_token_and_is_asked_again_when_that_is_refused(
    server: Server, front: TlsFront, tmp_path: Path
) -> None:
    cluster = {"certificate-authority-data": encoded(front.ca)}
    path = write_kubeconfig(tmp_path, front.url, cluster=cluster, user=exec_user(tmp_path, {"token": "first"}))

    async with await Api.connect(path) as api:
        await api.get("/x")
        server.token = "second"
        exec_user(tmp_path, {"token": "second"})
        await api.get("/x")

    assert server.seen == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_program_may_give_a_certificate(front: TlsFront, tmp_path: Path) -> None:
    clients = trustme.CA()
    front.require(clients)
    certificate, key = (part.decode() for part in pem(clients.issue_cert("somebody")))
    user = exec_user(tmp_path, {"clientCertificateData": certificate, "clientKeyData": key})
    cluster = {"certificate-authority-data": encoded(front.ca)}

    async with await Api.connect(write_kubeconfig(tmp_path, front.url, cluster=cluster, user=user)) as api:
        assert await api.get("/x") == {"is": "here"}


async def test_a_user_may_have_a_password(server: Server, tmp_path: Path) -> None:
    user = {"username": "me", "password": "word"}

    access = await loaded(write_kubeconfig(tmp_path, "https://10.0.0.1", user=user))

    assert access.authorization == f"Basic {encoded(b'me:word')}"


async def test_without_the_official_client_a_program_is_refused_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_kubeconfig(tmp_path, "https://10.0.0.1", user=exec_user(tmp_path, {"token": SECRET}))
    monkeypatch.setitem(sys.modules, "kubernetes.aio.client.configuration", None)

    with pytest.raises(ConfigError, match=r"user 'u'\.exec needs the package kubernetes, which is not installed"):
        await Api.connect(path)


def everything_said(error: BaseException | None) -> str:
    """All that a traceback would show of an error, values of variables aside."""
    said = ""
    while error is not None:
        said += f"{error} {error!r}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return said


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"certificate-authority-data": f"%{SECRET}"}, {}, "certificate-authority-data is not base64"),
        ({"certificate-authority-data": encoded(SECRET.encode())}, {}, "authority is not a certificate in PEM"),
        ({"certificate-authority": "absent"}, {}, "absent cannot be read: No such file or directory"),
        ({"server": 7}, {}, "server: str expected, found int"),
        ({"server": f"{SECRET}:443"}, {}, "a URL of http:// or https:// is expected"),
        ({"server": f"https://me:{SECRET}@host"}, {}, "without a user, a password"),
        ({"server": None}, {}, "server is missing"),
        ({"proxy-url": f"socks5://me:{SECRET}@host"}, {}, "proxy-url: a URL of http:// or https:// is expected"),
        ({"insecure-skip-tls-verify": "yes"}, {}, "insecure-skip-tls-verify: bool expected, found str"),
        ({}, {"client-key-data": f"%{SECRET}"}, "client-key-data is not base64"),
        ({}, {"client-key-data": encoded(SECRET.encode())}, "go together"),
        (
            {},
            {"client-key-data": encoded(SECRET.encode()), "client-certificate-data": encoded(SECRET.encode())},
            "are not a certificate and its unencrypted key",
        ),
        ({}, {"token": [SECRET]}, "token: str expected, found list"),
        ({}, {"token": f"{SECRET}\r\nX-Evil: 1"}, "'u'.token is not a token"),
        ({}, {"exec": {"command": "false", "apiVersion": SECRET}}, "gave neither a token nor a certificate"),
        ({}, {"exec": SECRET}, "exec"),
        ({}, {"auth-provider": {"name": "oidc", "config": {"id-token": SECRET}}}, "auth-provider failed: ValueError"),
    ],
)
async def test_what_is_wrong_in_a_kubeconfig_is_named_and_never_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cluster: dict[str, Any], user: dict[str, Any], words: str
) -> None:
    path = write_kubeconfig(tmp_path, "https://10.0.0.1", cluster=cluster, user=user)

    with pytest.raises(ConfigError) as caught:
        await Api.connect(path)

    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert SECRET not in everything_said(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"users: [{{token: {SECRET}", "is not YAML, line 1"),
        (f"token: !!timestamp {SECRET}", "is not YAML"),
        ("[" * 100_000, "is not YAML"),
        (f"[{SECRET}]", "is no kubeconfig: a mapping is expected, found list"),
        ("{}", "has no current-context"),
        ("current-context: a", "has no context named 'a'"),
        ("{current-context: a, contexts: [7, {name: a, context: {}}]}", "the current context names no cluster"),
        ("{current-context: a, contexts: [{name: a, context: 7}]}", "context 'a': a mapping is expected, found int"),
        ("{current-context: a, contexts: [{name: a, context: {cluster: b}}], clusters: 7}", "has no cluster named 'b'"),
        ("", "is empty"),
    ],
)
async def test_what_is_no_kubeconfig_is_refused_with_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        await Api.connect(path)

    assert words in str(caught.value)
    assert SECRET not in everything_said(caught.value)


async def test_credentials_show_no_secret_of_theirs(front: TlsFront, pod: Path) -> None:
    put(pod / "token", SECRET.encode())

    access = await in_cluster(service(front), directory=str(pod))(FileReader())

    assert SECRET not in repr(access)
    assert "CERTIFICATE" not in repr(access)
