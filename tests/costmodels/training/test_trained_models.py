"""Which models training knows, and that all others are refused by the name of what it does not know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from costmodels.models.architecture import (
    Architecture,
    BlockSparseAttention,
    DenseFeedForward,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
    NoFeedForward,
    ParallelMixers,
    VisionTower,
)
from costmodels.models.mixers import (
    CompressedAttention,
    HyperConnections,
    KimiDeltaAttention,
    Mamba,
    Mamba2,
    Mixer,
    NoMixer,
)
from costmodels.training.models import as_trained, trained_model
from profiles.errors import Unsupported

PLAIN = GroupedQueryAttention(32, 8, 128)
LATENT = LatentAttention(16, 0, 512, 128, 64, 128)
DENSE = DenseFeedForward(14336)
ROUTED = MixtureOfExperts(64, 8, 1024)
STATE_SPACE = Mamba2(64, 64, 8, 128, 4, 2)


def model(**changes: object) -> Architecture:
    group = LayerGroup(4, PLAIN, DENSE)
    of_layers = {name: changes.pop(name) for name in ("attention", "feed_forward", "residual") if name in changes}
    group = replace(group, **of_layers)  # type: ignore[arg-type]
    experts = tuple(range(4)) if isinstance(group.feed_forward, MixtureOfExperts) else ()
    return replace(
        Architecture("m", "llama", 4096, 32000, (group,), 8192, False, "bf16", moe_layers=experts),
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention": NoMixer()}, "layers without attention"),
        ({"attention": STATE_SPACE}, "layers of Mamba-2"),
        ({"attention": Mamba(8192, 16, 256, 4, 2)}, "layers of Mamba"),
        ({"attention": KimiDeltaAttention(32, 128, 4)}, "layers of Kimi Delta Attention"),
        ({"attention": ParallelMixers(PLAIN, STATE_SPACE)}, "attention and Mamba-2 in parallel"),
        ({"attention": BlockSparseAttention(PLAIN, 4, 128, 128, 16)}, "block-sparse attention"),
        ({"attention": CompressedAttention(64, 512, 64, 1024, 8, 1024, 128, 4)}, "compressed attention"),
        ({"attention": replace(LATENT, indexer=Indexer(64, 128, 2048))}, "sparse attention"),
        ({"attention": replace(LATENT, output_gate=True)}, "a gate on its output"),
        ({"attention": replace(PLAIN, value_dim=64)}, "values are not as wide"),
        ({"attention": replace(PLAIN, head_gate=True)}, "a gate for each head"),
        ({"attention": replace(PLAIN, keys_are_values=True)}, "keys are its values"),
        ({"feed_forward": NoFeedForward()}, "layers without a feed-forward"),
        ({"feed_forward": replace(ROUTED, latent=512)}, "experts in a latent space"),
        ({"feed_forward": replace(ROUTED, idle_experts=8)}, "experts that pass a token through"),
        ({"residual": HyperConnections(4)}, "hyper-connections"),
        ({"vision": VisionTower(10**9, 24, 1024, 16, 4096, 14)}, "an image encoder"),
        ({"excluded": ("vision tower",)}, "a vision tower"),
    ],
)
def test_what_training_does_not_know_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(Unsupported, match=named) as raised:
        as_trained(model(**changes))
    assert raised.value.message.startswith("model: m has ")
    assert raised.value.hint


def test_every_mixer_is_refused() -> None:
    """A new kind of mixer is refused by its own name until training knows it."""

    class Brand(Mixer):
        kind = "a brand new kind"
        heads = 8

    with pytest.raises(Unsupported, match="layers of a brand new kind"):
        as_trained(model(attention=Brand()))


@pytest.mark.parametrize("changes", [{}, {"attention": LATENT}, {"feed_forward": ROUTED}])
def test_what_it_knows_is_read(changes: dict[str, object]) -> None:
    read = as_trained(model(**changes))
    assert (read.layers, read.order, read.kinds[0].count) == (4, (0, 0, 0, 0), 4)


def test_layers_that_guess_further_tokens_may_be_trained_too() -> None:
    assert trained_model("deepseek-ai/DeepSeek-V3").mtp_layers == 1
    assert trained_model("meta-llama/Llama-3.1-8B").mtp_layers == 0


def test_models_that_are_written_out_have_the_sizes_that_are_written() -> None:
    gpt = trained_model("gpt:hidden=12288,layers=96,heads=96,vocab=51200")
    assert gpt.parameters(2048) == pytest.approx(174.6e9, rel=0.01)  # GPT-3
    assert (gpt.dropout, gpt.learned_positions, gpt.layer_norm) == (True, True, True)
