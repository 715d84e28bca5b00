#!/usr/bin/env bash
# Judges models on the newest days of the stored history, all on the same rows.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help_if_asked "Usage: evaluate_model.sh [options of velib backtest]

Trains on the weeks before, tests on the newest days, and writes a report (report.html, report.json) with persistence
beside each model.

  SYSTEM         which system (velib)
  MODELS         comma-separated (climatology,queueing,xgboost)
  TRAIN_DAYS     days to train on (28)
  TEST_DAYS      days to test on, after those (7)
  UNTIL          where the test ends, with its offset from UTC (the newest midnight, UTC)
  REPORT         folder of the report (reports/SYSTEM_TIME)
  --step 15m, --horizons 15m,30m, --targets bikes,docks, --tolerance 20m, --db URL, --config FILE, --json" "$@"

UNTIL="${UNTIL:-$(date -u +%Y-%m-%dT00:00:00Z)}"
days_before() { date -u --date="$UNTIL - $1 days" +%Y-%m-%dT%H:%M:%SZ; }
test_from="$(days_before "${TEST_DAYS:-7}")"
train_from="$(days_before "$((${TEST_DAYS:-7} + ${TRAIN_DAYS:-28}))")"
REPORT="$(absolute "${REPORT:-$PROJECT/reports/${SYSTEM}_$(date -u +%Y%m%d_%H%M%S)}")"
velib backtest --system "$SYSTEM" --models "${MODELS:-climatology,queueing,xgboost}" \
    --train-from "$train_from" --train-until "$test_from" --test-from "$test_from" --test-until "$UNTIL" \
    --report-out "$REPORT" "$@"
echo "report: $REPORT/report.html" >&2
