#!/usr/bin/env bash
# Proves the production stack on a synthetic city's feed, from images to restored backup; nothing in it is played.
#   docker/prove.sh                                              with Docker; builds the images first
#   ENGINE=podman COMPOSE=podman-compose BUILD=no docker/prove.sh    with Podman, on images that are there
# It is a Compose project of its own (velib-prove), which is taken away at the end, volumes included.
# shellcheck disable=SC2016 # what stands in single quotes is for the shell in the container
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ENGINE="${ENGINE:-docker}"
COMPOSE="${COMPOSE:-docker compose}"
CITY=velib-prove-city
export COMPOSE_PROJECT_NAME=velib-prove DB_PASSWORD="${DB_PASSWORD:-only-for-this-run}"
export VELIB_COLLECTOR__EVERY=10s VELIB_SYSTEMS__VELIB__URL="http://$CITY:8090/gbfs/gbfs.json"
api=http://127.0.0.1:8000
folder="$(mktemp -d)"
made_secret=

step() { printf '\n== %s\n' "$*"; }
# shellcheck disable=SC2086 # COMPOSE may be two words
compose() { $COMPOSE -p velib-prove -f docker-compose.yml -f docker-compose.prod.yml "$@"; }
eventually() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "it has not come about in time: $*" >&2
            return 1
        fi
        sleep 3
    done
}
velib() { compose run --rm --no-deps --user "$(id -u):$(id -g)" -v "$folder:/backups" collector velib "$@"; }
stored() { velib db status --json 2>/dev/null | grep '^{' | tr -d '\r'; }
number() { python3 -c 'import json, sys; print(json.loads(sys.argv[1])["systems"][0][sys.argv[2]])' "$1" "$2"; }
forecast() { curl --fail --silent "$api/v1/systems/velib/forecast?horizon=30m"; }
served() { forecast | grep -q '"p_ge_1"\|"features"'; }
up() {
    compose up -d timescaledb
    eventually 180 compose exec -T timescaledb sh -c 'pg_isready -q -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB"'
    compose up -d collector api
}
clean() {
    code=$?
    if [ "$code" != 0 ]; then compose logs --tail 30 || true; fi
    "$ENGINE" rm -f "$CITY" >/dev/null 2>&1 || true
    compose down -v >/dev/null 2>&1 || true
    if [ -n "$made_secret" ]; then rm -rf secrets; fi
    rm -rf "$folder"
    exit "$code"
}
trap clean EXIT
trap 'exit 143' INT TERM

if [ ! -e secrets/db_password ]; then
    made_secret=yes
    make docker-secrets
fi
if [ "${BUILD:-yes}" = yes ]; then
    step "build"
    compose build collector api
fi

step "start: database, city, collector, API"
up
compose run -d --no-deps --name "$CITY" collector velib city serve --host 0.0.0.0 --port 8090 --stations 60
eventually 300 curl --fail --silent --output /dev/null "$api/readyz"
eventually 60 served
echo "a forecast is served: $(forecast | head -c 200)..."

step "down and up keep the data"
before="$(number "$(stored)" rows)"
compose down
up
eventually 120 curl --fail --silent --output /dev/null "$api/readyz"
after="$(number "$(stored)" rows)"
echo "$before rows before, $after after"
[ "$before" -gt 0 ] && [ "$after" -ge "$before" ]

step "backup, loss, restore"
compose stop collector api
was="$(stored)"
for format in "" --plain; do
    velib db backup --to /backups $format
    compose exec -T timescaledb sh -c \
        'psql -q -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "TRUNCATE station_status, poll, score, issue"'
    [ "$(number "$(stored)" rows)" = 0 ]
    newest="$(find "$folder" -name 'velib_*' ! -name '*.sha256' | sort | tail -n 1)"
    velib db restore "/backups/$(basename "$newest")" --yes
    [ "$(stored)" = "$was" ]
    echo "$(basename "$newest"): everything is back"
done
(cd "$folder" && sha256sum --check --strict ./*.sha256)

step "proved"
