"""A DFEW subset of 100 expressive clips from a local copy (the paper's own list is unpublished; recipe G).

Single-label set, seven classes, test part of fold 1, at least 8 of 10 annotators agree, one face of at least 128 pixels
in the frames that are looked at, at least 48 frames; the clips of a class whose arousal varies most by EmoNet, 15, 15
and five times 14. Without EmoNet's weights `--rank seed` draws from the same candidates instead; the manifest says so.

On disk: `EmoLabel_DataSplit/test(single-labeled)/set_1.csv` (video_name, label 1 to 7), `Annotation/annotation.csv`
(the sheet annotation.xlsx saved as CSV: order, then the votes 1happy … 7fear) and the clips `<number>.mp4` anywhere
below `Clip/`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipelines.evaluation.pairs import VIDEOS, Pair, sha256
from xnemo_platform.errors import PlatformError

if TYPE_CHECKING:
    from xnemo.metrics.emotion import EmoNet

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
QUOTA = (15, 15, 14, 14, 14, 14, 14)
MIN_VOTES, MIN_FACE, MIN_FRAMES, LOOKS = 8, 128, 48, 5


def subset(
    root: Path, seed: int = 0, rank: Literal["emonet", "seed"] = "emonet", weights: Mapping[str, str] | None = None
) -> tuple[list[Pair], dict[str, Any]]:
    """The clips as pairs without portraits (group: the class), and what was left out by reason.

    Raises PlatformError for a copy without labels, votes or clips; XNeMoError (NotComputed) without EmoNet.
    """
    from xnemo.metrics.emotion import load_emonet

    network = load_emonet(weights) if rank == "emonet" else None
    labels = {
        int(r["video_name"]): int(r["label"])
        for r in _table(root / "EmoLabel_DataSplit" / "test(single-labeled)" / "set_1.csv", ("video_name", "label"))
    }
    votes = _votes(root / "Annotation" / "annotation.csv")
    clips = {
        int(p.stem): p for p in sorted((root / "Clip").rglob("*")) if p.suffix.lower() in VIDEOS and p.stem.isdigit()
    }
    if not clips:
        raise PlatformError(f"{root / 'Clip'}: no clips named by their number (1.mp4) here.")
    dropped = {"annotators disagree": 0, "no clip": 0, "short": 0, "face": 0, "unreadable": 0}
    candidates: dict[int, list[tuple[float, int]]] = {label: [] for label in range(1, 8)}
    for number, label in sorted(labels.items()):
        reason, score = _judge(number, label, votes, clips, network, seed)
        if reason:
            dropped[reason] += 1
        else:
            candidates[label].append((-score, number))
    pairs = []
    for label, quota in enumerate(QUOTA, 1):
        for _, number in sorted(candidates[label])[:quota]:
            path = clips[number]
            pairs.append(Pair(f"dfew-{number:05}", "", str(path), CLASSES[label - 1], "", sha256(path)))
    short = {
        CLASSES[label - 1]: QUOTA[label - 1] - len(c) for label, c in candidates.items() if len(c) < QUOTA[label - 1]
    }
    return pairs, {"set": "DFEW", "seed": seed, "rank": rank, "dropped": dropped, "missing_of_quota": short}


def _judge(
    number: int,
    label: int,
    votes: Mapping[int, list[int]],
    clips: Mapping[int, Path],
    network: EmoNet | None,
    seed: int,
) -> tuple[str, float]:
    """Why a clip is left out, or "" and its rank: the variance of its arousal, or a number drawn for it."""
    from xnemo.media.limits import MediaError
    from xnemo.media.video import probe

    if votes.get(number, [0] * 7)[label - 1] < MIN_VOTES:
        return "annotators disagree", 0.0
    if number not in clips:
        return "no clip", 0.0
    try:
        if probe(clips[number]).frames < MIN_FRAMES:
            return "short", 0.0
        if not _one_face(clips[number]):
            return "face", 0.0
        if network is None:
            return "", float(np.random.default_rng([seed, 37, number]).random())
        return "", _arousal_variance(clips[number], network)
    except MediaError:
        return "unreadable", 0.0


def _one_face(path: Path) -> bool:
    """Exactly one face of the wanted size in each of a few frames spread over the clip."""
    from xnemo.media.faces import detector
    from xnemo.media.video import probe, stream_frames

    wanted = set(np.linspace(0, probe(path).frames - 1, LOOKS).round().astype(int).tolist())
    at, finder = 0, detector()
    for batch in stream_frames(path):
        for frame in batch:
            if at in wanted:
                found = finder.detect(frame, quick=True)
                if (
                    len(found) != 1
                    or max(found[0].box[2] - found[0].box[0], found[0].box[3] - found[0].box[1]) < MIN_FACE
                ):
                    return False
            at += 1
    return True


def _arousal_variance(path: Path, network: EmoNet) -> float:
    from pipelines.evaluation.videos import frames
    from xnemo.metrics import faces

    networks = faces.load_networks(metrics=())
    networks.emonet = network
    parts = [
        seen.emotion[seen.found, 1] for seen in faces.observe(frames(path, None), networks) if seen.emotion is not None
    ]
    arousal = np.concatenate([np.empty(0), *parts])
    return float(arousal.var()) if len(arousal) else 0.0


def _votes(path: Path) -> dict[int, list[int]]:
    rows = _table(path, ("1happy", "7fear"))
    key = next(iter(rows[0]))  # the running number comes first, under whatever title
    return {int(r[key]): [int(float(r[f"{i}{name}"])) for i, name in enumerate(CLASSES, 1)] for r in rows}


def _table(path: Path, needs: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file that has these columns."""
    if not path.is_file():
        raise PlatformError(f"{path} is missing: give the folder of a DFEW copy (docs/metrics.md tells its layout).")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if not rows or any(name not in rows[0] for name in needs):
            raise ValueError(f"it needs the columns {', '.join(needs)}")
    except (ValueError, csv.Error, UnicodeDecodeError) as error:
        raise PlatformError(f"{path}: not the table of DFEW ({error}).") from None
    return rows
