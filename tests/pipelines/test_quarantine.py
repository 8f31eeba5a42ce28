"""Rejected inputs are rows, one per input."""

import pytest

from pipelines import quarantine


def row(name: str, code: str = "truncated") -> dict:
    return {
        "source_uri": f"/v/{name}.mp4",
        "fingerprint": name,
        "sha256": "",
        "stage": "decode",
        "code": code,
        "message": "cut short",
        "attempts": 1,
    }


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_rows_are_kept_sorted_and_once_per_input(kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    uri = str(tmp_path) if kind == "local" else f"memory://quarantine-{tmp_path.name}"
    assert quarantine.read(uri) == []
    quarantine.enter(uri, [row("b"), row("a")])
    quarantine.enter(uri, [row("b", "timeout")])
    assert [(r["fingerprint"], r["code"]) for r in quarantine.read(uri)] == [("a", "truncated"), ("b", "timeout")]
