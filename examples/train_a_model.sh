#!/usr/bin/env bash
# How to lay out the training of a 70B model on 64 GPUs; what the layout of a published run takes; and whether another
# fits.
set -euo pipefail
plan train --model meta-llama/Llama-3.1-70B --cluster 8x8xH100 --global-batch 128 --seq-len 8192 --precision fp8 \
  --output train.json
plan train predict --model meta-llama/Llama-3.1-70B --gpu H100 --tp 4 --pp 8 --vpp 5 --dp 2 --seq-len 8192 \
  --global-batch 128 --precision fp8
plan train memory --model meta-llama/Llama-3.1-70B --gpu H100 --framework torchtitan --tp 8 --dp 8 --seq-len 8192 \
  --global-batch 64
