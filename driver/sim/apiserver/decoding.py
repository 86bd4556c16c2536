"""From the body of a request to an object of the right kind, and to the form in which it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import schema
from driver.sim.apiserver.errors import bad_request

if TYPE_CHECKING:
    from driver.sim.apiserver.call import Call
    from driver.sim.apiserver.resource import Resource

    Object = dict[str, Any]


def decode_body(call: Call, body: Any, types: schema.Schema) -> Object:
    """The object in a request, checked against the schema and canonical. Raises StatusError 400."""
    resource = call.resource
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind})")
    version, kind = body.get("apiVersion"), body.get("kind")
    if (version or resource.group_version) != resource.group_version or (kind or resource.kind) != resource.kind:
        wanted = f"expected {resource.group_version}, {resource.kind}"
        raise bad_request(f"{version}, {kind} cannot be handled as a {resource.kind}: {wanted}")
    refused = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
    decoded = schema.decode(types, resource.definition, body)
    if decoded.errors:
        raise bad_request(f"{refused}: {decoded.errors[0]}")
    unknown = [f'unknown field "{path}"' for path in decoded.unknown]
    if unknown and call.validation == "Strict":
        raise bad_request(f"{refused}: strict decoding error: {', '.join(unknown)}")
    if call.validation == "Warn":
        call.warnings.extend(unknown)
    obj: Object = decoded.obj
    obj["apiVersion"], obj["kind"] = resource.group_version, resource.kind
    obj.setdefault("metadata", {})
    return obj


def strip_empty(resource: Resource, obj: Object, types: schema.Schema) -> None:
    """Drop empty lists and maps as Go's ``omitempty`` does, so that sending one changes nothing."""
    _strip(types, types.node(resource.definition), obj)


def _strip(types: schema.Schema, node: schema.Node, value: Any) -> None:
    if node.kind in {"object", "map"} and isinstance(value, dict):
        for key, item in list(value.items()):
            child = types.child(node, key)
            if child is None:
                continue
            if (item == [] or item == {}) and child.kind in {"list", "map"} and key not in node.required:
                if node.kind == "object":
                    del value[key]
            elif isinstance(item, dict | list):
                _strip(types, child, item)
    elif node.kind == "list" and isinstance(value, list):
        child = types.item(node)
        if child.kind in {"object", "map", "list"}:
            for item in value:
                _strip(types, child, item)
