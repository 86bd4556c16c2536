"""Credentials from a kubeconfig: its current context, everything in files or in the kubeconfig itself.

Users with a program, a provider or a password are a person's and not a node's. The official client serves them, which
is imported for nothing else and not part of the image.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import yaml

from driver.kube.credentials import Access, ConfigError, FileReader, Tls, bearer, environment_proxy

if TYPE_CHECKING:
    from driver.kube.credentials import Source

_Identity: TypeAlias = "tuple[str | None, bytes | None, bytes | None]"
"""Authorization, client certificate and key."""


def from_kubeconfig(path: str, *, context: str = "") -> Source:
    """The credentials of a context, or of that which is current at first: a person may change to another meanwhile."""
    chosen = context

    async def read(reader: FileReader) -> Access:
        nonlocal chosen
        config = _parse(path, reader.read(path))
        chosen = chosen or _current(path, config)
        parsed = {**config, "path": path, "context": _named(path, config, "context", chosen)}
        entries = (_entry(parsed, "cluster", required=True), _entry(parsed, "user", required=False))
        cluster, user = (_Fields(path, where, fields, reader) for where, fields in entries)
        host = _url(cluster, "server").rstrip("/")
        if not host:
            raise ConfigError(f"{cluster.where}.server is missing")
        authority = cluster.content("certificate-authority")
        authorization, certificate, key = _identity(user)
        if kind := _delegated(user.fields):
            found = await _ask_official_client(user, kind, host)
            authorization, certificate, key = found if found[1] else (found[0], certificate, key)
        return Access(
            host=host,
            authorization=authorization,
            tls=Tls(
                ca=authority,
                certificate=certificate,
                key=key,
                verify=not cluster.value("insecure-skip-tls-verify", bool, default=False),
            ),
            server_name=cluster.text("tls-server-name") or None,
            proxy=_url(cluster, "proxy-url") or environment_proxy(host),
        )

    return read


@dataclass(frozen=True, slots=True)
class _Fields:
    """The cluster or the user that the context names."""

    path: str
    where: str
    fields: dict[str, Any]
    reader: FileReader

    def value(self, name: str, kind: type, *, default: Any) -> Any:
        found = self.fields.get(name)
        if found is None:
            return default
        if not isinstance(found, kind):
            raise ConfigError(f"{self.where}.{name}: {kind.__name__} expected, found {type(found).__name__}")
        return found

    def text(self, name: str) -> str:
        return str(self.value(name, str, default=""))

    def file(self, name: str) -> bytes | None:
        """What a file has that is named here, relative to the kubeconfig."""
        found = self.text(name)
        return self.reader.read(os.path.join(os.path.dirname(self.path), found)) if found else None  # noqa: PTH118, PTH120

    def content(self, name: str) -> bytes | None:
        """What is here in base64 or else in a file."""
        data = self.text(f"{name}-data")
        if not data:
            return self.file(name)
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(f"{self.where}.{name}-data is not base64") from None


def _identity(user: _Fields) -> _Identity:
    token, named = user.file("tokenFile"), f"the file of {user.where}.tokenFile"
    if token is None and (text := user.text("token")):
        token, named = text.encode(errors="replace"), f"{user.where}.token"
    authorization = None if token is None else bearer(token, named)
    return authorization, user.content("client-certificate"), user.content("client-key")


def _delegated(user: dict[str, Any]) -> str:
    """Which of its fields only the official client understands, if any."""
    if user.get("username") and not (user.get("token") or user.get("tokenFile")):
        return "username"
    return next((name for name in ("exec", "auth-provider") if user.get(name)), "")


def _parse(path: str, content: bytes) -> dict[str, Any]:
    """The kubeconfig. Raises ConfigError."""
    try:
        config = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:  # which quotes what is there
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path} is not YAML{line}") from None
    except Exception:  # noqa: BLE001 - of many kinds, from what makes values of tags
        raise ConfigError(f"{path} is not YAML") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no kubeconfig: a mapping is expected, found {type(config).__name__}")
    return config


def _current(path: str, config: dict[str, Any]) -> str:
    current = config.get("current-context")
    if not isinstance(current, str) or not current:
        raise ConfigError(f"{path} has no current-context: kubectl config use-context NAME sets it")
    return current


def _entry(config: dict[str, Any], kind: str, *, required: bool) -> tuple[str, dict[str, Any]]:
    """Where the context's cluster or user is, and what is there."""
    path, name = config["path"], config["context"].get(kind)
    if not name and not required:
        return f"{path}: user", {}
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: the current context names no {kind}")
    return f"{path}: {kind} {name!r}", _named(path, config, kind, name)


def _named(path: str, config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    listed = config.get(f"{kind}s")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("name") == name:
            found = item.get(kind)
            if found is None and kind == "user":
                return {}
            if not isinstance(found, dict):
                raise ConfigError(f"{path}: {kind} {name!r}: a mapping is expected, found {type(found).__name__}")
            return found
    raise ConfigError(f"{path} has no {kind} named {name!r}")


def _url(fields: _Fields, name: str) -> str:
    """A URL of HTTP or HTTPS. A server's never has a password in it, as it is part of messages; a proxy's may."""
    text = fields.text(name)
    if not text:
        return ""
    try:
        url = urlsplit(text)
        fits = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"{fields.where}.{name}: a URL of http:// or https:// is expected")
    if name == "server" and (url.username is not None or url.query or url.fragment):
        raise ConfigError(f"{fields.where}.{name}: a URL without a user, a password and a query is expected")
    return text


async def _ask_official_client(user: _Fields, kind: str, host: str) -> _Identity:
    """What a program, a provider or a password says who we are; asked again when the server refuses it."""
    try:
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.config.kube_config import load_kube_config_from_dict
    except ImportError:
        raise ConfigError(
            f"{user.where}.{kind} needs the package kubernetes, which is not installed here and no part of the image: "
            "use a token or a client certificate, or an installation from a checkout"
        ) from None
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)  # it quotes what it was given
    configuration = Configuration()
    # Nothing but what it is asked for: it writes all other data that it finds to files.
    names = ("exec", "auth-provider", "username", "password")
    asked = {name: user.fields[name] for name in names if name in user.fields}
    config = {
        "current-context": "asked",
        "contexts": [{"name": "asked", "context": {"cluster": "asked", "user": "asked"}}],
        "clusters": [{"name": "asked", "cluster": {"server": host}}],
        "users": [{"name": "asked", "user": asked}],
    }
    try:
        await load_kube_config_from_dict(config, client_configuration=configuration)
    except Exception as error:  # noqa: BLE001 - of many kinds, and what they say may quote
        raise ConfigError(f"{user.where}.{kind} failed: {type(error).__name__}; try it with kubectl") from None
    authorization = configuration.api_key.get("BearerToken")
    certificate, key = (
        FileReader().read(file) if file else None for file in (configuration.cert_file, configuration.key_file)
    )
    if not authorization and not certificate:
        raise ConfigError(f"{user.where}.{kind} gave neither a token nor a certificate; try it with kubectl")
    return authorization, certificate, key
