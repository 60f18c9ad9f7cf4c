"""What files that users name hold, small and whole: of the readers in ``readers.py``."""

from __future__ import annotations

CLUSTER = b"""name: ours
pools:
  - gpu: H200
    gpus: 16
  - {gpu: H100, nodes: 2, gpus_per_node: 8, usd_per_gpu_hour: 2.5, price_source: us}
"""
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 128, "vocab_size": 1000,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
    "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096},
    "quantization_config": {
        "quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"],
    },
}  # fmt: skip
TRACE = b"arrival_s,isl,osl\n0,100,10\n0.5,200,20\n1.25,50,5\n"
AZURE = b"""TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
ENGINES = b"model,gpu,framework,tp,isl,osl\nQwen/Qwen3-32B,H100,vllm,2,1000,100\n"
CONFIGS = b"""model,gpu,framework,tp,isl,osl,concurrency,name
Qwen/Qwen3-32B,H200,vllm,2,4000,500,32,a
Qwen/Qwen3-32B,H200,vllm,4,4000,500,8,b
"""
RUN = {
    "backend": "vllm",
    "model_id": "Qwen/Qwen3-32B",
    "gpu": "H200",
    "tp": 2,
    "request_rate": "inf",
    "max_concurrency": 8,
    "random_input_len": 1000,
    "random_output_len": 100,
    "median_tpot_ms": 9.5,
    "itls": [[0.1, 0.2]],
}
LOADS = b"layer,expert,count,window\n1,0,5,a\n1,1,2,a\n2,0,3,a\n2,3,3,a\n4,2,9,a\n"
MLP = (
    b"num_tokens,n_embd,n_expanded_embd,n_head,n_kv_head,use_gated_mlp,num_tensor_parallel_workers,"
    b"time_stats.mlp_up_proj.median\n128,8192,28672,64,8,True,4,2.0\n256,8192,28672,64,8,True,4,2.5\n"
)
FLEET = b"""cluster: {name: c, pools: [{gpu: H100, gpus: 16, spot_gpus: 8, spot_usd_per_gpu_hour: 1.0, zone: a}]}
survive: {engines: 1}
services:
- {name: a, model: Qwen/Qwen3-8B, slo: ttft=1s, load: {rate_rps: 3, classes: [{isl: 100, osl: 10, share: 1.0}]}}
"""
MELANGE = {
    "gpu_info": {"A": {"cost": 1.0, "tputs": [[2, 1], [5, 2]]}},
    "workload_distribution": [[0.2, 0.1], [0.5, 0.2]], "total_request_rate": 30,
}  # fmt: skip
AIBRIX = {"gpu": "A", "cost": 1.0, "tputs": [[9.0, 4.0], [3.0, 0.0]], "indexes": [[4, 8], [128, 256]]}
LOAD = b"hour,isl_from,isl_to,osl,rate_rps\n0,1,100,10,2.5\n1,1,100,10,3\n"
OFFERS = b"""offers:
- gpu: H100
  usd_per_gpu_hour: 2.95
  spot_usd_per_gpu_hour: 1.25
  provider: P
  instance: i
  date: 2026-11-26
  source: s
"""
PRICES = (
    b"InstanceType,AcceleratorName,AcceleratorCount,Price,Region,SpotPrice\na,H100,8,23.6,eu,10\nb,H200,1,3.5,eu,\n"
)

RESPONSE = {
    **{name: {"clocked": [0.5, 0.4, 0.6], "exponent": [1.0, 0.8, 1.2]} for name in ("prefill", "decode")},
    "source": "a test",
    "date": "2026-11-26",
}
"""Of one GPU in a store's clock_response.json."""

EAGLE3 = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 1,
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
}
