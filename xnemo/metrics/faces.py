"""What is seen of the face in every frame of a video: frames come one by one, what was seen goes on in batches."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
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


Look = tuple[dict[str, np.ndarray], np.ndarray]
"""What the mesh says of a frame's largest face, {} without one; and the picture it was looked for in."""


@dataclass(frozen=True)
class Faces:
    """Per frame of a part of a video. found [F]; the others hold nan rows where no face was found, and are None where
    the network is absent: angles [F, 3] degrees, shape [F, 468, 3] cm, blendshapes [F, 51], emotion [F, 2]. embedding
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


def load_networks(given: Mapping[str, str] | None = None, metrics: Container[str] | None = None) -> Networks:
    """Load what is there and what these metrics need (None: everything). Raises NotComputed if the face detector's own
    files are absent, since nothing works without, and XNeMoError for a file that is damaged or another network's."""
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
            if metrics is None or metric in metrics:
                load()
        except NotComputed as absent:
            networks.missing[metric] = str(absent)
    return networks


def observe(frames: Iterable[np.ndarray], networks: Networks) -> Iterator[Faces]:
    """What is seen in frames uint8 [H, W, 3], handed on for every BATCH of them (the last may be smaller)."""
    ahead = iter(frames)
    while batch := list(itertools.islice(ahead, BATCH)):
        looks = [look(frame, networks) for frame in batch]
        yield Faces(
            found=np.array(["box" in row for row, _ in looks]),
            angles=_column(looks, "angles", 3),
            shape=_column(looks, "shape", 468, 3),
            blendshapes=_column(looks, "blendshapes", 51) if networks.blendshapes else None,
            emotion=_emotion(looks, networks.emonet) if networks.emonet else None,
            embedding=networks.arcface.embed(np.stack([_face(*each) for each in looks])) if networks.arcface else None,
        )


def look(frame: np.ndarray, networks: Networks) -> Look:
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


def _face(row: Mapping[str, np.ndarray], picture: np.ndarray) -> np.ndarray:
    """ArcFace's crop, or the middle of the picture where there is no face."""
    return identity.align(picture, identity.five_points(row["mesh"])) if row else identity.centre(picture)


def _emotion(looks: Sequence[Look], network: emotion.EmoNet) -> np.ndarray:
    read, crops = np.full((len(looks), 2), np.nan), [emotion_crop(picture, row["box"]) for row, picture in looks if row]
    if crops:
        read[[bool(row) for row, _ in looks]] = network.read(np.stack(crops))
    return read


def _column(looks: Sequence[Look], name: str, *size: int) -> np.ndarray:
    blank = np.full(size, np.nan)
    return np.array([row.get(name, blank) for row, _ in looks], np.float32).reshape(len(looks), *size)


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
