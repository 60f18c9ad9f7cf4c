#!/usr/bin/env bash
# A price table by date to fleets: of each date its offers (those of prices.csv are made up), and the fleet that they buy.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for date in $(tail -n +2 "$here/prices.csv" | cut -d, -f1 | sort -u); do
  { head -1 "$here/prices.csv"; grep "^$date," "$here/prices.csv"; } | cut -d, -f2- > "prices-$date.csv"
  plan prices import "prices-$date.csv" -o "offers-$date.yaml" --provider "Example Cloud" --date "$date" \
    --source "made up for an example"
  plan fleet "$here/chat.yaml" --prices "offers-$date.yaml" -o "fleet-$date.json"
done
