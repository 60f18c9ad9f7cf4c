#!/usr/bin/env bash
# Asks a running service with curl: a job, its events, and the plan it ends in.
#   plan serve &   then   bash examples/service/ask.sh
set -euo pipefail
url=${SHARDWRIGHT_URL:-http://127.0.0.1:8000}
key=()
if [[ -n ${SHARDWRIGHT_KEY:-} ]]; then key=(-H "Authorization: Bearer $SHARDWRIGHT_KEY"); fi
ask() { curl -sS --fail-with-body "${key[@]}" "$@"; }

here=$(dirname "$0")
job=$(ask "$url/v1/plans" -H 'Content-Type: application/json' -H 'Prefer: wait=0' -H 'Idempotency-Key: example-1' \
  -o answer.json -w '%header{location}' --data @"$here/../request.json")
if [[ -n $job ]]; then
  ask -N "$url$job/events"
  result=$(ask "$url$job" | python3 -c 'import json, sys; print(json.load(sys.stdin)["result"] or "")')
  [[ -n $result ]] || { ask "$url$job"; exit 1; }
  ask "$url$result" -o answer.json
fi
python3 -c 'import json
for engine in json.load(open("answer.json"))["decision"]["engines"]:
    print(" ".join(engine["launch"]["command"]))'
