#!/usr/bin/env bash
# Experts of a mixture-of-experts model onto GPUs: counts of two workloads (made up here; SGLang's and TensorRT-LLM's
# recorders write such files), a placement fitted to both and scored on a third, written for SGLang.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python - "$folder" <<'PYTHON'
import json, random, sys

random.seed(7)
popularity = [[random.lognormvariate(0, 0.7) for expert in range(128)] for layer in range(48)]
for name in ("monday", "tuesday", "wednesday"):
    counts = [[round(1e5 * p * random.lognormvariate(0, 0.2)) for p in layer] for layer in popularity]
    with open(f"{sys.argv[1]}/{name}.json", "w") as file:
        json.dump({"logical_count": counts}, file)
PYTHON
plan experts --model Qwen/Qwen3-30B-A3B --cluster 8xH200 --redundant 16 \
  --loads "$folder/monday.json" --loads "$folder/tuesday.json" --holdout "$folder/wednesday.json" \
  --output sglang_experts.json --format sglang
