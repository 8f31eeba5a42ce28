"""What a data set holds: counts, hours, drops by reason, and how its numbers are spread."""

import json
from collections import Counter
from typing import Any

import numpy as np

from pipelines import quarantine, shards
from xnemo_platform import manifest

_BAR = " ▁▂▃▄▅▆▇█"


def summarise(output: str) -> dict[str, Any]:
    """Counts of a data set, from its manifest, shards and quarantine alone."""
    table = manifest.read(output)
    reader = shards.ClipReader(output)
    facts = reader.table(["identity", "split", "n_frames", "fps"]).to_pylist()
    notes = [json.loads(text) for text in table["notes"].to_pylist() if text]
    dropped: Counter[str] = Counter()
    for note in notes:
        dropped.update(note.get("dropped", {}))
    splits = sorted({row["split"] for row in facts})
    return {
        "output": output,
        "dataset": manifest.description(output)["dataset"],
        "clips": len(reader),
        "frames": sum(row["n_frames"] for row in facts),
        "hours": round(sum(row["n_frames"] / row["fps"] for row in facts) / 3600, 4),
        "identities": len({row["identity"] for row in facts}),
        "splits": {
            name: {
                "clips": sum(row["split"] == name for row in facts),
                "identities": len({row["identity"] for row in facts if row["split"] == name}),
            }
            for name in splits
        },
        "decoded_frames": sum(note.get("frames", 0) for note in notes),
        "dropped_frames": dict(sorted(dropped.items())),
        "quarantined": dict(sorted(Counter(row["code"] for row in quarantine.read(output)).items())),
        "shards": sum(bool(name) for name in table["shard"].to_pylist()),
        "bytes": sum(table["bytes"].to_pylist()),
        "manifest_sha256": reader.digest,
    }


def histograms(output: str, bins: int = 16) -> dict[str, dict[str, Any]]:
    """How clips are spread over {"seconds", "source_fps", "min_face_px", "sharpness", "max_jump",
    "detection_rate", "clips_per_identity"}: {"counts" [bins], "edges" [bins + 1], "median"}; and how many have
    each emotion, as {"emotion": {name: clips}} where some have one. Equal numbers are one bin."""
    rows = (
        shards.ClipReader(output).table(["identity", "n_frames", "fps", "source_fps", "quality", "emotion"]).to_pylist()
    )
    if not rows:
        return {}
    values: dict[str, list[float]] = {
        "seconds": [row["n_frames"] / row["fps"] for row in rows],
        "source_fps": [row["source_fps"] for row in rows],
        **{name: [row["quality"][name] for row in rows] for name in rows[0]["quality"]},
        "clips_per_identity": list(map(float, Counter(row["identity"] for row in rows).values())),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, numbers in values.items():
        # numpy widens the range of equal numbers by one half to either side, which reads as a spread
        counts, edges = (
            np.histogram(numbers, bins) if np.ptp(numbers) else (np.array([len(numbers)]), np.array(numbers[:2]))
        )
        found[name] = {"counts": counts.tolist(), "edges": edges.tolist(), "median": float(np.median(numbers))}
    emotions = Counter(row["emotion"] for row in rows if row["emotion"])
    return found | ({"emotion": dict(sorted(emotions.items()))} if emotions else {})


def drawn(histogram: dict[str, Any]) -> str:
    """A histogram as one line: least, bars, most, median."""
    most = max(histogram["counts"])
    bars = "".join(_BAR[-(-8 * count // most)] for count in histogram["counts"])
    edges = histogram["edges"]
    return f"{edges[0]:>10.4g} {bars} {edges[-1]:<10.4g} median {histogram['median']:.4g}"
