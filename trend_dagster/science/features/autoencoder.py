"""The transformer autoencoder: vertices are tokens, their BOLD time series the features.

One run is one sequence of V vertices with T time points each. Two attention modes share one set
of weights: ``key``, in which every vertex has a learned confidence that weighs how much others
attend to it, and ``tutorial``, the published code, whose confidence mask the softmax cancels
(``docs/method-autoencoder.md`` has the proof). No step builds a vertices-by-vertices array.

Parameter names are those of the published notebook, so that its checkpoints load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, relu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from trend_dagster.errors import InputError, SettingsError
from trend_dagster.science.features.model_settings import AutoencoderConfig as AutoencoderConfig
from trend_dagster.science.features.model_settings import FeatureSource

_CUDA_MULTIPLE = 8
"""Fused attention on CUDA takes head widths that are multiples of this; on the CPU any."""


# --- Attention ------------------------------------------------------------------------------


class Source(NamedTuple):
    """What a sequence offers to those that attend to it."""

    keys: Tensor  # (B, heads, V, head width)
    values: Tensor  # (B, heads, V, head width)
    log_confidence: Tensor | None  # (B, V)


class ConfidenceModule(nn.Module):
    """Confidence of every vertex, between 0 and 1, from its embedding alone."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(d_model, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of the confidence; x is (B, V, D), the result (B, V)."""
        # log(sigmoid) in one function does not underflow, so the tutorial's 1e-8 is not needed.
        logit: Tensor = self.mlp[:-1](x)
        log_confidence: Tensor = logsigmoid(logit.squeeze(-1))
        return log_confidence


def attend(query: Tensor, source: Source, dropout: float = 0.0) -> Tensor:
    r"""Attention in which key j weighs :math:`c_j \exp(q_i \cdot k_j / \sqrt{d_k})`.

    The bias :math:`\log c_j` travels as one more feature of the keys against a constant one of the
    queries, so that the fused kernels serve and no vertices-by-vertices mask exists.

    Parameters
    ----------
    query : Tensor of shape (B, n_heads, V, d_k)
    source : Source
    dropout : float
        Share of attention weights set to zero.

    Returns
    -------
    Tensor of shape (B, n_heads, V, d_k)
    """
    d_k = query.shape[-1]
    # The scale stays that of the original width: the added features are no part of the model.
    kernel = partial(scaled_dot_product_attention, dropout_p=dropout, scale=1 / math.sqrt(d_k))
    if source.log_confidence is None:
        return kernel(query, source.keys, source.values)
    bias = (math.sqrt(d_k) * source.log_confidence).to(query.dtype)[:, None, :, None]
    return _attend_widened(kernel, query, source.keys, source.values, bias)


def _attend_widened(
    kernel: Callable[[Tensor, Tensor, Tensor], Tensor],
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
) -> Tensor:
    """Attend with one more feature: 1 for queries, the bias for keys, 0 for values.

    What the kernel keeps for its backward pass would be a widened copy of each. It is told to keep
    how to widen the originals once more, which other layers hold anyway.
    """
    d_k = query.shape[-1]
    n_zeros = -(d_k + 1) % (_CUDA_MULTIPLE if query.is_cuda else 1)
    one = query.new_ones(1).expand(*query.shape[:-1], 1)
    added = bias.expand(*keys.shape[:-1], 1)
    wide_query = _widened(query, one, n_zeros)
    wide_keys = _widened(keys, added, n_zeros)
    wide_values = pad(values, (0, n_zeros + 1))
    if torch.compiler.is_compiling():  # a compiled graph decides by itself what it keeps
        return kernel(wide_query, wide_keys, wide_values)[..., :d_k]

    kept: list[_Kept] = []

    def keep(tensor: Tensor) -> _Kept:
        kept.append(_Kept(tensor))
        return kept[-1]

    with torch.autograd.graph.saved_tensors_hooks(keep, _Kept.unpack):
        mixed = kernel(wide_query, wide_keys, wide_values)
    # The layout of the next product, which keeps it as well: (B, V, heads, d_k).
    output = mixed[..., :d_k].transpose(1, 2).contiguous()
    narrow, zeros = output.detach().transpose(1, 2), (0, n_zeros + 1)
    for one_kept in kept:
        one_kept.replace(wide_query, partial(_widened, query.detach(), one, n_zeros))
        one_kept.replace(wide_keys, partial(_widened, keys.detach(), added.detach(), n_zeros))
        one_kept.replace(wide_values, partial(pad, values.detach(), zeros))
        one_kept.replace(mixed, partial(pad, narrow, zeros))  # values end in zeros, so it does
    return output.transpose(1, 2)


class _Kept:
    """A tensor that a backward pass needs: itself, or the way to make it once more."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor
        self.make: Callable[[], Tensor] | None = None

    def replace(self, original: Tensor, make: Callable[[], Tensor]) -> None:
        """Forget the tensor if it is this one, whole and in this layout."""
        tensor = self.tensor
        if tensor is not None and (tensor.data_ptr(), tensor.shape, tensor.stride()) == (
            original.data_ptr(),
            original.shape,
            original.stride(),
        ):
            self.tensor, self.make = None, make

    def unpack(self) -> Tensor:
        """Return the tensor, or its equal."""
        if self.tensor is not None:
            return self.tensor
        assert self.make is not None
        return self.make()


def _widened(x: Tensor, feature: Tensor, n_zeros: int) -> Tensor:
    zeros = x.new_zeros(1).expand(*x.shape[:-1], n_zeros)
    return torch.cat([x, feature, zeros], dim=-1)  # in one go: a copy of a copy costs memory


class ConfidenceAttention(nn.Module):
    """Multi-head attention, with the confidence of the sequence that is attended to."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.attention_dropout = config.attention_dropout
        self.uses_confidence = config.confidence == "key"
        self.w_q, self.w_k, self.w_v, self.w_o = (
            nn.Linear(config.d_model, config.d_model) for _ in range(4)
        )
        self.confidence_module = ConfidenceModule(config.d_model, config.confidence_hidden)
        # In the tutorial's mode the confidence cancels: its weights can learn nothing.
        self.confidence_module.requires_grad_(self.uses_confidence)

    def source(self, memory: Tensor) -> Source:
        """Return keys, values and confidence of ``memory`` (B, V, D).

        The published code takes the confidence of the sequence that asks, even where another one
        is attended to. A reliability belongs to the vertex that is listened to.
        """
        confidence: Tensor | None = None
        if self.uses_confidence:
            # Its hidden layer is computed once more in the backward pass: cheaper than to keep it.
            confidence = checkpoint(
                self.confidence_module, memory, use_reentrant=False, preserve_rng_state=False
            )
        return Source(self._heads(self.w_k(memory)), self._heads(self.w_v(memory)), confidence)

    def forward(self, x: Tensor, source: Source) -> Tensor:
        """Let ``x`` (B, V, D) attend to ``source``; the result is (B, V, D)."""
        dropout = self.attention_dropout if self.training else 0.0
        mixed = attend(self._heads(self.w_q(x)), source, dropout)  # (B, heads, V, d_k)
        output: Tensor = self.w_o(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        batch, n_vertices, _ = x.shape
        return x.view(batch, n_vertices, self.n_heads, -1).transpose(1, 2)


# --- Layers ---------------------------------------------------------------------------------


class Layer(nn.Module):
    """Self-attention; in a decoder attention to the encoder's output; a feed-forward network.

    Each is a sublayer with a residual and a normalisation.
    """

    def __init__(self, config: AutoencoderConfig, *, decodes: bool) -> None:
        super().__init__()
        self.norm_first, self.decodes = config.norm_first, decodes
        self.linear1 = nn.Linear(config.d_model, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        for i in range(1, 4 if decodes else 3):  # the published names, norm1 and on
            setattr(self, f"norm{i}", nn.LayerNorm(config.d_model))
        self.self_attn = ConfidenceAttention(config)
        if decodes:
            self.multihead_attn = ConfidenceAttention(config)

    def forward(self, x: Tensor, memory: Source | None = None) -> Tensor:
        """Map (B, V, D) to (B, V, D); a decoder's layer attends to ``memory``."""
        sublayers = [lambda h: self.self_attn(h, self.self_attn.source(h)), self._feed_forward]
        if self.decodes:
            sublayers.insert(1, lambda h: self.multihead_attn(h, memory))
        for i, sublayer in enumerate(sublayers, start=1):
            norm: Any = getattr(self, f"norm{i}")
            if self.norm_first:
                x = x + self.dropout(sublayer(norm(x)))
            else:
                x = norm(x + self.dropout(sublayer(x)))
        return x

    def _feed_forward(self, x: Tensor) -> Tensor:
        # In place: the backward pass needs the result only, and it is the largest array there is.
        output: Tensor = self.linear2(self.dropout(relu(self.linear1(x), inplace=True)))
        return output


class _Stack(nn.Module):
    """Layers and a last normalisation."""

    def __init__(self, config: AutoencoderConfig, n_layers: int, *, decodes: bool) -> None:
        super().__init__()
        # One layer repeated, as the published code has it, or as many layers as asked.
        n_distinct = 1 if config.share_layers else n_layers
        distinct = [Layer(config, decodes=decodes) for _ in range(n_distinct)]
        self.layers = nn.ModuleList(distinct * (n_layers // n_distinct))
        self.norm = nn.LayerNorm(config.d_model)


class Encoder(_Stack):
    """Encoder layers and a last normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, V, D) to (B, V, D)."""
        for layer in self.layers:
            x = layer(x)
        output: Tensor = self.norm(x)
        return output


class Decoder(_Stack):
    """Decoder layers, a last normalisation, and the way back to time points."""

    def __init__(self, config: AutoencoderConfig, n_timepoints: int) -> None:
        super().__init__(config, config.n_decoder_layers, decodes=True)
        self.linear = nn.Linear(config.d_model, n_timepoints)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Map (B, V, D) and the encoder's output (B, V, D) to time series (B, V, T)."""
        # A repeated layer projects the same memory alike: once per layer object is enough.
        layers: list[Any] = list(self.layers)
        sources = {layer: layer.multihead_attn.source(memory) for layer in dict.fromkeys(layers)}
        for layer in layers:
            x = layer(x, sources[layer])
        output: Tensor = self.linear(self.norm(x))
        return output


class TransformerAutoencoder(nn.Module):
    """Autoencoder of one run, vertex by vertex.

    Parameters
    ----------
    config : AutoencoderConfig
    n_timepoints : int
        T, the length of every time series it takes.
    """

    def __init__(self, config: AutoencoderConfig, n_timepoints: int) -> None:
        super().__init__()
        self.config = config
        self.n_timepoints = n_timepoints
        self.embedding = nn.Linear(n_timepoints, config.d_model)
        self.encoder = Encoder(config, config.n_encoder_layers, decodes=False)
        self.decoder = Decoder(config, n_timepoints)

    def project(self, x: Tensor) -> Tensor:
        """Project (B, V, T) to (B, V, D): what the tutorial exports as its embedding."""
        projected: Tensor = self.embedding(x.to(self.embedding.weight.dtype))
        return projected

    def encode(self, x: Tensor) -> Tensor:
        """Return the encoder's output (B, V, D) for time series (B, V, T)."""
        h = self.project(x)
        if self.config.remove_mean:
            h = h - h.mean(dim=1, keepdim=True)
        encoded: Tensor = self.encoder(h)
        return encoded

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct time series (B, V, T)."""
        encoded = self.encode(x)
        decoded: Tensor = self.decoder(encoded, encoded)
        return decoded


def initial_model(
    config: AutoencoderConfig, n_timepoints: int, seed: int
) -> TransformerAutoencoder:
    """Untrained model, initialised as published; the control that every claim needs.

    Encoder and decoder get Xavier weights and zero biases, the confidence networks with gain 0.5;
    the input projection keeps torch's default, as in the tutorial.

    Parameters
    ----------
    config : AutoencoderConfig
    n_timepoints : int
        T.
    seed : int
        The same seed gives the same weights and leaves the global generator as it was.

    Returns
    -------
    TransformerAutoencoder
        In evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TransformerAutoencoder(config, n_timepoints)
        for part in (model.encoder, model.decoder):
            part.apply(_initialise)
    return model.eval()


def blank_model(config: AutoencoderConfig, n_timepoints: int) -> TransformerAutoencoder:
    """Make a model whose weights are about to be read, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        return TransformerAutoencoder(config, n_timepoints)


def _initialise(module: nn.Module) -> None:
    # `apply` visits children first, so the confidence networks end with their own gain.
    linears: list[nn.Module] = [module]
    gain = 1.0
    if isinstance(module, ConfidenceModule):
        linears, gain = list(module.mlp), 0.5
    for linear in linears:
        if isinstance(linear, nn.Linear):
            nn.init.xavier_uniform_(linear.weight, gain=gain)
            nn.init.zeros_(linear.bias)


# --- What it costs --------------------------------------------------------------------------


def pairwise_bytes(
    config: AutoencoderConfig, n_vertices: int, device_type: str, bytes_per_number: int = 4
) -> int:
    """Return the memory of the vertices-by-vertices arrays of one training step.

    Parameters
    ----------
    config : AutoencoderConfig
    n_vertices : int
        V.
    device_type : str
        ``cpu`` or ``cuda``.
    bytes_per_number : int
        4 for float32, 2 for bfloat16.

    Returns
    -------
    int
        0 where a fused attention kernel serves, which holds no such array.
    """
    # The fused kernel of the CPU has no dropout; those of CUDA do.
    if device_type == "cuda" or config.attention_dropout == 0:
        return 0
    n_attentions = config.n_encoder_layers + 2 * config.n_decoder_layers
    # Kept for the backward pass: the weights, their dropped copy, and the mask of one byte.
    per_weight = 2 * bytes_per_number + 1
    return n_attentions * config.n_heads * n_vertices**2 * per_weight


# --- Embeddings -----------------------------------------------------------------------------


def embed(
    model: TransformerAutoencoder | None, bold: NDArray[np.floating], *, source: FeatureSource
) -> NDArray[np.float32]:
    """Features that a model gives every vertex of one run.

    Parameters
    ----------
    model : TransformerAutoencoder or None
        Trained or not.
    bold : ndarray of shape (n_vertices, n_timepoints)
        Vertices with signal only: a masked vertex never enters the attention.
    source : {"input_projection", "encoder"}
        The first linear map (what the tutorial exports), or the encoder's output (what the paper
        describes).

    Returns
    -------
    ndarray of shape (n_vertices, n_features), float32

    Raises
    ------
    InputError
        If the run does not fit the model, or holds NaN or infinity.
    SettingsError
        If no model is given.
    """
    if model is None:
        raise SettingsError(
            f"Feature source '{source}'",
            expected="a trained or untrained model",
            found="none",
            remedy="Materialize trained_model first, or use the feature source 'bold'.",
        )
    series = np.ascontiguousarray(bold, dtype=np.float32)
    if series.ndim != 2 or series.shape[1] != model.n_timepoints:
        raise InputError(
            "BOLD run",
            expected=f"an array of shape (n_vertices, {model.n_timepoints})",
            found=f"shape {series.shape}",
            remedy="Use runs of the length the model was trained on, or train a model on these.",
        )
    if not np.isfinite(series).all():
        raise InputError(
            "BOLD run",
            expected="finite numbers",
            found=f"{np.count_nonzero(~np.isfinite(series))} NaN or infinite values",
            remedy="Mask these vertices, or exclude the run.",
        )
    method = model.project if source == "input_projection" else model.encode
    was_training = model.training
    model.eval()
    with torch.no_grad():
        tokens = torch.tensor(series, device=model.embedding.weight.device)[None]
        features: NDArray[np.float32] = method(tokens)[0].float().cpu().numpy()
    model.train(was_training)
    return features


# --- Weights as arrays ----------------------------------------------------------------------


def weights_to_arrays(model: TransformerAutoencoder) -> dict[str, NDArray[np.float32]]:
    """Return every weight once, by its published name; shared layers under their first name.

    Parameters
    ----------
    model : TransformerAutoencoder

    Returns
    -------
    dict of str to ndarray
    """
    return {name: p.detach().cpu().numpy().copy() for name, p in model.named_parameters()}


def model_from_arrays(
    arrays: Mapping[str, NDArray[np.floating]], config: AutoencoderConfig, n_timepoints: int
) -> TransformerAutoencoder:
    """Rebuild a model from `weights_to_arrays`.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    config : AutoencoderConfig
    n_timepoints : int
        T.

    Returns
    -------
    TransformerAutoencoder
        In evaluation mode.

    Raises
    ------
    InputError
        If a weight is missing, unknown, or has another shape.
    """
    model = blank_model(config, n_timepoints)
    own = dict(model.named_parameters())
    wrong = sorted(own.keys() ^ arrays.keys()) or sorted(
        name for name, p in own.items() if tuple(p.shape) != np.shape(arrays[name])
    )
    if wrong:
        raise InputError(
            "Stored weights",
            expected=f"the weights of a model with {config!r} and {n_timepoints} time points",
            found=f"{len(wrong)} missing, unknown or of another shape, first {wrong[0]}",
            remedy="Use the settings the weights were stored with, or train again.",
        )
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(torch.tensor(np.asarray(arrays[name])))
    return model.eval()
