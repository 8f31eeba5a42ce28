"""Where the faces are: one interface over three detectors, the best one whose model files are there.

1. BlazeFace with the face mesh as a second look (what the released X-NeMo uses); 2. face-alignment's SFD,
slower, when its weights are placed; 3. OpenCV's Haar cascade, last, with a warning: its boxes are looser and
it sees faces in textures. Model files lie in `XNEMO_FACE_MODELS` or `<venv>/share/xnemo/face-models`.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from xnemo.errors import XNeMoError
from xnemo.media.blazeface import BlazeNet, MeshNet, overlap

MIN_SCORE = 0.5
MIN_PRESENCE = 0.99  # of the mesh network; measured: people and drawn heads >= 0.999, animals <= 0.984
BLAZE_FILE, MESH_FILE, SFD_FILE = ("face_detection_short_range.tflite", "face_landmark.tflite", "s3fd-619a316812.pth")
FAN_FILE = "2DFAN4-11f355bf06.pth.tar"
_MEND = "run `python -m xnemo.media.face_models`, or set XNEMO_FACE_MODELS to the folder that holds it"


@dataclass(frozen=True, eq=False)
class Face:
    """box: (left, top, right, bottom) in pixels of the image, may leave it. score in [0, 1].

    landmarks: [468, 2] pixels where the mesh network looked at it, else None.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None = None


Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # image to rows [n, >=4] and scores [n]


class FaceDetector:
    """Finds faces in uint8 RGB [H, W, 3], best first. `name` is what shards record as their detector."""

    def __init__(self, name: str, find: Find, mesh: MeshNet | None = None):
        self.name, self._find, self._mesh = name, find, mesh

    def detect(self, image: np.ndarray, *, quick: bool = False) -> list[Face]:
        """All faces with a score of at least 0.5, best first; [] if there is none.

        Where the whole picture shows none, its overlapping parts are searched, so a small face in a wide
        picture is found; and what the mesh network takes for no face (animals, textures) is refused.
        quick: neither of these, for the many frames of a video.
        """
        image = np.ascontiguousarray(image)
        faces = self._faces(image, *self._find(image), not quick)
        if not faces and not quick and min(image.shape[:2]) >= 2 * _TILE_MIN:
            faces = self._faces(image, *_find_in_parts(self._find, image), True)
        return sorted(faces, key=lambda face: -face.score)

    def around(self, image: np.ndarray, box: np.ndarray) -> list[Face]:
        """Faces near a box [4], found in the part of the image three times as wide: they appear larger there."""
        centre, half = (box[:2] + box[2:]) / 2, 1.5 * float((box[2:] - box[:2]).max())
        left, top = np.floor(np.maximum(centre - half, 0)).astype(int)
        right, bottom = np.ceil(np.minimum(centre + half, [image.shape[1], image.shape[0]])).astype(int)
        if right - left < 2 or bottom - top < 2:
            return []
        rows, scores = self._find(np.ascontiguousarray(image[top:bottom, left:right]))
        moved = rows + np.tile([left, top], rows.shape[1] // 2)
        return self._faces(np.ascontiguousarray(image), moved, scores, True)

    def _faces(self, image: np.ndarray, rows: np.ndarray, scores: np.ndarray, second_look: bool) -> list[Face]:
        faces = []
        for row, score in zip(rows, scores, strict=True):
            landmarks = None
            if second_look and self._mesh is not None:
                landmarks, presence = self._mesh(image, row)
                if presence < MIN_PRESENCE or not _plausible(landmarks, row):
                    continue
            left, top, right, bottom = (float(value) for value in row[:4])
            faces.append(Face((left, top, right, bottom), float(score), landmarks))
        return faces


def _plausible(landmarks: np.ndarray, row: np.ndarray) -> bool:
    """Whether the mesh lies on the detected box: at least half of its points inside, spread over it."""
    inside = ((landmarks >= row[:2]) & (landmarks <= row[2:4])).all(axis=1).mean()
    spread = np.ptp(landmarks[:, 0]) / max(row[2] - row[0], 1e-9)
    return bool(inside > 0.5 and 0.4 < spread < 2.0)


_TILE_MIN = 96


def _find_in_parts(find: Find, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search square parts that overlap by half: first as wide as the short side, then half of it."""
    height, width = image.shape[:2]
    for side in (min(height, width), min(height, width) // 2):
        rows: list[np.ndarray] = []
        scores: list[float] = []
        for top in range(0, max(1, height - side + side // 2), max(1, side // 2)):
            for left in range(0, max(1, width - side + side // 2), max(1, side // 2)):
                top_, left_ = min(top, height - side), min(left, width - side)
                found, score = find(np.ascontiguousarray(image[top_ : top_ + side, left_ : left_ + side]))
                for row, value in zip(found, score, strict=True):
                    moved = row + np.tile([left_, top_], len(row) // 2)
                    if not rows or overlap(moved[:4], np.array(rows)).max() < 0.3:
                        rows.append(moved)
                        scores.append(value)
        if rows:
            return np.array(rows), np.array(scores)
    return np.zeros((0, 4)), np.zeros(0)


def numbered(image: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """A copy of the image uint8 RGB [H,W,3] with a frame around each face and its number in the list."""
    out, thick = image.copy(), max(2, round(min(image.shape[:2]) / 200))
    for number, face in enumerate(faces):
        left, top, right, bottom = (round(value) for value in face.box)
        cv2.rectangle(out, (left, top), (right, bottom), (255, 210, 0), thick)
        scale = max(0.5, (bottom - top) / 120)
        (width, height), below = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, scale, 2 * thick)
        cv2.rectangle(out, (left, top), (left + width + 4 * thick, top + height + below), (255, 210, 0), -1)
        where = (left + 2 * thick, top + height + below // 2)
        cv2.putText(out, str(number), where, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2 * thick, cv2.LINE_AA)
    return out


def models_folder() -> Path:
    """Where model files are looked for: `XNEMO_FACE_MODELS`, else the virtual environment's share folder."""
    return Path(os.environ.get("XNEMO_FACE_MODELS") or Path(sys.prefix, "share", "xnemo", "face-models"))


def detector(name: str = "auto") -> FaceDetector:
    """ "blazeface", "sfd" (face-alignment), "haar", or "auto": the first of them whose files are there.

    Raises XNeMoError if a detector asked for by name has no model file.
    """
    folder = models_folder()
    if name == "auto":
        present = [key for key, file in (("blazeface", BLAZE_FILE), ("sfd", SFD_FILE)) if (folder / file).is_file()]
        if not present:
            warnings.warn(
                f"no face model in {folder}: OpenCV's Haar cascade is used, which is less exact; {_MEND}", stacklevel=2
            )
        name = present[0] if present else "haar"
    if name == "blazeface":
        net = BlazeNet(_model(folder, BLAZE_FILE))
        mesh = MeshNet(folder / MESH_FILE) if (folder / MESH_FILE).is_file() else None
        return FaceDetector("blazeface", lambda image: net(image, MIN_SCORE), mesh)
    if name == "sfd":
        return FaceDetector("sfd", _sfd(_model(folder, SFD_FILE)))
    if name == "haar":
        return FaceDetector("haar", _haar())
    raise XNeMoError(f"face detector {name!r} is unknown: choose auto, blazeface, sfd or haar")


def _model(folder: Path, file: str) -> Path:
    if not (folder / file).is_file():
        mend = "place face-alignment's file of that name there, or choose another detector"
        raise XNeMoError(f"the face model {folder / file} is missing: {mend if file == SFD_FILE else _MEND}")
    return folder / file


def _sfd(path: Path) -> Find:
    from face_alignment.detection.sfd import FaceDetector as Sfd

    try:
        net = Sfd("cpu", path_to_detector=str(path), filter_threshold=MIN_SCORE)
    except Exception as error:  # a damaged file fails in many ways
        raise XNeMoError(f"{path} holds no weights of S3FD ({type(error).__name__}): fetch it again") from error

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array(net.detect_from_image(image), np.float64).reshape(-1, 5)
        return rows[:, :4], rows[:, 4]

    return find


Landmarks = Callable[[np.ndarray, np.ndarray], np.ndarray]  # image, box [4] to points [68, 2] in its pixels


def landmarks68() -> Landmarks | None:
    """face-alignment's 68 points, or None if its weights (2DFAN4) are not among the model files. Slow on a CPU.

    Raises XNeMoError if the file is none of these weights.
    """
    path = models_folder() / FAN_FILE
    if not path.is_file():
        return None
    import torch
    from face_alignment.models import FAN
    from face_alignment.utils import crop, get_preds_fromhm

    net = FAN(4).eval()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file fails in many ways
        raise XNeMoError(f"{path} holds no weights of 2DFAN4 ({type(error).__name__}): fetch it again") from error

    @torch.no_grad()
    def find(image: np.ndarray, box: np.ndarray) -> np.ndarray:
        width, height = box[2:] - box[:2]
        # centre and scale as the network was trained with (face-alignment's own reference size of 195)
        centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2 - 0.12 * height])
        scale = float(width + height) / 195
        seen = torch.from_numpy(crop(image, centre, scale)).permute(2, 0, 1)[None].float() / 255
        heat = net(seen)[-1]  # of the last of four networks
        return np.asarray(get_preds_fromhm(heat.numpy(), centre, scale)[1][0], np.float64)

    return find


def _haar() -> Find:
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"))

    def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = min(1.0, 256 / min(image.shape[:2]))
        small = cv2.resize(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
        )
        boxes, _, weights = cascade.detectMultiScale3(small, 1.1, 4, minSize=(24, 24), outputRejectLevels=True)
        rows = np.array(boxes, np.float64).reshape(-1, 4) / scale
        rows[:, 2:] += rows[:, :2]
        return rows, 1 - np.exp(-np.array(weights, np.float64).reshape(-1))  # a vote count, put into [0, 1)

    return find
