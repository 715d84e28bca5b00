#!/usr/bin/env bash
# One poll of the configured systems, for cron.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help_if_asked "Usage: collect_data.sh [options of velib collect]

Polls the configured systems once and stores the answer. For cron: a second one that starts while the first still runs
ends at once with code 0 and says so in the log; nothing is printed but failures.

  LOG_FILE       log, appended to (logs/collect_data.log); set it to - for stderr
  LOCK_FILE      held while it runs (data/collect_data.lock)

Exit codes: 0 stored (or another one is running), 1 failure, 2 usage, 3 the feed's answer was frozen or not believed,
4 no answer. Example: 5,20,35,50 * * * * /opt/velib-predictor/scripts/collect_data.sh" "$@"

LOG_FILE="${LOG_FILE:-$PROJECT/logs/collect_data.log}"
LOCK_FILE="${LOCK_FILE:-$PROJECT/data/collect_data.lock}"
mkdir -p "$(dirname "$LOCK_FILE")"
if [ "$LOG_FILE" != - ]; then
    mkdir -p "$(dirname "$LOG_FILE")"
    exec 3>&2 2>>"$LOG_FILE" >&2
else
    exec 3>&2
fi

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

exec 9>"$LOCK_FILE"
if ! flock --nonblock 9; then
    echo "$(now) another collect_data.sh is running; this one has nothing to do" >&2
    exit 0
fi

code=0
velib collect --once "$@" 9>&- || code=$?
echo "$(now) collect_data.sh ended with exit code $code" >&2
if [ "$code" != 0 ]; then # cron mails what is printed
    echo "collect_data.sh: exit code $code; see $LOG_FILE" >&3
fi
exit "$code"
