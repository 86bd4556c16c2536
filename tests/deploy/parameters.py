"""The policy for opaque parameters, made from their JSON Schemas: `make manifests`; a test compares.

Its variables follow the definitions of the schemas. ``MpsConfig`` has each such object, with where it is;
``ofMpsConfig`` has what is wrong with each: lists of where and what, or of where, the value that was given, and what
is expected. A fourth item says that the value is not to be quoted.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import yaml

from driver.claims.config import API_VERSION, LONGEST_KEY, MOST_SHOWN, json_schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

Schema = dict[str, Any]

MOST_FIELDS = 16
"""Of an object, before they are counted and not named: a policy has a budget for each request."""
MOST_ENTRIES = 64
"""Of a map, before it is left to the node: a claim has at most 32 devices, each by UUID or by index."""
LONGEST_QUANTITY = 80
"""Characters; none that the pattern takes is longer."""

# Not typed: each kind of object has its configs at another place.
CONFIGS = """\
(dyn(object).kind == 'DeviceClass' ? dyn(object).spec.?config.orValue([])
: dyn(object).kind == 'ResourceClaim' ? dyn(object).spec.?devices.?config.orValue([])
: dyn(object).spec.spec.?devices.?config.orValue([]))"""
OURS = "has(c.opaque) && c.opaque.driver == '$DRIVER'"
# What a class has had since before the policy is no reason to refuse another change of it.
CHANGED = "oldObject == null || dyn(object).spec.?config != dyn(oldObject).spec.?config"


def spec() -> str:
    """The policy's spec for Helm; $DRIVER stands for the driver's name."""
    schemas = json_schemas()
    definitions: dict[str, Schema] = schemas | dict(chain.from_iterable(s["$defs"].items() for s in schemas.values()))
    variables = {
        "parameters": f"{CONFIGS}\n.filter(c, {OURS}).map(c, c.opaque.parameters)",
        "ofUnknown": _unknown(schemas),
    }
    for name in _outside_in(definitions):
        variables[name] = _objects(name, definitions)
        variables[f"of{name}"] = _problems(name, definitions)
    all_problems = " + ".join(f"variables.{name}" for name in variables if name.startswith("of"))
    variables["problems"] = f"({all_problems}).filter(some, size(some) > 0)"
    shown = _shown("one[1]", openly="size(one) == 3")
    one = f"one[0] + (size(one) == 2 ? ' ' + one[1] : ' was given ' + {shown} + ': ' + one[2])"
    found = {
        # What cannot be evaluated is left to the node, which checks all of it again.
        "failurePolicy": "Ignore",
        "matchConstraints": {
            "matchPolicy": "Equivalent",
            "resourceRules": [
                # The spec of a claim or of a template does not change.
                _rule("resourceclaims", "resourceclaimtemplates", operations=["CREATE"]),
                _rule("deviceclasses", operations=["CREATE", "UPDATE"]),
            ],
        },
        "matchConditions": [
            {"name": "driver", "expression": _Block(f"{CONFIGS}\n.exists(c, {OURS})")},
            {"name": "changed", "expression": CHANGED},
        ],
        "variables": [{"name": name, "expression": _Block(text)} for name, text in variables.items()],
        "validations": [
            {
                "expression": "size(variables.problems) == 0",
                "messageExpression": _Block(
                    "'parameters for driver $DRIVER: '\n"
                    f"+ variables.problems.map(some, some.map(one,\n  {one}).join('; ')).join('; ')"
                ),
                "message": "parameters for driver $DRIVER have fields or values that it does not accept",
            }
        ],
    }
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=1000)


def _rule(*resources: str, operations: list[str]) -> Schema:
    groups = {"apiGroups": ["resource.k8s.io"], "apiVersions": ["v1"]}
    return {**groups, "operations": operations, "resources": list(resources), "scope": "*"}


def _unknown(schemas: dict[str, Schema]) -> str:
    known = f"has(p.kind) && p.kind in {_words(schemas)} && has(p.apiVersion) && p.apiVersion == {_text(API_VERSION)}"
    given = [f"'{name} ' + {_shown(f'p.?{name}.orValue(null)')}" for name in ("apiVersion", "kind")]
    accepted = f"are not known: {API_VERSION} with {', '.join(schemas)} is accepted"
    return f"variables.parameters.filter(p, !({known})).map(p, [[\n  {given[0]} + ' and '\n  + {given[1]},\n" + (
        f"  {_text(accepted)}]])"
    )


def _outside_in(definitions: dict[str, Schema]) -> list[str]:
    """Names of the definitions, each after all that refer to it."""
    found: list[str] = []
    while len(found) < len(definitions):
        rest = {name: schema for name, schema in definitions.items() if name not in found}
        inner = {_reference(field) for schema in rest.values() for field in schema["properties"].values()}
        found += [name for name in rest if name not in inner]
    return found


def _objects(name: str, definitions: dict[str, Schema]) -> str:
    """All objects of a definition: ``is`` the object, ``at`` where it is."""
    if "kind" in definitions[name]["properties"]:
        return (
            f"variables.parameters.filter(p, p.?kind.orValue(null) == '{name}' && p.?apiVersion.orValue(null) == "
            f"{_text(API_VERSION)})\n.map(p, {{'at': dyn('{name}'), 'is': p}})"
        )
    return "\n+ ".join(
        f"variables.{parent}.filter(o, has(o.is.{field}) && type(o.is.{field}) == map)"
        f".map(o, {{'at': dyn(o.at + '.{field}'), 'is': o.is.{field}}})"
        for parent, schema in definitions.items()
        for field, part in schema["properties"].items()
        if _reference(part) == name
    )


def _problems(name: str, definitions: dict[str, Schema]) -> str:
    """What is wrong with each object of a definition: a line of CEL for each rule."""
    objects, schema = f"variables.{name}", definitions[name]
    fields = schema["properties"]
    accepted = f"accepted: {', '.join(fields)}"
    count = "dyn(o.at + ' has ' + string(size(o.is)) + ' fields;')"
    lines = [
        f"(size(o.is) > {MOST_FIELDS} ? [[{count}, dyn({_text(accepted)})]]",
        f"  : o.is.filter(k, !(k in {_words(fields)})).map(k, [dyn(o.at + '.' + {_key('k')}), "
        f"dyn({_text(f'is not a known field; {accepted}')})]))",
    ]
    for name, field in fields.items():
        where, value = f"o.at + '.{name}'", f"o.is.{name}"
        expected = _expected(field, definitions)
        if name in schema.get("required", ()) and "const" not in field:
            lines.append(f"+ (has({value}) ? [] : [[dyn({where}), dyn({_text(f'is missing: {expected}')})]])")
        lines += _of_field(where, value, field, expected)
    for rule in schema.get("allOf", ()):
        [(chosen, wanted)] = rule["if"]["properties"].items()
        [name] = rule["then"]["properties"]
        for other in fields[chosen]["enum"]:
            if other != wanted["not"]["const"]:
                clash = _text(f"{name} does not go with the {chosen} '{other}'")
                is_other = f"o.is.?{chosen}.orValue(null) == '{other}' && o.is.?{name}.orValue(null) != null"
                lines.append(f"+ ({is_other} ? [[dyn(o.at), o.is, dyn({clash})]] : [])")
    return f"{objects}.map(o,\n  " + "\n  ".join(lines) + ")"


def _of_field(where: str, value: str, schema: Schema, expected: str) -> list[str]:
    match schema:
        case {"const": _}:
            return []  # apiVersion and kind: the object would not be here
        case {"anyOf": [inner, {"type": "null"}]}:
            null = f"{value} == null || "
        case _:
            null, inner = "", schema
    hidden = ", dyn('hidden')" if _good(inner, value) == f"type({value}) == map" else ""
    found = [
        f"+ (!has({value}) || {null}{_good(inner, value)} ? []",
        f"  : [[dyn({where}), {value}, dyn({_text(expected)}){hidden}]])",
    ]
    if "additionalProperties" in inner:
        entry = inner["additionalProperties"]
        found += [
            f"+ (!has({value}) || type({value}) != map || size({value}) > {MOST_ENTRIES} ? []",
            f"  : {value}.filter(k, !({_good(entry, f'{value}[k]')}))",
            f"  .map(k, [dyn({where} + '.' + {_key('k')}), {value}[k], dyn({_text(entry['description'])})]))",
        ]
    return found


def _good(schema: Schema, value: str) -> str:
    match schema:
        case {"$ref": _} | {"type": "object"}:
            return f"type({value}) == map"
        case {"enum": words}:
            return f"{value} in {_words(words)}"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"type({value}) == int && {value} >= {least} && {value} <= {most}"
        case {"type": "boolean"}:
            return f"type({value}) == bool"
        case {"x-minimum-quantity": least, "x-maximum-quantity": most, "pattern": pattern}:
            return (
                f"type({value}) == string && size({value}) <= {LONGEST_QUANTITY} && {value}.matches(r'{pattern}')"
                f" && quantity({value}).compareTo(quantity('{least}')) >= 0"
                f" && quantity({value}).compareTo(quantity('{most}')) <= 0"
            )
    raise NotImplementedError(f"no rule in CEL for {schema}")


def _expected(schema: Schema, definitions: dict[str, Schema]) -> str:
    match schema:
        case {"anyOf": [inner, {"type": "null"}]}:
            return _expected(inner, definitions)
        case {"$ref": _}:
            return f"an object with {', '.join(definitions[_reference(schema)]['properties'])} is expected"
        case {"type": "object"}:
            return "an object is expected"
        case {"enum": [*words, last]}:
            return f"{', '.join(map(repr, words))} or {last!r} is expected"
        case {"const": word}:
            return f"{word!r} is expected"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"a whole number from {least} to {most} is expected"
        case {"type": "boolean"}:
            return "true or false is expected"
    return str(schema["description"])


def _reference(schema: Schema) -> str:
    """The name of the definition that a field is of."""
    inner = schema["anyOf"][0] if "anyOf" in schema else schema
    return str(inner.get("$ref", "")).rpartition("/")[2]


def _shown(value: str, *, openly: str = "true") -> str:
    """A value as it is, if it is short; what it is, if not, or if it should be an object: it may be a password."""
    number = f"type({value}) == int || type({value}) == double"
    return (
        f"(type({value}) == string ? ({openly} && size({value}) <= {MOST_SHOWN} ? \"'\" + {value} + \"'\" : 'a string')"
        f" : {number} ? ({openly} ? string({value}) : 'a number')"
        f" : type({value}) == bool ? ({openly} ? string({value}) : 'a boolean')"
        f" : type({value}) == map ? 'an object' : type({value}) == list ? 'a list' : 'nothing')"
    )


def _key(key: str) -> str:
    return f"(size({key}) <= {LONGEST_KEY} ? {key} : {key}.substring(0, {LONGEST_KEY}))"


def _words(words: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, words))}]"


def _text(word: str) -> str:
    """A literal of CEL."""
    quote = '"' if "'" in word else "'"
    return f"{quote}{word}{quote}"


class _Block(str):
    """Text that is written line by line."""


class _Dumper(yaml.SafeDumper):
    """YAML as people write it."""


_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))
