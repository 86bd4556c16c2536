"""Secrets out of text: those that are known by their value, and what looks like one. Pure but for ``known_secrets``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import yaml

from driver.base import files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

GONE = "[removed]"
SHORTEST = 6
"""Characters of a value that is looked for everywhere: a shorter one would take away half of a text."""

_TELLING = r"(?:password|passwd|secret|token|credential|authorization|api[-_]?key|access[-_]?key|private[-_]?key)"
_SECRET_NAME = re.compile(rf"(?i){_TELLING}|(?:^|_)(?:KEY|AUTH|PASS|PWD)(?:$|_)")
_LONG = re.compile(r"(?<![\w-])(?!(?:GPU|MIG)-[0-9a-f]{8}-)(?=[\w-]*[0-9])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{32,}")
"""Digits, capitals and small letters, 32 of them without a break: no name of ours, and no UUID, looks like that."""
# What repeats is bounded where it could begin anywhere: else a long line would take for ever.
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----(?:[A-Za-z0-9+/=\s]|\\[nr])*(?:-----END [A-Z0-9 ]+-----)?"), GONE),
    (re.compile(r"""(?i)\b(bearer|basic)\s+[^\s"',]+"""), rf"\1 {GONE}"),
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*)*"), GONE),
    (
        re.compile(
            rf"""(?i)({_TELLING}[\w.-]{{0,64}}\\?["']?\s{{0,4}}[=:]\s{{0,4}}\\?["']?)(?!\[removed|true\b|false\b)[^\s"',;}}\\]+"""
        ),
        rf"\1{GONE}",
    ),
    (re.compile(rf"""(?i)(-[\w-]{{0,32}}{_TELLING}[\w-]{{0,32}}\s{{1,4}})[^\s"',]+"""), rf"\1{GONE}"),
    (re.compile(r"(://)[^/\s:@]{0,256}:[^/\s@]{1,4096}@"), rf"\1{GONE}@"),
    (re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), GONE),
    (_LONG, GONE),
)


def scrub(text: str, known: Collection[str]) -> str:
    """The text without the ``known`` secrets and without what looks like one."""
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, GONE)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def known_secrets(
    *, environment: Mapping[str, str], kubeconfig: Path | None, tokens: Collection[Path]
) -> frozenset[str]:
    """Values that must not leave this machine: of variables with such names, of credentials, of tokens' files."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    found |= set(_texts((_document(kubeconfig) or {}).get("users"))) if kubeconfig is not None else set()
    for path in tokens:
        try:
            found.add(files.read(os.fspath(path)).decode(errors="replace").strip())
        except OSError:
            continue  # where there is none, none can be told
    return frozenset(secret for secret in found if len(secret) >= SHORTEST)


def _document(path: Path) -> dict[str, Any] | None:
    try:
        loaded = yaml.safe_load(files.read(os.fspath(path)))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)
