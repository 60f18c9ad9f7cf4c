#!/usr/bin/env bash
# Does a plan hold when requests come in bursts, and where does it fall behind? Makes a plan, then replays loads against it.
set -euo pipefail
plan --model Qwen/Qwen3-32B --cluster 16xH200 --slo ttft=1s,tpot=40ms --workload isl=2000,osl=300,rate=10 \
  --output plan.json > /dev/null
plan simulate plan.json --rate 10 --arrivals gamma:2
plan simulate plan.json --rate 60 --json | python -c '
import json, sys
report = json.load(sys.stdin)
print("at 60 requests/s:", "falls behind," if report["falls_behind"] else "keeps up,",
      "capacity about", round(report["capacity_rps"] or 60, 1), "requests/s")'
