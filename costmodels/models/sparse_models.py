"""Readers of models whose attention sees a choice of what came before: DeepSeek-V4 and MiniMax-M3."""

from __future__ import annotations

from costmodels.models.architecture import Attention, BlockSparseAttention, DenseFeedForward
from costmodels.models.config_fields import Fields
from costmodels.models.mixers import CompressedAttention, HyperConnections
from costmodels.models.reading import Decoder, Layers, expert_layer, grouped_query, next_tokens, reads, with_experts
from profiles.errors import InputError, Unsupported

_SPARSE_RATIO = 4  # of the layers that have an indexer (technical report, §2.3.1)
_RATIOS = (0, _SPARSE_RATIO, 128)


@reads("deepseek_v4")
def _deepseek_v4(fields: Fields) -> Decoder:
    """Compressed attention in every layer, at its own ratio, experts everywhere, and hyper-connections. The first
    ``num_hash_layers`` choose experts by a table of token ids, which is not counted."""
    count, drafts = fields.layers(), fields.number("num_nextn_predict_layers")
    ratios = [int(ratio) for ratio in fields.sequence("compress_ratios") if str(ratio).isdigit()]
    if len(ratios) not in (count, count + drafts):
        raise InputError(
            f"{fields.model}: config key 'compress_ratios' lists {len(ratios)} layers, num_hidden_layers = {count}",
            "correct compress_ratios or num_hidden_layers in the config.json",
            field="compress_ratios",
        )
    for ratio in ratios:
        if ratio not in _RATIOS:
            raise Unsupported(
                f"{fields.model}: config key 'compress_ratios' has {ratio}, which is not modelled",
                f"known: {', '.join(map(str, _RATIOS))}",
                field="compress_ratios",
            )
    if fields.size("num_key_value_heads", 1) != 1:
        raise Unsupported(
            f"{fields.model}: config key 'num_key_value_heads' = {fields.size('num_key_value_heads', 1)} is not "
            "modelled for deepseek_v4",
            "known: 1",
            field="num_key_value_heads",
        )
    index = fields.size("index_n_heads"), fields.size("index_head_dim"), fields.size("index_topk")
    shape = (
        *(fields.size("num_attention_heads"), fields.size("head_dim"), fields.size("qk_rope_head_dim")),
        *(fields.size("q_lora_rank"), fields.size("o_groups"), fields.size("o_lora_rank")),
        fields.size("sliding_window"),
    )
    kinds = {ratio: CompressedAttention(*shape, ratio, *(index if ratio == _SPARSE_RATIO else ())) for ratio in _RATIOS}
    shared = fields.number("n_shared_experts") * fields.size("moe_intermediate_size")
    experts = expert_layer(fields, "n_routed_experts", "moe_intermediate_size", shared=shared, router_bias=True)
    layers: Layers = [(kinds[ratio], experts) for ratio in ratios]
    return Decoder(layers[:count], draft=layers[count:], residual=HyperConnections(fields.size("hc_mult")))


@reads("minimax_m3", "minimax_m3_vl_text")
def _minimax_m3(fields: Fields) -> Decoder:
    """Block-sparse attention where ``sparse_attention_freq`` says so, experts where ``moe_layer_freq`` does."""
    count = fields.layers()
    fields.choice("qk_norm_type", "per_head", ("per_head",))
    attention = grouped_query(fields, qk_norm="head" if fields.flag("use_qk_norm") else "none")(0)
    sparse = fields.section("sparse_attention_config")
    mixers: list[Attention] = [attention] * count
    if sparse.flag("use_sparse_attention"):
        kind = BlockSparseAttention(
            attention,
            sparse.size("sparse_num_index_heads"),
            sparse.size("sparse_index_dim"),
            sparse.size("sparse_block_size"),
            sparse.size("sparse_topk_blocks"),
        )
        chosen = sparse.per_layer("sparse_attention_freq", count)
        if sparse.per_layer("sparse_disable_index_value", count) != chosen:
            raise Unsupported(
                f"{fields.model}: config key 'sparse_disable_index_value' leaves an index with values of its own, "
                "which is not modelled",
                "known: as sparse_attention_freq",
                field="sparse_attention_config",
            )
        mixers = [kind if flag else attention for flag in chosen]
    shared = fields.number("n_shared_experts") * fields.size("shared_intermediate_size")
    experts = expert_layer(
        fields, "num_local_experts", "intermediate_size", shared=shared, router_bias=fields.flag("use_routing_bias")
    )
    has_experts = [bool(flag) for flag in fields.per_layer("moe_layer_freq", count)]
    fields.inert("first_k_dense_replace")  # says again what moe_layer_freq does
    layers = with_experts(
        mixers, has_experts, experts, lambda: DenseFeedForward(fields.size("dense_intermediate_size"))
    )
    draft = next_tokens(fields, layers) or next_tokens(fields, layers, "num_mtp_modules")
    return Decoder(layers, draft=draft)
