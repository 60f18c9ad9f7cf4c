#!/usr/bin/env bash
# What other rates of the same requests cost, of the best mix and of each GPU type alone: cost.svg.
set -euo pipefail
plan fleet "$(dirname "$0")/chat.yaml" --plot cost.svg -o fleet.json
