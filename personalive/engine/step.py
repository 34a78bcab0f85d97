"""One call: four driving frames of each of several streams → four finished frames of each.

The algorithm is that of docs/reference/streaming.md sections 8 and 9.

What streams of one model can share is computed for all at once; what belongs to a stream stays in its state. A stream
that is alone takes the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from personalive.accel.transfer import Download, joined, upload, upload_joined
from personalive.config import FRAMES, SLOTS, WINDOW
from personalive.engine import keypoints as kp
from personalive.engine import schedule as sampler
from personalive.engine.keyframes import KeyframeTest
from personalive.engine.preprocess import DrivingFrames, Reference, bilinear
from personalive.engine.state import AnimationState, MotionChunk, ReferenceState
from personalive.models.unet import TimeFeatures
from personalive.types import Box

if TYPE_CHECKING:
    from personalive.engine.stream import Stream
    from personalive.pipeline import PersonaLive


@dataclass(frozen=True)
class Schedule:
    """The inner steps of a call, with everything that is the same at each call."""

    steps: list[sampler.InnerStep]
    times: list[TimeFeatures]
    coefficients: list[sampler.StepCoefficients]

    @classmethod
    def of(cls, model: "PersonaLive", steps: int) -> "Schedule":
        """For a number of denoising steps."""
        inner = sampler.inner_steps(steps)
        with torch.inference_mode():
            times = [model.embed_time(step.timesteps) for step in inner]
        return cls(inner, times, [sampler.StepCoefficients.of(step, model.device) for step in inner])


@dataclass(frozen=True)
class CallRecord:
    """Values inside one call of one stream, for whoever wants to look; frames are oldest first."""

    call: int
    keypoints: Tensor
    """Keypoints of this call's rasters: 16 sets at the first call, then 4; [n, 21, 3]."""
    motion: Tensor
    """Motion tokens of the window, [16, tokens, width]."""
    pose_features: Tensor
    """Pose features of the window, [16, c₀, h, w]."""
    predictions: tuple[Tensor, ...]
    """The denoising UNet's output at each inner step, [16, c, h, w]."""
    latents: Tensor
    """Latents after the call, fp32 [16, c, h, w]."""
    clean: Tensor
    """Clean latents of the frames that leave, fp32 [4, c, h, w]."""
    frames: Tensor
    """The frames that leave, fp32 [4, 3, H, W] in [0, 1]."""
    keyframes: int
    """Keyframes that the call attended to."""
    bank: Tensor
    """Motion bank after the call, fp32 [n, tokens·width]."""
    inserted: bool
    """Whether the call made a keyframe."""


def encode_reference(model: "PersonaLive", reference: Reference) -> ReferenceState:
    """Everything that the networks take from a portrait, once."""
    latents, embedding = model.encode_image(reference.vae_image), model.embed_image(reference.clip_image)
    model.prepare_decoder(latents)
    pose = model.extract_pose(reference.pose_image)
    face = reference.face
    if face is None:
        box = _boxes(reference.vae_image, pose)[0]
        face = _cut(reference.vae_image, box or _whole(reference.vae_image), model.config.motion_encoder.image_size)
    features = model.reference_features(latents, embedding)
    return ReferenceState(latents, embedding, features, pose, model.encode_motion(face))


def observe(
    streams: Sequence["Stream"], chunks: Sequence[DrivingFrames], *, stretch: bool = False
) -> list[MotionChunk]:
    """Driving frames → the motion that each stream's reference takes over, with `stretch` always four frames of it."""
    same = len({len(chunk) for chunk in chunks}) == 1
    if same and all(_is_regular(*item) for item in zip(streams, chunks, strict=True)):
        return _follow(streams, chunks, stretch)
    model, counts = streams[0].model, [len(chunk) for chunk in chunks]
    every_pose = model.extract_pose(torch.cat([chunk.pose_images for chunk in chunks]))
    poses = [every_pose[end - count : end] for end, count in zip(np.cumsum(counts), counts, strict=True)]
    faces = torch.cat([_faces(*item) for item in zip(streams, chunks, poses, strict=True)])
    tokens = model.encode_motion(faces).split(counts)
    return [_take_over(*item, stretch) for item in zip(streams, poses, tokens, strict=True)]


def _is_regular(stream: "Stream", chunk: DrivingFrames) -> bool:
    """Whether a chunk needs nothing of the host: it is a call's, its faces are cut out, the animation is under way."""
    state = stream.begun()[1]
    return chunk.faces is not None and len(chunk) <= WINDOW and state.first is not None and state.lead is not None


def _follow(streams: Sequence["Stream"], chunks: Sequence[DrivingFrames], stretch: bool) -> list[MotionChunk]:
    """What `observe` does for regular chunks of one length, as one function of the device."""
    model = streams[0].model
    begun = [stream.begun() for stream in streams]
    sources = [
        (reference.pose, state.first, reference.motion, stream.strength)
        for stream, (reference, state) in zip(streams, begun, strict=True)
        if state.first is not None  # a regular chunk's is known
    ]
    images = upload_joined([chunk.pose_images for chunk in chunks], model.device)
    faces = upload_joined([chunk.faces for chunk in chunks if chunk.faces is not None], model.device)
    moved = (MotionChunk(*values) for values in model.follow(images, faces, sources))
    return [state.moved(chunk, stretch) for (_, state), chunk in zip(begun, moved, strict=True)]


def _faces(stream: "Stream", chunk: DrivingFrames, pose: kp.HeadPose) -> Tensor:
    """The chunk's face crops, cut out by the driver's own keypoints where they were not given."""
    device = stream.model.device
    if chunk.faces is not None:
        return upload(chunk.faces, device)
    assert chunk.frames is not None  # DrivingFrames has one or the other
    frames, (_, state) = upload(chunk.frames, device), stream.begun()
    crops = []
    for index, box in enumerate(_boxes(frames, pose)):
        state.last_box = box or state.last_box
        frame = frames[index : index + 1]
        crops.append(_cut(frame, state.last_box or _whole(frame), stream.preprocessor.face_size))
    return torch.cat(crops)


def _boxes(images: Tensor, pose: kp.HeadPose) -> list[Box | None]:
    """Face boxes by keypoints; None where a box is no use."""
    boxes = kp.face_boxes(kp.project(pose), images.shape[3], images.shape[2])
    return [box if kp.usable(box) else None for box in boxes]


def _whole(image: Tensor) -> Box:
    return 0, 0, image.shape[3], image.shape[2]


def _cut(image: Tensor, box: Box, size: int) -> Tensor:
    left, top, right, bottom = box
    return bilinear(image[:, :, top:bottom, left:right], size)


def _take_over(stream: "Stream", pose: kp.HeadPose, tokens: Tensor, stretch: bool) -> MotionChunk:
    reference, state = stream.begun()
    state.first = state.first or pose[:1]
    target = kp.retarget(reference.pose, pose, state.first, stream.motion_strength)
    tokens = torch.lerp(reference.motion.expand_as(tokens), tokens, stream.motion_strength)
    if state.lead is None:
        weights = kp.ramp_weights(tokens.device).to(tokens.dtype)[:, None, None]
        leading = torch.lerp(reference.motion, tokens[:1], weights)
        state.lead = MotionChunk(kp.project(kp.ramp(reference.pose, target[:1])), leading)
    return state.moved(MotionChunk(kp.project(target), tokens), stretch)


@dataclass(frozen=True)
class _Finished:
    """What the networks made of one stream's window."""

    predictions: tuple[Tensor, ...]
    latents: Tensor
    clean: Tensor
    frames: Tensor
    pixels: Download


def denoise(streams: Sequence["Stream"], chunks: Sequence[MotionChunk]) -> list[npt.NDArray[np.uint8]]:
    """One call: four frames of motion enter each stream's window, and its four oldest frames leave it finished."""
    model, size = streams[0].model, streams[0].preprocessor
    states = [stream.begun()[1] for stream in streams]
    entering = [state.entering(chunk) for state, chunk in zip(states, chunks, strict=True)]
    every = joined([chunk.keypoints for chunk in entering])
    guided = model.guide(every, size.width, size.height).split([len(chunk) for chunk in entering])
    for state, chunk, pose_features in zip(states, entering, guided, strict=True):
        state.enter(chunk.tokens, pose_features)
    finished: dict[int, _Finished] = {}
    for group in _groups(streams, model.windows_at_once):
        finished.update(zip(group, _finish([streams[place] for place in group]), strict=True))
    # Whoever asks whether motion is new waits for the device, so that comes when all of its work is under way.
    inserts = [_decide(stream) for stream in streams]
    pixels = [finished[place].pixels.values() for place in range(len(streams))]
    for place, (stream, chunk) in enumerate(zip(streams, entering, strict=True)):
        made = finished[place]
        if stream.observer is not None:
            values = (made.predictions, made.latents, made.clean, made.frames)
            stream.observer(_record(states[place], chunk, values, inserts[place]))
        _leave(stream, made.latents, made.clean, inserts[place])
    return pixels


def _groups(streams: Sequence["Stream"], most: int) -> list[list[int]]:
    """Places of streams that go through the UNet together: up to `most` with equally many keyframes.

    Others would make a recording of their own of every combination of numbers.
    """
    counts = sorted({stream.keyframe_count for stream in streams})
    alike = [[place for place, stream in enumerate(streams) if stream.keyframe_count == count] for count in counts]
    return [places[start : start + most] for places in alike for start in range(0, len(places), most)]


def _finish(streams: Sequence["Stream"]) -> list[_Finished]:
    """All inner steps, and the pictures of what leaves, which are on their way to the host then."""
    model, finished = streams[0].model, []
    predictions, latents, clean = _sample(streams)
    for index in range(len(streams)):
        outputs = tuple(prediction.split(FRAMES)[index] for prediction in predictions)
        frames, pixels = model.decode_pixels(clean[index])
        finished.append(_Finished(outputs, latents[index], clean[index], frames, Download(pixels)))
    return finished


def _decide(stream: "Stream") -> bool:
    """Whether this call makes a keyframe; if so, its motion is remembered."""
    state = stream.begun()[1]
    assert state.motion is not None  # the window has been entered
    test = KeyframeTest(state.calls, state.motion, state.bank, state.keyframes, stream.keyframe_threshold)
    decision = stream.keyframes(test)
    if decision.remember is not None:
        remembered = state.motion[decision.remember].float().flatten()
        state.bank = torch.cat((state.bank, remembered[None]))
    return decision.insert


def _sample(streams: Sequence["Stream"]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """All inner steps: the outputs of each, and per stream the latents after them and the clean ones that leave."""
    model, schedule = streams[0].model, streams[0].schedule
    begun = [stream.begun() for stream in streams]
    states = [state for _, state in begun]
    windows = []
    for stream, (reference, state) in zip(streams, begun, strict=True):
        new = sampler.add_noise(reference.latents, stream.draw(WINDOW), schedule.steps[0].timesteps[-WINDOW:])
        windows += [state.latents, new]
    latents = torch.cat(windows)
    motion = torch.cat([state.motion for state in states if state.motion is not None])
    pose = torch.cat([state.pose_features for state in states if state.pose_features is not None])
    predictions, clean = [], latents
    for time, coefficients in zip(schedule.times, schedule.coefficients, strict=True):
        prediction = model.denoise(latents, time, motion, pose, [state.features for state in states])
        predictions.append(prediction)
        latents, clean = sampler.denoise_step(latents, prediction, coefficients, model.config.prediction_type)
    return predictions, list(latents.split(FRAMES)), [window[:WINDOW] for window in clean.split(FRAMES)]


def _leave(stream: "Stream", latents: Tensor, clean: Tensor, insert: bool) -> None:
    """Close the call: keep what the next one needs, and the keyframe if there is one."""
    reference, state = stream.begun()
    state.latents = latents[WINDOW:]
    if insert:
        state.features = state.features.with_keyframe(stream.model.reference_features(clean[:1], reference.embedding))
        state.keyframes += 1
    state.calls += 1


def _record(
    state: AnimationState, chunk: MotionChunk, values: tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor], insert: bool
) -> CallRecord:
    assert state.motion is not None and state.pose_features is not None
    return CallRecord(
        state.calls, chunk.keypoints, state.motion, state.pose_features, *values, state.keyframes, state.bank, insert
    )


CALLS_OF_RAMP = SLOTS - 1
"""Calls whose finished frames are the ramp, not a driving frame's."""
