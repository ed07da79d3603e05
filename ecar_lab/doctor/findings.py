"""What the doctor says: one :class:`Finding` a line, and how they are told, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: ``ok``; ``note``: something is missing that the demo can do without; ``wrong``: the
            demo cannot run.
        value: what was found, in words.
        remedy: what to do about it; empty where nothing needs doing.
    """

    name: str
    status: Status
    value: str
    remedy: str = ""


def report(findings: list[Finding], verdict: str = "`ecar demo` will run") -> str:
    """The findings as text: one line each, the remedy under it, the verdict at the end.

    Args:
        verdict: what to say if nothing is wrong.
    """
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:>5}  {finding.name:<{width}}  {finding.value}")
        if finding.remedy:
            lines.append(f"{'':>5}  {'':<{width}}  -> {finding.remedy}")
    wrong = sum(finding.status == "wrong" for finding in findings)
    if wrong:
        verdict = f"{wrong} wrong: put right what is marked so"
    return "\n".join([*lines, "", verdict])


def as_dict(findings: list[Finding]) -> dict:
    """The findings ready for JSON, with ``ok`` = nothing is wrong (the demo can run)."""
    return {
        "ok": all(finding.status != "wrong" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
