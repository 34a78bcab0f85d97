"""Goldens of whole animations, run through `Stream`.

Some of them record defects of the published implementation. What differs from the specified behaviour is a keyframe
policy, a noise source, or how frames are pushed; the engine is the same.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from personalive import models
from personalive.config import CHUNK, LEAD_IN, STEP_CHOICES
from personalive.engine import motion as kp
from personalive.engine import raster
from personalive.engine.keyframes import FIRST_STEP, MAX_KEYFRAMES, KeyframeDecision, KeyframeTest, keyframe_policy
from personalive.engine.networks import Networks, PlainNetworks
from personalive.engine.preprocess import DrivingFrames, Preprocessor, Reference
from personalive.engine.step import StepRecord
from personalive.engine.stream import Stream
from personalive.pipeline import PersonaLive
from personalive.testing import weight_rule as rule
from personalive.testing.parity import report as tolerances
from personalive.testing.parity.components import Computed, Golden
from personalive.testing.parity.networks import SIZES, latents_as_published, network
from personalive.types import Box

if TYPE_CHECKING:
    from personalive.accel.accelerator import Accelerator

REFERENCE_BANK_SIZE = 4
"""Entries of the motion bank at which the published offline mode stops testing."""


class LoggedPolicy:
    """A keyframe policy that remembers what it saw; this one is the specified behaviour."""

    tested_frame = 0

    def __init__(self) -> None:
        self.checks: list[tuple[int, int, int]] = []
        """Call, whether motion was remembered, entries of the bank afterwards."""
        self.distances: list[float] = []

    def __call__(self, test: KeyframeTest) -> KeyframeDecision:
        decision = self.decide(test)
        if self.tests(test):
            added = decision.remember is not None
            self.checks.append((test.step, int(added), len(test.bank) + added))
            self.distances.append(test.distance(self.tested_frame))
        return decision

    def tests(self, test: KeyframeTest) -> bool:
        """Whether the distance is looked at in this call."""
        return test.step >= FIRST_STEP and test.keyframes < MAX_KEYFRAMES

    def decide(self, test: KeyframeTest) -> KeyframeDecision:
        return keyframe_policy(test)


class ReferenceOffline(LoggedPolicy):
    """D1 and D2: tests the newest chunk but stores the oldest frame, and never stops once the bank is full."""

    tested_frame = LEAD_IN

    def __init__(self) -> None:
        super().__init__()
        self.flag = False

    def tests(self, test: KeyframeTest) -> bool:
        return test.step >= FIRST_STEP and len(test.bank) < REFERENCE_BANK_SIZE

    def decide(self, test: KeyframeTest) -> KeyframeDecision:
        if not self.tests(test):
            return KeyframeDecision(None, self.flag)
        self.flag = test.distance(self.tested_frame) > test.threshold
        return KeyframeDecision(self.tested_frame if self.flag else None, self.flag)


class ReferenceOnline(LoggedPolicy):
    """D3: keeps testing and remembering after the third keyframe."""

    def tests(self, test: KeyframeTest) -> bool:
        return test.step >= FIRST_STEP

    def decide(self, test: KeyframeTest) -> KeyframeDecision:
        new = self.tests(test) and test.distance(0) > test.threshold
        return KeyframeDecision(0 if new else None, new and test.keyframes < MAX_KEYFRAMES)


POLICIES = {"specified": LoggedPolicy, "reference_offline": ReferenceOffline, "reference_online": ReferenceOnline}


class RuleNoise:
    """The stored noise: one draw for each call, or one for all calls together."""

    def __init__(self, seed: int, frames_at_once: int | None) -> None:
        self.seed, self.frames_at_once = seed, frames_at_once
        self.restart()

    def restart(self) -> None:
        self.draws = 0

    def draw(self, frames: int, channels: int, height: int, width: int) -> Tensor:
        k, self.draws = self.draws, self.draws + 1
        if k == 0 or self.frames_at_once is None:
            return rule.noise(k, (1, channels, frames, height, width), self.seed)[0].transpose(0, 1)
        every = rule.noise(1, (1, channels, self.frames_at_once, height, width), self.seed)[0].transpose(0, 1)
        return every[(k - 1) * frames : k * frames]

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


class LoggedNetworks:
    """Networks that keep what a step's record does not show, and encode equal faces once."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self.motion_memory: dict[str, Tensor] = {}
        self.forget()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._networks, name)

    def forget(self) -> None:
        """Start a new log; the memory of faces stays."""
        self.poses: list[kp.HeadPose] = []
        self.embeddings: list[Tensor] = []
        self.encoded: list[Tensor] = []
        self.sources: list[Tensor] = []

    def extract_pose(self, images: Tensor) -> kp.HeadPose:
        self.poses.append(self._networks.extract_pose(images))
        return self.poses[-1]

    def embed_image(self, images: Tensor) -> Tensor:
        self.embeddings.append(self._networks.embed_image(images))
        return self.embeddings[-1]

    def encode_image(self, images: Tensor) -> Tensor:
        if isinstance(self._networks, PlainNetworks) and self.device.type == "cpu":
            latents = latents_as_published(self.modules["vae"], images.to(self.dtype))
            self.encoded.append(latents * self.config.vae.scaling_factor)
        else:
            self.encoded.append(self._networks.encode_image(images))
        return self.encoded[-1]

    def encode_motion(self, faces: Tensor) -> Tensor:
        key = hashlib.sha256(faces.contiguous().cpu().numpy().tobytes()).hexdigest()
        if key not in self.motion_memory:
            self.motion_memory[key] = self._networks.encode_motion(faces)
        return self.motion_memory[key]

    def encode_driver(self, images: Tensor, faces: Tensor) -> tuple[kp.HeadPose, Tensor]:
        return self.extract_pose(images), self.encode_motion(faces)

    def encode_reference(self, latents: Tensor, embedding: Tensor) -> Any:
        self.sources.append(latents)
        return self._networks.encode_reference(latents, embedding)


def _whole(image: npt.NDArray[np.uint8]) -> Box:
    return 0, 0, image.shape[1], image.shape[0]


def _offline_inputs(preprocessor: Preprocessor, inputs: Golden) -> tuple[Reference, DrivingFrames]:
    """Portrait and frames with face crops that were made elsewhere."""
    image, face = inputs["ref_image_u8"], inputs["ref_face_u8"]
    reference = preprocessor.reference(image, _whole(image))
    reference = replace(reference, face=preprocessor.faces([face], [_whole(face)]))
    frames = list(inputs["driving_u8"])
    crops = [inputs[f"face_{index:03}_u8"] for index in range(len(frames))]
    driving = preprocessor.driving(frames, [_whole(frame) for frame in frames])
    return reference, replace(driving, faces=preprocessor.faces(crops, [_whole(crop) for crop in crops]))


class EndToEnd:
    """Runs animations; networks of one size and seed are built once."""

    def __init__(
        self,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        accelerator: Callable[[torch.device, torch.dtype], "Accelerator"] | None = None,
    ) -> None:
        """Run on a device, in a dtype; without a maker of accelerators, the networks run as they are."""
        self.device, self.dtype, self._accelerator = torch.device(device), dtype, accelerator
        self._models: dict[tuple[str, int], LoggedNetworks] = {}

    def model(self, size: str, seed: int) -> LoggedNetworks:
        """The model of a case."""
        if (size, seed) not in self._models:
            config = SIZES[size]
            networks = {name: network(name, config, seed) for name in models.NETWORKS}
            ready = {name: models.cast(net, self.dtype).to(self.device) for name, net in networks.items()}
            accelerator = None if self._accelerator is None else self._accelerator(self.device, self.dtype)
            model = PersonaLive.from_modules(config, ready, self.dtype, accelerator)
            self._models[size, seed] = LoggedNetworks(model.networks)
        return self._models[size, seed]

    def run(self, case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
        """Animate as the case says and collect everything that its file may hold."""
        model, inputs = self.model(case["size"], case["seed"]), np.load(folder / case["inputs"])
        model.forget()
        records: list[StepRecord] = []
        kind, policy = case["kind"], POLICIES[case["keyframe_policy"]]()
        nonstream = kind == "offline_nonstream"
        stream = Stream(
            model,
            width=case["width"],
            height=case["height"],
            steps=case.get("steps", STEP_CHOICES[0]),
            noise=RuleNoise(case["seed"], len(inputs["driving_u8"]) + LEAD_IN if nonstream else None),
            keyframes=policy,
            observer=records.append,
        )
        if kind == "online":
            reference = stream.preprocessor.reference(inputs["ref_image_u8"], None)
            driving = stream.preprocessor.driving(list(inputs["driving_u8"]), None)
        else:
            reference, driving = _offline_inputs(stream.preprocessor, inputs)
        stream.set_reference(reference)
        stream.push(driving)
        if nonstream:  # this mode repeats the last frame where the engine would mirror the last frames
            for _ in range(LEAD_IN):
                stream.push(driving[-1:])
        elif kind == "offline":
            stream.flush()
        return _collect(golden, records, policy, model, online=kind == "online")


def _collect(
    golden: Golden, records: list[StepRecord], policy: LoggedPolicy, model: LoggedNetworks, online: bool
) -> Computed:
    """What was computed, in the layout of the files. Light files hold the last calls or the first frames only."""

    def last(key: str, values: Tensor) -> Tensor:
        return values[-len(golden[key]) :] if key in golden else values

    def first(key: str, values: Tensor) -> Tensor:
        axis = 2 if key == "pose_features_first" else 0  # [1, channels, frames, h, w]
        return values[: golden[key].shape[axis]] if key in golden else values

    def channels_first(values: Tensor) -> Tensor:
        return values.transpose(-4, -3)

    frames = torch.stack([record.frames for record in records])
    if online:
        frames = frames.permute(0, 1, 3, 4, 2)
    else:
        frames = frames[LEAD_IN // CHUNK :].flatten(0, 1).transpose(0, 1)[None]
    keypoints = torch.cat([record.keypoints for record in records])
    motion = torch.cat([record.motion if i == 0 else record.motion[-CHUNK:] for i, record in enumerate(records)])
    pose = records[0].pose_features
    inserted = [record.step for record in records if record.inserted]
    clean = torch.stack([record.clean for record in records])
    computed: Computed = {
        "noise_pred": (
            last("noise_pred", channels_first(torch.stack([r.predictions[-1] for r in records]))),
            tolerances.PREDICTIONS,
        ),
        "latents_prev": (last("latents_prev", torch.stack([r.latents for r in records])), tolerances.LATENTS),
        "pred_original": (last("pred_original", clean), tolerances.LATENTS),
        "keypoints": (first("keypoints", keypoints), tolerances.KEYPOINTS),
        "motion_hidden_states_in": (motion[None], tolerances.MOTION_TOKENS),
        "image_embeds": (model.embeddings[0], tolerances.HEADS),
        "ref_image_latents": (model.encoded[0], tolerances.UNET),
        "pose_features_first": (channels_first(first("pose_features_first", pose))[None], tolerances.POSE_FEATURES),
        "kv_bank_entries_before_window": (np.array([r.keyframes for r in records]), tolerances.EXACT),
        "motion_bank_entries_after_window": (np.array([len(r.bank) for r in records]), tolerances.EXACT),
        "keyframes_after_window": (np.array([r.keyframes + r.inserted for r in records]), tolerances.EXACT),
        "motion_bank_checks": (np.array(policy.checks).reshape(-1, 3), tolerances.EXACT),
        "motion_bank_min_dist": (np.array(policy.distances), tolerances.DISTANCES),
        "reference_unet_call_windows": (np.array([-1, *inserted]), tolerances.EXACT),
        "reference_unet_inputs": (torch.cat(model.sources), tolerances.LATENTS),
    }
    computed["frames_u16"] = (frames, tolerances.FRAMES)
    if online:
        width, height = frames.shape[3], frames.shape[2]
        driver = torch.cat([kp.project(pose) for pose in model.poses[1:]])
        computed["keypoints_driving"] = (driver, tolerances.KEYPOINTS)
        computed["boxes"] = (np.array(raster.face_boxes(driver, width, height)), tolerances.EXACT)
        computed["ref_box"] = (np.array(raster.face_boxes(kp.project(model.poses[0]), width, height)), tolerances.EXACT)
    return computed


def comparable(golden: Golden) -> Golden:
    """The golden arrays in the units and shapes of what is computed."""
    arrays = {key: golden[key] for key in golden}
    arrays["frames_u16"] = arrays["frames_u16"].astype(np.float32) / 65535
    if "motion_bank_min_dist" in arrays:  # only the first of the frames listed is ever tested
        arrays["motion_bank_min_dist"] = arrays["motion_bank_min_dist"][:, 0]
    return arrays
