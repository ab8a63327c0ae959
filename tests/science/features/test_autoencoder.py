"""The autoencoder: both attention modes and the published weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.tutorial_model import TutorialModel
from tests.models import SMALL, TUTORIAL, T, fresh_seed
from trend_dagster.errors import InputError, SettingsError
from trend_dagster.science.features import autoencoder
from trend_dagster.science.features.autoencoder import (
    AutoencoderConfig,
    ConfidenceAttention,
    Source,
    TransformerAutoencoder,
    attend,
    embed,
    initial_model,
    model_from_arrays,
    pairwise_bytes,
    weights_to_arrays,
)

torch.set_num_threads(1)  # these arrays are too small to share among threads


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(fresh_seed())


def series(rng: np.random.Generator, n_vertices: int = 40) -> Tensor:
    return torch.tensor(rng.standard_normal((1, n_vertices, T)))


def twin(reference: TutorialModel, config: AutoencoderConfig) -> TransformerAutoencoder:
    """Return our model with the weights of the published one."""
    model = TransformerAutoencoder(config, T).double()
    model.load_state_dict(reference.state_dict())
    return model.eval()


# --- The published mask is inert ------------------------------------------------------------


def test_published_confidence_moves_neither_output_nor_gradient(rng):
    torch.manual_seed(fresh_seed())
    reference = TutorialModel(TUTORIAL, T).double().eval()
    x = series(rng)
    before = reference(x)
    (before - x).square().mean().backward()
    gradients = {n: p.grad for n, p in reference.named_parameters()}
    confidence = [n for n in gradients if "confidence" in n]
    largest = max(g.abs().max() for n, g in gradients.items() if n not in confidence)
    assert all(gradients[n].abs().max() < 1e-12 * largest for n in confidence)
    with torch.no_grad():
        for name, p in reference.named_parameters():
            if name in confidence:
                p.normal_(std=3)
    torch.testing.assert_close(reference(x), before, rtol=0, atol=1e-10)


def test_published_mask_is_one_constant_per_row(rng):
    torch.manual_seed(fresh_seed())
    attention = TutorialModel(TUTORIAL, T).double().encoder.layers[0].self_attn
    x = torch.tensor(rng.standard_normal((1, 11, SMALL.d_model)))
    mask = attention.mask(x)
    assert mask.shape == (1, 11, 1)
    torch.testing.assert_close(torch.softmax(mask.expand(1, 11, 11), -1)[0, 0, 0].item(), 1 / 11)


def test_published_code_cannot_take_two_runs_at_once(rng):
    reference = TutorialModel(TUTORIAL, T).double()
    with pytest.raises(RuntimeError, match="expand"):
        reference(series(rng).expand(2, -1, -1))


def test_tutorial_mode_equals_the_published_code_forward_and_gradient(rng):
    torch.manual_seed(fresh_seed())
    reference = TutorialModel(TUTORIAL, T).double().eval()
    model = twin(reference, TUTORIAL)
    x = series(rng)
    torch.testing.assert_close(model(x), reference(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.encode(x), reference.encode(x), rtol=0, atol=1e-10)
    for m in (model, reference):
        (m(x) - x).square().mean().backward()
    theirs = dict(reference.named_parameters())
    for name, p in model.named_parameters():
        if "confidence" not in name:
            torch.testing.assert_close(p.grad, theirs[name].grad, rtol=1e-8, atol=1e-12)


# --- Key mode is the paper's pairwise mask --------------------------------------------------


def pairwise_attention(query: Tensor, source: Source) -> Tensor:
    """Paper's formulation: log c_i + log c_j over all pairs, then an explicit softmax."""
    log_c = source.log_confidence
    mask = log_c[:, None, :, None] + log_c[:, None, None, :]  # (B, 1, V, V)
    scores = query @ source.keys.transpose(-2, -1) / query.shape[-1] ** 0.5
    return torch.softmax(scores + mask, dim=-1) @ source.values


@pytest.mark.parametrize("kernel", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
@pytest.mark.parametrize("d_k", [1, 6, 7, 8, 64])
def test_key_bias_equals_explicit_softmax_with_pairwise_mask(rng, d_k, kernel):
    def leaves() -> list[Tensor]:
        r = np.random.default_rng(seed)
        shapes = [(2, 3, 17, d_k)] * 3 + [(2, 17)]
        drawn = [torch.tensor(r.standard_normal(s)) for s in shapes]
        drawn[3] = torch.nn.functional.logsigmoid(3 * drawn[3])
        return [t.requires_grad_() for t in drawn]

    seed = int(rng.integers(2**31))
    weight = torch.tensor(rng.standard_normal((2, 3, 17, d_k)))
    ours, theirs = leaves(), leaves()
    with sdpa_kernel(kernel):
        got = attend(ours[0], Source(*ours[1:]))
    expected = pairwise_attention(theirs[0], Source(*theirs[1:]))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


def test_a_vertex_without_confidence_is_not_heard(rng):
    draw = [torch.tensor(rng.standard_normal((1, 2, 9, 8))) for _ in range(3)]
    log_c = torch.zeros(1, 9, dtype=torch.float64)
    log_c[0, 4] = -200.0
    heard = attend(draw[0], Source(draw[1], draw[2], log_c))
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    without = attend(draw[0], Source(draw[1][:, :, others], draw[2][:, :, others], None))
    torch.testing.assert_close(heard, without, rtol=0, atol=1e-12)


def test_confidence_weights_act_and_learn_in_key_mode_only(rng):
    x = series(rng).float()
    for config, acts in ((SMALL, True), (TUTORIAL, False)):
        model = initial_model(config, T, fresh_seed())
        before = model(x)
        model(x).square().mean().backward()
        grads = [p.grad for n, p in model.named_parameters() if "confidence" in n]
        assert all((g is not None and bool(g.abs().max() > 0)) == acts for g in grads)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "confidence" in name:
                    p.normal_()
        assert torch.equal(model(x), before) != acts


def test_cross_attention_listens_to_the_confidence_of_the_source(rng):
    torch.manual_seed(fresh_seed())
    attention = ConfidenceAttention(SMALL).double()
    x, memory = (torch.tensor(rng.standard_normal((1, 8, SMALL.d_model))) for _ in range(2))
    source = attention.source(memory)
    torch.testing.assert_close(source.log_confidence, attention.confidence_module(memory))
    heads = attention.w_q(x).unflatten(-1, (SMALL.n_heads, -1)).transpose(1, 2)
    expected = attention.w_o(pairwise_attention(heads, source).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, source), expected, rtol=0, atol=1e-12)


# --- No vertices-by-vertices array ----------------------------------------------------------


@pytest.mark.parametrize("confidence", ["key", "tutorial"])
def test_tiles_of_keys_give_the_embeddings_of_plain_attention(rng, monkeypatch, confidence):
    """The fused kernel takes 512 keys at a time: here three tiles, the last one not full."""
    config = SMALL.model_copy(update={"confidence": confidence})
    model = initial_model(config, T, fresh_seed())
    bold = 3 * rng.standard_normal((1100, T))
    tiled = embed(model, bold, source="encoder")
    monkeypatch.setattr(autoencoder, "attend", explicit_attention)
    exact = model.double().encode(torch.tensor(bold)[None])[0].detach().numpy()
    np.testing.assert_allclose(tiled, exact, atol=2e-5)


def explicit_attention(query: Tensor, source: Source, dropout: float = 0.0) -> Tensor:
    assert query.dtype == torch.float64
    if source.log_confidence is not None:
        return pairwise_attention(query, source)
    return pairwise_attention(query, source._replace(log_confidence=query[:, 0, :, 0] * 0))


def test_embedding_makes_no_array_that_grows_with_the_square_of_vertices(rng):
    """Made as `largest_array` measures it, for features of all vertices at once."""
    model = initial_model(SMALL, 8, 0)
    few, many = (
        largest_made(lambda n=n: embed(model, rng.standard_normal((n, 8)), source="encoder"))
        for n in (600, 1200)
    )
    assert many <= 2 * few < 1200**2


def largest_made(work: Callable[[], object]) -> int:
    """Return the element count of the largest tensor that is made."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))
            return out

    with Watch():
        work()
    return max(sizes)


def largest_array(config: AutoencoderConfig, n_vertices: int, dtype: torch.dtype) -> int:
    """Return that of a training step, forward and back."""
    model = initial_model(config, 8, 0).train()
    x = torch.randn(1, n_vertices, 8)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            model(x).square().mean().backward()

    return largest_made(step)


@pytest.mark.parametrize("confidence", ["key", "tutorial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_array_grows_with_the_square_of_vertices(confidence, dtype):
    config = SMALL.model_copy(update={"confidence": confidence})
    few, many = (largest_array(config, v, dtype) for v in (150, 300))
    assert many <= 2 * few
    assert many < 300**2


def bytes_kept(confidence: str, n_vertices: int) -> int:
    """Return what a forward pass keeps for its backward pass, as the allocator counts it."""
    from torch.profiler import ProfilerActivity, profile

    config = AutoencoderConfig(
        d_model=64, n_heads=1, n_encoder_layers=3, n_decoder_layers=3, dim_feedforward=32,
        confidence_hidden=64, dropout=0.0, confidence=confidence,
    )  # fmt: skip
    model = initial_model(config, 8, 0).train()
    x = torch.randn(1, n_vertices, 8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        loss = model(x).square().mean()
    assert loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in watched.key_averages())


def test_confidence_costs_little_memory():
    """No widened copy and no hidden layer of the confidence waits for the backward pass."""
    key, tutorial = (bytes_kept(c, 600) for c in ("key", "tutorial"))
    assert tutorial > 600 * 64 * 4 * 40  # the measure sees what is kept
    assert key < 1.05 * tutorial


@pytest.mark.parametrize("confidence", ["key", "tutorial"])
def test_attention_dropout_on_the_cpu_is_explicit_and_its_memory_is_told(confidence):
    config = SMALL.model_copy(update={"confidence": confidence, "attention_dropout": 0.1})
    assert largest_array(config, 300, torch.float32) >= SMALL.n_heads * 300**2
    n_attentions = SMALL.n_encoder_layers + 2 * SMALL.n_decoder_layers
    assert pairwise_bytes(config, 300, "cpu") >= n_attentions * SMALL.n_heads * 300**2 * 4
    assert pairwise_bytes(config, 300, "cuda") == 0
    assert pairwise_bytes(SMALL, 300, "cpu") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_fused_kernel_of_the_cpu_runs(dtype):
    from torch.profiler import ProfilerActivity, profile

    draw = [torch.randn(1, 2, 33, 6, dtype=dtype, requires_grad=True) for _ in range(3)]
    source = Source(draw[1], draw[2], torch.zeros(1, 33, dtype=dtype, requires_grad=True))
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        attend(draw[0], source).sum().backward()
    names = {event.key for event in watched.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in names
    assert "aten::_scaled_dot_product_attention_math" not in names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_fused_kernel_of_cuda_runs_with_and_without_dropout(dropout):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    options = {"device": "cuda", "dtype": torch.bfloat16}
    draw = [torch.randn(1, 2, 128, 64, **options, requires_grad=True) for _ in range(3)]
    source = Source(draw[1], draw[2], torch.zeros(1, 128, **options, requires_grad=True))
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        attend(draw[0], source, dropout).sum().backward()
    assert torch.isfinite(draw[0].grad).all()


# --- The model ------------------------------------------------------------------------------


def test_default_shape_has_the_tutorials_weights():
    model = initial_model(AutoencoderConfig(), 1600, 0)
    n_weights = sum(p.numel() for p in model.parameters())
    assert n_weights == sum(
        p.numel() for p in TutorialModel(AutoencoderConfig(), 1600).parameters()
    )
    assert 8.8e6 < n_weights < 8.9e6


@pytest.mark.parametrize("share", [True, False])
def test_layers_are_shared_across_depth_or_independent(share):
    config = SMALL.model_copy(update={"share_layers": share})
    model = TransformerAutoencoder(config, T)
    assert len({id(layer) for layer in model.encoder.layers}) == (1 if share else 2)
    assert len({id(layer) for layer in model.decoder.layers}) == (1 if share else 3)


def test_initial_model_is_repeatable_and_leaves_the_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b, c = (weights_to_arrays(initial_model(SMALL, T, s)) for s in (5, 5, 6))
    assert torch.equal(torch.rand(1), expected)
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not np.array_equal(a["embedding.weight"], c["embedding.weight"])


def test_initialisation_has_the_published_bounds():
    model = initial_model(AutoencoderConfig(n_encoder_layers=1, n_decoder_layers=1), 100, 3)
    layer = model.encoder.layers[0]
    for linear, gain in (
        (layer.linear1, 1.0),
        (layer.self_attn.w_q, 1.0),
        (layer.self_attn.confidence_module.mlp[0], 0.5),
    ):
        bound = gain * (6 / sum(linear.weight.shape)) ** 0.5
        assert 0.98 * bound < linear.weight.abs().max().item() <= bound
        assert linear.bias.abs().max() == 0
    assert model.embedding.bias.abs().max() > 0


def test_vertices_have_no_order(rng):
    model = initial_model(SMALL, T, fresh_seed()).double()
    x = series(rng)
    order = torch.tensor(rng.permutation(x.shape[1]))
    torch.testing.assert_close(model(x[:, order]), model(x)[:, order], rtol=0, atol=1e-10)


def test_runs_in_a_batch_do_not_see_each_other(rng):
    model = initial_model(SMALL, T, fresh_seed()).double()
    a, b = series(rng), series(rng)
    both = model(torch.cat([a, b]))
    torch.testing.assert_close(both, torch.cat([model(a), model(b)]), rtol=0, atol=1e-10)


def test_removing_the_mean_makes_the_encoder_blind_to_what_vertices_share(rng):
    config = SMALL.model_copy(update={"remove_mean": True})
    model = initial_model(config, T, fresh_seed()).double()
    x, shared = series(rng), torch.tensor(rng.standard_normal((1, 1, T)))
    torch.testing.assert_close(model.encode(x + shared), model.encode(x), rtol=0, atol=1e-8)


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(SettingsError, match="d_model=520"):
        AutoencoderConfig(d_model=513)


# --- Embeddings -----------------------------------------------------------------------------


def test_the_two_sources(rng):
    model = initial_model(SMALL, T, 1)
    bold = rng.standard_normal((25, T)).astype(np.float32)
    x = torch.tensor(bold)[None]
    projected = embed(model, bold, source="input_projection")
    encoded = embed(model, bold, source="encoder")
    assert projected.dtype == encoded.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(projected, model.embedding(x)[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(encoded, model.encode(x)[0].numpy(), atol=1e-6)


def test_embedding_has_no_dropout_and_leaves_the_mode_alone(rng):
    model = initial_model(SMALL, T, 1).train()
    bold = rng.standard_normal((25, T)).astype(np.float32)
    assert np.array_equal(
        embed(model, bold, source="encoder"), embed(model, bold, source="encoder")
    )
    assert model.training


def test_embed_refuses_what_does_not_fit(rng):
    model = initial_model(SMALL, T, 1)
    bold = rng.standard_normal((25, T + 1))
    with pytest.raises(InputError, match=rf"n_vertices, {T}.*\(25, {T + 1}\)"):
        embed(model, bold, source="encoder")
    with pytest.raises(SettingsError, match="trained_model"):
        embed(None, bold, source="encoder")
    bold[3, 4] = np.nan
    with pytest.raises(InputError, match="1 NaN"):
        embed(model, bold[:, :T], source="encoder")


# --- Weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_weights_survive_arrays(rng, share):
    config = SMALL.model_copy(update={"share_layers": share})
    model = initial_model(config, T, fresh_seed())
    x = series(rng).float()
    arrays = weights_to_arrays(model)
    assert sum(a.size for a in arrays.values()) == sum(p.numel() for p in model.parameters())
    assert torch.equal(model_from_arrays(arrays, config, T)(x), model(x))


def test_arrays_that_do_not_fit_are_refused():
    arrays = weights_to_arrays(initial_model(SMALL, T, 0))
    with pytest.raises(InputError, match="3 missing, unknown or of another shape"):
        model_from_arrays(arrays, SMALL, T + 1)
    arrays.pop("encoder.norm.bias")
    with pytest.raises(InputError, match=r"encoder\.norm\.bias"):
        model_from_arrays(arrays, SMALL, T)
