"""What a stage can do so far, seen on held-out clips: their frames redrawn, as pictures.

The same denoiser call as in training, with the reference whole and nothing dropped, run down the DDIM steps.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xnemo.batch import ClipBatch, PairBatch, to_pixels, to_unit
from xnemo.crops import f_rts, faces
from xnemo.draw import Draw
from xnemo.stages import Stage, at_rest, predict


def frames_of(batch: PairBatch | ClipBatch) -> tuple[Tensor, Tensor]:
    """Driving frames uint8 [B,F,3,S,S] and their boxes [B,F,4]; a pair has one frame."""
    if isinstance(batch, ClipBatch):
        return batch.frames, batch.boxes
    return batch.target[:, None], batch.target_box[:, None]


def motion_tokens(stage: Stage, batch: PairBatch | ClipBatch) -> Tensor | None:
    """Tokens [B,F,L,c] of the clean driving faces; None in the stage that has no motion."""
    if stage.name == "appearance":
        return None
    encoder, (frames, boxes) = stage.model.motion_encoder, frames_of(batch)
    size = stage.model.config.motion_encoder.image_size
    crops = faces(to_unit(frames.flatten(0, 1)), boxes.flatten(0, 1), size)
    placement = f_rts(boxes, batch.reference_box[:, None].expand_as(boxes))
    return encoder(crops, placement.flatten(0, 1)).unflatten(0, frames.shape[:2])


@torch.no_grad()
def redraw(stage: Stage, batch: PairBatch | ClipBatch, steps: int, seed: int) -> Tensor:
    """The driving frames as the stage draws them from the references, [B,F,3,H,W] in [-1,1]."""
    model, size = stage.model, stage.model.config.image_size
    frames, _ = frames_of(batch)
    reference = to_unit(batch.reference, size)
    seen, context = model.codec.encode(reference), model.context(reference)
    motion = motion_tokens(stage, batch)
    bank = model.reference_net(seen, context, at_rest(stage, batch))
    clips, count = frames.shape[:2]
    x = Draw(seed, batch.ids).normal("redraw", seen.shape[1], count, *seen.shape[2:])
    whole = torch.zeros(clips, dtype=torch.bool, device=x.device)
    times = stage.schedule.ddim_timesteps(steps)
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        at = torch.full((clips,), t, device=x.device)
        predicted = predict(stage, x, at, context, motion, bank, None, whole)
        x = stage.schedule.ddim_step(predicted.float(), t, t_next, x)
    return model.codec.decode(x.transpose(1, 2).flatten(0, 1)).clamp(-1, 1).unflatten(0, (clips, count))


def contact_sheet(batch: PairBatch | ClipBatch, drawn: Tensor) -> NDArray[np.uint8]:
    """Rows of reference | driving frame | redrawn frame, three frames of a clip; uint8 RGB [H,W,3]."""
    frames, _ = frames_of(batch)
    size, rows = drawn.shape[-1], []
    shown = sorted({0, frames.shape[1] // 2, frames.shape[1] - 1})
    for i in range(len(frames)):
        tiles = [to_unit(batch.reference[i : i + 1], size)[0]]
        for at in shown:
            tiles += [to_unit(frames[i, at : at + 1], size)[0], drawn[i, at].float()]
        rows.append(torch.cat([tile.cpu() for tile in tiles], dim=2))
    sheet = to_pixels(torch.cat(rows, dim=1))
    return sheet.permute(1, 2, 0).contiguous().numpy()


def film(batch: ClipBatch, drawn: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Frames uint8 RGB [H,W,3] of the first clip: reference | driving frame | redrawn frame, side by side."""
    size = drawn.shape[-1]
    still, frames = to_unit(batch.reference[:1], size)[0], to_unit(batch.frames[0], size)
    for frame, made in zip(frames, drawn[0], strict=True):
        picture = to_pixels(torch.cat([still, frame, made.float()], dim=2))
        yield picture.permute(1, 2, 0).cpu().numpy()
