"""Findings for people and for machines: pure."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import click

from driver.operate.doctor.findings import Finding, Level, exit_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARKS = {
    Level.OK: ("ok", "green"),
    Level.UNKNOWN: ("?", "bright_black"),
    Level.WARNING: ("warning", "yellow"),
    Level.PROBLEM: ("PROBLEM", "red"),
}
_MARGIN = 10


def as_text(sections: Mapping[str, Sequence[Finding]], *, width: int = 110) -> str:
    """A paragraph for each finding, remedies below; what is wrong comes first in each section."""
    lines = []
    for title, findings in sections.items():
        lines += [click.style(title, bold=True), ""]
        order = [Level.PROBLEM, Level.WARNING, Level.OK, Level.UNKNOWN]
        for finding in sorted(findings, key=lambda f: order.index(f.level)):
            mark, colour = _MARKS[finding.level]
            text = _wrapped(finding.sentence, width)
            lines.append(click.style(f"  {mark:<{_MARGIN - 2}}", fg=colour) + text.lstrip())
            if finding.remedy:
                lines.append(_wrapped(f"-> {finding.remedy}", width, hanging="   "))
        lines.append("")
    everything = [finding for findings in sections.values() for finding in findings]
    return "\n".join([*lines, _summary(everything)])


def as_plain_text(sections: Mapping[str, Sequence[Finding]]) -> str:
    """The same without colours, for a file."""
    return click.unstyle(as_text(sections)) + "\n"


def as_json(sections: Mapping[str, Sequence[Finding]]) -> str:
    """An object with all findings and the exit status."""
    findings = [
        {
            "section": title,
            "check": finding.check,
            "level": finding.level.value,
            "about": finding.about,
            "sentence": finding.sentence,
            "remedy": finding.remedy,
        }
        for title, found in sections.items()
        for finding in found
    ]
    everything = [finding for found in sections.values() for finding in found]
    return json.dumps({"status": exit_status(everything), "findings": findings}, indent=2)


def _summary(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    if not problems and not warnings:
        return "nothing is wrong"
    return f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}"


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _wrapped(text: str, width: int, *, hanging: str = "") -> str:
    margin = " " * _MARGIN
    return textwrap.fill(
        text,
        width,
        initial_indent=margin,
        subsequent_indent=margin + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
