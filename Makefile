# `make help` lists the targets. Everything runs in .venv, made from the hashed lock.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# What is released is as old as its last commit, whenever and wherever it is built.
EPOCH = $(shell git log -1 --format=%ct)
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11

.PHONY: help up reset test drill check bench chart proto events settings metrics observability wheels sbom image audit lock contracts-accept format

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Linli needs Python 3.11 or newer: make PYTHON=/path/to/python3" && exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: --requirement requirements.lock
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
		LINLI_DRILL_RESTORES=5 LINLI_DRILL_ROLLING_SEPARATE=1 LINLI_DRILL_ROLLING_REQUESTS=60 LINLI_DRILL_ROLLING_PUSHES=25 \
		$(BIN)/pytest tests/drills --timeout 1800

check: $(STAMP) ## All that CI runs: lint, types, walls, contracts, migrations, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.contracts check
	$(BIN)/hadolint infra/image/Dockerfile
	$(BIN)/python -m tools.chart check
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

metrics: $(STAMP) ## Generate docs/metrics.md from the declared metrics
	$(BIN)/python -m tools.metrics_catalogue

observability: $(STAMP) ## Generate dashboards from the services' declarations, and the rules of the objectives
	$(BIN)/python -m tools.objectives
	$(BIN)/python -m tools.dashboards

chart: $(STAMP) ## Generate what the Helm chart knows of the services, and the rendered manifests of its profiles
	$(BIN)/python -m tools.chart write

contracts-accept: $(STAMP) ## Accept the contracts as they are now as what later ones must stay compatible with
	$(BIN)/python -m tools.contracts accept

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheels: $(STAMP) ## Fetch the wheels that services run on, and build our own, into dist/wheels
	@rm -rf dist/wheels
	$(BIN)/python -m pip download --quiet --require-hashes --no-deps --only-binary :all: --dest dist/wheels --requirement requirements-services.lock
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m hatchling build --target wheel --directory dist/wheels

sbom: wheels ## Write the bill of materials (CycloneDX) of what services run on, into dist
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m tools.sbom dist/wheels dist/linli-$(VERSION).cdx.json

image: sbom ## Build the image into dist: make image BASE=name@digest BUILD=name@digest, see infra/image/Dockerfile
	@test -n "$(BASE)" -a -n "$(BUILD)" || (echo "Say on which images of Python: make image BASE=name@digest BUILD=name@digest" && exit 1)
	docker buildx build --file infra/image/Dockerfile --provenance=false \
		--build-arg BASE=$(BASE) --build-arg BUILD=$(BUILD) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(shell git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$(EPOCH) \
		--build-arg CREATED=$(shell TZ=UTC git log -1 --format=%cd --date=iso-strict-local) \
		--output type=docker,name=linli:$(VERSION),dest=dist/linli-$(VERSION).tar,rewrite-timestamp=true .

audit: $(STAMP) ## Look for known vulnerabilities of what the lock names, at the package index
	@$(BIN)/pip-audit --strict --disable-pip --progress-spinner off --requirement requirements.lock \
		|| (echo "Not passed: vulnerabilities are listed above, or the index could not be asked and nothing is known." && exit 1)

lock: ## Renew requirements.lock (everything) and requirements-services.lock (what services need) from pyproject.toml
	$(COMPILE) --extra local --group dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraints requirements.lock --output-file requirements-services.lock pyproject.toml
