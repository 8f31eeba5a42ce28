"""NeRSemble: <person>/sequences/<sequence>/, sixteen cameras of which the near-frontal ones are taken.

v2: images/cam_<serial>.mp4 and <person>/calibration/camera_params.json. v1: a folder per frame,
frame_<number>/images-2x/cam_<serial>.png, recorded 73 times a second, and <person>/camera_params.json; there may
be gaps between the numbers. Each camera is a video of its own, and colours are as the camera gave them.
"""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from pipelines.sources.files import read_json
from pipelines.sources.source import EVERYTHING, Source, SourceConfig
from xnemo.media.stills import Stills
from xnemo_platform import storage
from xnemo_platform.errors import PlatformError

FPS = 73.0  # of v1, whose pictures carry no time
_VIDEO = re.compile(r"^(?:.*/)?(?P<person>\d+)/sequences/(?P<sequence>[^/]+)/images/cam_(?P<serial>\w+)\.mp4$")
_SEQUENCE = re.compile(r"^(?P<folder>(?:.*/)?(?P<person>\d+)/sequences/[^/]+)/(?P<frame>frame_\d+)/$")


def read(uri: str, config: SourceConfig = EVERYTHING) -> Iterator[Source]:
    """One source per sequence and camera."""
    chosen: dict[str, set[str]] = {}
    seen: set[str] = set()
    for name in storage.walk(uri, whole=lambda folder: fnmatch.fnmatch(folder, "frame_*")):
        video, frame = _VIDEO.match(name), _SEQUENCE.match(name)
        if video:
            root = name.split("/sequences/")[0]
            if video["serial"] in _chosen(uri, root, config, chosen):
                yield Source(storage.join(uri, name), video["person"])
        elif frame and frame["folder"] not in seen:
            seen.add(frame["folder"])
            root = name.split("/sequences/")[0]
            for picture in storage.walk(storage.join(uri, name.rstrip("/"))):
                serial = PurePosixPath(picture).stem.removeprefix("cam_")
                if picture.startswith("images") and serial in _chosen(uri, root, config, chosen):
                    pattern = f"frame_*/{picture}"
                    yield Source(storage.join(uri, frame["folder"]), frame["person"], stills=Stills(pattern, FPS))


def _chosen(uri: str, person: str, config: SourceConfig, known: dict[str, set[str]]) -> set[str]:
    """Serials to take of one person. Raises PlatformError where neither a list nor a calibration says which."""
    if config.cameras:
        return set(config.cameras)
    if person not in known:
        places = [
            storage.join(uri, person, *rest) for rest in (["calibration", "camera_params.json"], ["camera_params.json"])
        ]
        path = next((place for place in places if storage.exists(place)), None)
        if path is None:
            raise PlatformError(
                f"{storage.join(uri, person)} has no camera_params.json, so the frontal cameras are not known: "
                "fetch the calibration, or name them: reader_options.cameras=[222200037]"
            )
        known[person] = set(frontal(read_json(path).get("world_2_cam", {}), config.max_camera_angle, path))
    return known[person]


def frontal(world_to_camera: dict[str, list[list[float]]], most: float, name: str = "") -> list[str]:
    """Serials of the cameras within `most` degrees of the middle of all, the most frontal first; at least one.

    The face is where the optical axes meet, and the cameras stand in an arc before it: the mean direction from the
    face to the cameras is where it looks.
    """
    try:
        poses = {serial: np.asarray(pose, np.float64).reshape(-1, 4)[:3] for serial, pose in world_to_camera.items()}
        places = np.array([-pose[:, :3].T @ pose[:, 3] for pose in poses.values()])
        axes = np.array([pose[2, :3] for pose in poses.values()])
        across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
        face = np.linalg.lstsq(across.sum(0), (across @ places[:, :, None]).sum(0)[:, 0], rcond=None)[0]
        towards = (places - face) / np.linalg.norm(places - face, axis=1, keepdims=True)
        middle = towards.mean(0) / np.linalg.norm(towards.mean(0))
    except (ValueError, IndexError, TypeError, np.linalg.LinAlgError) as error:
        raise PlatformError(f"{name} holds no world_2_cam matrices ({error}): fetch the calibration again") from error
    angles = np.degrees(np.arccos(np.clip(towards @ middle, -1, 1)))
    order = [(float(angle), serial) for angle, serial in zip(angles, poses, strict=True)]
    return [serial for rank, (angle, serial) in enumerate(sorted(order)) if angle <= most or rank == 0]
