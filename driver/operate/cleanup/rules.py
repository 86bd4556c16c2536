"""What this driver makes on a node: pure. docs/records.md says what each file is for."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Any

from driver.base import files, layout
from driver.cdi import cdi_kind, spec_file_name
from driver.claims import DamagedRecordError, decode
from driver.hardware import STATE_FILE
from driver.health import CONDITIONS_FILE
from driver.inventory import NAMES_FILE
from driver.operate.cleanup.walk import Rule

if TYPE_CHECKING:
    from driver.operate.cleanup.walk import Check

_UID = r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def in_plugins_dir(driver: str) -> tuple[Rule, ...]:
    """The driver's own directory, and nothing else in the kubelet's."""
    return (Rule(name=re.escape(driver), what="the driver's directory", kind=stat.S_IFDIR, inside=_plugin(driver)),)


def in_registry_dir(driver: str) -> tuple[Rule, ...]:
    """Registration sockets, as killed instances leave them."""
    name = rf"{re.escape(driver)}(-{_UID})?-reg\.sock"
    return (Rule(name=name, what="a registration socket", kind=stat.S_IFSOCK),)


def in_cdi_root(driver: str) -> tuple[Rule, ...]:
    """CDI specs of claims, and where they are written before they are moved into place."""
    name = re.escape(spec_file_name(driver, "UID")).replace("UID", _UID)
    staged = Rule(name=f"{name}|{_unfinished(name)}", what="an unfinished CDI spec")
    return (
        Rule(name=name, what="a CDI spec", check=_of_kind(cdi_kind(driver))),
        Rule(name=re.escape(f".{driver}"), what="a directory for CDI specs", kind=stat.S_IFDIR, inside=(staged,)),
    )


def in_shm(driver: str) -> tuple[Rule, ...]:
    """Where MPS daemons had their shared memory; each has removed what was in its own."""
    return (
        Rule(
            name=rf"{re.escape(driver)}(-(claim|device)-{_UID})?",
            what="a directory for shared memory",
            kind=stat.S_IFDIR,
        ),
    )


def _unfinished(name: str) -> str:
    """Regular expression: files of such names while they are written."""
    return rf"\.({name}){files.TEMPORARY}"


_QUARANTINED = rf"{_UID}\.[0-9a-f]{{8}}\.json(\.odd)?|{_UID}\.ended|{_unfinished(rf'{_UID}.ended')}"
"""Damaged records, whatever they are, and what former versions kept beside them."""


def _plugin(driver: str) -> tuple[Rule, ...]:
    return (
        *_directories(driver),
        _file(re.escape(CONDITIONS_FILE), "the devices' conditions", _with_keys("schema", "bootID", "conditions")),
        _file(rf"{re.escape(CONDITIONS_FILE)}\.damaged", "damaged conditions"),
        _file(rf"\.{re.escape(CONDITIONS_FILE)}(\.[0-9]+|{files.TEMPORARY})", "unfinished conditions"),
        _file(re.escape(NAMES_FILE), "the GPUs' names", _with_keys("schema", "bootID", "names")),
        _file(rf"\.{re.escape(NAMES_FILE)}(\.new|{files.TEMPORARY})", "unfinished names"),
        _file(re.escape(STATE_FILE), "the state of fake hardware", _object),
        _file(rf"{re.escape(STATE_FILE)}\.damaged", "a damaged state of fake hardware"),
        _file(rf"\.{re.escape(STATE_FILE)}\.lock", "the fake hardware's lock"),
        _file(rf"\.{re.escape(STATE_FILE)}(\.new|{files.TEMPORARY})", "an unfinished state of fake hardware"),
        _file(re.escape(layout.ACCOUNTS), "how long claims held GPUs", _with_keys("schema", "bootID", "lines")),
        _file(_unfinished(re.escape(layout.ACCOUNTS)), "unfinished sums of how long claims held GPUs"),
        _file(rf"\.leaving-{_UID}\.lock", "a lock of drain-check"),
        Rule(name=rf"dra(-{_UID})?\.sock", what="a DRA socket", kind=stat.S_IFSOCK),
    )


def _directories(driver: str) -> tuple[Rule, ...]:
    return (
        _directory(
            layout.CLAIMS,
            "the directory of records",
            _file(rf"{_UID}\.json", "a claim's record", _record_of(driver)),
            _file(_unfinished(rf"{_UID}\.json"), "an unfinished record"),
            _file(rf"{_UID}(\.[0-9a-f]{{8}})?\.tmp", "an unfinished record of a former version"),
            _file(r"\.lock", "a lock"),
            _file(r"\.[-A-Za-z0-9_]+\.lock", "a GPU's lock"),
        ),
        _directory(
            layout.ENDED,
            "the directory of ended claims' records",
            _file(rf"{_UID}\.[0-9]{{1,15}}\.json", "an ended claim's record", _record_of(driver)),
        ),
        _directory(
            layout.QUARANTINE,
            "the directory of damaged records",
            *(
                Rule(name=_QUARANTINED, what="what lay in a record's place", kind=kind)
                for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFLNK, stat.S_IFSOCK, stat.S_IFDIR)
            ),
        ),
        _directory(
            layout.METADATA,
            "the directory of device metadata",
            _directory(
                _UID,
                "a claim's device metadata",
                _directory(
                    _LABEL,
                    "a request's device metadata",
                    _file(r"metadata\.json", "a device metadata file", _metadata),
                    _file(_unfinished(r"metadata\.json"), "an unfinished device metadata file"),
                    _file(r"metadata\.tmp", "an unfinished device metadata file of a former version"),
                ),
            ),
        ),
        _directory(
            layout.INSTANCES,
            "the directory of instances",
            _file(r"[0-9]{8,18}-[0-9a-f]{32}", "an instance's lock"),
            _file(r"\.entering-[0-9a-f]{32}", "an instance's lock"),
        ),
        _directory(layout.MPS, "the directory of MPS daemons"),
    )


def _file(name: str, what: str, check: Check | None = None) -> Rule:
    return Rule(name=name, what=what, check=check)


def _directory(name: str, what: str, *inside: Rule) -> Rule:
    return Rule(name=name, what=what, kind=stat.S_IFDIR, inside=inside)


def _record_of(driver: str) -> Check:
    def check(name: str, content: bytes) -> bool:
        try:
            return decode(content, uid=name.partition(".")[0]).driver == driver
        except DamagedRecordError:
            return False

    return check


def _of_kind(kind: str) -> Check:
    return lambda _name, content: _load(content).get("kind") == kind


def _with_keys(*keys: str) -> Check:
    return lambda _name, content: all(key in _load(content) for key in keys)


def _metadata(_name: str, content: bytes) -> bool:
    # A line for each version of the format; up to version 0.1 one object on many lines.
    return (_load(content.partition(b"\n")[0]) or _load(content)).get("kind") == "DeviceMetadata"


def _object(_name: str, content: bytes) -> bool:
    return bool(_load(content))


def _load(content: bytes) -> dict[str, Any]:
    try:
        return files.parse(content)
    except ValueError:
        return {}
