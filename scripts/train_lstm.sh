#!/usr/bin/env bash
# Fits the recurrent network on the stored history; needs `make setup-deep`.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help_if_asked "Usage: train_lstm.sh [options of velib train]

Fits the recurrent network on the stored history; needs 'make setup-deep'. Kept under models/; what is served next is
made by the newest one (or by forecast.model of the settings).

  SYSTEM         which system (velib)
  --until T, --step 15m, --horizons 15m,30m, --targets bikes,docks, --db URL, --config FILE, --json" "$@"

velib train lstm --system "$SYSTEM" "$@"
