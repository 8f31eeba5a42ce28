"""Protocols self, cross and temporal on video files: one worker animates, another measures, one row per pair.

Frames stream in lockstep at 25 frames/s; a pair that cannot be animated or measured is a row that says why.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation import crew
from pipelines.evaluation.pairs import Pair
from pipelines.evaluation.tables import metrics_of
from pipelines.models import device, load
from xnemo_platform import storage

FPS = 25.0
SIZE = 256  # of the frames that are compared
DRIVER_SIDE = 640  # driving frames are shrunk to this longer side before their face is looked for
CRF = 8  # results are kept nearly without loss, since they are measured


def rows(pairs: list[Pair], config: Any, model_folder: Path | None, key: str) -> list[dict[str, Any]]:
    """One row per pair, in their order; what was done under the same key is taken from disk."""
    output = Path(config.output)
    for name in ("results", "rows"):
        (output / name).mkdir(parents=True, exist_ok=True)
    keys = {pair.id: _pair_key(pair, config, key) for pair in pairs}
    weights = _weights_key(config)
    done = {pair.id: row for pair in pairs if (row := _known(output, pair, keys[pair.id] + weights))}
    waiting = [pair for pair in pairs if pair.id not in done]

    def keep(pair: Pair, row: Any) -> None:
        row = row if isinstance(row, dict) else failed(pair, "worker", row)
        done[pair.id] = row
        if row["stage"] != "worker":  # a worker that died may live the next time
            storage.publish_bytes(
                str(_row_file(output, pair)), json.dumps(row | {"key": keys[pair.id] + weights}).encode()
            )

    ready: list[Pair] = []
    if config.results is None:

        def animated(pair: Pair, error: Any) -> None:
            if error is None:
                ready.append(pair)
            else:
                keep(pair, error if isinstance(error, crew.WorkerDied) else failed(pair, "animate", error))

        missing = [pair for pair in waiting if not _animated(output, pair, keys[pair.id])]
        ready += [pair for pair in waiting if pair not in missing]
        crew.work(
            Animator, (str(model_folder), config, keys), missing, config.workers, animated, "animated", config.gpus
        )
    else:
        ready = waiting
    crew.work(Meter, (config,), sorted(ready, key=pairs.index), config.workers, keep, "measured")
    return [done[pair.id] for pair in pairs]


def result_file(config: Any, pair: Pair) -> Path:
    """Where the result of a pair lies: ours, or one that somebody else's model made."""
    return (
        Path(config.results) / f"{pair.id}.mp4" if config.results else Path(config.output, "results", f"{pair.id}.mp4")
    )


def failed(pair: Pair, stage: str, error: Any) -> dict[str, Any]:
    """The row of a pair without figures."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _about(pair) | {"status": "failed", "stage": stage, "reason": text[:500]}


def _about(pair: Pair) -> dict[str, Any]:
    """What a row says of its pair: by the digests two runs can tell that they mean the same files."""
    told = {"id": pair.id, "group": pair.group}
    return told | {"portrait_sha256": pair.portrait_sha256, "driving_sha256": pair.driving_sha256}


class Animator:
    """Loads the model once; makes one result video after the other."""

    def __init__(self, model_folder: str, config: Any, keys: dict[str, str]) -> None:
        import torch

        torch.set_num_threads(1)
        self.model, self.config, self.keys = load(model_folder, device(config.device)), config, keys

    def do(self, pair: Pair) -> Exception | None:
        """Write the pair's result; whatever goes wrong is returned, for it belongs to this pair alone."""
        try:
            self.animate(pair)
        except Exception as error:  # a model may fail in any way; the others go on
            return RuntimeError(f"{type(error).__name__}: {error}") if not _plain(error) else error
        return None

    def animate(self, pair: Pair) -> None:
        """One result, and beside it the key it was made under."""
        from xnemo.animation import stream
        from xnemo.media.images import read_image
        from xnemo.media.video import write_video

        pair.check()
        itself = self.config.protocol == "self" or not pair.portrait
        made = stream(
            self.model,
            first_frame(pair.driving) if itself else read_image(pair.portrait),
            pair.driving,
            steps=self.config.steps,
            guidance_scale=self.config.guidance_scale,
            seed=self.config.seed,
            head_motion="absolute" if itself else self.config.head_motion,
            max_frames=self.config.frames_limit,
        )
        path = result_file(self.config, pair)
        write_video(path, made.frames, made.fps, crf=CRF)
        storage.publish_bytes(str(path.with_suffix(".json")), json.dumps({"key": self.keys[pair.id]}).encode())


class Meter:
    """Loads the measuring networks once; measures one result after the other."""

    def __init__(self, config: Any) -> None:
        import torch

        from xnemo.metrics import faces, weights

        torch.set_num_threads(1)
        self.config, self.networks, self.absent = config, None, ""
        try:
            self.networks = faces.load_networks(config.weights, metrics_of(config.protocol))
        except weights.NotComputed as error:
            self.absent = str(error)

    def do(self, pair: Pair) -> dict[str, Any]:
        """The pair's row."""
        try:
            pair.check()
            path = result_file(self.config, pair)
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing")
            row = _about(pair) | {"status": "ok", "stage": "", "reason": ""}
            row |= lengths(path, pair, self.config.frames_limit)
            measure = {"self": self.itself, "cross": self.cross, "temporal": self.steady}[self.config.protocol]
            return row | measure(path, pair)
        except Exception as error:  # damaged files and what codecs make of them
            return failed(pair, "measure", error if _plain(error) else f"{type(error).__name__}: {error}")

    def itself(self, result: Path, pair: Pair) -> dict[str, Any]:
        """Against the driver's own frames, all but the first, which was the reference."""
        from xnemo.metrics import faces

        sums: dict[str, float] = defaultdict(float)
        count, ahead = 0, itertools.islice(self.lockstep(result, pair), 1, None)
        while batch := list(itertools.islice(ahead, faces.BATCH)):
            made, true = (np.stack(side) for side in zip(*batch, strict=True))
            for name, values in faces.frame_figures(made, true, self.networks).items():
                sums[name] += sum(values)
            count += len(batch)
        if not count:
            raise ValueError("the result has no frame after the reference")
        return {"frames_compared": count} | {name: total / count for name, total in sums.items()}

    def cross(self, result: Path, pair: Pair) -> dict[str, Any]:
        """Identity, expression and pose, and the leak."""
        from xnemo.media.images import read_image
        from xnemo.metrics import faces
        from xnemo.metrics.cross import CrossFigures

        if self.networks is None:
            raise ValueError(self.absent)
        person = next(faces.observe([read_image(pair.portrait)], self.networks)).embedding
        figures = CrossFigures(None if person is None else person[0])
        limit = self.config.frames_limit
        made = faces.observe(frames(result, limit), self.networks)
        driven = faces.observe(frames(pair.driving, limit, DRIVER_SIDE), self.networks)
        for both in zip(made, driven, strict=False):  # the longer video is cut
            figures.add(*both)
        row: dict[str, Any] = {"frames_compared": figures.frames} | figures.figures()
        if figures.emotions:
            names = ("emotion_result", "emotion_driver")
            row |= {name: track.tolist() for name, track in zip(names, figures.emotion_tracks(), strict=True)}
        return row

    def steady(self, result: Path, pair: Pair) -> dict[str, Any]:
        """Flicker and warping error of the result, and of the driver's own frames beside them."""
        from xnemo.metrics.temporal import Flicker, WarpingError

        meters = [(Flicker(), WarpingError()) for _ in range(2)]
        count = 0
        for both in self.lockstep(result, pair):
            count += 1
            for frame, (flicker, warping) in zip(both, meters, strict=True):
                flicker.add(frame / np.float32(255))
                warping.add(frame / np.float32(255))
        (made, moved), (driven, driver_moved) = ((a.value(), b.value()) for a, b in meters)
        return {"frames_compared": count, "flicker": made, "warping_error": moved,
                "flicker_driver": driven, "warping_error_driver": driver_moved}  # fmt: skip

    def lockstep(self, result: Path, pair: Pair) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Result and driving frames of the same moments, both uint8 [256, 256, 3]; the driver's are cut by the 2.0 x
        square of the face in his first frame, as the reference is. The longer video is cut."""
        from xnemo import crops
        from xnemo.media.faces import detector
        from xnemo.media.images import resize
        from xnemo.prepare import cut

        square = None
        driving = frames(pair.driving, self.config.frames_limit)
        for made, true in zip(frames(result, self.config.frames_limit), driving, strict=False):
            if square is None:
                found = detector().detect(true)
                if not found:
                    raise ValueError("no face was found in the driver's first frame")
                box = max((np.asarray(face.box) for face in found), key=lambda b: b[2] - b[0])
                square = crops.square(box.astype(np.float64), crops.REFERENCE_SCALE)[None]
            yield resize(made, SIZE, SIZE), cut(true[None], square, SIZE)[0]


def frames(path: str | Path, limit: int | None, side: int | None = None) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, 3] at 25 frames/s, one by one, in bounded memory."""
    from xnemo.media.video import stream_frames

    for batch in stream_frames(path, fps=FPS, max_side=side, max_frames=limit):
        yield from batch


def first_frame(path: str | Path) -> np.ndarray:
    """The reference of self-reenactment."""
    return next(frames(path, 1))


def lengths(result: Path, pair: Pair, limit: int | None) -> dict[str, Any]:
    """How long and how fast both videos are: a difference is told, not hidden."""
    from xnemo.media.video import probe

    made, driver = probe(result), probe(pair.driving)
    return {
        "fps_result": float(made.fps), "fps_driving": float(driver.fps),
        "frames_result": made.frames, "frames_driving": min(driver.frames, limit or driver.frames),
        "size_result": f"{made.width}x{made.height}",
    }  # fmt: skip


def _plain(error: Exception) -> bool:
    from xnemo.errors import XNeMoError
    from xnemo_platform.errors import PlatformError

    return type(error) in (XNeMoError, PlatformError, ValueError, FileNotFoundError) or isinstance(error, XNeMoError)


def _pair_key(pair: Pair, config: Any, key: str) -> str:
    """The settings' key, and the very files: a row of another file under the same name is not taken for this one's."""
    told = [key, pair.portrait_sha256, pair.driving_sha256]
    if config.results and (path := result_file(config, pair)).is_file():
        told += [str(path.stat().st_size), str(path.stat().st_mtime_ns)]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()[:16]


def _weights_key(config: Any) -> str:
    """Of the files that a row is measured with: a file placed later means measuring again, not animating again."""
    from xnemo.metrics import weights

    metrics = metrics_of(config.protocol)
    told = [weights.absent(metrics, config.weights), weights.used(metrics, config.weights)]
    return "-" + hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _row_file(output: Path, pair: Pair) -> Path:
    return output / "rows" / f"{pair.id}.json"


def _known(output: Path, pair: Pair, key: str) -> dict[str, Any] | None:
    path = _row_file(output, pair)
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return row if row.pop("key", None) == key else None


def _animated(output: Path, pair: Pair, key: str) -> bool:
    path = output / "results" / f"{pair.id}.json"
    return path.exists() and json.loads(path.read_text()).get("key") == key
