"""One line of a doctor's report, and how it is printed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state` is "ok", "warn" (works, with a loss) or "fail" (a run would stop)."""

    name: str
    state: str
    says: str
    mend: str = ""


def show(findings: Sequence[Finding]) -> None:
    """Each finding, and the mend below it."""
    for finding in findings:
        print(f"{finding.state:>4}  {finding.name:<12} {finding.says}", flush=True)
        if finding.mend:
            print(f"      {'':<12} → {finding.mend}", flush=True)


def verdict(findings: Sequence[Finding]) -> int:
    """The report's last line, and the exit code."""
    failed = sum(finding.state == "fail" for finding in findings)
    print("all well" if not failed else f"{failed} of {len(findings)} checks failed", flush=True)
    return 1 if failed else 0
