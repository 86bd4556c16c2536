"""The few bodies that kubectl sends as protobuf (``create namespace``, ``create job``, ``drain``), read into dicts.

Field numbers are those of the generated .proto files of k8s.io/api 1.36. A field that is not listed is refused unless
it is empty: to lose a part of an object in silence would be worse.
"""

from __future__ import annotations

from typing import Any

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

_SKIP = ""
"""A field that is only ever sent empty, or that the server sets itself."""

# Number to (name, type): s string, i integer, b boolean, m map of strings, q of quantities, or a message; a leading *
# means repeated.
_Fields = dict[int, tuple[str, str]]
_MESSAGES: dict[str, _Fields] = {
    "ObjectMeta": {
        1: ("name", "s"),
        2: ("generateName", "s"),
        3: ("namespace", "s"),
        4: (_SKIP, "s"),
        5: ("uid", "s"),
        6: ("resourceVersion", "s"),
        7: ("generation", "i"),
        8: (_SKIP, "s"),
        11: ("labels", "m"),
        12: ("annotations", "m"),
        13: ("ownerReferences", "*OwnerReference"),
        14: ("finalizers", "*s"),
    },
    "OwnerReference": {
        1: ("kind", "s"),
        3: ("name", "s"),
        4: ("uid", "s"),
        5: ("apiVersion", "s"),
        6: ("controller", "b"),
        7: ("blockOwnerDeletion", "b"),
    },
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "i"),
        2: ("preconditions", "Preconditions"),
        3: ("orphanDependents", "b"),
        4: ("propagationPolicy", "s"),
        5: ("dryRun", "*s"),
    },
    "Preconditions": {1: ("uid", "s"), 2: ("resourceVersion", "s")},
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: (_SKIP, "s"), 3: (_SKIP, "s")},
    "ConfigMap": {1: ("metadata", "ObjectMeta"), 2: ("data", "m"), 4: ("immutable", "b")},
    "ServiceAccount": {1: ("metadata", "ObjectMeta")},
    "Eviction": {1: ("metadata", "ObjectMeta"), 2: ("deleteOptions", "DeleteOptions")},
    "Job": {1: ("metadata", "ObjectMeta"), 2: ("spec", "JobSpec"), 3: (_SKIP, "s")},
    "JobSpec": {
        1: ("parallelism", "i"),
        2: ("completions", "i"),
        3: ("activeDeadlineSeconds", "i"),
        6: ("template", "PodTemplateSpec"),
        7: ("backoffLimit", "i"),
        8: ("ttlSecondsAfterFinished", "i"),
        9: ("completionMode", "s"),
        10: ("suspend", "b"),
    },
    "PodTemplateSpec": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "PodSpec": {
        2: ("containers", "*Container"),
        3: ("restartPolicy", "s"),
        4: ("terminationGracePeriodSeconds", "i"),
        6: ("dnsPolicy", "s"),
        7: ("nodeSelector", "m"),
        8: ("serviceAccountName", "s"),
        9: ("serviceAccount", "s"),
        10: ("nodeName", "s"),
        11: ("hostNetwork", "b"),
        12: ("hostPID", "b"),
        13: ("hostIPC", "b"),
        16: ("hostname", "s"),
        17: ("subdomain", "s"),
        19: ("schedulerName", "s"),
        24: ("priorityClassName", "s"),
    },
    "Container": {
        1: ("name", "s"),
        2: ("image", "s"),
        3: ("command", "*s"),
        4: ("args", "*s"),
        5: ("workingDir", "s"),
        7: ("env", "*EnvVar"),
        8: (_SKIP, "s"),
        13: ("terminationMessagePath", "s"),
        14: ("imagePullPolicy", "s"),
        16: ("stdin", "b"),
        17: ("stdinOnce", "b"),
        18: ("tty", "b"),
        20: ("terminationMessagePolicy", "s"),
    },
    "EnvVar": {1: ("name", "s"), 2: ("value", "s")},
    "SelfSubjectAccessReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "AccessReviewSpec"), 3: (_SKIP, "s")},
    "SubjectAccessReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "SubjectAccessReviewSpec"), 3: (_SKIP, "s")},
    "AccessReviewSpec": {
        1: ("resourceAttributes", "ResourceAttributes"),
        2: ("nonResourceAttributes", "PathAttributes"),
    },
    "SubjectAccessReviewSpec": {
        1: ("resourceAttributes", "ResourceAttributes"),
        2: ("nonResourceAttributes", "PathAttributes"),
        3: ("user", "s"),
        4: ("groups", "*s"),
        6: ("uid", "s"),
    },
    "ResourceAttributes": {
        1: ("namespace", "s"),
        2: ("verb", "s"),
        3: ("group", "s"),
        4: ("version", "s"),
        5: ("resource", "s"),
        6: ("subresource", "s"),
        7: ("name", "s"),
    },
    "PathAttributes": {1: ("path", "s"), 2: ("verb", "s")},
    "SelfSubjectRulesReview": {1: ("metadata", "ObjectMeta"), 2: ("spec", "RulesReviewSpec"), 3: (_SKIP, "s")},
    "RulesReviewSpec": {1: ("namespace", "s")},
    "SelfSubjectReview": {1: ("metadata", "ObjectMeta"), 2: (_SKIP, "s")},
    "TokenRequest": {1: ("metadata", "ObjectMeta"), 2: ("spec", "TokenRequestSpec"), 3: (_SKIP, "s")},
    "TokenRequestSpec": {
        1: ("audiences", "*s"),
        3: ("boundObjectRef", "BoundObjectReference"),
        4: ("expirationSeconds", "i"),
    },
    "BoundObjectReference": {1: ("kind", "s"), 2: ("apiVersion", "s"), 3: ("name", "s"), 4: ("uid", "s")},
    "Role": {1: ("metadata", "ObjectMeta"), 2: ("rules", "*PolicyRule")},
    "ClusterRole": {1: ("metadata", "ObjectMeta"), 2: ("rules", "*PolicyRule")},
    "PolicyRule": {
        1: ("verbs", "*s"),
        2: ("apiGroups", "*s"),
        3: ("resources", "*s"),
        4: ("resourceNames", "*s"),
        5: ("nonResourceURLs", "*s"),
    },
    "RoleBinding": {1: ("metadata", "ObjectMeta"), 2: ("subjects", "*Subject"), 3: ("roleRef", "RoleRef")},
    "ClusterRoleBinding": {1: ("metadata", "ObjectMeta"), 2: ("subjects", "*Subject"), 3: ("roleRef", "RoleRef")},
    "Subject": {1: ("kind", "s"), 2: ("apiGroup", "s"), 3: ("name", "s"), 4: ("namespace", "s")},
    "RoleRef": {1: ("apiGroup", "s"), 2: ("kind", "s"), 3: ("name", "s")},
    "Unknown": {1: ("typeMeta", "TypeMeta"), 2: ("raw", "raw"), 3: (_SKIP, "s"), 4: (_SKIP, "s")},
    "TypeMeta": {1: ("apiVersion", "s"), 2: ("kind", "s")},
    "Entry": {1: ("key", "s"), 2: ("value", "s")},
    "ResourceQuota": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ResourceQuotaSpec"), 3: (_SKIP, "s")},
    "ResourceQuotaSpec": {1: ("hard", "q"), 2: ("scopes", "*s")},
    "AmountEntry": {1: ("key", "s"), 2: ("value", "Amount")},
    "Amount": {1: ("text", "s")},
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
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("truncated protobuf body")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


def _message(kind: str, data: bytes) -> dict[str, Any]:
    fields, at = _MESSAGES[kind], 0
    result: dict[str, Any] = {}
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("truncated protobuf body")
        else:
            raise ValueError(f"unexpected wire type {wire} in {kind}")
        if number in fields:
            _set(result, *fields[number], value)
        elif value:
            raise ValueError(f"field {number} of {kind} is not read from protobuf here: send JSON or YAML")
    return result


def _set(result: dict[str, Any], name: str, kind: str, value: int | bytes) -> None:
    if name == _SKIP:
        return
    if kind == "m":
        entry = _message("Entry", _bytes(value))
        result.setdefault(name, {})[entry.get("key", "")] = entry.get("value", "")
    elif kind == "q":
        entry = _message("AmountEntry", _bytes(value))
        result.setdefault(name, {})[entry.get("key", "")] = entry.get("value", {}).get("text", "0")
    elif kind.startswith("*"):
        result.setdefault(name, []).append(_value(kind[1:], value))
    else:
        found = _value(kind, value)
        if found != "" and found is not False:  # as Go's omitempty
            result[name] = found


def _value(kind: str, value: int | bytes) -> Any:
    if isinstance(value, int):
        signed = value - (1 << 64) if value >= 1 << 63 else value
        return bool(value) if kind == "b" else signed
    if kind == "s":
        return value.decode()
    return value if kind == "raw" else _message(kind, value)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected in a protobuf body")
    return value
