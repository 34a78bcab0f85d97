"""One step: four driving frames of each of several streams → four finished frames of each.

The algorithm is that of docs/reference/streaming.md sections 8 and 9. Every function takes states and returns the next
ones. A step is all or nothing: the caller takes the new states only if it succeeds.

The encoders take the frames of all streams together; windows are denoised one by one, as one fills a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from personalive.config import CHUNK, SLOTS, WINDOW
from personalive.engine import schedule
from personalive.engine.cues import Cue
from personalive.engine.keyframes import KeyframeDecision, KeyframeTest
from personalive.engine.motion import DriverMotion, HeadPose, MotionChunk, lead_in, lead_in_weights, project, retarget
from personalive.engine.networks import HostCopy, Networks
from personalive.engine.preprocess import DrivingFrames, Reference, bilinear
from personalive.engine.raster import bounded, unbounded_boxes, usable
from personalive.engine.smoothing import smooth_pose
from personalive.engine.state import Driving, ReferenceState, StreamState
from personalive.types import Box

LEAD_IN_STEPS = SLOTS - 1
"""Steps whose finished frames are the lead-in, not a driving frame's."""


@dataclass(frozen=True)
class StepRecord:
    """Intermediate values of one step of one stream, for observers; frames are oldest first."""

    step: int
    keypoints: Tensor
    """Keypoints of this step's rasters: 16 sets in the first step, then 4; [n, 21, 3]."""
    motion: Tensor
    """Motion tokens of the window, [16, tokens, width]."""
    pose_features: Tensor
    """Pose features of the window, [16, c₀, h, w]."""
    predictions: tuple[Tensor, ...]
    """The denoising UNet's output at each inner step, [16, c, h, w]."""
    latents: Tensor
    """Latents after the step, fp32 [16, c, h, w]."""
    clean: Tensor
    """Clean latents of the frames that leave, fp32 [4, c, h, w]."""
    frames: Tensor
    """The frames that leave, fp32 [4, 3, H, W] in [0, 1]."""
    keyframes: int
    """Keyframes that the step attended to."""
    bank: Tensor
    """Motion bank after the step, fp32 [n, tokens·width]."""
    inserted: bool
    """Whether the step made a keyframe."""


@dataclass(frozen=True)
class Finished:
    """What a step made of one stream's window."""

    state: StreamState
    """The state for the next step."""
    pixels: HostCopy
    """The four frames that leave, uint8 [4, height, width, 3]: the device may still be working on them."""
    record: StepRecord


def encode_reference(networks: Networks, reference: Reference) -> ReferenceState:
    """Everything that the networks take from a portrait, once."""
    latents, embedding = networks.encode_image(reference.vae_image), networks.embed_image(reference.clip_image)
    features = networks.encode_reference(latents, embedding)
    pose, face = networks.extract_pose(reference.pose_image), reference.face
    if face is None:
        box = _usable(_start_boxes(networks, reference.vae_image, pose), reference.vae_image)[0]
        face = _cut(reference.vae_image, box or _whole(reference.vae_image), networks.config.motion_encoder.image_size)
    return ReferenceState(latents, embedding, features, pose, networks.encode_motion(face))


def encode_driving(
    networks: Networks, states: Sequence[StreamState], chunks: Sequence[Driving], *, stretch: bool = False
) -> tuple[list[StreamState], list[MotionChunk]]:
    """Driving frames → their motion, retargeted to each stream's portrait; with `stretch` always four frames of it."""
    after = list(states)
    motions = {i: chunk for i, chunk in enumerate(chunks) if isinstance(chunk, DriverMotion)}
    pictures = {i: chunk for i, chunk in enumerate(chunks) if isinstance(chunk, DrivingFrames)}
    if pictures:
        seen, found = observe(networks, [states[i] for i in pictures], look(networks, [*pictures.values()]))
        for i, state, motion in zip(pictures, seen, found, strict=True):
            after[i], motions[i] = state, motion
    moved = [_retarget(state, motions[i], stretch) for i, state in enumerate(after)]
    return [state for state, _ in moved], [chunk for _, chunk in moved]


@dataclass(frozen=True)
class Look:
    """Driving frames of one stream with their head poses, and what is known of their faces so far."""

    chunk: DrivingFrames
    pose: HeadPose
    tokens: Tensor | None
    """Motion tokens; None: the faces of this stream, or of others beside it, have to be cut out first."""
    frames: Tensor | None
    """The frames on the device and..."""
    boxes: HostCopy | None
    """...boxes around their faces by keypoints, on their way to the host; None: faces were given."""

    def __len__(self) -> int:
        return len(self.chunk)


def look(networks: Networks, chunks: Sequence[DrivingFrames]) -> list[Look]:
    """The first half of `observe`, which waits for nothing."""
    counts = [len(chunk) for chunk in chunks]
    images = networks.upload([chunk.pose_images for chunk in chunks])
    faces = [chunk.faces for chunk in chunks if chunk.faces is not None]
    if len(faces) == len(chunks):
        every_pose, every_token = networks.encode_driver(images, networks.upload(faces))
        tokens: Sequence[Tensor | None] = every_token.split(counts)
    else:
        every_pose, tokens = networks.extract_pose(images), [None] * len(chunks)
    looks = []
    for chunk, end, known in zip(chunks, np.cumsum(counts), tokens, strict=True):
        pose = every_pose[end - len(chunk) : end]
        frames = None if chunk.frames is None else networks.upload([chunk.frames])
        boxes = None if frames is None else _start_boxes(networks, frames, pose)
        looks.append(Look(chunk, pose, known, frames, boxes))
    return looks


def observe(
    networks: Networks, states: Sequence[StreamState], looks: Sequence[Look]
) -> tuple[list[StreamState], list[DriverMotion]]:
    """The driver's own motion in each stream's frames, and the states after finding the faces."""
    tokens = [each.tokens for each in looks if each.tokens is not None]
    after = list(states)
    if len(tokens) < len(looks):
        after, faces = _faces(networks, states, looks)
        tokens = [*networks.encode_motion(faces).split([len(each) for each in looks])]
    columns = [each.pose for each in looks], tokens, [each.chunk.cues for each in looks]
    return after, [DriverMotion(*item) for item in zip(*columns, strict=True)]


def _faces(
    networks: Networks, states: Sequence[StreamState], looks: Sequence[Look]
) -> tuple[list[StreamState], Tensor]:
    """Face crops of all chunks, cut out by the driver's own keypoints where they were not given."""
    after, crops = [], []
    for state, each in zip(states, looks, strict=True):
        if each.frames is None or each.boxes is None:
            assert each.chunk.faces is not None  # DrivingFrames has one or the other
            crops.append(networks.upload([each.chunk.faces]))
        else:
            for frame, box in zip(each.frames.split(1), _usable(each.boxes, each.frames), strict=True):
                state = replace(state, last_box=box or state.last_box)
                crops.append(_cut(frame, state.last_box or _whole(frame), networks.config.motion_encoder.image_size))
        after.append(state)
    return after, torch.cat(crops)


def _start_boxes(networks: Networks, images: Tensor, pose: HeadPose) -> HostCopy:
    """Face boxes by keypoints, on their way to the host."""
    return networks.download(unbounded_boxes(project(pose), images.shape[3], images.shape[2]))


def _usable(boxes: HostCopy, images: Tensor) -> list[Box | None]:
    """Those boxes; None where one is of no use."""
    found = bounded(torch.from_numpy(boxes.result()), images.shape[3], images.shape[2])
    return [box if usable(box) else None for box in found]


def _whole(image: Tensor) -> Box:
    return 0, 0, image.shape[3], image.shape[2]


def _cut(image: Tensor, box: Box, size: int) -> Tensor:
    left, top, right, bottom = box
    return bilinear(image[:, :, top:bottom, left:right], size)


def _retarget(state: StreamState, motion: DriverMotion, stretch: bool) -> tuple[StreamState, MotionChunk]:
    """The driver's pose and tokens as the portrait shows them."""
    reference, control = state.reference, state.options.control
    pose, tokens = motion.pose, motion.tokens
    cues = [] if motion.cues is None else [motion.cue(i) for i in range(len(motion))]
    seen = _first_seen(len(tokens), cues)
    if state.neutral is None and seen is not None:
        resting = tokens[seen : seen + 1] if state.neutral_tokens is None else state.neutral_tokens
        state = replace(state, neutral=pose[seen : seen + 1], neutral_tokens=resting)
    if control.smooth > 0:
        pose, smoothed = smooth_pose(pose, state.smoothed, control.smooth, state.options.rate, cues)
        state = replace(state, smoothed=smoothed)
    first = pose[seen or 0 :][:1] if state.first is None else state.first
    neutral = state.neutral if control.motion == "relative" else None
    targets = []
    for frames in _scenes(len(tokens), cues):  # movement is measured from the first frame of each
        first = pose[frames.start : frames.start + 1] if frames.start or _anchors(cues) else first
        moved = retarget(reference.pose, pose[frames], first, control.pose, neutral=neutral, keep=control.keep)
        targets.append(moved)
    if neutral is not None and state.neutral_tokens is not None:
        tokens = reference.motion + (tokens - state.neutral_tokens)
    tokens = torch.lerp(reference.motion.expand_as(tokens), tokens, control.expression)
    chunk, leading = MotionChunk(torch.cat([project(target) for target in targets]), tokens), state.lead_in
    start, start_tokens = targets[0][:1], tokens[:1]
    if cues:
        rest = MotionChunk(project(reference.pose), reference.motion)
        chunk = chunk.eased(rest if state.history is None else state.history[-1:], rest, cues)
        if cues[0].weight == 0:  # the animation starts without a face
            start, start_tokens = reference.pose, reference.motion
    if leading is None:
        weights = lead_in_weights(tokens.device).to(tokens.dtype)[:, None, None]
        keypoints = project(lead_in(reference.pose, start))
        leading = MotionChunk(keypoints, torch.lerp(reference.motion, start_tokens, weights))
    if stretch and len(chunk) < CHUNK:
        chunk = chunk.stretched(state.history, CHUNK)
    # Movement is never measured from frames without a face.
    after = state.first if seen is None else first
    return replace(state, first=after, lead_in=leading).with_motion(chunk), chunk


def _first_seen(count: int, cues: Sequence[Cue]) -> int | None:
    """The first frame whose motion is used."""
    return next((index for index in range(count) if not cues or cues[index].weight > 0), None)


def _anchors(cues: Sequence[Cue]) -> bool:
    """Whether movement is measured from the first frame."""
    return bool(cues) and cues[0].anchor


def _scenes(count: int, cues: Sequence[Cue]) -> list[slice]:
    """Runs of frames that share an anchor."""
    starts = [0, *(index for index, cue in enumerate(cues) if cue.anchor and index), count]
    return [slice(start, end) for start, end in pairwise(starts)]


def denoise_window(
    networks: Networks, states: Sequence[StreamState], chunks: Sequence[MotionChunk], noise: Sequence[Tensor]
) -> list[Finished]:
    """Four frames of motion enter each stream's window, and its four oldest frames leave it finished.

    It waits for the motion only, not for the pictures: meanwhile the caller can start the next step.

    Args:
        states: of streams of one size and number of denoising steps.
        chunks: motion of four frames of each.
        noise: Gaussian noise [4, c, h, w] for each, in the networks' dtype and on their device.
    """
    options = states[0].options
    entering = [state.entering(chunk) for state, chunk in zip(states, chunks, strict=True)]
    keypoints = torch.cat([chunk.keypoints for chunk in entering])
    guided = networks.guide(keypoints, options.width, options.height).split([len(chunk) for chunk in entering])
    windows = [s.enter(chunk.tokens, pose) for s, chunk, pose in zip(states, entering, guided, strict=True)]
    # What the host decides by leaves the device before its long work, and is waited for once that is under way.
    seen = [[networks.download(tensor) for tensor in _compared(state)] for state in windows]
    sampled = [_sample(networks, *item) for item in zip(windows, noise, strict=True)]
    decisions = [_decide(*item) for item in zip(windows, seen, strict=True)]
    columns = zip(windows, entering, sampled, decisions, strict=True)
    return [_leave(networks, *column) for column in columns]


@dataclass(frozen=True)
class _Sample:
    predictions: tuple[Tensor, ...]
    latents: Tensor
    clean: Tensor
    frames: Tensor
    pixels: HostCopy


def _sample(networks: Networks, state: StreamState, noise: Tensor) -> _Sample:
    """All inner steps, and the finished pictures, which are then on their way to the host."""
    assert state.motion is not None and state.pose_features is not None  # the window has been entered
    steps = schedule.inner_steps(state.options.steps)
    new = schedule.add_noise(state.reference.latents, noise, steps[0].timesteps[-CHUNK:])
    latents = torch.cat((state.latents, new))
    predictions, clean = [], latents
    for step in steps:
        prediction = networks.denoise(latents, step.timesteps, state.motion, state.pose_features, state.features)
        predictions.append(prediction)
        coefficients = schedule.StepCoefficients.of(step, networks.device)
        latents, clean = schedule.denoise_step(latents, prediction, coefficients, networks.config.prediction_type)
    assert len(latents) == WINDOW
    frames = networks.decode(clean[:CHUNK])
    pixels = (frames * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return _Sample(tuple(predictions), latents, clean[:CHUNK], frames, networks.download(pixels))


def _compared(state: StreamState) -> tuple[Tensor, Tensor]:
    """The window's motion and the bank, in fp32: what a keyframe is decided by."""
    assert state.motion is not None
    return state.motion.float(), state.bank


def _decide(state: StreamState, seen: Sequence[HostCopy]) -> KeyframeDecision:
    motion, bank = (torch.from_numpy(copy.result()) for copy in seen)
    options = state.options
    test = KeyframeTest(state.step, motion, bank, len(state.keyframes), options.keyframe_threshold)
    return options.keyframes(test)


def _leave(
    networks: Networks,
    state: StreamState,
    entered: MotionChunk,
    sample: _Sample,
    decision: KeyframeDecision,
) -> Finished:
    """The state after the step: what the next one needs, and the keyframe if there is one."""
    assert state.motion is not None and state.pose_features is not None
    bank, features, keyframes = state.bank, state.features, state.keyframes
    if decision.remember is not None:
        bank = torch.cat((bank, state.motion[decision.remember].float().flatten()[None]))
    if decision.insert:
        keyframe = sample.clean[:1].to(networks.dtype)
        features = features.with_keyframe(networks.encode_reference(keyframe, state.reference.embedding))
        keyframes = (*keyframes, keyframe)
    record = StepRecord(
        step=state.step,
        keypoints=entered.keypoints,
        motion=state.motion,
        pose_features=state.pose_features,
        predictions=sample.predictions,
        latents=sample.latents,
        clean=sample.clean,
        frames=sample.frames,
        keyframes=len(state.keyframes),
        bank=bank,
        inserted=decision.insert,
    )
    after = replace(
        state,
        latents=sample.latents[CHUNK:],
        bank=bank,
        features=features,
        keyframes=keyframes,
        step=state.step + 1,
    )
    return Finished(after, sample.pixels, record)
