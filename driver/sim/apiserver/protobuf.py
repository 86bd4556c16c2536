"""The few bodies that kubectl sends as protobuf (``create namespace``, ``drain``, ``auth can-i``), read into dicts.

Field numbers are those of the generated .proto files of k8s.io/api 1.36. A field that is not listed is refused unless
it is empty: to lose a part of an object in silence would be worse.
"""

from __future__ import annotations

from typing import Any

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Number to name and type, in the order of the numbers: s string, i integer, b boolean, m map of strings, or a message;
# a leading * means repeated; a "-" stands for what is only ever sent empty, or is set by the server itself.
_META = "1:metadata:ObjectMeta"
_SUBJECT = "1:kind:s 2:apiGroup:s 3:name:s 4:namespace:s"
_BINDING = f"{_META} 2:subjects:*Subject 3:roleRef:RoleRef"
_QUESTION = "1:resourceAttributes:ResourceAttributes 2:nonResourceAttributes:PathAttributes"
_TYPES = {
    "Unknown": "1:typeMeta:TypeMeta 2:raw:raw 3:-:s 4:-:s",
    "TypeMeta": "1:apiVersion:s 2:kind:s",
    "Entry": "1:key:s 2:value:s",
    "ObjectMeta": "1:name:s 2:generateName:s 3:namespace:s 4:-:s 5:uid:s 6:resourceVersion:s 8:-:s 11:labels:m "
                  "12:annotations:m",
    "DeleteOptions": "1:gracePeriodSeconds:i 2:preconditions:Preconditions 4:propagationPolicy:s 5:dryRun:*s",
    "Preconditions": "1:uid:s 2:resourceVersion:s",
    "Namespace": f"{_META} 2:-:s 3:-:s",
    "ServiceAccount": _META,
    "ConfigMap": f"{_META} 2:data:m 4:immutable:b",
    "Eviction": f"{_META} 2:deleteOptions:DeleteOptions",
    "SelfSubjectAccessReview": f"{_META} 2:spec:AccessReviewSpec 3:-:s",
    "AccessReviewSpec": _QUESTION,
    "ResourceAttributes": "1:namespace:s 2:verb:s 3:group:s 4:version:s 5:resource:s 6:subresource:s 7:name:s",
    "PathAttributes": "1:path:s 2:verb:s",
    "SelfSubjectReview": f"{_META} 2:-:s",
    "Role": f"{_META} 2:rules:*PolicyRule",
    "ClusterRole": f"{_META} 2:rules:*PolicyRule",
    "PolicyRule": "1:verbs:*s 2:apiGroups:*s 3:resources:*s 4:resourceNames:*s 5:nonResourceURLs:*s",
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "Subject": _SUBJECT,
    "RoleRef": "1:apiGroup:s 2:kind:s 3:name:s",
}  # fmt: skip
_MESSAGES = {
    kind: {int(number): (name, type_) for number, name, type_ in (field.split(":") for field in fields.split())}
    for kind, fields in _TYPES.items()
}


def decode(data: bytes) -> dict[str, Any]:
    """The object in a body of type ``application/vnd.kubernetes.protobuf``. Raises ValueError."""
    if not data.startswith(_MAGIC):
        raise ValueError("a protobuf body must begin with the bytes k8s\\0")
    envelope = _message("Unknown", data[len(_MAGIC) :])
    kind = envelope.get("typeMeta", {}).get("kind", "")
    if kind not in _MESSAGES:
        raise ValueError(f"a {kind or 'body without kind'} is not read from protobuf here: send JSON or YAML")
    return {**envelope["typeMeta"], **_message(kind, envelope.get("raw", b""))}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 64:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return number, at
    raise ValueError("truncated protobuf body")


def _message(kind: str, data: bytes) -> dict[str, Any]:
    fields, at = _MESSAGES[kind], 0
    result: dict[str, Any] = {}
    while at < len(data):
        tag, at = _varint(data, at)
        number, at = _varint(data, at)
        value: int | bytes = number
        if tag & 7 == 2:
            value, at = data[at : at + number], at + number
        if tag & 7 not in {0, 2} or at > len(data):
            raise ValueError(f"unexpected wire type {tag & 7} in {kind}")
        if tag >> 3 in fields:
            _set(result, *fields[tag >> 3], value)
        elif value:
            raise ValueError(f"field {tag >> 3} of {kind} is not read from protobuf here: send JSON or YAML")
    return result


def _set(result: dict[str, Any], name: str, kind: str, value: int | bytes) -> None:
    if name == "-":
        return
    if kind == "m":
        entry = _value("Entry", value)
        result.setdefault(name, {})[entry.get("key", "")] = entry.get("value", "")
    elif kind.startswith("*"):
        result.setdefault(name, []).append(_value(kind[1:], value))
    else:
        found = _value(kind, value)
        if found != "" and found is not False:  # as Go's omitempty
            result[name] = found


def _value(kind: str, value: int | bytes) -> Any:
    if isinstance(value, int):
        if kind not in {"i", "b"}:
            raise ValueError("a number where a text or a message was expected in a protobuf body")
        return bool(value) if kind == "b" else value - (1 << 64) if value >= 1 << 63 else value
    if kind == "s":
        return value.decode()
    return value if kind == "raw" else _message(kind, value)
