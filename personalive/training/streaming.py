"""The stages over time: windows of 16 frames that move on call by call (docs/reference/streaming.md section 8).

In the temporal stage every call starts from the ground truth at the noise levels of its slots. In the streaming stage
it starts from what the model itself made in the calls before, and the decoded picture is part of the loss.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from personalive.config import CHUNK, LEAD_IN, SLOTS, WINDOW
from personalive.engine import motion as kp
from personalive.engine import raster
from personalive.engine import schedule as sampler
from personalive.engine.motion import HeadPose
from personalive.training.captured import Tensors
from personalive.training.expression import face_crops
from personalive.training.image_stage import FOCUS
from personalive.training.shots import Shots, jitter_pose, to_bytes, weight_map
from personalive.training.sources import Clips, Source, step_generator
from personalive.training.stages import Batch, picture_loss
from personalive.training.trainee import Level, Trainee

STEP = sampler.inner_steps(SLOTS)[0]
SHORTEST, LONGEST = 4, 16
"""Calls after which streams start again with other people."""
KEYFRAME_SHARE = 0.15
"""Fraction of the calls in which the model also sees a keyframe of the target."""


@dataclass
class Window:
    """The 16 frames under way of n streams."""

    clean: Tensor
    """True latents `[n, 16, c, h, w]`."""
    faces: Tensor
    """Face crops of the driver `[n, 16, 3, s, s]`."""
    share: Tensor
    """How far tokens go from the reference's to those of `faces`, `[n, 16]`: below 1 in the lead-in."""
    keypoints: Tensor
    """Of the target, `[n, 16, 21, 3]`."""
    known: Tensor
    """1 where `clean` is the truth, 0 where the truth is unknown, `[n, 16]`."""
    focus: Tensor
    """`[n, 16, p, 2]`"""
    last: Tensor
    """Target pictures of the newest four frames and of those before, `[n, 16, 3, S, S]` as bytes."""
    carried: Tensor
    """Latents that the model carried over from the last call, `[n, 12, c, h, w]`."""

    def append(self, other: "Window") -> "Window":
        """Move on by the frames of `other`; `carried` stays."""
        parts = {
            field.name: torch.cat((getattr(self, field.name), getattr(other, field.name)), dim=1)[:, -WINDOW:]
            for field in fields(self)
            if field.name != "carried"
        }
        return Window(**parts, carried=self.carried)


class StreamingStage:
    """Both stages over time; `own` says which latents a call starts from."""

    trains: tuple[str, ...] = ("reference_unet", "denoising_unet", "motion_encoder", "pose_guider", "image_encoder")

    def __init__(
        self,
        trainee: Trainee,
        source: Source,
        batch: Batch,
        own: bool = False,
        found_poses: bool = False,
    ) -> None:
        """Train on the truth, or with `own` on the model's own outputs.

        Args:
            found_poses: use the poses that the motion extractor finds, even where labels are known.
        """
        self.trainee, self.source, self.batch, self.own = trainee, source, batch, own
        self.level = Level.of(STEP, trainee.device)
        self.name, self.rate = ("streaming", 4e-4) if own else ("temporal", 6e-4)
        self.found_poses = found_poses and source.labelled
        self.clips: Clips | None = None
        self.window: Window | None = None
        self._seed = self._call = 0
        self._draw = 0.0

    def begin(self) -> None:
        """Statistics of the batch norms stay as the image stage left them."""

    def end(self) -> None:
        self.clips = self.window = None

    @torch.no_grad()
    def prepare(self, step: int, seed: int) -> Tensors:
        random = step_generator(self.trainee.device, seed)
        # On the CPU: reading a number from the GPU would wait for it.
        self._draw = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        if self.clips is None:
            self._open(seed, random)
        else:
            self._advance(random)
        assert self.clips is not None and self.window is not None
        return self._inputs(self.clips, self.window, random)

    def take(self, results: Tensors) -> None:
        """The latents that go on to the next call."""
        assert self.clips is not None and self.window is not None
        self.window.carried = results["carried"]
        self._call += 1
        if (self._call + 1) * CHUNK > self.clips.length:
            self.end()

    def _open(self, seed: int, random: torch.Generator) -> None:
        """New people: the first window is the lead-in and the first four frames."""
        self._seed, self._call = seed, 0
        self.clips = self._clips(seed)
        start = self._chunk(self.clips, 0, random)
        reference = self.trainee.latents(self.clips.reference.images.flatten(0, 1))
        levels = sampler.lead_in_timesteps(SLOTS) * len(reference)
        base = reference.repeat_interleave(LEAD_IN, 0)
        noise = torch.randn(base.shape, generator=random, device=base.device)
        carried = sampler.add_noise(base, noise, levels).unflatten(0, (len(reference), LEAD_IN))
        self.window = self._lead(self.clips, start, carried).append(start)

    def _clips(self, seed: int) -> Clips:
        calls = int(torch.randint(SHORTEST, LONGEST + 1, (1,), generator=torch.Generator().manual_seed(seed)))
        return self.source.clips(self.batch.streams, calls * CHUNK, seed)

    def _advance(self, random: torch.Generator) -> None:
        assert self.clips is not None and self.window is not None
        self.window = self.window.append(self._chunk(self.clips, self._call * CHUNK, random))

    def _chunk(self, clips: Clips, start: int, random: torch.Generator) -> Window:
        """Four frames that enter the window."""
        driving, target = clips.frames(start, start + CHUNK)
        images = target.images.flatten(0, 1)
        people = len(target.images)
        pose = jitter_pose(self.trainee.pose(target), random)
        if self.found_poses:
            pose = mixed_pose(self.trainee, pose, clips.reference, driving)
        faces = face_crops(self.trainee, driving, random)
        return Window(
            clean=self.trainee.latents(images).unflatten(0, (people, CHUNK)),
            faces=faces.unflatten(0, (people, CHUNK)),
            share=torch.ones(people, CHUNK, device=images.device),
            keypoints=kp.project(pose).unflatten(0, (people, CHUNK)),
            known=torch.ones(people, CHUNK, device=images.device),
            focus=_focus(target),
            last=to_bytes(target.images),
            carried=torch.empty(0, device=images.device),
        )

    def _lead(self, clips: Clips, first: Window, carried: Tensor) -> Window:
        """The 12 frames of the lead-in (docs/reference/model.md section 9.3)."""
        people, device = len(first.clean), first.clean.device
        pictures = clips.ramp()
        weights = kp.lead_in_weights(device)
        reference = self.trainee.pose(clips.reference)
        own = kp.project(reference)[:, None]
        target = first.keypoints[:, :1]
        keypoints = torch.lerp(own, target, weights[None, :, None, None])
        known = torch.zeros(people, LEAD_IN, device=device)
        if pictures is None:
            pictures = clips.reference.images.expand(-1, LEAD_IN, -1, -1, -1)
        else:
            known = known + 1
        return Window(
            clean=self.trainee.latents(pictures.flatten(0, 1)).unflatten(0, (people, LEAD_IN)),
            faces=first.faces[:, :1].expand(-1, LEAD_IN, -1, -1, -1),
            share=weights.expand(people, -1),
            keypoints=keypoints,
            known=known,
            focus=torch.lerp(_focus(clips.reference), first.focus[:, :1], weights[None, :, None, None]),
            last=to_bytes(pictures),
            carried=carried,
        )

    def _inputs(self, clips: Clips, window: Window, random: torch.Generator) -> Tensors:
        trainee = self.trainee
        pictures = clips.reference.images.flatten(0, 1)
        portrait, size = trainee.latents(pictures), pictures.shape[-1]
        reference = face_crops(trainee, clips.reference, random)
        inputs = {
            "clean": window.clean,
            "known": window.known,
            "weight": weight_map(window.focus.flatten(0, 1), window.clean.shape[-2:], FOCUS),
            "portrait": portrait,
            "clip_images": trainee.clip_images(pictures),
            "noisy": self._noisy(window, portrait, random),
            "timesteps": self.level.timesteps,
            "coefficients": self.level.coefficients,
            "faces": torch.cat((reference.to(window.faces.dtype), window.faces.flatten(0, 1))),
            "share": window.share,
            "rasters": raster.draw(window.keypoints.flatten(0, 1), size, size),
        }
        if self._draw < KEYFRAME_SHARE:
            # A keyframe is a finished frame: the truth, made as imperfect as the model's own frames are.
            noise = torch.randn(portrait.shape, generator=random, device=portrait.device)
            inputs["keyframe"] = window.clean[:, 0] + 0.1 * noise
        if self.own:
            pick = int(self._draw * 1000) % CHUNK  # one of the finished frames of each stream as a picture
            inputs["picture"] = window.last[:, pick].float() / 127.5 - 1
            inputs["picture_weight"] = weight_map(window.focus[:, pick], (size, size), FOCUS)
            inputs["picked"] = torch.arange(CHUNK, device=portrait.device) == pick
        return inputs

    def compute(self, inputs: Tensors) -> Tensors:
        trainee, people = self.trainee, len(inputs["clean"])
        tokens = self._tokens(inputs["faces"], inputs["share"])
        embedding = trainee.embed_image(inputs["clip_images"])
        features = trainee.reference(inputs["portrait"], embedding)
        if "keyframe" in inputs:
            features = features.with_keyframe(trainee.reference(inputs["keyframe"], embedding))
        level = Level(inputs["timesteps"], inputs["coefficients"])
        after, clean = trainee.predict(inputs["noisy"], level, tokens, trainee.guide(inputs["rasters"]), features)
        after, clean = (part.unflatten(0, (people, WINDOW)) for part in (after, clean))
        results = self._score(inputs, clean)
        if "picture" in inputs:
            results |= self._score_pictures(inputs, clean)
            results["loss"] = results["loss"] + results["pixels"]
        return results | {"carried": after[:, CHUNK:].detach()}

    def _noisy(self, window: Window, portrait: Tensor, random: torch.Generator) -> Tensor:
        """What the call starts from, `[n·16, c, h, w]`."""
        people = len(window.clean)
        noise = torch.randn(window.clean.shape, generator=random, device=portrait.device)
        levels = STEP.timesteps[LEAD_IN:] * people
        new = sampler.add_noise(portrait.repeat_interleave(CHUNK, 0), noise[:, LEAD_IN:].flatten(0, 1), levels)
        if self.own or self._call == 0:
            old = window.carried
        else:
            levels = STEP.timesteps[:LEAD_IN] * people
            old = sampler.add_noise(window.clean[:, :LEAD_IN].flatten(0, 1), noise[:, :LEAD_IN].flatten(0, 1), levels)
            old = old.unflatten(0, (people, LEAD_IN))
        return torch.cat((old, new.unflatten(0, (people, CHUNK))), dim=1).flatten(0, 1)

    def _tokens(self, faces: Tensor, share: Tensor) -> Tensor:
        """Motion tokens of the window; in the lead-in they move gradually away from the reference's."""
        people = len(share)
        own, driver = self.trainee.motion_tokens(faces).split((people, people * WINDOW))
        driver = driver.unflatten(0, (people, WINDOW))
        return torch.lerp(own[:, None].expand_as(driver), driver, share[..., None, None].to(driver.dtype)).flatten(0, 1)

    def _score(self, inputs: Tensors, clean: Tensor) -> Tensors:
        error = ((clean - inputs["clean"]).flatten(0, 1).abs() * inputs["weight"]).mean(dim=(1, 2, 3))
        error = (error * inputs["known"].flatten()).unflatten(0, (len(clean), WINDOW)).mean(dim=0)
        slots = error.unflatten(0, (SLOTS, CHUNK)).mean(dim=1)
        return {"loss": slots.mean(), **{f"slot_{i}": slots[i].detach() for i in range(SLOTS)}}

    def _score_pictures(self, inputs: Tensors, clean: Tensor) -> Tensors:
        """One of the finished frames of each stream as a picture."""
        target, picked = inputs["picture"], inputs["picked"].float()
        known = (inputs["known"][:, :CHUNK] @ picked)[:, None, None, None]
        latents = torch.einsum("pfchw,f->pchw", clean[:, :CHUNK], picked)
        output = self.trainee.decode(latents) * known + target * (1 - known)
        square = F.mse_loss(output.detach().clamp(-1, 1), target)
        pixels = picture_loss(output, target, inputs["picture_weight"])
        return {"pixels": pixels, "psnr": -10 * (square / 4).log10()}

    def state_dict(self) -> dict[str, Any]:
        """The seed of the clips, the call, and the window."""
        window = None if self.window is None else {name: part.cpu() for name, part in vars(self.window).items()}
        return {"seed": self._seed, "call": self._call, "window": window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw the same clips again and continue with the window."""
        self._seed, self._call = state["seed"], state["call"]
        if state["window"] is None:
            return
        self.window = Window(**{name: part.to(self.trainee.device) for name, part in state["window"].items()})
        self.clips = self._clips(self._seed)


def _focus(shots: Shots) -> Tensor:
    """Focus points, or the centre of the face box where they are unknown."""
    if shots.focus is not None:
        return shots.focus
    size = shots.images.shape[-1]
    middle = (shots.boxes[..., :2] + shots.boxes[..., 2:]) / size - 1
    return middle[..., None, :]


def mixed_pose(trainee: Trainee, target: HeadPose, reference: Shots, driving: Shots) -> HeadPose:
    """Poses as inference has them: the reference's shape and scale and the driver's angles, as the model finds them."""
    frames = driving.images.shape[1]
    own = trainee.found_pose(reference.images.flatten(0, 1))
    other = trainee.found_pose(driving.images.flatten(0, 1))
    return HeadPose(
        other.angles,
        target.translation,
        own.scale.repeat_interleave(frames, 0),
        own.canonical.repeat_interleave(frames, 0),
    )
