"""One HTTP request: URL, query string and body in, an answer out. What is done to objects is decided in ``engine``."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml
from aiohttp import web

from driver.sim.apiserver import discovery, patch, protobuf, tables
from driver.sim.apiserver.decoding import decode_body
from driver.sim.apiserver.engine import Call, Engine, Selection, view
from driver.sim.apiserver.errors import (
    StatusError,
    bad_request,
    expired,
    forbidden_request,
    invalid_options,
    method_not_allowed,
    no_such_resource,
    required,
    too_large_version,
    unsupported,
    unsupported_media_type,
)
from driver.sim.apiserver.faults import Request
from driver.sim.apiserver.resources import BY_PATH, RESOURCES, Resource
from driver.sim.apiserver.store import Stored, encode
from driver.sim.apiserver.watching import Encoder, Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.access import User
    from driver.sim.apiserver.logs import LogReader
    from driver.sim.apiserver.reviews import Reviews

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_BODIES = ("application/json", "application/yaml", protobuf.CONTENT_TYPE)
_TRUE = {"true", "1", "True"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL, parsed. ``resource`` is None for everything that is not about objects."""

    request: Request
    resource: Resource | None = None
    error: StatusError | None = None
    """What is wrong with the URL; said only to somebody who may ask for it."""


def parse(method: str, path: str, query: Mapping[str, str], user: User) -> Target:
    """What a request is about."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    group = version = ""
    if parts[0] == "api" and len(parts) > 2:
        version, rest = parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return Target(request=Request(verb=method.lower(), path=path, query=query, user=user))
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    name = rest[1] if len(rest) > 1 else ""
    subresource = "/".join(rest[2:])
    verb = _VERBS.get(method, "get")
    if method == "GET" and not name:
        verb = "watch" if query.get("watch") in _TRUE else "list"
    elif method == "DELETE" and not name:
        verb = "deletecollection"
    request = Request(verb=verb, path=path, query=query, user=user, group=group, resource=rest[0],
                      subresource=subresource, namespace=namespace, name=name)  # fmt: skip
    error = None
    if resource is None or (resource.namespaced != bool(namespace) and (not resource.namespaced or name)):
        error = no_such_resource()
    elif (method == "POST" and ((name and not subresource) or resource.namespaced != bool(namespace))) or (
        method in {"PUT", "PATCH"} and not name
    ):
        error = method_not_allowed()
    return Target(request=request, resource=resource, error=error)


class Handler:
    """Answers requests from an engine."""

    def __init__(self, engine: Engine, reviews: Reviews, *, bookmark_seconds: float, read_log: LogReader) -> None:
        self._engine = engine
        self._reviews = reviews
        self._bookmark_seconds = bookmark_seconds
        self._read_log = read_log
        self._encoders: dict[tuple[str, str], Encoder] = {}
        gates = engine.context.gates
        self._resources = tuple(
            r for r in RESOURCES if r.plural != "devicetaintrules" or "DRADeviceTaintRules" in gates
        )

    async def answer(self, request: web.Request, target: Target) -> web.StreamResponse:
        """The answer to a request that is allowed. Raises StatusError."""
        resource, what = target.resource, target.request
        self._authorize(what)
        if target.error is not None:
            raise target.error
        if resource is None:
            return self._other(request)
        if resource not in self._resources:
            raise no_such_resource()
        if not resource.stored and what.verb not in resource.verbs:
            raise no_such_resource() if what.name else method_not_allowed()
        if what.verb == "get" and not what.subresource:
            return self._get(request, target, resource)
        call = self._call(request, what, resource)
        if what.verb == "list":
            return self._list(request, call)
        if what.verb == "watch":
            selection = Selection.parse(call, what.query.get("labelSelector", ""), what.query.get("fieldSelector", ""))
            watch = Watch(self._engine, call, selection, what.query, as_table=table_wanted(request),
                          bookmarks=self._bookmark_seconds)  # fmt: skip
            return await watch.run(request)
        body = await self._body(request, what.verb)
        if what.subresource and what.subresource != "status":
            return await self._subresource(request, call, body)
        if what.subresource == "status" and not resource.status:
            raise no_such_resource()
        if not resource.stored:
            return self._review(call, body)
        return self._write(request, call, body)

    def _authorize(self, what: Request) -> None:
        """Raise StatusError 403."""
        if what.resource:
            name = what.name or _selected_name(what)
            namespace = what.name if what.resource == "namespaces" else what.namespace  # a namespace is in itself
            asked = (what.verb, what.group, what.resource, what.subresource, namespace, name)
            decision = self._reviews.decide(what.user, *asked)
        else:
            asked = (what.verb, "", "", "", "", what.path)
            decision = self._reviews.rbac.decide_path(what.user, what.verb, what.path)
        if not decision.allowed:
            raise forbidden_request(what.user.name, *asked, decision.reason)

    def _review(self, call: Call, body: Any) -> web.Response:
        asked = decode_body(call, body)
        return _bytes(encode(self._reviews.answer(call.resource.kind, asked, call.user, call.namespace)), status=201)

    # -- reading -------------------------------------------------------------------------------------------------

    def _get(self, request: web.Request, target: Target, resource: Resource) -> web.Response:
        what = target.request
        stored = self._engine.get(Call(resource=resource, namespace=what.namespace, name=what.name))
        return _bytes(self._encoder(resource, request).one(stored))

    def _encoder(self, resource: Resource, request: web.Request) -> Encoder:
        as_table = table_wanted(request)
        if as_table:
            return Encoder(resource, as_table)
        key = (resource.group, resource.plural)
        found = self._encoders.get(key)
        if found is None:
            found = self._encoders[key] = Encoder(resource, "")
        return found

    def _list(self, request: web.Request, call: Call) -> web.Response:
        query = request.query
        selection = Selection.parse(call, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version = self._engine.store.version
        wanted = query.get("resourceVersion") or "0"
        if not wanted.isdigit():
            why = f'resourceVersion: Invalid value: "{wanted}": strconv.ParseUint: parsing "{wanted}": invalid syntax'
            raise bad_request(f"invalid resource version: {why}")
        if int(wanted) > version:
            raise too_large_version(int(wanted), version)
        found = self._engine.select(call, selection)
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        found = self._page(call, query, found, meta)
        resource = call.resource
        as_table = table_wanted(request)
        if as_table:
            shown = [view(resource, stored.obj) for stored in found]
            answer = tables.table(resource, shown, version, include=as_table)
            answer["metadata"] = meta
            return _bytes(encode(answer))
        return self._listing(resource, found, meta)

    def _listing(self, resource: Resource, found: list[Stored], meta: dict[str, Any]) -> web.Response:
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.group_version, "metadata": meta}
        items = b",".join(self._item(resource, stored) for stored in found)
        return _bytes(encode(head)[:-1] + b',"items":[' + items + b"]}")

    def _item(self, resource: Resource, stored: Stored) -> bytes:
        if stored.obj["apiVersion"] == resource.group_version:
            return b"{" + stored.tail
        return encode(view(resource, stored.obj))

    def _page(self, call: Call, query: Mapping[str, str], found: list[Stored], meta: dict[str, Any]) -> list[Stored]:
        """The part of a list that ``limit`` and ``continue`` ask for."""
        token, limit = query.get("continue", ""), query.get("limit", "")
        if limit and not limit.isdigit():
            raise bad_request(f'strconv.ParseInt: parsing "{limit}": invalid syntax')
        if token:
            try:
                state = json.loads(base64.urlsafe_b64decode(token))
                after, meta["resourceVersion"] = tuple(state["after"]), str(state["version"])
            except (ValueError, KeyError, TypeError, binascii.Error):
                raise bad_request("invalid continue token: continue key is not valid") from None
            if int(meta["resourceVersion"]) < self._engine.store.collection(call.resource.plural).forgotten:
                raise expired(int(meta["resourceVersion"]), self._engine.store.version)
            found = [stored for stored in found if _key(stored) > after]
        if limit.isdigit() and 0 < int(limit) < len(found):
            rest = len(found) - int(limit)
            found = found[: int(limit)]
            state = {"after": _key(found[-1]), "version": meta["resourceVersion"]}
            meta["continue"] = base64.urlsafe_b64encode(encode(state)).decode()
            meta["remainingItemCount"] = rest
        return found

    # -- writing -------------------------------------------------------------------------------------------------

    def _call(self, request: web.Request, what: Request, resource: Resource) -> Call:
        query = what.query
        manager = query.get("fieldManager") or request.headers.get("User-Agent", "unknown").split("/")[0].split(" ")[0]
        validation = query.get("fieldValidation") or "Warn"
        if validation not in {"Strict", "Warn", "Ignore"}:
            known = ("", "Ignore", "Strict", "Warn")
            raise invalid_options(what.verb.capitalize() + "Options", unsupported("fieldValidation", validation, known))
        dry_run = query.get("dryRun")
        if dry_run not in {None, "", "All"}:
            raise invalid_options(what.verb.capitalize() + "Options", unsupported("dryRun", [dry_run], ("All",)))
        return Call(
            resource=resource,
            namespace=what.namespace,
            name=what.name,
            subresource=what.subresource,
            user=what.user,
            manager=manager[:128],
            force=query.get("force") in _TRUE,
            dry_run=bool(dry_run),
            validation=validation,  # type: ignore[arg-type]
            verb=what.verb,
        )

    async def _body(self, request: web.Request, verb: str) -> Any:
        data = await request.read()
        if not data:
            return None
        kind = request.content_type
        accepted = patch.TYPES if verb == "patch" else _BODIES
        if kind not in accepted and not (kind == "application/octet-stream" and verb != "patch"):
            raise unsupported_media_type(accepted)
        try:
            if kind == protobuf.CONTENT_TYPE:
                return protobuf.decode(data)
            if kind in {patch.APPLY, "application/yaml"}:
                return yaml.load(data, Loader=_YAML)  # noqa: S506  (a safe loader)
            return json.loads(data)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from error

    def _write(self, request: web.Request, call: Call, body: Any) -> web.Response:
        engine = self._engine
        created = False
        if call.verb == "create":
            stored, created = engine.create(call, body), True
        elif call.verb == "update":
            stored, created = engine.update(call, body)
        elif call.verb == "patch":
            if request.content_type == patch.APPLY and not request.query.get("fieldManager"):
                raise invalid_options("PatchOptions", required("fieldManager", "is required for apply patch"))
            stored, created = engine.patch(call, request.content_type, body)
        elif call.verb == "delete":
            call = _with_options(call, body)
            stored, gone = engine.delete(call, self._delete_options(request, body))
            if gone and not call.resource.returns_deleted:
                return _warned(_bytes(encode(_deleted(call, stored))), call)
        elif call.verb == "deletecollection":
            call = _with_options(call, body)
            query = request.query
            selection = Selection.parse(call, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            deleted = engine.delete_collection(call, selection, self._delete_options(request, body))
            return _warned(self._listing(call.resource, deleted, {"resourceVersion": str(engine.store.version)}), call)
        else:
            stored = engine.get(call)  # GET of the status
        return _warned(_bytes(self._encoder(call.resource, request).one(stored), status=201 if created else 200), call)

    def _delete_options(self, request: web.Request, body: Any) -> dict[str, Any]:
        options: dict[str, Any] = dict(body) if isinstance(body, dict) else {}
        query = request.query
        if "gracePeriodSeconds" in query:
            if not query["gracePeriodSeconds"].lstrip("-").isdigit():
                raise bad_request("gracePeriodSeconds: an integer is expected")
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        if "propagationPolicy" in query:
            options["propagationPolicy"] = query["propagationPolicy"]
        return options

    # -- subresources --------------------------------------------------------------------------------------------

    async def _subresource(self, request: web.Request, call: Call, body: Any) -> web.StreamResponse:
        if call.subresource not in call.resource.subresources:
            raise no_such_resource()
        if call.subresource == "resize" and call.verb in {"get", "patch", "update"}:
            return self._write(request, call, body)
        if call.subresource == "token" and call.verb == "create":
            return _bytes(encode(self._reviews.token(call.namespace, call.name, body)), status=201)
        if call.subresource == "log" and call.verb == "get":
            return await self._log(request, call)
        if call.subresource == "binding" and call.verb == "create":
            self._engine.bind(call, body or {})
            return _bytes(encode(_success(201)), status=201)
        if call.subresource == "eviction" and call.verb == "create":
            self._engine.delete(call, (body or {}).get("deleteOptions") or {})
            return _bytes(encode(_success(201)), status=201)
        raise method_not_allowed()

    async def _log(self, request: web.Request, call: Call) -> web.StreamResponse:
        pod = self._engine.get(call).obj
        query = request.query
        names = [item["name"] for key in ("initContainers", "containers") for item in pod["spec"].get(key) or []]
        container = query.get("container", "")
        if not container:
            main = [item["name"] for item in pod["spec"].get("containers") or []]
            if len(main) != 1:
                listed = " ".join(main)
                raise bad_request(f"a container name must be specified for pod {call.name}, choose one of: [{listed}]")
            container = main[0]
        elif container not in names:
            raise bad_request(f"container {container} is not valid for pod {call.name}")
        tail = query.get("tailLines", "")
        limit = int(query["limitBytes"]) if query.get("limitBytes", "").isdigit() else None
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        chunks = self._read_log(pod, container, query.get("follow") in _TRUE, int(tail) if tail.isdigit() else None)
        try:
            async for chunk in chunks:
                await response.write(chunk[:limit])
                if limit is not None:
                    limit -= len(chunk)
                    if limit <= 0:
                        break
        except ConnectionError:
            pass
        return response

    # -- discovery -----------------------------------------------------------------------------------------------

    def _other(self, request: web.Request) -> web.Response:
        path = request.path.rstrip("/")
        accept = request.headers.get("Accept", "")
        wants_aggregated = "as=APIGroupDiscoveryList" in accept and "v=v2" in accept
        if path in {"/healthz", "/livez", "/readyz"}:
            return web.Response(text="ok")
        if path == "/version":
            return _bytes(encode(discovery.VERSION))
        if path in {"/api", "/apis"} and wants_aggregated:
            answer = _bytes(encode(discovery.aggregated(self._resources, core=path == "/api")))
            answer.headers["Content-Type"] = discovery.AGGREGATED
            return answer
        if path == "/api":
            return _bytes(encode(discovery.api_versions(request.host)))
        if path == "/apis":
            return _bytes(encode(discovery.api_group_list(self._resources)))
        if path == "/openapi/v3":
            return _bytes(encode(discovery.openapi_paths(self._resources)))
        parts = path.strip("/").split("/")
        if parts[:2] == ["openapi", "v3"]:
            root = "/" + "/".join(parts[2:])
            found = tuple(r for r in self._resources if r.root == root)
            if found:
                return _bytes(discovery.openapi(found))
        groups = discovery.group_versions(self._resources)
        if parts[0] == "apis" and len(parts) == 2 and parts[1] in groups:
            return _bytes(encode(discovery.api_group(parts[1], groups[parts[1]])))
        group, version = ("", parts[1]) if parts[0] == "api" and len(parts) == 2 else (*parts[1:3], "", "")[:2]
        if version in groups.get(group, {}) and parts[0] in {"api", "apis"}:
            return _bytes(encode(discovery.resource_list(group, version, groups[group][version])))
        raise no_such_resource()


class _YAML(yaml.SafeLoader):
    """YAML as Kubernetes reads it: timestamps stay strings."""


_YAML.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def table_wanted(request: web.Request) -> str:
    """Which part of each object a client wants along with a table: None, Metadata, Object; empty for no table."""
    accept = request.headers.get("Accept", "")
    if "as=Table" not in accept:
        return ""
    return request.query.get("includeObject", "Metadata")


def _with_options(call: Call, body: Any) -> Call:
    """The call as the DeleteOptions in its body want it."""
    wanted = body.get("dryRun") if isinstance(body, dict) else None
    if wanted and wanted != ["All"]:
        raise invalid_options("DeleteOptions", unsupported("dryRun", wanted, ("All",)))
    return replace(call, dry_run=True) if wanted else call


def _selected_name(what: Request) -> str:
    """The one name that a list or watch selects: a permission by name covers it."""
    for part in what.query.get("fieldSelector", "").split(",") if what.verb in {"list", "watch"} else ():
        if part.startswith("metadata.name="):
            return part.removeprefix("metadata.name=").removeprefix("=")
    return ""


def _key(stored: Stored) -> tuple[str, str]:
    meta = stored.obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _bytes(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def _warned(answer: web.Response, call: Call) -> web.Response:
    """The answer, with what the client is to be warned of."""
    for warning in call.warnings:
        text = warning.replace("\\", "\\\\").replace('"', '\\"')
        answer.headers.add("Warning", f'299 - "{text}"')
    return answer


def _success(code: int) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}


def _deleted(call: Call, stored: Stored) -> dict[str, Any]:
    details = {"name": call.name, "kind": call.resource.plural, "uid": stored.obj["metadata"]["uid"]}
    if call.resource.group:
        details["group"] = call.resource.group
    status = _success(200)
    del status["code"]
    return {**status, "details": details}


def status_response(error: StatusError) -> web.Response:
    """The refusal as an answer."""
    headers = {"Content-Type": "application/json"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return web.Response(body=encode(error.status()), status=error.code, headers=headers)
