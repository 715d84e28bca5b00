#!/usr/bin/env bash
# Creates the database where it does not exist yet, and brings its schema up to date.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help_if_asked "Usage: setup_database.sh [velib options]

Creates role and database (PostgreSQL, if DB_ADMIN_URL is given) and the schema; safe to repeat. Without PostgreSQL in
the environment or .env it is the embedded SQLite file.

  DB_ADMIN_URL   address with which roles and databases may be created, such as postgresql://postgres@localhost/postgres;
                 then DB_NAME (velib), DB_USER (velib_user) and DB_PASSWORD say what to create
  --db URL       another database than the settings', --config FILE other settings, --json for programs" "$@"

if [ -n "${DB_ADMIN_URL:-}" ]; then
    : "${DB_PASSWORD:?set DB_PASSWORD: the password that the role is to get}"
    command -v psql >/dev/null || { echo "psql is not installed; install postgresql-client" >&2; exit 1; }
    # Names and password are handed over as variables of psql, which quotes them; they are not put into SQL here.
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname="$DB_ADMIN_URL" \
        --set=name="${DB_NAME:-velib}" --set=user="${DB_USER:-velib_user}" --file=- <<'SQL'
\getenv password DB_PASSWORD
SELECT format('CREATE ROLE %I LOGIN', :'user')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'user', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'user')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SQL
fi
velib db init "$@"
