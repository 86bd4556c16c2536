"""One HTTP request: query string and body in, an answer out. What is done to objects is decided in ``engine``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml
from aiohttp import web

from driver.sim.apiserver import discovery, patch, protobuf, rbac, tables
from driver.sim.apiserver.call import Call, Selection
from driver.sim.apiserver.decoding import decode_body
from driver.sim.apiserver.engine import Engine
from driver.sim.apiserver.errors import (
    StatusError,
    bad_request,
    forbidden_request,
    method_not_allowed,
    no_such_resource,
    too_large_version,
    unsupported_media_type,
)
from driver.sim.apiserver.request import Target, selected_name
from driver.sim.apiserver.resource import Resource
from driver.sim.apiserver.resources import RESOURCES
from driver.sim.apiserver.store import Stored, encode
from driver.sim.apiserver.watching import Encoder, Watch

if TYPE_CHECKING:
    from driver.sim.apiserver.faults import Request

LogReader = Callable[[Mapping[str, Any], str], str]
"""``(pod, container) -> text``; raises LookupError where there is none."""
_BODIES = ("application/json", "application/yaml", "application/octet-stream", protobuf.CONTENT_TYPE)


class Handler:
    """Answers requests from an engine."""

    def __init__(self, engine: Engine, roles: rbac.Rbac, *, bookmark_seconds: float, read_log: LogReader) -> None:
        self._engine = engine
        self._rbac = roles
        self._bookmark_seconds = bookmark_seconds
        self._read_log = read_log
        self._release = engine.context.release
        rules = self._release.taint_rules if "DRADeviceTaintRules" in engine.context.gates else ""
        self._resources = tuple(r for r in RESOURCES if r.plural != "devicetaintrules" or r.group_version == rules)

    async def answer(self, request: web.Request, target: Target) -> web.StreamResponse:
        """The answer to a request that is allowed. Raises StatusError."""
        resource, what = target.resource, target.request
        self._authorize(what)
        if target.error is not None:
            raise target.error
        if resource is None:
            return self._other(request)
        if resource not in self._resources or (not resource.stored and what.name):
            raise no_such_resource()
        if what.verb not in resource.verbs:
            raise method_not_allowed()
        call = self._call(what, resource)
        if what.verb == "list":
            return self._list(request, call)
        if what.verb == "watch":
            watch = Watch(self._engine, call, _selection(call, what.query), what.query, as_table=table_wanted(request),
                          bookmarks=self._bookmark_seconds)  # fmt: skip
            return await watch.run(request)
        body = await self._body(request, what.verb)
        if what.subresource and what.subresource != "status":
            return self._subresource(request, call, body)
        if what.subresource == "status" and not resource.status:
            raise no_such_resource()
        if not resource.stored:
            answer = rbac.answer(
                self._rbac, resource.kind, decode_body(call, body, self._engine.context.types), what.user
            )
            return _json(answer, status=201)
        return self._object(request, call, body)

    def _authorize(self, what: Request) -> None:
        """Raise StatusError 403."""
        if what.resource:
            name = what.name or selected_name(what)
            namespace = what.name if what.resource == "namespaces" else what.namespace  # a namespace is in itself
            asked = (what.verb, what.group, what.resource, what.subresource, namespace, name)
            decision = self._rbac.decide(what.user, *asked)
        else:
            asked = (what.verb, "", "", "", "", what.path)
            decision = self._rbac.decide_path(what.user, what.verb, what.path)
        if not decision.allowed:
            raise forbidden_request(what.user.name, *asked, decision.reason)

    def _list(self, request: web.Request, call: Call) -> web.Response:
        """All at once: a ``limit`` is what a server may keep to, and needs not."""
        version = self._engine.store.version
        wanted = request.query.get("resourceVersion") or "0"
        if not wanted.isdigit():
            raise bad_request(f'invalid resource version: Invalid value: "{wanted}": a number is expected')
        if int(wanted) > version:
            raise too_large_version(int(wanted), version)
        found = self._engine.select(call, _selection(call, request.query))
        if as_table := table_wanted(request):
            objects = [stored.obj for stored in found]
            return _json(tables.table(call.resource, objects, version, include=as_table))
        return self._listing(call.resource, found, version)

    def _listing(self, resource: Resource, found: list[Stored], version: int) -> web.Response:
        meta = {"resourceVersion": str(version)}
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.group_version, "metadata": meta}
        items = b",".join(b"{" + stored.tail for stored in found)
        return _bytes(encode(head)[:-1] + b',"items":[' + items + b"]}")

    def _call(self, what: Request, resource: Resource) -> Call:
        query = what.query
        validation = query.get("fieldValidation") or "Warn"
        if validation not in {"Strict", "Warn", "Ignore"}:
            raise bad_request(f'fieldValidation: Unsupported value: "{validation}"')
        return Call(
            resource=resource,
            namespace=what.namespace,
            name=what.name,
            subresource=what.subresource,
            user=what.user,
            dry_run=bool(query.get("dryRun")),
            validation=validation,  # type: ignore[arg-type]
            verb=what.verb,
        )

    async def _body(self, request: web.Request, verb: str) -> Any:
        data = await request.read()
        if not data:
            return None
        kind = request.content_type
        accepted = patch.TYPES if verb == "patch" else _BODIES
        if kind not in accepted:
            raise unsupported_media_type(accepted)
        try:
            if kind == protobuf.CONTENT_TYPE:
                return protobuf.decode(data)
            if kind in {patch.APPLY, "application/yaml"}:
                return yaml.load(data, Loader=_YAML)  # noqa: S506  (a safe loader)
            return json.loads(data)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from error

    def _object(self, request: web.Request, call: Call, body: Any) -> web.Response:
        """Read, write or delete an object (or a collection)."""
        engine, created = self._engine, False
        match call.verb:
            case "create":
                stored, created = engine.create(call, body), True
            case "update":
                stored = engine.update(call, body)
            case "patch":
                stored, created = engine.patch(call, request.content_type, body)
            case "delete":
                call = _with_options(call, body)
                stored = engine.delete(call, self._delete_options(request, body))[0]
            case "deletecollection":
                call = _with_options(call, body)
                options = self._delete_options(request, body)
                deleted = engine.delete_collection(call, _selection(call, request.query), options)
                return self._listing(call.resource, deleted, engine.store.version)
            case _:
                stored = engine.get(call)
        encoder = Encoder(call.resource, table_wanted(request))
        return _warned(_bytes(encoder.one(stored), status=201 if created else 200), call)

    def _delete_options(self, request: web.Request, body: Any) -> dict[str, Any]:
        options: dict[str, Any] = dict(body) if isinstance(body, dict) else {}
        if grace := request.query.get("gracePeriodSeconds"):
            if not grace.isdigit():
                raise bad_request("gracePeriodSeconds: an integer is expected")
            options["gracePeriodSeconds"] = int(grace)
        return options

    def _subresource(self, request: web.Request, call: Call, body: Any) -> web.Response:
        if call.subresource not in call.resource.subresources:
            raise no_such_resource()
        match call.subresource, call.verb:
            case "resize", "get" | "patch" | "update":
                return self._object(request, call, body)
            case "log", "get":
                return self._log(request, call)
            case "binding", "create":
                self._engine.bind(call, body or {})
            case "eviction", "create":
                self._engine.delete(call, (body or {}).get("deleteOptions") or {})
            case _:
                raise method_not_allowed()
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    def _log(self, request: web.Request, call: Call) -> web.Response:
        """What there is by now: a reader that would follow is told so by the end."""
        pod = self._engine.get(call).obj
        try:
            text = self._read_log(pod, request.query.get("container", ""))
        except LookupError as error:
            raise bad_request(str(error.args[0])) from error
        if (tail := request.query.get("tailLines", "")).isdigit():
            lines = text.splitlines(keepends=True)
            text = "".join(lines[max(0, len(lines) - int(tail)) :])
        return web.Response(text=text)

    def _other(self, request: web.Request) -> web.Response:
        path = request.path.rstrip("/")
        if path in {"/healthz", "/livez", "/readyz"}:
            return web.Response(text="ok")
        if path == "/version":
            return _json(discovery.version(self._release))
        if path in {"/api", "/apis"}:
            answer = _json(discovery.aggregated(self._resources, core=path == "/api"))
            answer.headers["Content-Type"] = discovery.AGGREGATED
            return answer
        found = discovery.document(self._resources, path, self._release)
        if found is None:
            raise no_such_resource()
        return _json(found)


class _YAML(yaml.SafeLoader):
    """YAML as Kubernetes reads it: timestamps stay strings."""


_YAML.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def table_wanted(request: web.Request) -> str:
    """Which part of each object a client wants along with a table: None, Metadata, Object; empty for no table."""
    if "as=Table" not in request.headers.get("Accept", ""):
        return ""
    return request.query.get("includeObject", "Metadata")


def _selection(call: Call, query: Mapping[str, str]) -> Selection:
    return Selection.parse(call, query.get("labelSelector", ""), query.get("fieldSelector", ""))


def _with_options(call: Call, body: Any) -> Call:
    """The call as the DeleteOptions in its body want it."""
    return replace(call, dry_run=True) if isinstance(body, dict) and body.get("dryRun") else call


def _json(answer: Any, status: int = 200) -> web.Response:
    return _bytes(encode(answer), status)


def _bytes(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def _warned(answer: web.Response, call: Call) -> web.Response:
    """The answer, with what the client is to be warned of."""
    for warning in call.warnings:
        text = warning.replace("\\", "\\\\").replace('"', '\\"')
        answer.headers.add("Warning", f'299 - "{text}"')
    return answer


def status_response(error: StatusError) -> web.Response:
    """The refusal as an answer."""
    answer = _json(error.status(), error.code)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer
