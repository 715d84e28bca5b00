#!/usr/bin/env bash
# Fits the baseline models on the stored history.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help_if_asked "Usage: train_baseline.sh [options of velib train]

Fits the baseline models on the stored history. Kept under models/; what is served next is
made by the newest one (or by forecast.model of the settings).

  SYSTEM         which system (velib)
  MODELS         which ones, in this order (climatology persistence_delta queueing xgboost)
  --until T, --step 15m, --horizons 15m,30m, --targets bikes,docks, --db URL, --config FILE, --json" "$@"

for model in ${MODELS:-climatology persistence_delta queueing xgboost}; do
    velib train "$model" --system "$SYSTEM" "$@"
done
