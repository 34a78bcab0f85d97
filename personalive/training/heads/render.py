"""Draws heads in space: geometry, visibility, materials, light and camera, for a batch of people at once."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.training.avatars.geometry import rotation
from personalive.training.avatars.motion import Motion
from personalive.training.heads.extras import BEARD_LAYERS, ExtraFaces, extra_faces, make_extras
from personalive.training.heads.identity import HeadIdentity
from personalive.training.heads.light import Surface, develop, shade, shadows
from personalive.training.heads.materials import BEARD, GLASSES, HAIR, Seen, backdrop, paint
from personalive.training.heads.model import HeadModel
from personalive.training.heads.noise import cell_noise, make_volume
from personalive.training.heads.pose import Posed, camera, gaze, pose_heads, turn
from personalive.training.heads.raster import Hits, rasterise

FINE = 2
"""Samples of a pixel's side."""
LASHES = 6


@dataclass(frozen=True)
class Scene:
    """B people with everything on them, ready to be drawn; P vertices each."""

    posed: Posed
    turned: Tensor
    """In the space of the picture, without perspective, `[B, P, 3]`."""
    seen: Tensor
    """With perspective."""
    normals: Tensor
    """Outwards, in the space of the picture, `[B, P, 3]`."""
    strands: Tensor
    """See `Extras`; 0 for the head, `[B, P, 5]`."""


class HeadRenderer:
    """Pictures of heads, `size` x `size`."""

    def __init__(self, model: HeadModel, size: int) -> None:
        """Prepare what does not differ between people."""
        self.model, self.size = model, size
        self.volume = make_volume(model.device)
        extra: ExtraFaces = extra_faces(model)
        self.extra, count = extra, len(model.mean)
        lashes = model.part == LASHES
        # Solid ones first; then those that have holes: lashes, hair, beard.
        self.faces = torch.cat(
            (model.faces[~lashes], extra.glasses + count, model.faces[lashes], extra.hair + count, extra.beard + count)
        )
        kinds = (
            (GLASSES, len(extra.glasses)),
            (LASHES, int(lashes.sum())),
            (HAIR, len(extra.hair)),
            (BEARD, len(extra.beard)),
        )
        numbers = [torch.full((length,), kind, device=model.device) for kind, length in kinds]
        self.part = torch.cat((model.part[~lashes], *numbers))
        self.solid = int((~lashes).sum()) + len(extra.glasses)
        self.two_sided = self.part >= LASHES
        beyond = int(self.faces.max()) + 1 - count
        rest = model.mean.new_zeros(beyond, 3)
        self.fixed = torch.cat((torch.cat((model.mean, rest)), torch.cat((model.masks, rest.new_zeros(beyond, 5)))), 1)
        beard_start = count + beyond - len(extra.beard_vertices) * BEARD_LAYERS
        self.fixed[beard_start:, :3] = model.mean[extra.beard_vertices].repeat(BEARD_LAYERS, 1)
        self.fixed[beard_start:, 3:] = model.masks[extra.beard_vertices].repeat(BEARD_LAYERS, 1)

    @torch.no_grad()
    def render(self, identity: HeadIdentity, motion: Motion) -> Tensor:
        """Pictures `[B, 3, S, S]` in [-1, 1]."""
        scene = self.scene(identity, motion)
        fine = self.size * FINE

        def keep(picture: Tensor, triangle: Tensor, weights: Tensor) -> Tensor:
            return self._keep(identity, scene, picture, triangle, weights)

        hits = rasterise(scene.seen, self.faces, fine, self.solid, self.two_sided, keep)
        shadow = shadows(scene.turned, self.faces, self.two_sided, identity, hits)
        return self.colour(identity, motion, scene, hits, shadow)

    @torch.no_grad()
    def scenery(self, identity: HeadIdentity) -> Tensor:
        """What is behind people alone, `[B, 3, S, S]` in [-1, 1]."""
        empty = self.model.mean.new_zeros(len(identity), self.size * FINE, self.size * FINE, 3)
        light = backdrop(self.model, self.volume, identity, empty)
        return develop(light.permute(0, 3, 1, 2), self.volume, identity, self.size)

    def scene(self, identity: HeadIdentity, motion: Motion) -> Scene:
        """All vertices of B people."""
        model, count = self.model, len(self.model.mean)
        posed = pose_heads(model, identity, motion)
        outwards = vertex_normals(posed.shown, model.faces)
        extras = make_extras(model, self.extra, identity, posed, outwards)
        follows = model.mean.new_ones(extras.points.shape[1])
        turned = torch.cat((posed.turned, turn(extras.points, follows, motion)), dim=1)
        normals = vertex_normals(turned, self.faces)
        strands = torch.cat((extras.strands.new_zeros(len(identity), count, 5), extras.strands), dim=1)
        return Scene(posed, turned, camera(turned, identity, motion), normals, strands)

    def _keep(self, identity: HeadIdentity, scene: Scene, picture: Tensor, triangle: Tensor, weights: Tensor) -> Tensor:
        """Hair has gaps between its strands, and lashes and beards mostly consist of gaps."""
        corners = self.faces[triangle]
        strand = (scene.strands[picture[:, None], corners] * weights[..., None]).sum(dim=1)
        fixed = (self.fixed[corners] * weights[..., None]).sum(dim=1)
        part = self.part[triangle]
        pattern = torch.where(
            (part == LASHES)[:, None], fixed[:, :3] * 9, strand[:, :3] * torch.where(part == HAIR, 2.0, 3.2)[:, None]
        )
        noise = cell_noise(self.volume, pattern)
        along, level = strand[:, 3], strand[:, 4]
        hair = noise > 0.55 * level - 0.02 + 0.6 * ((along - 0.88) / 0.12).clamp(min=0)
        beard = noise > 1.05 - beard_density(fixed[:, :3], fixed[:, 3], identity, picture) * (0.8 - 0.35 * level)
        return torch.where(part == HAIR, hair, torch.where(part == BEARD, beard, noise > 0.45))

    def colour(self, identity: HeadIdentity, motion: Motion, scene: Scene, hits: Hits, shadow: Tensor) -> Tensor:
        """Materials, light and camera for what is seen in each pixel."""
        faces = self.faces
        moving = torch.cat((scene.turned, scene.normals, scene.strands), dim=-1)
        found = hits.interpolate(moving, faces)
        fixed = hits.interpolate(self.fixed[None], faces)
        part = torch.where(hits.triangle < 0, -1, self.part[hits.triangle.clamp(min=0)])
        matrix = rotation(motion)
        shift = torch.stack((motion.translate_x, motion.translate_y, torch.zeros_like(motion.scale)), -1)[:, None]
        eyes = scene.posed.eyes @ matrix.transpose(1, 2) * motion.scale[:, None, None] + shift
        seen = Seen(
            part, found[..., :3], F.normalize(found[..., 3:6], dim=-1), found[..., 6:], fixed[..., :3], fixed[..., 3:],
            eyes, (gaze(motion)[:, None] @ matrix.transpose(1, 2))[:, 0], scene.posed.radii * motion.scale[:, None],
        )  # fmt: skip
        surface: Surface = paint(self.model, self.volume, identity, seen)
        light = shade(identity, seen, surface, shadow)
        picture = torch.where(part[..., None] < 0, backdrop(self.model, self.volume, identity, light), light)
        return develop(picture.permute(0, 3, 1, 2), self.volume, identity, self.size)


def beard_density(place: Tensor, lips: Tensor, identity: HeadIdentity, picture: Tensor) -> Tensor:
    """How thickly hair grows in the lower face, 0 to 1, at places of the mean head `[n, 3]`."""
    x, y, _ = place.unbind(-1)
    side = x.abs()
    chin = ((y - 0.34 + 0.5 * side) / 0.08).clamp(0, 1)
    cheek = ((y - 0.42 + 0.9 * side) / 0.15).clamp(0, 1) * ((side - 0.15) / 0.1).clamp(0, 1)
    neck = 1 - ((y - 0.60) / 0.1).clamp(0, 1)
    upper = (
        ((y - 0.185) / 0.02).clamp(0, 1)
        * (1 - ((y - 0.27) / 0.03).clamp(0, 1))
        * (1 - ((side - 0.16) / 0.05).clamp(0, 1))
    )
    of_chin = torch.maximum(chin, cheek) * neck * identity.beard[picture]
    return torch.maximum(of_chin, upper * identity.moustache[picture].clamp(max=1)) * (1 - (lips * 2.5).clamp(0, 1))


def vertex_normals(points: Tensor, faces: Tensor) -> Tensor:
    """Outward unit normals of vertices `[B, V, 3]`, y down."""
    corners = points[:, faces]
    across = torch.linalg.cross(corners[:, :, 2] - corners[:, :, 0], corners[:, :, 1] - corners[:, :, 0])
    normals = torch.zeros_like(points)
    for corner in range(3):
        normals.index_add_(1, faces[:, corner], across)
    return F.normalize(normals, dim=-1)
