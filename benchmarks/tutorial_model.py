"""The tutorial's autoencoder restated plainly: the yardstick for results, speed and memory.

Scores, confidence mask and softmax are built explicitly, and the confidence is taken from the
query, axis for axis as in step 1b of the tutorial. Weights carry the published names.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from trend_dagster.science.features.autoencoder import AutoencoderConfig


class ExplicitAttention(nn.Module):
    """Attention with the published confidence mask."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.n_heads, self.d_k = config.n_heads, width // config.n_heads
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(width, width) for _ in range(4))
        self.dropout = nn.Dropout(config.attention_dropout)
        self.confidence_module = nn.Module()
        self.confidence_module.mlp = nn.Sequential(
            nn.Linear(width, config.confidence_hidden),
            nn.ReLU(),
            nn.Linear(config.confidence_hidden, 1),
            nn.Sigmoid(),
        )

    def mask(self, query: Tensor) -> Tensor:
        """Return the published mask: pairs along the batch axis, one constant per row."""
        mlp: Any = self.confidence_module.mlp
        log_c = torch.log(mlp(query.transpose(0, 1)).squeeze(-1) + 1e-8)  # (V, B)
        pairs = log_c.unsqueeze(2) + log_c.unsqueeze(1)  # (V, B, B)
        return pairs.transpose(0, 1)  # (B, V, B): right in shape for B = 1 only

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """Attend from ``query`` to ``memory``, both (B, V, D)."""
        batch, n_vertices, width = query.shape
        q, k, v = (
            linear(x).view(batch, n_vertices, self.n_heads, self.d_k).transpose(1, 2)
            for linear, x in ((self.w_q, query), (self.w_k, memory), (self.w_v, memory))
        )
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.d_k)
        mask = self.mask(query).unsqueeze(1)
        scores = scores + mask.expand(batch, self.n_heads, n_vertices, n_vertices)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        mixed = torch.matmul(weights, v).transpose(1, 2).contiguous()
        output: Tensor = self.w_o(mixed.view(batch, n_vertices, width))
        return output


class _Layer(nn.Module):
    def __init__(self, config: AutoencoderConfig, *, decodes: bool) -> None:
        super().__init__()
        self.decodes = decodes
        self.self_attn = ExplicitAttention(config)
        if decodes:
            self.multihead_attn = ExplicitAttention(config)
        self.linear1 = nn.Linear(config.d_model, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        for i in range(1, 4 if decodes else 3):
            setattr(self, f"norm{i}", nn.LayerNorm(config.d_model))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        norms: list[Any] = [getattr(self, f"norm{i}") for i in range(1, 4 if self.decodes else 3)]
        x = norms[0](x + self.dropout(self.self_attn(x, x)))
        if memory is not None:
            x = norms[1](x + self.dropout(self.multihead_attn(x, memory)))
        hidden = self.linear2(self.dropout(torch.relu(self.linear1(x))))
        output: Tensor = norms[-1](x + self.dropout(hidden))
        return output


class _Stack(nn.Module):
    def __init__(self, config: AutoencoderConfig, n_layers: int, *, decodes: bool) -> None:
        super().__init__()
        layer = _Layer(config, decodes=decodes)
        self.layers = nn.ModuleList([layer for _ in range(n_layers)])
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x) if memory is None else layer(x, memory)
        output: Tensor = self.norm(x)
        return output


class TutorialModel(nn.Module):
    """The published autoencoder, with the number of time points and the widths free."""

    def __init__(self, config: AutoencoderConfig, n_timepoints: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(n_timepoints, config.d_model)
        self.encoder = _Stack(config, config.n_encoder_layers, decodes=False)
        self.decoder = _Stack(config, config.n_decoder_layers, decodes=True)
        self.decoder.linear = nn.Linear(config.d_model, n_timepoints)

    def encode(self, x: Tensor) -> Tensor:
        """Return the encoder output of time series (1, V, T)."""
        encoded: Tensor = self.encoder(self.embedding(x))
        return encoded

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct time series (1, V, T)."""
        encoded = self.encode(x)
        head: Any = self.decoder.linear
        decoded: Tensor = head(self.decoder(encoded, encoded))
        return decoded
