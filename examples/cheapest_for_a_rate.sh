#!/usr/bin/env bash
# The cheapest fleet that carries 10 requests per second within the SLO, out of two pools; the plan goes to a file.
set -euo pipefail
plan --model Qwen/Qwen3-8B --cluster "$(dirname "$0")/cluster.yaml" \
  --slo ttft=1s,tpot_p99=40ms --workload isl=2000,osl=300,rate=10 --output cheapest.json
