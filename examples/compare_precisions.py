"""What does FP8 buy? Plans the same promise in two precisions and prints throughput per GPU and how sure each plan
is."""

from planner import plan

REQUEST = {"model": "Qwen/Qwen3-32B", "cluster": "8xH200", "slo": "ttft=1s,tpot=30ms", "workload": "isl=4000,osl=500"}

for precision in ("bf16", "fp8"):
    document = plan({**REQUEST, "precision": precision, "confidence": 0.8})
    group = document.decision.engines[0]
    speed = document.prediction.output_tokens_per_s_per_gpu
    promises = ", ".join(f"{check.metric} {check.confidence:.0%}" for check in document.prediction.slo)
    print(
        f"{precision:5} {len(group.replicas)} × {group.layout.label:8} "
        f"{speed.value:6.0f} tokens/s/GPU ({speed.low:.0f}–{speed.high:.0f}), sure of {promises}"
    )
