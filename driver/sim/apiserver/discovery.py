"""What clients ask before they ask for objects: versions, groups, resources, OpenAPI."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import schema
from driver.sim.apiserver.store import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.sim.apiserver.resources import Resource

    Object = dict[str, Any]

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.2",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-06-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "embedded",
    "platform": "linux/amd64",
}
_SUBRESOURCES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "status": ("", "", ("get", "patch", "update")),
    "log": ("", "", ("get",)),
    "binding": ("", "Binding", ("create",)),
    "eviction": ("policy", "Eviction", ("create",)),
    "finalize": ("", "", ("update",)),
    "resize": ("", "", ("get", "patch", "update")),
    "token": ("authentication.k8s.io", "TokenRequest", ("create",)),
}


def group_versions(resources: Iterable[Resource]) -> dict[str, dict[str, list[Resource]]]:
    """Group to version to resources."""
    found: dict[str, dict[str, list[Resource]]] = {}
    for resource in resources:
        found.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
    return found


def api_versions(host: str) -> Object:
    """``/api``."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
    }


def api_group(group: str, versions: Iterable[str]) -> Object:
    """``/apis/<group>``."""
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": listed, "preferredVersion": listed[0]}


def api_group_list(resources: Iterable[Resource]) -> Object:
    """``/apis``."""
    groups = group_versions(resources)
    listed = []
    for group, versions in groups.items():
        if group:
            item = api_group(group, versions)
            listed.append({key: item[key] for key in ("name", "versions", "preferredVersion")})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def _subresources(resource: Resource) -> list[str]:
    return (["status"] if resource.status else []) + list(resource.subresources)


def resource_list(group: str, version: str, resources: Iterable[Resource]) -> Object:
    """``/api/v1`` and ``/apis/<group>/<version>``."""
    listed: list[Object] = []
    for resource in resources:
        item: Object = {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            item["shortNames"] = list(resource.short_names)
        if resource.categories:
            item["categories"] = list(resource.categories)
        listed.append(item)
        for name in _subresources(resource):
            sub_group, kind, verbs = _SUBRESOURCES[name]
            sub: Object = {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind or resource.kind,
                "verbs": list(verbs),
            }
            if sub_group:
                sub |= {"group": sub_group, "version": "v1"}
            listed.append(sub)
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def aggregated(resources: Iterable[Resource], *, core: bool) -> Object:
    """Aggregated discovery (apidiscovery.k8s.io/v2) of ``/api`` or ``/apis``."""
    items = []
    for group, versions in group_versions(resources).items():
        if bool(group) is core:
            continue
        shown = [
            {"version": version, "freshness": "Current", "resources": [_discovered(r) for r in listed]}
            for version, listed in versions.items()
        ]
        items.append({"metadata": {"name": group} if group else {}, "versions": shown})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _discovered(resource: Resource) -> Object:
    def kind(group: str, version: str, name: str) -> Object:
        return {"group": group, "version": version, "kind": name}

    item: Object = {
        "resource": resource.plural,
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.kind.lower(),
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        item["shortNames"] = list(resource.short_names)
    if resource.categories:
        item["categories"] = list(resource.categories)
    subresources = []
    for name in _subresources(resource):
        group, other, verbs = _SUBRESOURCES[name]
        response = kind(group or resource.group, "v1" if other else resource.version, other or resource.kind)
        subresources.append({"subresource": name, "responseKind": response, "verbs": list(verbs)})
    if subresources:
        item["subresources"] = subresources
    return item


# -- OpenAPI v3 ------------------------------------------------------------------------------------------------------

_REF = "#/components/schemas/"
_QUERY = ("dryRun", "fieldManager", "fieldValidation", "pretty")


def openapi_paths(resources: Iterable[Resource]) -> Object:
    """``/openapi/v3``: where the documents are."""
    roots = {resource.root.strip("/") for resource in resources}
    return {
        "paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}?hash={schema.RELEASE}"} for root in sorted(roots)}
    }


@lru_cache(maxsize=32)
def openapi(resources: tuple[Resource, ...]) -> bytes:
    """The OpenAPI v3 document of one group version."""
    names: set[str] = set()
    for resource in resources:
        _reach(resource.definition, names)
    _reach("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", names)
    _reach("io.k8s.apimachinery.pkg.apis.meta.v1.Status", names)
    raw = schema.definitions()
    paths: Object = {}
    for resource in resources:
        paths |= _paths(resource)
    document = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": {name: _convert(raw[name]) for name in sorted(names)}},
    }
    return encode(document)


def _reach(name: str, found: set[str]) -> None:
    if name in found:
        return
    found.add(name)
    pending: list[Any] = [schema.definitions()[name]]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                _reach(value["$ref"].removeprefix("#/$defs/"), found)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _convert(raw: Any) -> Any:
    """From JSON Schema as the package has it (nullable types, $defs) to OpenAPI v3."""
    if isinstance(raw, list):
        return [_convert(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    result: Object = {}
    for key, value in raw.items():
        if key == "$ref" and isinstance(value, str):
            ref = {"$ref": _REF + value.removeprefix("#/$defs/")}
            if len(raw) > 1:
                result["allOf"] = [ref]
            else:
                result.update(ref)
        elif key == "type" and isinstance(value, list):
            result["type"] = next(item for item in value if item != "null")
        else:
            result[key] = _convert(value)
    return result


def _paths(resource: Resource) -> Object:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    content = {"application/json": {"schema": {"$ref": _REF + resource.definition}}}
    parameters = [{"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}} for name in _QUERY]

    def operation(action: str, method: str) -> Object:
        body = {} if method in {"get", "delete"} else {"requestBody": {"content": content}}
        return {
            "operationId": f"{action}{resource.kind}",
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
            **body,
        }

    base = resource.root + ("/namespaces/{namespace}" if resource.namespaced else "") + f"/{resource.plural}"
    one = {method: operation(method, method) for method in ("get", "put", "patch", "delete")}
    return {base: {"get": operation("list", "get"), "post": operation("post", "post")}, base + "/{name}": one}
