"""What is painted on the skin: eyes, brows, nose, mouth, beard. All in the head's own coordinates (x, y).

Both sides are painted at once by folding x about the middle: `side` is -1 left of it and +1 right of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xnemo.synthetic.geometry import Pose
from xnemo.synthetic.identity import Traits
from xnemo.synthetic.paint import Canvas, band, cover, rgb, spot, step

EYE_Y, EYE_HALF = 0.015, 0.130  # of the corners; from an eye's middle to them
IRIS_Y, GAZE_X, GAZE_Y = 0.008, 0.056, 0.036  # above the corners; how far a gaze of 1 moves it
BROW_OUT, BROW_HALF = 0.010, 0.150  # of a brow's middle, outwards from the eye's; from it to the ends


@dataclass(frozen=True)
class Surface:
    """A patch of skin: head coordinates of every pixel [N, H, W] and the size of a pixel along x and y there."""

    x: Tensor
    y: Tensor
    pixel_x: Tensor
    pixel_y: Tensor


@dataclass(frozen=True)
class Eyes:
    """Folded eye coordinates (outwards from each eye's middle) and the lids."""

    out: Tensor
    y: Tensor
    side: Tensor
    across: Tensor  # -1 at the inner corner, 1 at the outer
    open_lid: Tensor  # where the upper lid would be with the eye open
    upper: Tensor
    lower: Tensor


def eyes(skin: Surface, who: Traits, pose: Pose) -> Eyes:
    """Lay out the eyes: lids follow blink, brow (a raised brow opens the eye a little) and cheek (squints)."""
    right = skin.x > 0
    blink, brow = (torch.where(right, pair[1], pair[0]) for pair in (pose.blink, pose.brow))
    out, y = skin.x.abs() - who.eye_spacing, skin.y - EYE_Y
    across = out / (EYE_HALF * who.eye_size)
    arch = (1 - across * across).clamp_min(0) * (1 + 0.22 * across) * who.eye_size
    open_lid = arch * (-0.085 * (1 + 0.14 * brow))
    lower = arch * (0.058 * (1 - 0.75 * pose.cheek))
    upper = torch.lerp(open_lid, lower + 0.012 * arch, blink)
    return Eyes(out, y, right.float().mul_(2).sub_(1), across, open_lid, upper, lower)


def paint_lids(canvas: Canvas, skin: Surface, eye: Eyes, who: Traits) -> None:
    """The skin around the eyes: socket shadow, upper lid and its crease (before the light is put on)."""
    near = step(eye.across.abs(), 1.10, 0.90)
    lid = near * band(eye.y, eye.open_lid - 0.012, eye.lower, skin.pixel_y)
    canvas.over(who.skin * rgb((0.86, 0.74, 0.72), eye.y), 0.8 * lid)
    crease = cover((eye.y - eye.open_lid + 0.030).abs_() - 0.006, skin.pixel_y)
    canvas.over(who.skin * 0.55, 0.55 * near * crease)


def paint_eyes(canvas: Canvas, skin: Surface, eye: Eyes, who: Traits, pose: Pose) -> None:
    """Eyeball, iris, pupil, catchlight and lashes (after the light is put on)."""
    soft = skin.pixel_y * (1 + 0.8 * eye.across.abs().clamp_max(1.2))
    ball = band(eye.y, eye.upper, eye.lower, soft)
    shade = (0.97 - 0.30 * step(eye.y - eye.upper, 0.050, 0.0) - 0.12 * eye.across.square()).clamp_(0.4, 1)
    canvas.over(rgb((0.98, 0.97, 0.96), shade) * shade[:, None], ball)
    size = 0.069 * who.eye_size.sqrt()
    dx = eye.out - GAZE_X * pose.gaze_x * eye.side
    dy = eye.y - GAZE_Y * pose.gaze_y + IRIS_Y
    distance = (dx * dx + dy * dy).sqrt_()
    pixel = 0.5 * (skin.pixel_x + skin.pixel_y)
    inner = step(distance, 0.55 * size, 0.95 * size)
    iris = who.iris * (1.25 - 0.85 * inner - 5.0 * (-dy).clamp(0, 0.06))[:, None]
    canvas.over(iris.clamp(0, 1), ball * cover(distance - size, pixel))
    canvas.over(rgb((0.04, 0.03, 0.04), dx), ball * cover(distance - 0.47 * size, pixel))
    glint = ((dx - 0.026 * eye.side * who.light_side.sign()).square_() + (dy + 0.028).square_()).sqrt_()
    canvas.over(rgb((1.0, 1.0, 1.0), dx), 0.95 * ball * cover(glint - 0.019, pixel))
    lash_width = 0.011 + 0.007 * eye.across.clamp(-1, 1)
    lash = cover((eye.y - eye.upper + 0.5 * lash_width).abs_() - lash_width, soft)
    under = 0.35 * cover((eye.y - eye.lower).abs_() - 0.004, soft)
    canvas.over(rgb((0.10, 0.07, 0.07), dx), torch.maximum(lash, under) * cover(eye.across.abs() - 1.06, 0.12))


def paint_brows(canvas: Canvas, skin: Surface, who: Traits, pose: Pose) -> None:
    """Brows: raised as a whole, lowered at the inner end."""
    across = (skin.x.abs() - who.eye_spacing - BROW_OUT) / BROW_HALF
    middle = brow_line(across, torch.where(skin.x > 0, pose.brow[1], pose.brow[0]), who)
    half = who.brow_thickness * (1 - 0.45 * across.clamp(-1, 1)) * (1 - across.square().square()).clamp_min(0).sqrt_()
    distance = (skin.y - middle).abs_() - half + 0.5 * (across.abs() - 1).clamp_min(0)
    canvas.over((who.hair * 0.62).lerp(who.skin * 0.35, 0.35), 0.92 * cover(distance, skin.pixel_y * 1.3))


def brow_line(across: Tensor, brow: Tensor, who: Traits) -> Tensor:
    """Height of a brow's middle, raised by `brow`, from its inner end (across -1) to its outer one (1)."""
    frown = brow.clamp_max(0)
    arch = 0.042 * (1 + 0.4 * brow.clamp_min(0)) * (1 - (across - 0.25).square())
    middle = who.brow_y + 0.028 - 0.085 * brow.clamp_min(0) - arch - frown * (0.030 - 0.062 * across)
    return middle + 0.010 * across


def mouth_half(who: Traits, pose: Pose) -> Tensor:
    """From the mouth's middle to its corners."""
    return who.mouth_width * (1 + 0.28 * pose.smile) * (1 - 0.45 * pose.pucker)


@dataclass(frozen=True)
class Mouth:
    """The mouth's outlines as heights over each pixel's column; `across` is -1 and 1 at the corners."""

    across: Tensor
    y: Tensor
    top: Tensor
    opening_top: Tensor
    opening_bottom: Tensor
    bottom: Tensor


def mouth(skin: Surface, who: Traits, pose: Pose) -> Mouth:
    """Lay out the mouth: smile lifts the corners and widens it, pucker narrows it, the jaw opens it downwards."""
    half = mouth_half(who, pose)
    across = skin.x / half
    arch = 1 - across * across
    line = who.mouth_y - 0.115 * (pose.smile + 0.16) * (across.square() - 0.45)
    gap = 0.185 * pose.jaw * (1 - 0.25 * pose.pucker) + 0.040 * pose.smile.clamp_min(0)
    full = who.lip_fullness * (1 + 0.55 * pose.pucker - 0.15 * pose.smile.clamp_min(0))
    bow = 1 - 0.30 * spot(skin.x, torch.zeros_like(half), 0.035, 1.0)
    round_ = arch * (1.6 - 0.6 * arch)  # fuller than a parabola: an O rather than a V
    opening_top = line - 0.22 * gap * round_
    opening_bottom = line + 0.95 * gap * round_
    return Mouth(
        across, skin.y, opening_top - 0.042 * full * round_ * bow, opening_top, opening_bottom,
        opening_bottom + 0.055 * full * round_,
    )  # fmt: skip


def paint_lips(canvas: Canvas, skin: Surface, lips: Mouth, who: Traits) -> None:
    """Lips (before the light is put on)."""
    soft = skin.pixel_y * (1 + 0.7 * lips.across.square().clamp_max(1.5))
    alpha = band(lips.y, lips.top, lips.bottom, soft)
    middle = 0.5 * (lips.opening_top + lips.opening_bottom)
    lower = cover(middle - lips.y, 0.012)
    shine = spot(lips.across, lips.y - 0.55 * lips.opening_bottom - 0.45 * lips.bottom, 0.45, 0.014)
    canvas.over(who.lips * (0.84 + 0.16 * lower + 0.22 * lower * shine)[:, None], 0.94 * alpha)


def paint_opening(canvas: Canvas, skin: Surface, lips: Mouth, who: Traits) -> None:
    """The open mouth: dark inside, upper teeth, tongue, and the line where closed lips meet."""
    soft = skin.pixel_y * (1 + 0.7 * lips.across.square().clamp_max(1.5))
    inside = band(lips.y, lips.opening_top, lips.opening_bottom, soft)
    height = lips.opening_bottom - lips.opening_top
    depth = ((lips.y - lips.opening_top) / 0.16).clamp(0, 1)
    canvas.over(rgb((0.34, 0.09, 0.10), depth) * (0.55 + 0.45 * depth)[:, None], inside)
    tongue = spot(lips.across / 0.62, (lips.opening_bottom - lips.y) / 0.075, 1.0, 1.0)
    canvas.over(rgb((0.80, 0.36, 0.38), depth), inside * step(tongue, 0.32, 0.52))
    teeth = cover(lips.y - lips.opening_top - torch.minimum(0.050 + 0 * height, 0.62 * height), skin.pixel_y * 1.2)
    shade = (1 - 0.22 * lips.across.square()).clamp_(0.4, 1)
    canvas.over(rgb((0.97, 0.95, 0.92), depth) * shade[:, None], inside * teeth)
    seam = cover((lips.y - 0.5 * (lips.opening_top + lips.opening_bottom)).abs_() - 0.006, soft)
    closed = step(height, 0.030, 0.0) * cover(lips.across.abs() - 1.0, 0.10)
    canvas.over(who.lips * 0.38, 0.9 * seam * closed)


def paint_beard(canvas: Canvas, skin: Surface, lips: Mouth, who: Traits) -> None:
    """A short beard with moustache, clear of the lips (before the light is put on)."""
    if not who.beard.any():
        return
    x = skin.x.abs() / who.width
    edge = who.mouth_y - 0.115 + 0.10 * step(x, 0.10, 0.40) - 0.30 * step(x, 0.45, 0.95)
    below = skin.y - edge
    lip = torch.maximum((lips.top - lips.y).clamp_min(0), (lips.y - lips.bottom).clamp_min(0))
    side = (lips.across.abs() - 1).clamp_min(0) * who.mouth_width
    clear = step((lip * lip + side * side).sqrt_(), 0.006, 0.040)
    canvas.over((who.hair * 0.85).lerp(who.skin * 0.5, 0.25), 0.86 * who.beard * clear * step(below, 0.0, 0.06))
