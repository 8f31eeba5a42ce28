"""Decoded frames of a data set in memory, and the batches cut from them.

Frames are kept at the training size (a JPEG is decoded at a fraction of its size, which is most of the speed).
Clips stay from their first use until the byte budget is full; of the others, only the frames asked for are
decoded, each time. What a sample shows depends on its id alone, not on what lies in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.latents import Cached, LatentReader
from pipelines.shards import ClipReader
from xnemo.batch import ClipBatch, Encoded, PairBatch
from xnemo.crops import MAX_SHIFT, REFERENCE_SCALE, SCALE_RANGE, centre_side, smooth_boxes, square
from xnemo.draw import Draw
from xnemo_platform.errors import PlatformError
from xnemo_platform.feed import Sample

Images = NDArray[np.uint8]
Boxes = NDArray[np.float64]
TRIES = 8  # draws of a frame pair before an ill-matched one is taken after all
WHOLE = (1.0, 2.0)  # largest shift and ratio between the faces of a pair: further apart they are not of one scene
VIEW = (MAX_SHIFT, SCALE_RANGE[1])  # the same where the reference's square is all that is seen
JITTER = 0.05  # of the square around the reference's face: how far detectors disagree
SMOOTHING_S = 0.2  # 5 frames at 25 fps (released code)
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


@dataclass(frozen=True, eq=False)
class _Entry:
    """A clip at the training size: boxes [n,4] in its pixels, and its frames, decoded [n,3,S,S] or as JPEG.

    With cached latents the pictures are the faces, and `boxes` stay in pixels of the whole frame."""

    boxes: Boxes
    fps: float
    source_size: int
    images: Images | None
    files: list[bytes]
    cached: Cached | None = None


class ClipStore:
    """The clips of one split with at least `min_frames` frames, as uint8 RGB of `size` × `size`.

    `len` counts them; a row is an index among them, through one data set after the other where `uri` names several
    (`sizes` says how many are of each). Raises PlatformError if one has none. With the key of `latents`, batches bring
    what is cached beside the data instead of whole frames. With a `view`, all frames of a sample are cut by the square
    around its reference's face, as a portrait is when it is animated, to that size.
    """

    def __init__(
        self,
        uri: str | Sequence[str],
        split: str | None,
        size: int,
        budget: int,
        min_frames: int = 2,
        latents: str | None = None,
        view: int = 0,
    ):
        self.size, self.budget, self.view = size, budget, view
        uris = [uri] if isinstance(uri, str) else list(uri)
        self.readers = [ClipReader(one, split) for one in uris]
        self.latents = [LatentReader(one, latents, split) for one in uris] if latents else []
        for reader in self.latents:
            if (made := reader.about["frame_size"]) != size:
                raise PlatformError(f"{reader.uri} shows frames of {made} px: set frame_size={made}, or cache anew.")
        if len({reader.about["face_size"] for reader in self.latents}) > 1:
            raise PlatformError(f"{', '.join(uris)} were cached with different face_size: cache them anew with one.")
        found = [_long_enough(reader, min_frames) for reader in self.readers]
        self.sizes = [len(clips) for clips in found]
        self.rows = [(number, int(clip)) for number, clips in enumerate(found) for clip in clips]
        self.kept: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def frames(self, row: int) -> int:
        """How many a clip has."""
        return len(self._entry(row).boxes)

    def pairs(self, samples: Sequence[Sample], seed: int, min_gap: int = 1) -> PairBatch:
        """Two different frames of each sample's clip, at least `min_gap` apart where the clip allows it."""
        ids = torch.tensor([sample.id for sample in samples])
        draw = Draw(seed, ids)
        tries = draw.uniform("frames", TRIES, 2).double().numpy()
        shown = []
        for sample, own in zip(samples, tries, strict=True):
            entry = self._entry(sample.row)
            chosen = _pair(entry.boxes, own, min_gap, *(VIEW if self.view else WHOLE))
            shown.append((entry, chosen, entry.boxes[chosen]))
        frames, boxes, known = self._shown(shown, draw)
        if known:
            known = replace(known, places=known.places[:, 0])
        return PairBatch(frames[:, 0], frames[:, 1], boxes[:, 0], boxes[:, 1], ids, known)

    def clips(self, samples: Sequence[Sample], seed: int, frames: int) -> ClipBatch:
        """`frames` consecutive frames of each sample's clip, and any one frame of it as the reference."""
        ids = torch.tensor([sample.id for sample in samples])
        draw = Draw(seed, ids)
        places = draw.uniform("clip", 2).double().numpy()
        shown = []
        for sample, (start_at, reference_at) in zip(samples, places, strict=True):
            entry = self._entry(sample.row)
            n = len(entry.boxes)
            start = int(start_at * (n - frames + 1))
            chosen = [int(reference_at * n), *range(start, start + frames)]
            shown.append((entry, chosen, smooth_boxes(entry.boxes, sigma=SMOOTHING_S * entry.fps)[chosen]))
        pictures, boxes, known = self._shown(shown, draw)
        return ClipBatch(pictures[:, 0], pictures[:, 1:], boxes[:, 0], boxes[:, 1:], ids, known)

    def _shown(
        self, shown: Sequence[tuple[_Entry, list[int], Boxes]], draw: Draw
    ) -> tuple[Tensor, Tensor, Encoded | None]:
        """Pictures [B,1+F,3,S,S], the reference first, boxes [B,1+F,4] in their pixels, and what is cached of them."""
        frames = [self._frames(entry, chosen) for entry, chosen, _ in shown]
        where = [boxes for _, _, boxes in shown]
        if self.view:
            jitter = (draw.uniform("square", 3).double().numpy() * 2 - 1) * JITTER
            cuts = [around(*one, self.view) for one in zip(frames, where, jitter, strict=True)]
            frames, where = [cut[0] for cut in cuts], [cut[1] for cut in cuts]
        pictures = torch.from_numpy(np.stack(frames))
        places = torch.from_numpy(np.stack(where)).float()
        cached = [(entry.cached, chosen) for entry, chosen, _ in shown if entry.cached]
        if not cached:
            return pictures, places, None
        means = torch.from_numpy(np.stack([one.latents[chosen] for one, chosen in cached]))
        tokens = torch.from_numpy(np.stack([one.context[chosen[:1]] for one, chosen in cached]))
        squares = torch.from_numpy(np.stack([one.squares[chosen] for one, chosen in cached])).float()
        scale = pictures.shape[-1] / (squares[..., 2:3] - squares[..., :1])
        boxes = (places - squares[..., :2].repeat(1, 1, 2)) * scale
        return pictures, boxes, Encoded(means[:, 0], means[:, 1:], tokens, places[:, 0], places[:, 1:])

    def some_frames(self, count: int, seed: int) -> Tensor:
        """`count` frames spread over the clips, uint8 [count,3,S,S]: what a codec is fitted to."""
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        each = -(-count // len(rows))
        entries = [self._entry(int(row)) for row in rows]
        images = []
        for entry in entries:
            for at in np.linspace(0, len(entry.boxes) - 1, each).astype(int):
                frame = self._frames(entry, [at])
                images.append(around(frame, entry.boxes[[at]], np.zeros(3), self.view)[0] if self.view else frame)
        return torch.from_numpy(np.concatenate(images)[:count])

    def _entry(self, row: int) -> _Entry:
        if row in self.kept:
            return self.kept[row]
        number, index = self.rows[row]
        if self.latents:
            return self._cached_entry(row, self.readers[number], self.latents[number], index)
        clip = self.readers[number][index]
        source_size = clip.facts["size"]
        boxes = clip.boxes.astype(np.float64) * (self.size / source_size)
        bytes_needed = len(clip.frames) * 3 * self.size**2
        if bytes_needed > self.budget:
            return _Entry(boxes, clip.facts["fps"], source_size, None, clip.frames)
        self.budget -= bytes_needed
        images = np.stack([decode(file, self.size, source_size) for file in clip.frames])
        self.kept[row] = _Entry(boxes, clip.facts["fps"], source_size, images, [])
        return self.kept[row]

    def _cached_entry(self, row: int, reader: ClipReader, latents: LatentReader, index: int) -> _Entry:
        facts, cached = reader.read(index, ["face_boxes", "fps", "size"]), latents.cached(index)
        scale = self.size / facts["size"]
        boxes = np.array(facts["face_boxes"], np.float64) * scale
        cached = replace(cached, squares=cached.squares * scale)
        entry = _Entry(boxes, facts["fps"], latents.about["face_size"], None, cached.faces, cached)
        bytes_needed = cached.latents.nbytes + sum(len(face) for face in cached.faces)
        if bytes_needed <= self.budget:
            self.budget -= bytes_needed
            self.kept[row] = entry
        return entry

    def _frames(self, entry: _Entry, chosen: Iterable[int]) -> Images:
        if entry.images is not None:
            return entry.images[list(chosen)]
        size = entry.source_size if entry.cached else self.size
        return np.stack([decode(entry.files[i], size, entry.source_size) for i in chosen])


def _long_enough(reader: ClipReader, frames: int) -> NDArray[np.int64]:
    """The clips with at least that many frames; raises PlatformError if there are none."""
    lengths = reader.table(["n_frames"])["n_frames"].to_numpy()
    found = np.flatnonzero(lengths >= frames)
    if not len(found):
        longest = f", the longest of {lengths.max()} frames" if len(lengths) else ""
        raise PlatformError(
            f"{reader.uri}: split {reader.split!r} has {len(lengths)} clips{longest}, but training needs "
            f"{frames} frames of one; ingest more or longer clips."
        )
    return found


def around(frames: Images, boxes: Boxes, jitter: NDArray[np.float64], size: int) -> tuple[Images, Boxes]:
    """Frames [n,3,S,S] and boxes [n,4] cut by one square around the first box, as [n,3,size,size]; the frames' edges
    are repeated outside. `jitter` [3] shifts the square by shares of its side and widens it."""
    x, y, side = centre_side(square(boxes[0], REFERENCE_SCALE))
    x, y, side = x + jitter[0] * side, y + jitter[1] * side, side * (1 + jitter[2])
    corner, scale = np.array([x - side / 2, y - side / 2]), size / side
    # pixel centres lie at halves, while the sampler counts from the centre of the first
    shift = 0.5 * scale - 0.5 - scale * corner
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    options = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    cut = [cv2.warpAffine(frame.transpose(1, 2, 0), matrix, (size, size), **options) for frame in frames]
    return np.stack(cut).transpose(0, 3, 1, 2), (boxes - np.tile(corner, 2)) * scale


def decode(file: bytes, size: int, source_size: int) -> Images:
    """A JPEG of `source_size` as uint8 RGB [3,size,size]; shrunk by whole factors already while it is decoded."""
    flag = next((flag for factor, flag in REDUCED.items() if source_size // factor >= size), cv2.IMREAD_COLOR)
    image = cv2.imdecode(np.frombuffer(file, np.uint8), flag)
    if image is None:
        raise PlatformError("a stored frame is not a readable picture; ingest the data set again.")
    if image.shape[0] != size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))


def _pair(boxes: Boxes, draws: NDArray[np.float64], min_gap: int, max_shift: float, max_ratio: float) -> list[int]:
    """Reference and driving frame: the first drawn pair that is far enough apart in time and near in place."""
    n = len(boxes)
    gap = min(min_gap, n // 2)
    candidates = []
    for u, v in draws:
        first = int(u * n)
        # The second frame is drawn among those at least `gap` away, counting round the clip's ends.
        second = (first + gap + int(v * (n - 2 * gap + 1))) % n
        candidates.append([first, second])
    x, y, side = centre_side(boxes[np.array(candidates)])  # [tries, 2] each
    shift = np.maximum(abs(x[:, 1] - x[:, 0]), abs(y[:, 1] - y[:, 0])) / side[:, 0]
    ratio = np.maximum(side[:, 1] / side[:, 0], side[:, 0] / side[:, 1])
    good = np.flatnonzero((shift <= max_shift) & (ratio <= max_ratio))
    return candidates[good[0] if len(good) else 0]
