"""The columns that describe a training layout, by name: options of the command line and columns of a CSV alike."""

from __future__ import annotations

MEANINGS = {
    "model": "Name (`plan models`), config.json, or a form: gpt:hidden=..,layers=..,heads=..,vocab=.. or llama:...",
    "hidden": "Or the shape of a llama model: width,",
    "layers": "layers,",
    "heads": "attention heads,",
    "kv_heads": "key/value heads,",
    "ffn": "feed-forward width,",
    "vocab": "vocabulary.",
    "gpu": "GPU type (`plan gpus`); of a pipeline across several, in order: 16xA100-SXM-80GB+16xH100.",
    "num_gpus": "Must be tp x pp x dp x cp; gives dp where that is blank.",
    "gpus_per_node": "GPUs that share a scale-up link. Default: of the usual node.",
    "fabric": "Network between nodes (`plan gpus --fabrics`). Default: of the usual node.",
    "framework": "megatron, megatron-deepspeed, torchtitan or deepspeed; @RELEASE. Default: megatron.",
    "precision": "Of products: bf16 (default), fp16, fp8, mxfp8 or nvfp4.",
    "seq_len": "Tokens of a sequence.",
    "tp": "Tensor parallel.",
    "pp": "Pipeline stages.",
    "vpp": "Virtual stages on each stage.",
    "dp": "Data parallel; excludes cp, contains ep.",
    "cp": "Context parallel.",
    "ep": "Expert parallel.",
    "moe_tp": "Tensor parallel within experts.",
    "sharding": "0 none, 1 optimizer states, 2 and gradients, 3 and weights, or hybrid:N ranks.",
    "micro_batch": "Sequences of a micro-batch.",
    "global_batch": "Sequences of an iteration.",
    "sequence_parallel": "true or false: split what tensor parallelism leaves whole.",
    "recompute": "none, full, full:LAYERS of each stage, selective or selective:part+part.",
    "schedule": "gpipe, 1f1b, interleaved or zero-bubble.",
    "attention": "Kernel, as the framework names it: unfused, flash2, flash3, cudnn or te.",
    "mode": "pretrain (default), sft or lora.",
    "optimizer": "adam (default), adamw, sgd, muon or adafactor.",
    "mtp": "Multi-token-prediction layers that are trained too. Default: 0.",
    "stage_layers": "Layers of each (virtual) stage: 11|12|12|11, or 11|12*2|11. Default: as even as possible.",
}
"""Columns that are understood, named as the options are, and what they mean."""

COLUMNS = tuple(MEANINGS)

ALIASES = {
    "seq": "seq_len",
    "mbs": "micro_batch",
    "gbs": "global_batch",
    "n_gpus": "num_gpus",
    "etp": "moe_tp",
    "zero": "sharding",
}
MEASURED = {"s_iter": "iteration_s", "peak_mem_gib": "memory_bytes_per_gpu"}
"""The field's names of measured columns."""
