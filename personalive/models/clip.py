"""The image encoder: CLIP's vision transformer, under its published names (docs/reference/model.md section 11)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalive.config import ImageEncoderConfig
from personalive.models.blocks import dense

EPS = 1e-5
"""Of every norm."""


def clip_fields(config: ImageEncoderConfig) -> dict[str, Any]:
    """The image encoder's sizes under the names that its published configuration has."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "projection_dim": config.projection_dim,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": EPS,
    }


class Embeddings(nn.Module):
    """Image → tokens: a class token, then one for each patch, with their positions."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        count = (config.image_size // patch) ** 2 + 1
        # Random numbers without storage would import torch._dynamo, which takes seconds.
        self.position_embedding = nn.Embedding(count, width, _weight=torch.zeros(count, width))

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, s, s] → tokens [n, 1 + patches, c]."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        tokens: Tensor = torch.cat((first, patches), dim=1) + self.position_embedding.weight
        return tokens


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases."""

    attend = staticmethod(F.scaled_dot_product_attention)
    """What computes it."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.hidden_size
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, l, c] → [n, l, c]."""
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out: Tensor = self.out_proj(self.attend(query, key, value).transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linear layers with a quick GELU between them."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, l, c] → [n, l, c]."""
        hidden = self.fc1(x)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out


class Layer(nn.Module):
    """Self-attention and MLP, each after a norm."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=EPS)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, l, c] → [n, l, c]."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """All layers."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, l, c] → [n, l, c]."""
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTransformer(nn.Module):
    """Image → what its class token has become."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=EPS)  # so it is called in the published files
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, s, s] → [n, c]."""
        tokens = self.encoder(self.pre_layrnorm(self.embeddings(images)))
        pooled: Tensor = self.post_layernorm(tokens[:, 0])
        return pooled


class ImageEncoder(nn.Module):
    """Portrait → image embedding."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """CLIP-normalised images [n, 3, s, s] → image embeddings [n, 1, e]."""
        embedding: Tensor = self.visual_projection(self.vision_model(dense(images)))
        return embedding[:, None]
