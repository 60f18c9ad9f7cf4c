#!/usr/bin/env bash
# Measures the GPUs of this machine for ten minutes, then plans with what was measured. Takes up where it stopped.
set -euo pipefail
plan profile collect --device cuda --ops gemm,attention,moe,memcpy,launch --budget 10m --out ./measured
plan profile list --profiles ./measured
plan --model Qwen/Qwen3-32B --cluster "8x${1:?name the GPU type, as the summary above calls it}" \
  --workload isl=4000,osl=500 --slo ttft=1s,tpot=30ms --profiles ./measured
