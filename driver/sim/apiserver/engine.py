"""What a request does to the objects: create, update, patch, delete, with the semantics of a real API server.

No I/O: everything here is synchronous, so that each request is one atomic step on the event loop.
"""

from __future__ import annotations

import copy
import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import deletion, patch, rules_core, rules_meta, status_authorization
from driver.sim.apiserver.call import Call, Object, Selection
from driver.sim.apiserver.decoding import decode_body, strip_empty
from driver.sim.apiserver.errors import (
    FieldError,
    already_exists,
    bad_request,
    conflict,
    expired,
    forbidden,
    invalid,
    invalid_value,
    not_found,
    required,
    too_large_version,
)
from driver.sim.apiserver.resources import NAMESPACES
from driver.sim.apiserver.store import Store, Stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.access import User
    from driver.sim.apiserver.context import Context
    from driver.sim.apiserver.resource import Resource

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_BASE = 58
SYSTEM_NAMESPACES = ("default", "kube-system")
"""Namespaces that may not be deleted."""


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
        self.context = replace(context, namespace_labels=self._namespace_labels)
        self.admission: list[Admission] = []
        """Asked, after all validation, whether a change may be made; each raises StatusError if not."""

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, call: Call) -> Stored:
        """One object; raises StatusError 404."""
        found = self.store.get(call.resource.plural, call.key)
        if found is None:
            raise not_found(call.resource, call.name)
        return found

    def select(self, call: Call, selection: Selection) -> list[Stored]:
        """All objects of a selection, in order of namespace and name."""
        objects = self.store.collection(call.resource.plural).objects
        return [objects[key] for key in sorted(objects) if selection.matches(objects[key].obj)]

    def _namespace_labels(self, name: str) -> Mapping[str, str]:
        stored = self.store.get("namespaces", ("", name))
        return (stored.obj["metadata"].get("labels") or {}) if stored else {}

    def _admit(self, call: Call, operation: str, new: Object | None, old: Object | None) -> None:
        for admission in self.admission:
            admission(call, operation, new, old)

    # -- creating ------------------------------------------------------------------------------------------------

    def create(self, call: Call, body: Any) -> Stored:
        """POST: store a new object."""
        resource = call.resource
        obj = decode_body(call, body, self.context.types)
        meta = obj["metadata"]
        self._check_namespace(call, obj)
        self._check_namespace_open(call, meta.get("name") or meta.get("generateName", ""))
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = self._generate(resource, call.namespace, meta["generateName"])
        key = (call.namespace, meta.get("name", ""))
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "managedFields"):
            meta.pop(name, None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.context.timestamp()
        if resource.generation:
            meta["generation"] = 1
        if resource.status and resource.kind not in {"Node", "Namespace"}:
            obj.pop("status", None)
        resource.prepare(obj, None, self.context)
        self._raise_invalid(
            resource,
            meta.get("name", ""),
            rules_meta.validate_meta(obj, None, resource) + resource.validate(obj, None, self.context),
        )
        self._admit(call, "CREATE", obj, None)
        if self.store.get(resource.plural, key) is not None:
            raise already_exists(resource, key[1])
        strip_empty(resource, obj, self.context.types)
        return self._save(call, key, obj)

    def _generate(self, resource: Resource, namespace: str, prefix: str) -> str:
        while True:
            name = prefix[:_GENERATED_BASE] + "".join(secrets.choice(_ALPHABET) for _ in range(5))
            if self.store.get(resource.plural, (namespace, name)) is None:
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
            raise forbidden(call.resource, name, why)

    # -- updating ------------------------------------------------------------------------------------------------

    def update(self, call: Call, body: Any) -> Stored:
        """PUT: replace the object, or its status."""
        current = self.store.get(call.resource.plural, call.key)
        if current is None:
            raise not_found(call.resource, call.name)
        return self._update(call, current, decode_body(call, body, self.context.types))

    def patch(self, call: Call, content_type: str, body: Any) -> tuple[Stored, bool]:
        """PATCH with any of the patch types; an apply creates what is not there, and then the flag is set."""
        current = self.store.get(call.resource.plural, call.key)
        if current is None and content_type == patch.APPLY and not call.subresource and isinstance(body, dict):
            return self.create(call, {**body, "metadata": {**(body.get("metadata") or {}), "name": call.name}}), True
        if current is None:
            raise not_found(call.resource, call.name)
        try:
            patched = patch.patched(self.context.types, call.resource.definition, content_type, current.obj, body)
        except patch.PatchError as error:
            raise bad_request(str(error)) from error
        return self._update(call, current, decode_body(call, patched, self.context.types)), False

    def _update(self, call: Call, current: Stored, new: Object) -> Stored:
        resource, old = call.resource, current.obj
        meta, old_meta = new["metadata"], old["metadata"]
        if (meta.get("name") or call.name) != call.name:
            raise bad_request(f"the name of the object ({meta['name']}) is not the one of the URL ({call.name})")
        meta["name"] = call.name
        self._check_namespace(call, new)
        if meta.get("uid") and meta["uid"] != old_meta["uid"]:
            if call.verb == "patch":
                raise invalid(resource, call.name, [invalid_value("metadata.uid", meta["uid"], "field is immutable")])
            raise conflict(resource, call.name, f"its uid is {old_meta['uid']}, not {meta['uid']}")
        if meta.get("resourceVersion") and meta["resourceVersion"] != old_meta["resourceVersion"]:
            raise conflict(resource, call.name)
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
                     "resourceVersion", "generateName"):  # fmt: skip
            meta.pop(name, None)
            if name in old_meta:
                meta[name] = old_meta[name]
        meta.pop("managedFields", None)
        errors = self._restrict(call, new, old)
        strip_empty(resource, new, self.context.types)
        if resource.generation and call.subresource != "status" and new.get("spec") != old.get("spec"):
            meta["generation"] = old_meta.get("generation", 0) + 1
        self._raise_invalid(resource, call.name, errors)
        self._admit(call, "UPDATE", new, old)
        if new == old:
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
            # The core group's kinds are older than this rule.
            for key in ("labels", "annotations", "finalizers", "ownerReferences") if resource.group else ():
                _restore(new["metadata"], old["metadata"], key)
            resource.prepare_status(new, old, self.context)
            errors = rules_meta.validate_meta(new, old, resource)
            return errors + self._authorize_status(call, new, old) + resource.validate_status(new, old, self.context)
        if resource.status:
            _restore(new, old, "status")
        if call.subresource == "resize":
            for key in ("labels", "annotations", "finalizers", "ownerReferences"):
                _restore(new["metadata"], old["metadata"], key)
            resource.prepare(new, old, self.context)
            rules_core.prepare_resize(new, old)
            return rules_meta.validate_meta(new, old, resource) + rules_core.validate_resize(new, old)
        resource.prepare(new, old, self.context)
        return rules_meta.validate_meta(new, old, resource) + resource.validate(new, old, self.context)

    def _authorize_status(self, call: Call, new: Object, old: Object) -> list[FieldError]:
        gate = "DRAResourceClaimGranularStatusAuthorization"
        if call.resource.kind != "ResourceClaim" or gate not in self.context.gates:
            return []
        return status_authorization.check(call, new, old, self.authorize)

    def _raise_invalid(self, resource: Resource, name: str, errors: list[FieldError]) -> None:
        if errors:
            raise invalid(resource, name, errors)

    def _save(self, call: Call, key: tuple[str, str], obj: Object) -> Stored:
        if call.dry_run:
            return Stored(obj, self.store.version)
        return self.store.put(call.resource.plural, key, obj)

    # -- deleting ------------------------------------------------------------------------------------------------

    def delete(self, call: Call, options: Mapping[str, Any]) -> tuple[Stored, bool]:
        """DELETE. The flag says whether the object is gone (it may stay for finalizers or graceful deletion)."""
        current = self.get(call)
        resource, meta = call.resource, current.obj["metadata"]
        deletion.check_preconditions(call, meta, options.get("preconditions") or {})
        grace = deletion.grace_period(resource, current.obj, options)
        if resource is NAMESPACES and call.name in SYSTEM_NAMESPACES:
            raise forbidden(resource, call.name, "this namespace may not be deleted")
        self._admit(call, "DELETE", None, current.obj)
        keeps = resource is NAMESPACES  # until the garbage collector has emptied it
        if not meta.get("finalizers") and not grace and not keeps:
            return self._remove(call), True
        waiting = deletion.marked(current.obj, grace, self.context.now())
        return (self._save(call, call.key, waiting) if waiting else current), False

    def _remove(self, call: Call) -> Stored:
        if call.dry_run:
            return self.get(call)
        return self.store.remove(call.resource.plural, call.key)

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
            raise invalid(call.resource, call.name, [required("target.name")])
        deletion.check_preconditions(call, current.obj["metadata"], body.get("metadata") or {})
        if current.obj["metadata"].get("deletionTimestamp"):
            raise conflict(call.resource, call.name, f"pod {call.name} is being deleted, cannot be assigned to a host")
        assigned = current.obj["spec"].get("nodeName")
        if assigned:
            raise conflict(call.resource, call.name, f'pod {call.name} is already assigned to node "{assigned}"')
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
        oldest = self.store.collection(resource.plural).forgotten
        if version < oldest:
            raise expired(version, oldest)
        if version > self.store.version:
            raise too_large_version(version, self.store.version)


def _restore(new: Object, old: Object, key: str) -> None:
    new.pop(key, None)
    if key in old:
        new[key] = old[key]
