#!/usr/bin/env bash
# Forecasts all stations with a fitted model, into a file.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help_if_asked "Usage: run_inference.sh [STATION] [options of velib predict]

Forecasts all stations (or one) from what is known now, into data/predictions/SYSTEM_TIME.csv; prints the file's name.
--json and --geojson write those instead.

  SYSTEM         which system (velib)
  OUT            the file, instead
  --horizon 30m or --at T, --now T, --model NAME, --db URL, --config FILE" "$@"

suffix=csv
format=(--csv)
for argument in "$@"; do
    case "$argument" in
        --csv | --json | --geojson)
            suffix="${argument#--}"
            format=()
            ;;
    esac
done
OUT="$(absolute "${OUT:-$PROJECT/data/predictions/${SYSTEM}_$(date -u +%Y%m%d_%H%M%S).$suffix}")"
mkdir -p "$(dirname "$OUT")"
trap 'rm -f "$OUT.part"' EXIT # a file has its name once it is whole
velib predict --system "$SYSTEM" "${format[@]}" "$@" >"$OUT.part"
mv "$OUT.part" "$OUT"
echo "$OUT"
