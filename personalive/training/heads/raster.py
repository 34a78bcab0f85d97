"""A rasteriser for batches of meshes with the same triangles, in plain PyTorch, on any device.

Each triangle is spread over the pixels of its bounding box, and the nearest hit of every pixel wins by one atomic
maximum of (depth, triangle). The result does not depend on the order of the work, so it is the same in every run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Keep = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Which fragments are not transparent: picture `[n]`, triangle `[n]` and barycentric weights `[n, 3]` → bool `[n]`."""
DEPTH_STEPS = 2**24
FAR, NEAR = -4.0, 4.0
"""Depths that are told apart, in head units; larger is nearer."""
NOTHING = -1


@dataclass(frozen=True)
class Hits:
    """What is seen in each pixel of B pictures."""

    triangle: Tensor
    """`[B, S, S]`, -1 where there is none."""
    weights: Tensor
    """Barycentric, `[B, S, S, 3]`."""

    def interpolate(self, values: Tensor, faces: Tensor) -> Tensor:
        """Values of vertices `[B or 1, V, C]` in all pixels, `[B, S, S, C]`; arbitrary where nothing is seen."""
        corners = faces[self.triangle.clamp(min=0)]
        if len(values) == 1:
            found = values[0][corners]
        else:
            rows = torch.arange(len(values), device=values.device)[:, None, None, None]
            found = values[rows, corners]
        return (found * self.weights[..., None]).sum(dim=-2)


def rasterise(points: Tensor, faces: Tensor, size: int, solid: int, two_sided: Tensor, keep: Keep | None) -> Hits:
    """Find the nearest triangle of each pixel.

    Args:
        points: vertices of B meshes, x and y in [-1, 1] of the picture, z towards the viewer, `[B, V, 3]`.
        faces: triangles `[F, 3]`.
        size: pixels of a side of the pictures.
        solid: the triangles from this one on ask `keep` whether they are transparent.
        two_sided: bool `[F]`; of the others only those count that face the viewer.
        keep: see `Keep`.
    """
    with torch.no_grad():
        planes, boxes, counts = _setup(points, faces, size, two_sided)
        best = torch.full((len(points) * size * size,), NOTHING, dtype=torch.int64, device=points.device)
        for first, last, test in ((0, solid, None), (solid, len(faces), keep)):
            if last > first:
                _spread(best, planes, boxes, counts, (first, last), size, test)
        triangle = torch.where(best < 0, NOTHING, best % (1 << 24)).view(len(points), size, size)
    # Weights once more, for the winners only.
    chosen = planes[torch.arange(len(points), device=points.device)[:, None, None], triangle.clamp(min=0)]
    line = torch.arange(size, device=points.device, dtype=points.dtype) + 0.5
    return Hits(triangle, _weights(chosen, line.expand(size, size), line[:, None].expand(size, size)))


def _setup(points: Tensor, faces: Tensor, size: int, two_sided: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Edge and depth functions `[B, F, 9]`, first pixel and extent of bounding boxes `[B, F, 3]`, and their areas."""
    corners = points[:, faces]
    x, y, z = ((corners[..., i] + 1) * (size / 2) if i < 2 else corners[..., 2] for i in range(3))
    area = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0]) - (x[..., 2] - x[..., 0]) * (y[..., 1] - y[..., 0])
    edges = []
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        slope_x, slope_y = y[..., j] - y[..., k], x[..., k] - x[..., j]
        edges += [slope_x, slope_y, x[..., j] * y[..., k] - x[..., k] * y[..., j]]
    inverse = torch.where(area.abs() < 1e-4, 0.0, 1 / area)
    weights = torch.stack(edges, dim=-1) * inverse[..., None]
    depth = sum(weights[..., 3 * i : 3 * i + 3] * z[..., i : i + 1] for i in range(3))
    low_x, high_x = (x.amin(-1) - 0.5).ceil().clamp(0, size), (x.amax(-1) - 0.5).floor().clamp(-1, size - 1)
    low_y, high_y = (y.amin(-1) - 0.5).ceil().clamp(0, size), (y.amax(-1) - 0.5).floor().clamp(-1, size - 1)
    wide, high = (high_x - low_x + 1).clamp(min=0), (high_y - low_y + 1).clamp(min=0)
    # y points down in the picture, so triangles that face the viewer have their corners in this order:
    seen = ((area < 0) | two_sided) & (area.abs() >= 1e-4)
    count = (wide * high * seen).long()
    assert isinstance(depth, Tensor)
    packed = torch.cat((weights[..., :6], depth), dim=-1)  # the third weight follows from the others
    return packed, torch.stack((low_x, low_y, wide), dim=-1).long(), count


def _weights(planes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    first = planes[..., 0] * x + planes[..., 1] * y + planes[..., 2]
    second = planes[..., 3] * x + planes[..., 4] * y + planes[..., 5]
    return torch.stack((first, second, 1 - first - second), dim=-1)


def _spread(
    best: Tensor, planes: Tensor, boxes: Tensor, counts: Tensor, part: tuple[int, int], size: int, keep: Keep | None
) -> None:
    first, last = part
    counts = counts[:, first:last].flatten()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    start = counts.cumsum(0) - counts
    place = torch.arange(len(owner), device=owner.device) - start[owner]
    picture = owner // (last - first)
    triangle = owner % (last - first) + first
    box = boxes[picture, triangle]
    x, y = box[:, 0] + place % box[:, 2], box[:, 1] + place // box[:, 2]
    plane = planes[picture, triangle]
    middle_x, middle_y = x.to(planes.dtype) + 0.5, y.to(planes.dtype) + 0.5
    weights = _weights(plane, middle_x, middle_y)
    inside = (weights >= -1e-5).all(dim=-1)
    if keep is not None:
        picture, triangle, x, y, weights = (v[inside] for v in (picture, triangle, x, y, weights))
        plane, middle_x, middle_y = plane[inside], middle_x[inside], middle_y[inside]
        inside = keep(picture, triangle, weights)
    depth = plane[:, 6] * middle_x + plane[:, 7] * middle_y + plane[:, 8]
    steps = ((depth - FAR) * (DEPTH_STEPS / (NEAR - FAR))).clamp(0, DEPTH_STEPS - 1).long()
    key = torch.where(inside, (steps << 24) + triangle, NOTHING)
    best.scatter_reduce_(0, (picture * size + y) * size + x, key, "amax")
