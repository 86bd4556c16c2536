"""The few bodies that kubectl and helm send as protobuf (``create namespace``, ``auth can-i``), read into dicts.

Field numbers are those of the generated .proto files of k8s.io/api 1.36. A field that is not listed is refused unless
it is empty: to lose a part of an object in silence would be worse.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Number, name and type of each field: s string, i integer, b bytes, or a message; a leading * means repeated, and
# many entries are a map. A name with an underscore is of what is only ever sent empty, or is set by the server itself.
_SCALARS = {"s": "TYPE_STRING", "i": "TYPE_INT64", "b": "TYPE_BYTES"}
_META = "1:metadata:ObjectMeta"
_BINDING = f"{_META} 2:subjects:*Subject 3:roleRef:RoleRef"
_TYPES = {
    "Unknown": "1:typeMeta:TypeMeta 2:raw:b",
    "Entry": "1:key:s 2:value:s",
    "TypeMeta": "1:apiVersion:s 2:kind:s",
    "ObjectMeta": "1:name:s 2:generateName:s 3:namespace:s 5:uid:s 6:resourceVersion:s "
    "11:labels:*Entry 12:annotations:*Entry",
    "DeleteOptions": "1:gracePeriodSeconds:i 2:preconditions:Preconditions 4:propagationPolicy:s 5:dryRun:*s",
    "Preconditions": "1:uid:s 2:resourceVersion:s",
    "Namespace": f"{_META} 2:_spec:b 3:_status:b",
    "ServiceAccount": _META,
    "ConfigMap": f"{_META} 2:data:*Entry",
    "Eviction": f"{_META} 2:deleteOptions:DeleteOptions",
    "SelfSubjectAccessReview": f"{_META} 2:spec:AccessReviewSpec 3:_status:b",
    "AccessReviewSpec": "1:resourceAttributes:ResourceAttributes 2:nonResourceAttributes:PathAttributes",
    "ResourceAttributes": "1:namespace:s 2:verb:s 3:group:s 4:version:s 5:resource:s 6:subresource:s 7:name:s",
    "PathAttributes": "1:path:s 2:verb:s",
    "SelfSubjectReview": f"{_META} 2:_status:b",
    "Role": f"{_META} 2:rules:*PolicyRule",
    "ClusterRole": f"{_META} 2:rules:*PolicyRule",
    "PolicyRule": "1:verbs:*s 2:apiGroups:*s 3:resources:*s 4:resourceNames:*s 5:nonResourceURLs:*s",
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "Subject": "1:kind:s 2:apiGroup:s 3:name:s 4:namespace:s",
    "RoleRef": "1:apiGroup:s 2:kind:s 3:name:s",
}


@lru_cache(maxsize=1)
def _classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="sim/kubectl.proto", package="kubectl", syntax="proto2")
    for kind, fields in _TYPES.items():
        message = file.message_type.add(name=kind)
        for number, name, type_ in (field.split(":") for field in fields.split()):
            label, word = "LABEL_REPEATED" if type_[0] == "*" else "LABEL_OPTIONAL", type_.removeprefix("*")
            what = {"type": _SCALARS[word]} if word in _SCALARS else {"type_name": f".kubectl.{word}"}
            message.field.add(name=name, number=int(number), label=label, **what)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {kind: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kubectl.{kind}")) for kind in _TYPES}


def decode(data: bytes) -> dict[str, Any]:
    """The object in a body of type ``application/vnd.kubernetes.protobuf``. Raises ValueError."""
    if not data.startswith(_MAGIC):
        raise ValueError("a protobuf body must begin with the bytes k8s\\0")
    envelope: dict[str, Any] = _read("Unknown", data.removeprefix(_MAGIC))
    head = envelope.get("typeMeta", {})
    return {**head, **_read(head.get("kind", ""), envelope.get("raw", b""))}


def _read(kind: str, data: bytes) -> Any:
    if kind not in _TYPES:
        raise ValueError(f"a {kind or 'body without kind'} is not read from protobuf here: send JSON or YAML")
    try:
        return _plain(_classes()[kind].FromString(data))
    except DecodeError as error:
        raise ValueError(f"{kind}: {error}") from error


def _plain(value: Any) -> Any:
    """Messages as dicts of the fields that are not empty, as with Go's omitempty."""
    if isinstance(value, str | bytes | int):
        return value
    if not isinstance(value, Message):
        items = [_plain(item) for item in value]
        is_map = isinstance(value[0], Message) and value[0].DESCRIPTOR.name == "Entry"
        return {item["key"]: item.get("value", "") for item in items} if is_map else items
    unknown = UnknownFieldSet(value)
    if any(unknown[index].data for index in range(len(unknown))):
        raise ValueError(f"not all fields of {value.DESCRIPTOR.name} are read from protobuf here: send JSON or YAML")
    found = {field.name: _plain(inner) for field, inner in value.ListFields()}
    return {name: inner for name, inner in found.items() if inner not in ("", {}) and name[0] != "_"}
