"""What a request does to the objects: create, update, patch, delete, with the semantics of a real API server.

No I/O: everything here is synchronous, so that each request is one atomic step on the event loop.
"""

from __future__ import annotations

import copy
import json
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from driver.sim.apiserver import apply, deletion, patch, rules_meta, rules_resize, selectors
from driver.sim.apiserver.access import ADMIN, User
from driver.sim.apiserver.context import Context
from driver.sim.apiserver.decoding import decode_body, strip_empty
from driver.sim.apiserver.errors import (
    FieldError,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    expired,
    forbidden,
    invalid,
    invalid_value,
    not_found,
    too_large_version,
)
from driver.sim.apiserver.resources import NAMESPACES, Resource, field_getters
from driver.sim.apiserver.store import Store, Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

Object = dict[str, Any]

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_BASE = 58
SYSTEM_NAMESPACES = ("default", "kube-system")
"""Namespaces that may not be deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, apart from its body: who, what, where, and the options of a write."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    user: User = ADMIN
    manager: str = "unknown"
    force: bool = False
    dry_run: bool = False
    validation: Literal["Strict", "Warn", "Ignore"] = "Strict"
    warnings: list[str] = field(default_factory=list)
    verb: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Key of the object in its collection."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which objects a list or watch wants."""

    namespace: str = ""
    name: str = ""
    labels: Callable[[Mapping[str, str]], bool] | None = None
    fields: Callable[[Mapping[str, Any]], bool] | None = None

    @classmethod
    def parse(cls, call: Call, labels: str, fields: str) -> Selection:
        """From a query string; raises StatusError 400."""
        return cls(
            namespace=call.namespace,
            labels=selectors.parse_labels(labels),
            fields=selectors.parse_fields(
                fields, field_getters(call.resource), f"{call.resource.group_version}, Kind={call.resource.kind}"
            ),
        )

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether the object is wanted."""
        meta = obj["metadata"]
        if self.namespace and meta.get("namespace") != self.namespace:
            return False
        if self.labels is not None and not self.labels(meta.get("labels") or {}):
            return False
        return self.fields is None or self.fields(obj)


Admission = Callable[[Call, str, Object | None, Object | None], None]
"""``(call, CREATE or UPDATE or DELETE, new object, old object)``."""


class Engine:
    """All reads and writes of objects."""

    def __init__(
        self,
        store: Store,
        context: Context,
        *,
        authorize: Callable[[User, str, str, str, str, str, str], bool] = lambda *_what: True,
    ) -> None:
        self.store = store
        self.authorize = authorize
        self.context = replace(context, namespace_labels=self._namespace_labels, priority=self._priority)
        self.admission: list[Admission] = []
        """Asked, after all validation, whether a change may be made; each raises StatusError if not."""

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, call: Call) -> Stored:
        """One object; raises StatusError 404."""
        found = self.store.get(collection_of(call.resource), call.key)
        if found is None:
            raise not_found(call.resource, call.name)
        return found

    def select(self, call: Call, selection: Selection) -> list[Stored]:
        """All objects of a selection, in order of namespace and name."""
        objects = self.store.collection(collection_of(call.resource)).objects
        return [objects[key] for key in sorted(objects) if selection.matches(view(call.resource, objects[key].obj))]

    def _namespace_labels(self, name: str) -> Mapping[str, str]:
        stored = self.store.get("namespaces", ("", name))
        return (stored.obj["metadata"].get("labels") or {}) if stored else {}

    def _priority(self, name: str) -> int | None:
        stored = self.store.get("priorityclasses", ("", name))
        return int(stored.obj.get("value", 0)) if stored else None

    def _admit(self, call: Call, operation: str, new: Object | None, old: Object | None) -> None:
        for admission in self.admission:
            admission(call, operation, new, old)

    # -- creating ------------------------------------------------------------------------------------------------

    def create(self, call: Call, body: Any, *, owned: apply.Fields | None = None) -> Stored:
        """POST: store a new object. ``owned`` are the fields of a server-side apply; otherwise the writer owns all."""
        resource = call.resource
        obj = decode_body(call, body)
        meta = obj["metadata"]
        if meta.get("resourceVersion") and not call.dry_run:
            raise StatusError(500, "InternalError", "resourceVersion should not be set on objects to be created")
        self._check_namespace(call, obj)
        self._check_namespace_open(call, meta.get("name") or meta.get("generateName", ""))
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = self._generate(resource, call.namespace, meta["generateName"])
        key = (call.namespace, meta.get("name", ""))
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "managedFields"):
            meta.pop(name, None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.context.timestamp()
        if resource.generation:
            meta["generation"] = 1
        if resource.status and resource.kind not in {"Node", "Namespace"}:
            obj.pop("status", None)
        resource.prepare(obj, None, self.context)
        if owned is None:
            apply.track(resource, None, obj, call.manager, "Update", "", self.context.timestamp())
        else:
            apply.own(resource, obj, owned, call.manager, "", self.context.timestamp())
        resource.admit(obj, None, self.context)
        self._raise_invalid(
            resource,
            meta.get("name", ""),
            rules_meta.validate_meta(obj, None, resource) + resource.validate(obj, None, self.context),
        )
        self._admit(call, "CREATE", obj, None)
        if self.store.get(collection_of(resource), key) is not None:
            raise already_exists(resource, key[1])
        strip_empty(resource, obj)
        return self._save(call, key, obj)

    def _generate(self, resource: Resource, namespace: str, prefix: str) -> str:
        while True:
            name = prefix[:_GENERATED_BASE] + "".join(secrets.choice(_ALPHABET) for _ in range(5))
            if self.store.get(collection_of(resource), (namespace, name)) is None:
                return name

    def _check_namespace(self, call: Call, obj: Object) -> None:
        meta = obj["metadata"]
        if not call.resource.namespaced:
            meta.pop("namespace", None)
            return
        if meta.setdefault("namespace", call.namespace) != call.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    def _check_namespace_open(self, call: Call, name: str) -> None:
        if not call.resource.namespaced:
            return
        namespace = self.store.get("namespaces", ("", call.namespace))
        if namespace is None:
            raise not_found(NAMESPACES, call.namespace)
        if namespace.obj["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {call.namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise forbidden(call.resource, name, why, cause)

    # -- updating ------------------------------------------------------------------------------------------------

    def update(self, call: Call, body: Any) -> tuple[Stored, bool]:
        """PUT: replace the object, or its status. The flag says whether it was created."""
        current = self.store.get(collection_of(call.resource), call.key)
        if current is None:
            if call.resource.create_on_update and not call.subresource:
                return self.create(call, body), True
            raise not_found(call.resource, call.name)
        return self._update(call, current, decode_body(call, body), "Update"), False

    def patch(self, call: Call, content_type: str, body: Any) -> tuple[Stored, bool]:
        """PATCH with any of the patch types. The flag says whether server-side apply created the object."""
        current = self.store.get(collection_of(call.resource), call.key)
        if content_type == patch.APPLY:
            return self._apply(call, current, body)
        if current is None:
            raise not_found(call.resource, call.name)
        base = view(call.resource, current.obj)
        try:
            patched = patch.patched(call.resource.definition, content_type, base, body)
        except patch.PatchError as error:
            if error.code == 422:
                raise StatusError(422, "Invalid", str(error)) from error
            raise bad_request(str(error)) from error
        return self._update(call, current, decode_body(call, patched), "Update"), False

    def _apply(self, call: Call, current: Stored | None, body: Any) -> tuple[Stored, bool]:
        if not isinstance(body, dict):
            raise bad_request("error decoding YAML: an object is expected")
        applied = decode_body(call, body)
        meta = applied["metadata"]
        if meta.get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if meta.get("name", call.name) != call.name:
            self._wrong_name(call, meta["name"])
        meta["name"] = call.name
        if current is None:
            if call.subresource:
                raise not_found(call.resource, call.name)
            meta.pop("resourceVersion", None)
            fields = apply.field_set(call.resource, applied, call.subresource)
            return self.create(call, applied, owned=fields), True
        base = view(call.resource, current.obj)
        merged = apply.merge(call.resource, base, applied, manager=call.manager, force=call.force,
                             subresource=call.subresource, now=self.context.timestamp())  # fmt: skip
        # As the real one, which converts for an apply and sorts all keys, those of opaque parameters too.
        return self._update(call, current, json.loads(json.dumps(merged, sort_keys=True)), "Apply"), False

    def _wrong_name(self, call: Call, name: str) -> None:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({call.name})")

    def _update(self, call: Call, current: Stored, new: Object, operation: str) -> Stored:
        resource = call.resource
        old = view(resource, current.obj)
        meta, old_meta = new["metadata"], old["metadata"]
        if (meta.get("name") or call.name) != call.name:
            self._wrong_name(call, meta["name"])
        meta["name"] = call.name
        self._check_namespace(call, new)
        if meta.get("uid") and meta["uid"] != old_meta["uid"]:
            if call.verb == "patch":
                raise invalid(resource, call.name, [invalid_value("metadata.uid", meta["uid"], "field is immutable")])
            raise conflict(resource, call.name, _other_uid(meta["uid"], old_meta["uid"]))
        if meta.get("resourceVersion") and meta["resourceVersion"] != old_meta["resourceVersion"]:
            raise conflict(resource, call.name)
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
                     "resourceVersion", "generateName"):  # fmt: skip
            meta.pop(name, None)
            if name in old_meta:
                meta[name] = old_meta[name]
        if "managedFields" not in meta and operation != "Apply" and "managedFields" in old_meta:
            meta["managedFields"] = old_meta["managedFields"]
        errors = self._restrict(call, new, old)
        strip_empty(resource, new)
        if resource.generation and call.subresource != "status" and new.get("spec") != old.get("spec"):
            meta["generation"] = old_meta.get("generation", 0) + 1
        self._raise_invalid(resource, call.name, errors)
        self._admit(call, "UPDATE", new, old)
        if operation == "Update":
            apply.track(resource, old, new, call.manager, operation, call.subresource, self.context.timestamp())
        if apply.same(new, old):
            return current
        released = old_meta.get("finalizers") and not meta.get("finalizers") and meta.get("deletionTimestamp")
        if released and not meta.get("deletionGracePeriodSeconds") and resource is not NAMESPACES and not call.dry_run:
            self._save(call, call.key, new)
            return self._remove(call)
        return self._save(call, call.key, new)

    def _restrict(self, call: Call, new: Object, old: Object) -> list[FieldError]:
        """Undo what this endpoint may not change, set defaults, and say what is wrong with the rest."""
        resource = call.resource
        if call.subresource == "status":
            for key in set(new) | set(old):
                if key not in {"metadata", "status", "kind", "apiVersion"}:
                    new.pop(key, None)
                    if key in old:
                        new[key] = old[key]
            if resource.status_resets_metadata:
                for key in ("labels", "annotations", "finalizers", "ownerReferences"):
                    _restore(new["metadata"], old["metadata"], key)
            else:
                _restore(new["metadata"], old["metadata"], "ownerReferences")
            resource.prepare_status(new, old, self.context)
            errors = rules_meta.validate_meta(new, old, resource)
            return errors + self._authorize_status(call, new, old) + resource.validate_status(new, old, self.context)
        if resource.status:
            _restore(new, old, "status")
        if call.subresource == "resize":
            for key in ("labels", "annotations", "finalizers", "ownerReferences"):
                _restore(new["metadata"], old["metadata"], key)
            resource.prepare(new, old, self.context)
            rules_resize.prepare_resize(new, old)
            return rules_meta.validate_meta(new, old, resource) + rules_resize.validate_resize(new, old)
        resource.prepare(new, old, self.context)
        return rules_meta.validate_meta(new, old, resource) + resource.validate(new, old, self.context)

    def _authorize_status(self, call: Call, new: Object, old: Object) -> list[FieldError]:
        if call.resource.kind != "ResourceClaim":
            return []
        from driver.sim.apiserver import status_authorization

        if "DRAResourceClaimGranularStatusAuthorization" not in self.context.gates:
            return []
        return status_authorization.check(call, new, old, self.authorize)

    def _raise_invalid(self, resource: Resource, name: str, errors: list[FieldError]) -> None:
        if errors:
            raise invalid(resource, name, errors)

    def _save(self, call: Call, key: tuple[str, str], obj: Object) -> Stored:
        if call.dry_run:
            return Stored(obj, self.store.version)
        return self.store.put(collection_of(call.resource), key, obj)

    # -- deleting ------------------------------------------------------------------------------------------------

    def delete(self, call: Call, options: Mapping[str, Any]) -> tuple[Stored, bool]:
        """DELETE. The flag says whether the object is gone (it may stay for finalizers or graceful deletion)."""
        current = self.get(call)
        resource, meta = call.resource, current.obj["metadata"]
        deletion.check_preconditions(call, meta, options.get("preconditions") or {})
        finalizers = deletion.remaining_finalizers(meta, options)
        grace = deletion.grace_period(resource, current.obj, options)
        if resource is NAMESPACES and call.name in SYSTEM_NAMESPACES:
            raise forbidden(resource, call.name, "this namespace may not be deleted")
        self._admit(call, "DELETE", None, current.obj)
        keeps = resource is NAMESPACES  # until the garbage collector has emptied it
        if not finalizers and not grace and not keeps:
            return self._remove(call), True
        waiting = deletion.marked(current.obj, grace, finalizers, self.context.now())
        return (self._save(call, call.key, waiting) if waiting else current), False

    def _remove(self, call: Call) -> Stored:
        if call.dry_run:
            return self.get(call)
        return self.store.remove(collection_of(call.resource), call.key)

    def finish_namespace(self, name: str) -> None:
        """Remove a namespace that is terminating and empty."""
        self.store.remove("namespaces", ("", name))

    def delete_collection(self, call: Call, selection: Selection, options: Mapping[str, Any]) -> list[Stored]:
        """DELETE of a collection; objects that vanish meanwhile do not matter."""
        deleted = []
        for stored in self.select(call, selection):
            meta = stored.obj["metadata"]
            one = replace(call, namespace=meta.get("namespace", ""), name=meta["name"])
            deleted.append(self.delete(one, options)[0])
        return deleted

    # -- subresources of pods --------------------------------------------------------------------------------------

    def bind(self, call: Call, body: Mapping[str, Any]) -> None:
        """POST pods/<name>/binding."""
        current = self.get(call)
        node = str((body.get("target") or {}).get("name") or "")
        if not node:
            raise invalid(call.resource, call.name, [FieldError(
                reason="FieldValueRequired", path="target.name", body="Required value")])  # fmt: skip
        uid = (body.get("metadata") or {}).get("uid")
        if uid and uid != current.obj["metadata"]["uid"]:
            raise conflict(
                call.resource,
                call.name,
                _other_uid(uid, current.obj["metadata"]["uid"]),
            )
        if current.obj["metadata"].get("deletionTimestamp"):
            raise conflict(call.resource, call.name, f"pod {call.name} is being deleted, cannot be assigned to a host")
        assigned = current.obj["spec"].get("nodeName")
        if assigned:
            why = f'pod {call.name} is already assigned to node "{assigned}"'
            raise StatusError(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{call.name}": {why}',
                              {"name": call.name, "kind": "pods/binding"})  # fmt: skip
        obj = copy.deepcopy(current.obj)
        obj["spec"]["nodeName"] = node
        conditions = [c for c in obj.setdefault("status", {}).get("conditions", []) if c["type"] != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None,
                           "lastTransitionTime": self.context.timestamp()})  # fmt: skip
        obj["status"]["conditions"] = conditions
        self._save(call, call.key, obj)

    # -- versions ------------------------------------------------------------------------------------------------

    def check_watch_version(self, resource: Resource, version: int) -> None:
        """410 for a version that the history no longer reaches back to, 504 for one that has not been yet."""
        oldest = self.store.collection(collection_of(resource)).forgotten
        if version < oldest:
            raise expired(version, oldest)
        if version > self.store.version:
            raise too_large_version(version, self.store.version)


def collection_of(resource: Resource) -> str:
    """Name of the collection in which the resource's objects are."""
    return resource.storage or resource.plural


def view(resource: Resource, obj: Object) -> Object:
    """The object as this resource shows it; events exist under two groups."""
    if obj["apiVersion"] == resource.group_version:
        return obj
    from driver.sim.apiserver import events

    return events.convert(obj, resource.group_version)


def _other_uid(wanted: str, found: str) -> str:
    return f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"


def _restore(new: Object, old: Object, key: str) -> None:
    new.pop(key, None)
    if key in old:
        new[key] = old[key]
