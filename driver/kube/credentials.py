"""Where the API server is and who we are to it: read from files, and read again when they change or are refused.

Own, because the official client (``kubernetes``) keeps to what it has read once, and is large for so little. That
package still does what only a person's desk needs, see ``kubeconfig``.

No secret is ever part of an error: errors name the file and the field, and never quote.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from driver.base import files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

EVERY = 60.0
"""Seconds after which files are looked at again, by a clock that nobody can set."""


class ConfigError(Exception):
    """The cluster's address or credentials could not be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a connection over TLS is made with: PEM texts, of which ``ca`` None stands for the system's own."""

    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError for what is not PEM, or does not belong together."""
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a client certificate and its key go together, only one of them is there")
        try:
            # The text around certificates may be in any encoding.
            context = ssl.create_default_context(cadata=None if self.ca is None else self.ca.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise ConfigError("the certificate authority is not a certificate in PEM") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None and self.key is not None:
            _load_chain(context, self.certificate + b"\n" + self.key)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Through a file without a name, because ssl takes nothing but files; it is gone with its descriptor."""
    try:
        with open(os.memfd_create("client-certificate"), "wb") as file:  # noqa: PTH123
            file.write(pem)
            file.flush()
            # Without a password here, a key that has one would ask for it on the terminal.
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            "the client certificate and its key are not a certificate and its unencrypted key in PEM"
        ) from None
    except OSError as error:
        raise ConfigError(f"the client certificate cannot be handed to OpenSSL: {error.strerror}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One state of the credentials. ``context`` is made from ``tls`` and None for a server without TLS."""

    host: str
    authorization: str | None = field(default=None, repr=False)
    tls: Tls = field(default_factory=Tls)
    server_name: str | None = None
    proxy: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)


class FileReader:
    """Reads the files of one state, and remembers what they were."""

    def __init__(self) -> None:
        self._seen: dict[str, object] = {}

    def read(self, path: str) -> bytes:
        """All of a file that has to have something in it. Raises ConfigError."""
        try:
            self._seen[path] = _signature(path)  # before it is read: what changes meanwhile is seen as changed later
            content = files.read(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if not content.strip():
            raise ConfigError(f"{path} is empty")
        return content

    def changed(self) -> bool:
        """Whether any of the files is another one than was read."""
        return any(_signature(path) != seen for path, seen in self._seen.items())


def _signature(path: str) -> object:
    try:
        status = os.stat(path)  # noqa: PTH116 - through links, by which the kubelet replaces files of a volume
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


Source: TypeAlias = "Callable[[FileReader], Awaitable[Access]]"
"""Reads one state of the credentials, all of it anew. Raises ConfigError."""


class Credentials:
    """The newest credentials that could be read."""

    def __init__(
        self, source: Source, access: Access, reader: FileReader, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source, self._access, self._reader = source, access, reader
        self._clock = clock
        self._due = clock() + EVERY
        self._lock = asyncio.Lock()
        self._problem = ""

    @classmethod
    async def load(cls, source: Source, *, clock: Callable[[], float] = time.monotonic) -> Credentials:
        """Read them for the first time. Raises ConfigError."""
        reader = FileReader()
        return cls(source, _with_context(await source(reader)), reader, clock=clock)

    @property
    def host(self) -> str:
        """The server's URL, without a slash at its end."""
        return self._access.host

    async def current(self) -> Access:
        """What to make the next request with; files are looked at when it is time, and read when they changed."""
        if self._clock() >= self._due:
            self._due = self._clock() + EVERY
            # After a failure the files may have stayed the same, while the right to read them came back.
            if self._problem or self._reader.changed():
                await self.renew(self._access)
        return self._access

    async def renew(self, refused: Access) -> Access:
        """Read everything again, unless that has happened since; answers ``refused`` itself if nothing is new.

        What cannot be read at the moment leaves the old ones in use, and a line in the log.
        """
        async with self._lock:
            if self._access is refused:
                await self._reload()
            return self._access

    async def _reload(self) -> None:
        reader = FileReader()
        try:
            found = await self._source(reader)
            if found.host != self._access.host:  # which may be another cluster, halfway through something
                raise ConfigError(
                    f"the server is {found.host} now instead of {self._access.host}: that takes a restart"
                )
            if found != self._access:
                self._access = _with_context(found, before=self._access)
                logger.info("new credentials for %s are in use", found.host)
        except ConfigError as error:
            if self._problem != str(error):
                logger.warning("credentials cannot be read again, the old ones stay in use: %s", error)
            self._problem = str(error)
        else:
            self._problem, self._reader = "", reader


def _with_context(access: Access, *, before: Access | None = None) -> Access:
    """With a TLS context: the one from before if nothing of it is new, because connections are kept by it."""
    if not access.host.startswith("https:"):
        return access
    context = before.context if before is not None and before.tls == access.tls else None
    return Access(
        host=access.host,
        authorization=access.authorization,
        tls=access.tls,
        server_name=access.server_name,
        proxy=access.proxy,
        context=context or access.tls.context(),
    )


def bearer(token: bytes, what: str) -> str:
    """The header for a token. Raises ConfigError, naming ``what``, for what no header can hold."""
    text = token.decode("latin-1").strip()
    if not text or not all("!" <= character <= "~" for character in text):
        raise ConfigError(f"{what} is not a token: one line of visible ASCII characters is expected")
    return f"Bearer {text}"


def environment_proxy(host: str) -> str | None:
    """The proxy for this server as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; None for a direct connection."""
    url = urlsplit(host)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)


def in_cluster(environ: Mapping[str, str] = os.environ, *, directory: str = SERVICE_ACCOUNT) -> Source:
    """The credentials of the pod that we are in."""

    async def read(reader: FileReader) -> Access:
        name, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
        if not name or not port.isdecimal():
            raise ConfigError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod")
        host = f"https://[{name}]:{port}" if ":" in name else f"https://{name}:{port}"
        return Access(
            host=host,
            authorization=bearer(reader.read(f"{directory}/token"), f"{directory}/token"),
            tls=Tls(ca=reader.read(f"{directory}/ca.crt")),
            proxy=environment_proxy(host),
        )

    return read
