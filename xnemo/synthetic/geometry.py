"""Where the head is and what a pixel sees of it: pose, ray-cast ellipsoids, the face box.

The head is an ellipsoid under orthographic projection, bent into an egg by `Egg` (chin narrower, forward, and lower
when the jaw opens). A ray per pixel gives the point of the head's surface in head coordinates, so everything painted
on it is foreshortened and hidden correctly. Coordinates: x right, y down, z towards the viewer; frame in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from xnemo import crops
from xnemo.errors import XNeMoError
from xnemo.synthetic.identity import Traits, traits

MOTION = (
    "yaw", "pitch", "roll", "jaw", "smile", "pucker", "blink_left", "blink_right",
    "brow_left", "brow_right", "gaze_x", "gaze_y", "cheek",
)  # fmt: skip
"""Motion parameters. yaw > 0 turns to the picture's right, pitch > 0 looks up, roll > 0 tilts clockwise (degrees);
left and right are the picture's; the rest are in [0, 1] or [-1, 1] (see RANGES)."""

RANGES = {
    "yaw": (-40.0, 40.0), "pitch": (-25.0, 25.0), "roll": (-20.0, 20.0),
    "jaw": (0.0, 1.0), "smile": (-1.0, 1.0), "pucker": (0.0, 1.0),
    "blink_left": (0.0, 1.0), "blink_right": (0.0, 1.0), "brow_left": (-1.0, 1.0), "brow_right": (-1.0, 1.0),
    "gaze_x": (-1.0, 1.0), "gaze_y": (-1.0, 1.0), "cheek": (0.0, 1.0),
    "x": (-0.10, 0.10), "y": (-0.10, 0.10), "log_scale": (-0.25, 0.25),
}  # fmt: skip
PLACEMENT = ("x", "y", "log_scale")
"""Placement of the head: shift of its middle in frame sides (x right, y down) and the logarithm of its scale."""

HEAD_SIZE = 0.90  # frame half-sides per head unit at log_scale 0
HEAD_Y = -0.07  # where the middle of the head rests, in frame half-sides


@dataclass(frozen=True)
class Pose:
    """Pose and expression of N heads; every field is [N, 1, 1], `rotation` is [N, 3, 3] (head to screen, no roll)."""

    x: Tensor
    y: Tensor
    scale: Tensor
    cos_roll: Tensor
    sin_roll: Tensor
    rotation: Tensor
    jaw: Tensor
    smile: Tensor
    pucker: Tensor
    blink: tuple[Tensor, Tensor]
    brow: tuple[Tensor, Tensor]
    gaze_x: Tensor
    gaze_y: Tensor
    cheek: Tensor

    def part(self, samples: slice) -> "Pose":
        """Some of the poses."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {
            name: tuple(part[samples] for part in value) if isinstance(value, tuple) else value[samples]
            for name, value in values.items()
        }
        return Pose(**cut)

    def turn(self, row: int, column: int) -> Tensor:
        """One entry of the rotation, [N, 1, 1]."""
        return self.rotation[:, row, column, None, None]

    def to_head(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Frame coordinates to the head's own: centred, upright, in head units."""
        dx, dy = (x - self.x) / self.scale, (y - self.y) / self.scale
        return self.cos_roll * dx + self.sin_roll * dy, self.cos_roll * dy - self.sin_roll * dx

    def to_frame(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `to_head`."""
        x = self.x + self.scale * (self.cos_roll * u - self.sin_roll * v)
        return x, self.y + self.scale * (self.sin_roll * u + self.cos_roll * v)

    def direction(self, x: float | Tensor, y: float, z: float) -> tuple[Tensor, Tensor, float]:
        """A direction fixed in the frame (a light) seen in the upright coordinates of the head."""
        return self.cos_roll * x + self.sin_roll * y, self.cos_roll * y - self.sin_roll * x, z

    def project(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Head coordinates to upright screen coordinates (u, v, depth)."""
        turned = [self.turn(i, 0) * x + self.turn(i, 1) * y + self.turn(i, 2) * z for i in range(3)]
        return turned[0], turned[1], turned[2]


def pose(motion: Tensor, placement: Tensor) -> Pose:
    """Decode motion [N, 13] (MOTION, degrees and units) and placement [N, 3] (PLACEMENT)."""
    if motion.ndim != 2 or motion.shape[1] != len(MOTION):
        raise XNeMoError(f"motion must be [N, {len(MOTION)}], not {list(motion.shape)}: see synthetic.motion.MOTION")
    if placement.shape != (len(motion), len(PLACEMENT)):
        raise XNeMoError(f"placement must be [{len(motion)}, 3], not {list(placement.shape)}: x, y, log scale")
    m = dict(zip(MOTION, motion.float()[:, :, None, None].unbind(1), strict=True))
    yaw, pitch, roll = (torch.deg2rad(m[name]) for name in ("yaw", "pitch", "roll"))
    place = placement.float()[:, :, None, None]
    return Pose(
        x=2 * place[:, 0],
        y=2 * place[:, 1] + HEAD_Y,
        scale=HEAD_SIZE * place[:, 2].exp(),
        cos_roll=roll.cos(),
        sin_roll=roll.sin(),
        rotation=_rotation(yaw.flatten(), pitch.flatten()),
        blink=(m["blink_left"], m["blink_right"]),
        brow=(m["brow_left"], m["brow_right"]),
        **{name: m[name] for name in ("jaw", "smile", "pucker", "gaze_x", "gaze_y", "cheek")},
    )


def _rotation(yaw: Tensor, pitch: Tensor) -> Tensor:
    """R_yaw · R_pitch, [N, 3, 3]: the nose (0, 0, 1) goes to (sin yaw cos pitch, -sin pitch, cos yaw cos pitch)."""
    cy, sy, cp, sp, zero = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), torch.zeros_like(yaw)
    rows = (cy, sy * sp, sy * cp, zero, cp, -sp, -sy, cy * sp, cy * cp)
    return torch.stack(rows, -1).view(-1, 3, 3)


@dataclass(frozen=True)
class Hit:
    """What each pixel sees of an ellipsoid: the surface point in head coordinates, its screen normal, and `edge`,
    the signed distance to the silhouette (negative inside). All [N, H, W]."""

    x: Tensor
    y: Tensor
    z: Tensor
    normal: tuple[Tensor, Tensor, Tensor]
    edge: Tensor


def cast(pose: Pose, axes: tuple[Tensor, Tensor, Tensor], u: Tensor, v: Tensor) -> Hit:
    """Meet the rays through (u, v) with the ellipsoid of these half-axes; outside it, its rim is continued."""
    weights = torch.cat([axis**-2 for axis in axes], -1).view(-1, 1, 3)
    q = (pose.rotation * weights) @ pose.rotation.transpose(1, 2)  # the quadric in screen coordinates
    q11, q12, q13, q22, q23, q33 = (q[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    s11, s12, s22 = q11 - q13 * q13 / q33, q12 - q13 * q23 / q33, q22 - q23 * q23 / q33  # the silhouette's conic
    gu, gv = s11 * u + s12 * v, s12 * u + s22 * v
    inside = 1 - (gu * u + gv * v)
    edge = -0.5 * inside * (gu * gu + gv * gv + 1e-6).rsqrt()
    back = (1 - inside.clamp_max(0)).rsqrt()  # 1 inside; outside, to the rim
    u, v = u * back, v * back
    nz = (q33 * inside.clamp_min(0)).sqrt()
    z = (nz - (q13 * u + q23 * v)) / q33
    nx, ny = q11 * u + q12 * v + q13 * z, q12 * u + q22 * v + q23 * z
    length = (nx * nx + ny * ny + nz * nz).rsqrt()
    head = [pose.turn(0, i) * u + pose.turn(1, i) * v + pose.turn(2, i) * z for i in range(3)]
    return Hit(head[0], head[1], head[2], (nx * length, ny * length, nz * length), edge)


@dataclass(frozen=True)
class Egg:
    """The bend that makes a face of an ellipsoid, below the height `top` (all in upright head coordinates)."""

    top: Tensor
    reach: Tensor  # from `top` to the ellipsoid's bottom
    taper: Tensor
    forward: Tensor  # sideways shift of the chin when the head turns
    drop: Tensor  # lengthening by the jaw

    def straighten(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Screen to ellipsoid."""
        below = (v - self.top).clamp_min(0) / (1 + self.drop)
        t = (below / self.reach).clamp_max(1.2)
        t2 = t * t
        return (u - self.forward * t2) / (1 - self.taper * t2), torch.minimum(v, self.top) + below

    def bend(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Ellipsoid to screen, the inverse of `straighten`."""
        below = (v - self.top).clamp_min(0)
        t2 = (below / self.reach).clamp_max(1.2) ** 2
        return u * (1 - self.taper * t2) + self.forward * t2, torch.minimum(v, self.top) + below * (1 + self.drop)


def egg(who: Traits, pose: Pose) -> Egg:
    """The bend of these heads in these poses."""
    top = 0.12 * who.height + 0 * pose.jaw
    return Egg(top, who.height - top, who.taper, 0.10 * pose.turn(0, 2), 0.20 * pose.jaw)


def face_points(who: Traits, pose: Pose) -> tuple[Tensor, Tensor]:
    """Frame coordinates [N, 1, K] of points around the face: brow to chin, cheek to cheek."""
    heights = [who.brow_y - 0.03, 0.08 * who.height, 0.45 * who.height, 0.8 * who.height, 0.995 * who.height]
    return surface_points(who, pose, (-62.0, -45.0, -25.0, 0.0, 25.0, 45.0, 62.0), heights)


def surface_points(
    who: Traits, pose: Pose, longitudes: Sequence[float], heights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Frame coordinates [N, 1, K] of the head's front, at every longitude (degrees) of every height [N, 1, 1]."""
    longitude = torch.deg2rad(torch.tensor(longitudes, device=who.width.device))
    us, vs = [], []
    for y in heights:
        ring = (1 - (y / who.height) ** 2).clamp_min(0).sqrt()
        u, v = _on_screen(who, pose, who.width * ring * longitude.sin(), y, who.depth * ring * longitude.cos())
        us.append(u)
        vs.append(v)
    return pose.to_frame(torch.cat(us, -1), torch.cat(vs, -1))


def painted_points(who: Traits, pose: Pose, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Frame coordinates [N, 1, K] of what is painted on the head's front at (x, y), [N, 1, K] in head coordinates."""
    z = who.depth * (1 - (x / who.width) ** 2 - (y / who.height) ** 2).clamp_min(0).sqrt()
    return pose.to_frame(*_on_screen(who, pose, x, y, z))


def _on_screen(who: Traits, pose: Pose, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """A point of the head's surface in the upright coordinates of the screen."""
    u, v, _ = pose.project(x, y + 0 * x, z)
    return egg(who, pose).bend(u, v)


def in_box(x: Tensor, y: Tensor, identity: Tensor, motion: Tensor, placement: Tensor) -> Tensor:
    """Points [N, 1, K] of the frame, told from the middle of the face's box in sides of it: (x, y) [N, K, 2]."""
    middle_x, middle_y, side = crops.centre_side(face_boxes(identity, motion, placement, 2) - 1)
    found = torch.stack([x, y], dim=-1).squeeze(1)
    return (found - torch.stack([middle_x, middle_y], dim=1)[:, None]) / side[:, None, None]


def face_boxes(identity: Tensor, motion: Tensor, placement: Tensor, size: int) -> Tensor:
    """Boxes [N, 4] (left, top, right, bottom) in pixels of a frame of this size: brow-top to chin, cheek to cheek."""
    x, y = face_points(traits(identity), pose(motion, placement))
    box = torch.stack([x.amin(-1), y.amin(-1), x.amax(-1), y.amax(-1)], -1).squeeze(1)
    return (box + 1) * (size / 2)
