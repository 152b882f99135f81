# `make help` lists the targets. Everything runs in .venv, made from the hashed lock.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help up reset test drill check bench proto events settings lock contracts-accept format

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Linli needs Python 3.11 or newer: make PYTHON=/path/to/python3" && exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --no-index --editable .
	@touch $(STAMP)

up: $(STAMP) ## Start everything with a demonstration community and simulated devices
	@$(BIN)/linli up

reset: $(STAMP) ## Forget what `make up` has stored
	@$(BIN)/linli reset

test: $(STAMP) ## Run all tests against real servers
	$(BIN)/pytest --numprocesses 3 --dist loadfile

drill: $(STAMP) ## Kill services and servers at random, and lie to doors: thousands of exits, deposits and commands, hundreds of orders
	LINLI_DRILL_EXITS=2000 LINLI_DRILL_DEPOSITS=2000 LINLI_DRILL_ROUNDS=200 LINLI_DRILL_ORDERS=400 LINLI_DRILL_COMMANDS=100000 \
		$(BIN)/pytest tests/drills --timeout 1800

check: $(STAMP) ## All that CI runs: lint, types, walls, contracts, migrations, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.contracts check
	$(BIN)/squawk --config .squawk.toml services/*/migrations/*.sql libs/*/migrations/*.sql
	$(MAKE) test

bench: $(STAMP) ## Print measured figures as JSON lines
	$(BIN)/python -m bench

proto: $(STAMP) ## Generate libs/linli from proto/
	$(BIN)/python -m tools.contracts generate

events: $(STAMP) ## Generate docs/events.md from the services' declarations
	$(BIN)/python -m tools.event_catalogue

settings: $(STAMP) ## Generate docs/settings.md from the services' settings
	$(BIN)/python -m tools.settings_catalogue

contracts-accept: $(STAMP) ## Accept the contracts as they are now as what later ones must stay compatible with
	$(BIN)/python -m tools.contracts accept

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--python-version 3.11 --group dev --output-file requirements.lock pyproject.toml
