"""Goldens of single components."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.engine import motion as kp
from personalive.engine import raster
from personalive.engine import schedule as sampler
from personalive.engine.preprocess import Preprocessor
from personalive.models.motion_blocks import MotionModule, TemporalModule
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor, MotionHeads
from personalive.testing import weight_rule as rule
from personalive.testing.parity import report as tolerances
from personalive.testing.parity.networks import REDUCED, latents_as_published, network
from personalive.testing.parity.report import Tolerance

Golden = Mapping[str, npt.NDArray[Any]]
Computed = dict[str, tuple[object, Tolerance]]


def _pictures(images: list[npt.NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _statistics(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.stack((x.mean(dim=axes), x.std(dim=axes, correction=0)))


def motion_extractor(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Heads, degrees, and two calls of retargeting."""
    seed, size = case["seed"], ModelConfig().motion_extractor.image_size
    extractor = network("motion_extractor", ModelConfig(), seed)
    assert isinstance(extractor, MotionExtractor)

    def heads(names: list[list[Any]]) -> MotionHeads:
        found: MotionHeads = extractor(_pictures([rule.frame(segment, f, size, size, seed) for segment, f in names]))
        return found

    driving, second = heads(case["driving"]), heads(case["second_chunk"])
    reference = extractor(_pictures([rule.mosaic(case["reference"], size, size, seed=seed)]))
    poses = kp.head_pose(driving)
    own, later, anchor = kp.head_pose(reference), kp.head_pose(second), poses[:1]
    target = kp.retarget(own, poses, anchor)
    first_call = torch.cat((kp.project(kp.lead_in(own, target[:1])), kp.project(target)))
    computed: Computed = {
        "get_kp_driving": (kp.project(poses), tolerances.KEYPOINTS),
        "interp_online_kps": (first_call, tolerances.KEYPOINTS),
        "interp_online_kps_driving": (kp.project(poses), tolerances.KEYPOINTS),
        "interp_offline_kps": (first_call, tolerances.KEYPOINTS),
        "get_kps_kps": (kp.project(kp.retarget(own, later, anchor)), tolerances.KEYPOINTS),
        "get_kps_kps_driving": (kp.project(later), tolerances.KEYPOINTS),
    }
    short = {"translation": "t", "keypoints": "kp"}
    for prefix, values in (("driving", driving), ("ref", reference)):
        for field, value in values._asdict().items():
            computed[f"{prefix}_{short.get(field, field)}"] = (value, tolerances.HEADS)
    for index, name in enumerate(("pitch", "yaw", "roll")):
        computed[f"driving_{name}_deg"] = (poses.angles[:, index], tolerances.HEADS)
    return computed


def motion_encoder(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Motion tokens and intermediate maps."""
    encoder = network("motion_encoder", ModelConfig(), case["seed"])
    assert isinstance(encoder, MotionEncoder)
    maps: dict[str, Tensor] = {}

    def show(name: str, output: Tensor) -> Tensor:
        return output.relu() if name == "conv6" else output  # the goldens hold this map after the ReLU that follows

    def keep(name: str) -> Any:
        return lambda module, inputs, output: maps.__setitem__(name, show(name, output))

    for name in ("conv2", "att_1", "att_2", "m0", "bn_end0", "att_3", "conv6", "fc"):
        encoder.model.get_submodule(name).register_forward_hook(keep(name))
    size = ModelConfig().motion_encoder.image_size
    faces = _pictures([rule.mosaic(name, size, size, seed=case["seed"]) for name in case["frames"]]) * 2 - 1
    computed: Computed = {"motion_hidden_states": (encoder(faces)[None], tolerances.MOTION_TOKENS)}
    for name, value in maps.items():
        axes = tuple(range(1, value.ndim))
        computed[f"mid_{name}_mean_std"] = (_statistics(value, axes), tolerances.MOTION_TOKENS)
    computed["mid_conv6"] = (maps["conv6"], tolerances.INNER_MAPS)
    computed["mid_att_3_sub"] = (maps["att_3"][:, ::16, ::4, ::4], tolerances.INNER_MAPS)
    computed["mid_att_1_sub"] = (maps["att_1"][:, ::16, ::8, ::8], tolerances.INNER_MAPS)
    return computed


def keypoint_rasters(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Rasters and boxes, exact to the pixel."""
    points = torch.from_numpy(golden["keypoints"])
    computed: Computed = {"keypoints": (points, tolerances.EXACT)}
    for key, array in golden.items():
        if key.startswith("raster_"):
            height, width = array.shape[2:]
            drawn = (raster.draw(points, width, height) * 255).round().to(torch.uint8)
            computed[key] = (drawn, tolerances.EXACT)
            boxes = f"boxes_{key.removeprefix('raster_').removesuffix('_u8')}"
            computed[boxes] = (np.array(raster.face_boxes(points, width, height)), tolerances.EXACT)
    return computed


def pose_guider(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Pose features of small rasters, and of two that are drawn at 512 × 512."""
    guider = network("pose_guider", ModelConfig(), case["seed"])
    stored = torch.from_numpy(golden["raster_128_u8"])
    points = torch.from_numpy(np.load(folder / "components/keypoint_rasters.npz")["keypoints"])[:2]
    small, large = guider(stored.float() / 255), guider(raster.draw(points, 512, 512))
    statistics = _statistics(large, (2, 3)).transpose(1, 2)
    return {
        "raster_128_u8": (stored, tolerances.EXACT),
        "out_128": (small.transpose(0, 1)[None], tolerances.POSE_FEATURES),
        "out_512_sub": (large.transpose(0, 1)[None, ::8, :, ::2, ::2], tolerances.POSE_FEATURES),
        "out_512_channel_mean": (statistics[0][None], tolerances.POSE_FEATURES),
        "out_512_channel_std": (statistics[1][None], tolerances.POSE_FEATURES),
    }


def scheduler(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """The schedule, noise at every level, and one step."""
    seed = case["seed"]
    clean, noise = (
        rule.normal_input(name, (1, 4, 16, 8, 8), seed=seed)[0].transpose(0, 1) for name in ("sched_x0", "sched_noise")
    )
    output, sample = (rule.normal_input(name, (16, 4, 8, 8), seed=seed) for name in ("sched_eps", "sched_sample"))
    step = sampler.inner_steps(4)[0]
    coefficients = sampler.StepCoefficients.of(step, torch.device("cpu"))
    after, predicted = sampler.denoise_step(sample, output, coefficients, "epsilon")
    noised = sampler.add_noise(clean, noise, step.timesteps)
    noisiest = sampler.add_noise(clean[:4], noise[:4], (999,) * 4)
    return {
        "alphas_cumprod": (sampler.alphas_cumprod(), tolerances.SCHEDULER),
        "final_alpha_cumprod": (np.float32(coefficients.next_sqrt_alpha[0].item() ** 2), tolerances.SCHEDULER),
        "timesteps": (np.array(step.timesteps), tolerances.EXACT),
        "add_noise": (noised.transpose(0, 1)[None], tolerances.SCHEDULER),
        "add_noise_999": (noisiest.transpose(0, 1)[None], tolerances.SCHEDULER),
        "prev_sample": (after, tolerances.SCHEDULER),
        "pred_original_sample": (predicted, tolerances.SCHEDULER),
    }


def blocks(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """One motion module and one temporal module, 320 channels."""
    unet, seed = ModelConfig().unet, case["seed"]
    hidden = rule.normal_input("block_hidden", (1, 320, 16, 8, 6), seed=seed)[0].transpose(0, 1)
    tokens = rule.normal_input("block_motion", (1, 16, 32, 16), 2.0, seed=seed)[0]
    motion: nn.Module = MotionModule(320, unet.heads, unet.motion_token_width, unet.norm_groups)
    temporal: nn.Module = TemporalModule(320, unet.heads, unet.max_frames, unet.norm_groups)
    rule.fill(motion, "motion_module_block", seed)
    rule.fill(temporal, "temporal_module_block", seed)
    return {
        "motion_module_out": (motion(hidden, tokens).transpose(0, 1)[None], tolerances.MODULE),
        "temporal_module_out": (temporal(hidden, 16).transpose(0, 1)[None], tolerances.MODULE),
    }


def image_processing(case: dict[str, Any], golden: Golden, folder: Path) -> Computed:
    """Preparing a portrait that is not square, and the small VAE and CLIP on it."""
    seed, image = case["seed"], golden["ref_image_u8"]
    height, width = golden["vae_pixels_128"].shape[2:]
    preprocessor = Preprocessor(REDUCED, width, height)
    offline = preprocessor.reference(image, (0, 0, image.shape[1], image.shape[0]))
    online = preprocessor.reference(image, None)
    clip: Any = network("image_encoder", REDUCED, seed)
    vae: Any = network("vae", REDUCED, seed)
    latents = rule.normal_input("vae_latents", (2, 4, 12, 16), 20.0, seed=seed) / REDUCED.vae.scaling_factor
    encoded = latents_as_published(vae, offline.vae_image) * REDUCED.vae.scaling_factor
    pose = (offline.pose_image * 2 - 1)[:, :, ::2, ::2]
    return {
        "ref_image_u8": (image, tolerances.EXACT),
        "vae_pixels_128": (offline.vae_image, tolerances.PIXELS),
        "pose_pixels_256_sub": (pose, tolerances.PIXELS),
        "clip_pixels_offline": (offline.clip_image[:, :, ::2, ::2], tolerances.PIXELS),
        "clip_pixels_online": (online.clip_image[:, :, ::2, ::2], tolerances.PIXELS),
        "clip_embeds_offline": (clip(offline.clip_image)[:, 0], tolerances.HEADS),
        "clip_embeds_online": (clip(online.clip_image)[:, 0], tolerances.HEADS),
        "vae_ref_latents": (encoded, tolerances.UNET),
        "vae_decoded": (vae.decode(latents), tolerances.UNET),
    }
