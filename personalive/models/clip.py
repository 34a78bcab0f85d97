"""The image encoder, transformers' CLIPVisionModelWithProjection, under its published names."""

from typing import Any

import torch
from torch import Tensor, nn

from personalive.config import ImageEncoderConfig
from personalive.models.blocks import dense
from personalive.models.libraries import libraries


def clip_fields(config: ImageEncoderConfig) -> dict[str, Any]:
    """The image encoder's sizes under transformers' names."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "projection_dim": config.projection_dim,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


class ImageEncoder(nn.Module):
    """Portrait → image embedding."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        transformers = libraries()[1]
        published = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**clip_fields(config)))
        self.vision_model: Any = published.vision_model
        self.visual_projection: nn.Module = published.visual_projection
        # No file holds this table, so it needs storage even if the network is built without.
        embeddings = self.vision_model.embeddings
        embeddings.register_buffer(
            "position_ids", torch.arange(embeddings.num_positions, device="cpu")[None], persistent=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """CLIP-normalised images [n, 3, s, s] → image embeddings [n, 1, e]."""
        embedding: Tensor = self.visual_projection(self.vision_model(dense(images)).pooler_output)
        return embedding[:, None]
