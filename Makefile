# Everything runs in .venv, which is made on first use and brought up to date when the requirements change.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup setup-deep demo run test test-all notebooks lint format types collect bench lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Options: PYTHON=python3.12 (3.11 or later), JOBS=4 (test processes), ARGS="-k collector" (passed on)'

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

bench: $(INSTALLED) ## Run the benchmarks, one after the other
	@for file in benchmarks/[a-z]*.py; do \
		[ -e "$$file" ] || continue; echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; done

lock: $(INSTALLED) ## Pin the newest dependencies that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --no-header --quiet \
		-o requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --upgrade --universal --python-version 3.11 --no-header --quiet \
		-c requirements.txt -o requirements-dev.txt

clean: ## Remove .venv, caches and build outputs; data, models and backups stay
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests $(wildcard benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +
