"""What is seen of the face in every frame of a video, frame by frame: only small arrays are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from xnemo.media.blazeface import BlazeNet, MeshNet
from xnemo.media.faces import BLAZE_FILE, MESH_FILE, MIN_SCORE, models_folder
from xnemo.metrics import emotion, expression, identity, self_reenactment
from xnemo.metrics.weights import NotComputed

BATCH = 16
MIN_PRESENCE = 0.5  # MediaPipe's own default: a generated face must not be asked for more than a real one
ENLARGED = 192  # the networks want faces of some size; smaller pictures are enlarged before they look


@dataclass(frozen=True)
class Faces:
    """Per frame of one video. found [F]; the others hold nan rows where no face was found, and are None where the
    network is absent: angles [F, 3] degrees, shape [F, 468, 3] cm, blendshapes [F, 51], emotion [F, 2]. embedding
    [F, 512] is of a central crop where no face was found."""

    found: np.ndarray
    angles: np.ndarray
    shape: np.ndarray
    blendshapes: np.ndarray | None
    emotion: np.ndarray | None
    embedding: np.ndarray | None

    def __len__(self) -> int:
        return len(self.found)

    def first(self, count: int) -> Faces:
        """The first frames only."""
        cut: dict[str, Any] = {name: None if part is None else part[:count] for name, part in vars(self).items()}
        return Faces(**cut)


@dataclass
class Networks:
    """Every network that could be had, and a sentence for each metric whose network could not."""

    blaze: BlazeNet
    mesh: MeshNet
    arcface: identity.ArcFace | None = None
    emonet: emotion.EmoNet | None = None
    blendshapes: expression.BlendshapeReader | None = None
    lpips: dict[str, self_reenactment.Lpips] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def load_networks(given: Mapping[str, str] | None = None) -> Networks:
    """Load what is there. Raises NotComputed if the face detector's own files are absent: nothing works without."""
    place = models_folder()
    if not all((place / name).is_file() for name in (BLAZE_FILE, MESH_FILE)):
        raise NotComputed(f"not computed: run `python -m xnemo.media.face_models`; face models are missing in {place}")
    networks = Networks(BlazeNet(place / BLAZE_FILE), MeshNet(place / MESH_FILE))
    loads: dict[str, Any] = {
        "id_sim": lambda: setattr(networks, "arcface", identity.load_arcface(given)),
        "emo_sim": lambda: setattr(networks, "emonet", emotion.load_emonet(given)),
        "aed": lambda: setattr(networks, "blendshapes", expression.load_blendshapes(given)),
        "lpips": lambda: networks.lpips.update(lpips=self_reenactment.load_lpips(given, "alexnet")),
        "lpips_vgg": lambda: networks.lpips.update(lpips_vgg=self_reenactment.load_lpips(given, "vgg16")),
    }
    for metric, load in loads.items():
        try:
            load()
        except NotComputed as absent:
            networks.missing[metric] = str(absent)
    return networks


def observe(frames: Iterable[np.ndarray], networks: Networks) -> Faces:
    """Look at frames uint8 [H, W, 3] as they come; a frame without a face is a row of nan."""
    rows: list[dict[str, np.ndarray]] = []
    crops: dict[str, list[np.ndarray]] = {"embedding": [], "emotion": []}
    read: dict[str, list[np.ndarray]] = {"embedding": [], "emotion": []}
    for frame in frames:
        row, picture = look(frame, networks)
        rows.append(row)
        if networks.arcface is not None:
            mesh = row.get("mesh")
            five = None if mesh is None else identity.five_points(mesh)
            crops["embedding"].append(identity.centre(picture) if five is None else identity.align(picture, five))
        if networks.emonet is not None and "box" in row:
            crops["emotion"].append(emotion_crop(picture, row["box"]))
        row.pop("mesh", None)
        _flush(crops, read, networks, BATCH)
    _flush(crops, read, networks, 1)
    return _gather(rows, read, networks)


def look(frame: np.ndarray, networks: Networks) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the mesh says of the largest face, {} without one; and the picture it was looked for in."""
    scale = ENLARGED / min(frame.shape[:2])
    if scale > 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    found, _ = networks.blaze(np.ascontiguousarray(frame), MIN_SCORE)
    if not len(found):
        return {}, frame
    best = found[np.argmax(found[:, 2] - found[:, 0])]
    mesh, presence = networks.mesh.in_depth(frame, best)
    if presence < MIN_PRESENCE:
        return {}, frame
    rotation, shape = expression.upright(mesh)
    row = {"box": best[:4], "mesh": mesh, "angles": expression.angles(rotation), "shape": shape.astype(np.float32)}
    if networks.blendshapes is not None:
        row["blendshapes"] = networks.blendshapes.read(frame, mesh)
    return row, frame


def emotion_crop(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """EmoNet's crop uint8 [256, 256, 3]: 1.1 times the face box, black outside the picture."""
    from xnemo.crops import square
    from xnemo.prepare import cut

    return cut(picture[None], square(box[None].astype(np.float64), emotion.CROP), emotion.SIDE)[0]


def _flush(
    crops: dict[str, list[np.ndarray]], read: dict[str, list[np.ndarray]], networks: Networks, least: int
) -> None:
    for name, waiting in crops.items():
        if len(waiting) >= least:
            network = networks.arcface.embed if name == "embedding" else networks.emonet.read  # type: ignore[union-attr]
            read[name].append(network(np.stack(waiting)))
            waiting.clear()


def _gather(rows: list[dict[str, np.ndarray]], read: dict[str, list[np.ndarray]], networks: Networks) -> Faces:
    found = np.array(["box" in row for row in rows], dtype=bool)

    def column(name: str, *size: int) -> np.ndarray:
        blank = np.full(size, np.nan)
        return np.array([row.get(name, blank) for row in rows], np.float32).reshape(len(rows), *size)

    emotions = None
    if networks.emonet is not None:
        emotions = np.full((len(rows), 2), np.nan)
        if found.any():
            emotions[found] = np.concatenate(read["emotion"])
    return Faces(
        found=found,
        angles=column("angles", 3),
        shape=column("shape", 468, 3),
        blendshapes=column("blendshapes", 51) if networks.blendshapes is not None else None,
        emotion=emotions,
        embedding=np.concatenate(read["embedding"]) if networks.arcface is not None and len(rows) else None,
    )


def cross_figures(result: Faces, driver: Faces, portrait: Faces) -> dict[str, float]:
    """Table 1's right half for one video, from equally long series: what has no network is left out.

    Frames without a face in either video are skipped and counted. id_sim: to the portrait. id_leak: to the driver
    of the same frame; id_between: portrait to driver, what the leak has to be read against.
    """
    both = result.found & driver.found
    figures = {"detected_result": float(result.found.mean()), "detected_driver": float(driver.found.mean())}
    figures["skipped_frames"] = float((~both).sum())
    if result.embedding is not None and driver.embedding is not None and portrait.embedding is not None:
        person = portrait.embedding[0]
        figures["id_sim"] = float(identity.id_sim(result.embedding, person).mean())
        pairs = zip(result.embedding, driver.embedding, strict=True)
        figures["id_leak"] = float(np.mean([identity.id_sim(a[None], b)[0] for a, b in pairs]))
        figures["id_between"] = float(identity.id_sim(driver.embedding, person).mean())
    if both.any():
        figures["apd"] = float(expression.apd(result.angles[both], driver.angles[both]).mean())
        figures["aed_mesh"] = float(expression.aed_mesh(result.shape[both], driver.shape[both]).mean())
        if result.blendshapes is not None and driver.blendshapes is not None:
            figures["aed"] = float(expression.aed(result.blendshapes[both], driver.blendshapes[both]).mean())
        if result.emotion is not None and driver.emotion is not None and emotion.lively(driver.emotion[both]):
            figures["emo_sim"] = emotion.emo_sim(result.emotion[both], driver.emotion[both])
    return figures


@torch.no_grad()
def frame_figures(result: np.ndarray, truth: np.ndarray, networks: Networks | None) -> dict[str, list[float]]:
    """Table 1's left half for batches of frames uint8 [n, S, S, 3]: a list per metric."""
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() / 255 for x in (result, truth))
    figures = {
        "l1": self_reenactment.l1(a, b),
        "ssim": self_reenactment.ssim(a, b),
        "psnr": self_reenactment.psnr(a, b),
    }
    if networks is not None:
        figures |= {name: network(a, b) for name, network in networks.lpips.items()}
    return {name: values.tolist() for name, values in figures.items()}
