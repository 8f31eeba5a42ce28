"""Behind the head: background, long hair, shoulders and clothes, neck."""

import torch
from torch import Tensor

from xnemo.synthetic.geometry import HEAD_Y, Pose
from xnemo.synthetic.identity import Traits
from xnemo.synthetic.paint import Canvas, cover, lit, rgb, spot, step


def background(canvas: Canvas, who: Traits) -> None:
    """A lit studio wall: lighter behind the head on the light's side, darker in the corners."""
    glow = spot(canvas.x + 0.35 * who.light_side, canvas.y + 0.25, 1.5, 1.5)
    shade = torch.lerp(rgb((0.62, 0.64, 0.70), glow), rgb((1.06, 1.05, 1.03), glow), glow[:, None])
    torch.mul(who.background, shade, out=canvas.rgb)


def long_hair(canvas: Canvas, who: Traits, pose: Pose) -> None:
    """The hair that hangs behind the neck, for those who wear it long."""
    if not (who.hair_length > 0.5).any():
        return
    u, v = pose.to_head(canvas.x, canvas.y)
    u = u + 0.10 * pose.turn(0, 2)
    half = who.width * (1.10 + 0.10 * who.hair_volume) + 0.06 * step(v, 0.0, 0.7)
    bottom = 0.30 + 0.62 * who.hair_length
    middle, reach = 0.5 * (bottom - 0.35), 0.5 * (bottom + 0.35)
    round_ = 0.30
    dx, dy = u.abs() - (half - round_), (v - middle).abs() - (reach - round_)
    distance = (dx.clamp_min(0).square_() + dy.clamp_min(0).square_()).sqrt_() + torch.maximum(dx, dy).clamp_max(0)
    alpha = cover(distance - round_, canvas.pixel / pose.scale) * (who.hair_length > 0.5)
    across = (u / half).clamp(-1, 1)
    light = 0.66 - 0.26 * across * across + 0.07 * (15 * across + 2 * v).sin_() - 0.10 * step(v, 0.1, 0.8)
    canvas.over(who.hair * light[:, None], alpha)


def body(canvas: Canvas, who: Traits, pose: Pose) -> None:
    """Shoulders and a crew-neck jumper; the body follows four fifths of the head's shifts."""
    x, y, pixel = *_body(canvas, pose), canvas.pixel / pose.scale
    ax, ay = x / 1.02, (y - 1.52) / 0.74
    radius = (ax.abs().pow(2.6) + ay.abs().pow(2.6)).clamp_min(1e-6)
    distance = (radius.pow(1 / 2.6) - 1).mul_(0.78)
    light = (0.80 - 0.30 * step(x.abs(), 0.35, 1.0) + 0.12 * who.light_side * x - 0.18 * (y - 1.0)).clamp_(0, 1)
    light -= 0.10 * spot(x.abs() - 0.52, y - 1.12, 0.06, 0.30)  # the fold of the arm
    cloth = lit(who.clothes, light, rgb((0.42, 0.42, 0.48), x), rgb((1.08, 1.06, 1.04), x))
    canvas.over(cloth, cover(distance, pixel))


def neck(canvas: Canvas, who: Traits, pose: Pose) -> None:
    """The neck from the back of the jaw to the collar, darker under the chin, and the collar around it."""
    x, y, pixel = *_body(canvas, pose), canvas.pixel / pose.scale
    top_u, top_v, _ = pose.project(0.0, 0.22, -0.12)
    top_x, top_y = _to_body(pose, *pose.to_frame(top_u, top_v))
    along = ((y - top_y) / (0.86 - top_y)).clamp(0, 1)
    half = who.width * (0.46 + 0.05 * along + 0.10 * step(along, 0.72, 1.05))
    across = (x - top_x * (1 - along)) / half
    distance = torch.maximum((across.abs() - 1) * half, _collar(x, y))
    light = (0.72 - 0.30 * across * across + 0.22 * who.light_side * across).clamp_(0, 1)
    light = light * (0.55 + 0.45 * step(along, 0.45, 0.95))
    skin = lit(who.skin, light, rgb((0.50, 0.38, 0.38), x), rgb((1.04, 1.02, 1.0), x))
    canvas.over(skin, cover(distance, pixel) * (y > top_y))
    band = (_collar(x, y) - 0.010).abs_() - 0.028
    front = step(y, 0.80, 0.84)
    canvas.over(who.clothes * (0.62 + 0.25 * front[:, None]), cover(band, pixel) * front)


def _collar(x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the neckline: an ellipse lying on the shoulders, open to the top."""
    below = (y - 0.81).clamp_min(0)
    return ((x / 0.285).square_() + (below / 0.13).square_()).sqrt_().sub_(1).mul_(0.2)


def _body(canvas: Canvas, pose: Pose) -> tuple[Tensor, Tensor]:
    x, y = _to_body(pose, canvas.x, canvas.y)
    return torch.broadcast_tensors(x, y)


def _to_body(pose: Pose, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Frame coordinates to body units: scaled as the head, shifted less, never rolled."""
    return (x - 0.8 * pose.x) / pose.scale, (y - HEAD_Y - 0.8 * (pose.y - HEAD_Y)) / pose.scale
