"""The head as a solid: skin under light, nose, ears, hair, glasses, in the order in which they hide one another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xnemo.synthetic import face
from xnemo.synthetic.geometry import Egg, Hit, Pose, cast, egg
from xnemo.synthetic.identity import Traits
from xnemo.synthetic.paint import Canvas, cover, cover_steep, lit, rgb, spot, step

EARS_Y = 0.04


def head(canvas: Canvas, who: Traits, pose: Pose) -> None:
    """Draw everything from the skin to the glasses on a canvas that is cut around the head."""
    u, v = pose.to_head(canvas.x, canvas.y)
    u, v = torch.broadcast_tensors(u, v)
    pixel = canvas.pixel / pose.scale
    bend = egg(who, pose)
    straight_u, straight_v = bend.straighten(u, v)
    hit = cast(pose, (who.width, who.height, who.depth), straight_u, straight_v)
    nose = _nose(who, pose, bend, u, v)
    cap = _hair_cap(who, pose, u, v, hit)
    _ears(canvas, who, pose, u, v, behind=True)
    _face(canvas, who, pose, hit, nose, cap)
    _hair(canvas, who, pose, cap, hit, pixel)
    _ears(canvas, who, pose, u, v, behind=False)
    _glasses(canvas, who, pose, u, v)


def _surface(hit: Hit, pose: Pose, pixel: Tensor) -> face.Surface:
    """Head coordinates with the footprint of a pixel on the turned surface."""
    nx, ny, nz = hit.normal
    slope = nz.clamp_min(0.2).reciprocal()
    along_x = (pose.turn(0, 0) - pose.turn(2, 0) * nx * slope).abs_().clamp_(0.7, 3)
    along_y = (pose.turn(1, 1) - pose.turn(2, 1) * ny * slope).abs_().clamp_(0.7, 3)
    return face.Surface(hit.x, hit.y, along_x.mul_(pixel), along_y.mul_(pixel))


@dataclass(frozen=True)
class Nose:
    """A rounded cone from the bridge to the tip, in upright screen coordinates [N, H, W]."""

    normal: tuple[Tensor, Tensor, Tensor]
    weight: Tensor  # how far the nose's normal replaces the cheek's
    edge: Tensor  # signed distance to the lower half of its outline
    across: Tensor  # from the tip, in the plane of the face
    below: Tensor
    contour: Tensor  # 1 along the outline of the tip, where light does not reach


def _nose(who: Traits, pose: Pose, bend: Egg, u: Tensor, v: Tensor) -> Nose:
    def on_face(y: Tensor, out: float) -> tuple[Tensor, Tensor]:
        z = who.depth * (1 - (y / who.height).square()).sqrt() + out
        pu, pv, _ = pose.project(0.0, y, z)
        return bend.bend(pu, pv)

    (au, av), (bu, bv) = on_face(-0.05 + 0 * who.nose_tip_y, 0.0), on_face(who.nose_tip_y, 0.085)
    du, dv = bu - au, bv - av
    along = (((u - au) * du + (v - av) * dv) / (du * du + dv * dv)).clamp_(0, 1)
    radius = torch.lerp(torch.full_like(who.nose_width, 0.034), who.nose_width, along * along)
    eu = (u - au - along * du) / (radius * (1 + 0.20 * along))
    ev = (v - av - along * dv) / radius
    e2 = eu * eu + ev * ev
    weight = (1.5 * (1 - e2)).clamp_(0, 1) * (0.25 + 0.75 * along * along)
    return Nose(
        (eu, ev, (1 - e2).clamp_min(0).sqrt_()), weight, (e2.sqrt() - 1) * radius + 0.25 * (1 - along),
        (u - bu) / pose.turn(0, 0).clamp_min(0.5), v - bv,
        ((e2.sqrt() - 1.05) / 0.28).square_().neg_().exp_() * along.square().square(),
    )  # fmt: skip


def _face(canvas: Canvas, who: Traits, pose: Pose, hit: Hit, nose: Nose, cap: "Cap") -> None:
    pixel = canvas.pixel / pose.scale
    skin = _surface(hit, pose, pixel)
    paper = Canvas(who.skin.expand_as(canvas.rgb).clone(), canvas.x, canvas.y, canvas.pixel)
    eye, lips = face.eyes(skin, who, pose), face.mouth(skin, who, pose)
    cheek = spot(skin.x.abs() - 0.255, skin.y - 0.19 + 0.03 * pose.cheek, 0.12, 0.085)
    paper.over(who.skin * rgb((1.02, 0.66, 0.64), cheek), cheek * (0.22 + 0.55 * pose.cheek))
    face.paint_beard(paper, skin, lips, who)
    face.paint_lids(paper, skin, eye, who)
    face.paint_brows(paper, skin, who, pose)
    face.paint_lips(paper, skin, lips, who)
    light, shine = _light(who, pose, hit, nose)
    light = light * (_creases(skin, who, pose, cap) - 0.20 * nose.contour)
    paper.rgb.mul_(torch.lerp(rgb((0.52, 0.37, 0.38), light), rgb((1.10, 1.07, 1.04), light), light[:, None]))
    hole_x, hole_y = (nose.across.abs() - 0.034) / 1.4, nose.below - 0.040
    nostril = cover((hole_x * hole_x + hole_y * hole_y).sqrt_() - 0.0135, pixel * 1.5)
    paper.over(who.skin * rgb((0.34, 0.22, 0.22), light), 0.85 * nostril)
    paper.rgb.add_(shine[:, None])
    face.paint_opening(paper, skin, lips, who)
    face.paint_eyes(paper, skin, eye, who, pose)
    canvas.over(paper.rgb, cover(torch.minimum(hit.edge, nose.edge), pixel))


def _light(who: Traits, pose: Pose, hit: Hit, nose: Nose) -> tuple[Tensor, Tensor]:
    """Soft wrapped light and a broad shine from the upper side of the frame, [N, H, W] each."""
    normal = [n + nose.weight * (m - n) for n, m in zip(hit.normal, nose.normal, strict=True)]
    lx, ly, lz = pose.direction(0.55 * who.light_side, -0.50, 0.67)
    facing = normal[0] * lx + normal[1] * ly + normal[2] * lz
    rim = (1 - normal[2].clamp(0, 1)).pow_(4) * (0.5 + 0.5 * (normal[0] * who.light_side).clamp(-1, 1))
    light = (facing * 0.66 + 0.38 + 0.18 * rim).clamp_(0, 1)
    hx, hy, hz = pose.direction(0.30 * who.light_side, -0.30, 0.905)
    shine = (normal[0] * hx + normal[1] * hy + normal[2] * hz).clamp_min(0).pow_(22).mul_(0.13)
    return light, shine


def _creases(skin: face.Surface, who: Traits, pose: Pose, cap: "Cap") -> Tensor:
    """What keeps light away: eye sockets, the sides of the nose, under the lip, smile folds, the hair above."""
    x = skin.x.abs()
    shade = 1 - 0.26 * spot(x - who.eye_spacing + 0.075, skin.y + 0.055, 0.085, 0.060)
    shade -= 0.34 * spot(x, skin.y - who.nose_tip_y - 0.075, 0.085, 0.032)
    shade -= 0.16 * spot(x, skin.y - who.mouth_y - 0.105 - 0.17 * pose.jaw, 0.10, 0.028)
    fold = x - 0.120 - 0.62 * (skin.y - who.nose_tip_y).clamp(0, 0.3)
    shade -= (0.05 + 0.25 * pose.smile.clamp_min(0)) * spot(fold, skin.y - who.nose_tip_y - 0.10, 0.020, 0.10)
    return shade - 0.30 * step(cap.inside, -0.10, 0.0)


def _ears(canvas: Canvas, who: Traits, pose: Pose, u: Tensor, v: Tensor, behind: bool) -> None:
    """Ears at the sides: the one turned away goes behind the head, the other before it; long hair covers both."""
    pixel = canvas.pixel / pose.scale
    for side in (-1.0, 1.0):
        cu, cv, _ = pose.project(side * 0.985 * who.width, EARS_Y, -0.05)
        facing = pose.turn(2, 0) * side + 0.12
        front = step(facing, 0.0, 0.15)
        share = (1 - front if behind else front) * (who.hair_length <= 0.5)
        if not share.any():
            continue
        half = 0.050 + 0.055 * facing.clamp_min(0)
        du, dv = (u - cu - side * 0.012) / half, (v - cv) / 0.115
        radius = (du * du + dv * dv).sqrt_()
        light = (0.62 + 0.25 * side * du * (1 - facing) - 0.15 * dv + 0.12 * side * who.light_side).clamp_(0, 1)
        light -= 0.30 * spot(du + side * 0.15, dv, 0.45, 0.60)
        colour = lit(who.skin * rgb((1.0, 0.90, 0.88), u), light, rgb((0.50, 0.36, 0.36), u), rgb((1.08, 1.04, 1.0), u))
        canvas.over(colour, share * cover((radius - 1) * 0.6 * half, pixel))


@dataclass(frozen=True)
class Cap:
    """The hair as a shell around the skull and `inside`, the height above the hairline (positive in the hair)."""

    hit: Hit
    inside: Tensor


def _hair_cap(who: Traits, pose: Pose, u: Tensor, v: Tensor, skull: Hit) -> Cap:
    volume = who.hair_volume
    axes = (who.width * (1.06 + 0.10 * volume), who.height * (1.03 + 0.08 * volume), who.depth * (1.06 + 0.06 * volume))
    lift = -0.045 - 0.035 * volume
    cu, cv, _ = pose.project(0.0, lift, -0.03)
    hit = cast(pose, axes, u - cu, v - cv)
    long_ = (who.hair_length > 0.5).float()
    x = skull.x / who.width
    line = torch.lerp(_fringe(who, x), 0.73 * long_ - 0.02, step(x.abs(), 0.60, 1.0))
    line = torch.lerp(line, 0.36 + 0.50 * long_, step(skull.z, -0.06, -0.28))
    return Cap(hit, line - skull.y)


def _fringe(who: Traits, x: Tensor) -> Tensor:
    """Height of the hairline over the forehead at x (1 at the temples): swept if short, a parted curtain if long."""
    off = x - 0.26 * who.hair_parting
    swept = 0.05 * off * who.hair_parting.sign() + 0.16 * off.square()
    curtain = 0.46 * (off.square() + 0.004).sqrt() - 0.06
    return who.hairline_y + torch.where(who.hair_length > 0.5, curtain, swept)


def _hair(canvas: Canvas, who: Traits, pose: Pose, cap: Cap, skull: Hit, pixel: Tensor) -> None:
    """Hair with form: soft light, strands that run back from the parting, a band of shine."""
    hit = cap.hit
    nx, ny, nz = hit.normal
    lx, ly, lz = pose.direction(0.50 * who.light_side, -0.55, 0.67)
    light = (nx * lx + ny * ly + nz * lz) * 0.55 + 0.40
    strand = hit.x / (who.width * (1.15 - hit.y.clamp(-0.6, 0) * -1.2))
    fine = (1 - 2.2 * pixel / 0.03).clamp(0, 1)
    light = light + 0.05 * (23 * strand).sin_() + 0.05 * fine * (61 * strand + 4 * hit.y).sin_()
    band = spot((ny + 0.62) + 0.06 * (23 * strand).sin_(), torch.zeros_like(pixel), 0.16, 1.0)
    light = light * (1 - 0.35 * step(cap.inside, 0.08, 0.0))
    colour = lit(who.hair, light.clamp_(0, 1), rgb((0.36, 0.34, 0.38), nx), rgb((1.34, 1.30, 1.25), nx))
    colour = colour + (0.16 * band * nz)[:, None] * (0.35 + 0.65 * who.hair)
    root = cap.inside.clamp_min(0)
    thickness = 0.010 + (0.035 + 0.055 * who.hair_volume) * root / (root + 0.08)  # it grows out of the skin
    edge = torch.maximum(hit.edge, skull.edge - thickness)
    alpha = cover(edge, pixel) * cover_steep(-cap.inside)
    canvas.over(colour.clamp_(0, 1), alpha)


def _glasses(canvas: Canvas, who: Traits, pose: Pose, u: Tensor, v: Tensor) -> None:
    """Round glasses in a plane before the eyes, with a faint reflection, and the near temple."""
    if not who.glasses.any():
        return
    pixel = canvas.pixel / pose.scale
    cu, cv, _ = pose.project(0.0, 0.02, who.depth * 0.98 + 0.02)
    x = (u - cu) / pose.turn(0, 0)
    y = (v - cv - pose.turn(1, 0) * x) / pose.turn(1, 1)
    out, radius = x.abs() - who.eye_spacing - 0.004, 0.158
    distance = ((out.abs().pow(2.6) + (y.abs() * 1.12).pow(2.6)).clamp_min(1e-8).pow(1 / 2.6)) - radius
    bridge = torch.maximum(x.abs() - 0.055, (y + 0.03 + 0.6 * x.square()).abs_() - 0.011)
    canvas.over(rgb((0.86, 0.93, 1.0), u), who.glasses * 0.10 * cover(distance.clone(), pixel))
    glare = ((out + 0.9 * y) / 0.05).square().neg().exp() * cover(distance.clone(), pixel)
    canvas.over(rgb((1.0, 1.0, 1.0), u), who.glasses * 0.16 * glare)
    canvas.over(rgb((0.10, 0.09, 0.11), u), who.glasses * 0.9 * _temples(who, pose, u, v, pixel))
    frame = torch.minimum(distance.abs() - 0.0125, bridge)
    canvas.over(rgb((0.10, 0.09, 0.11), u), who.glasses * 0.95 * cover(frame, pixel))


def _temples(who: Traits, pose: Pose, u: Tensor, v: Tensor, pixel: Tensor) -> Tensor:
    """Coverage of the arms of the glasses, from the frame back to each ear that is seen and not under long hair."""
    alpha = torch.zeros_like(u)
    for side in (-1.0, 1.0):
        seen = step(pose.turn(2, 0) * side, 0.10, 0.25) * (who.hair_length <= 0.5)
        if not seen.any():
            continue
        au, av, _ = pose.project(side * (who.eye_spacing + 0.155), 0.0, who.depth * 0.98 + 0.02)
        bu, bv, _ = pose.project(side * 0.98 * who.width, 0.0, -0.02)
        du, dv = bu - au, bv - av
        along = (((u - au) * du + (v - av) * dv) / (du * du + dv * dv)).clamp_(0, 1)
        distance = ((u - au - along * du).square_() + (v - av - along * dv).square_()).sqrt_()
        alpha = torch.maximum(alpha, seen * cover(distance - 0.012, pixel))
    return alpha
