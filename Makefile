UV := tools/uv
RUN := $(UV) run --locked --quiet
PORT ?= 8000
# Where `make servers` writes the environment of the servers it started.
ENV_FILE ?= run/servers.env
# Where `make sbom` writes.
SBOM ?= run/sbom.json

.DEFAULT_GOAL := help
.PHONY: help setup run bench faults costs sabotage test test-unit lint format types imports docs docs-check schema-check servers check ci sbom image clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make the locked environment in .venv
	@$(UV) sync --locked --quiet

run: setup ## Run the service; without servers configured: SQLite and an in-process broker
	@echo "Order service on http://localhost:$(PORT)"
	@echo "  /console        what happens, and a form to send a test order"
	@echo "  /docs/asyncapi  the messages, in and out"
	@echo "  /health         and /metrics"
	@if [ -z "$$DB_HOST$$DATABASE_URL$$MQ_HOST$$MQ_URL" ]; then \
		echo "Embedded mode: SQLite file orders.db and an in-process broker, for trying it out."; \
		echo "Real servers: set DB_* and MQ_* (see .env.example), or docker compose up --build."; fi
	@exec $(RUN) faststream run service.app:app --port $(PORT)

test: setup ## Run all tests; says which need real servers, and how to have them
	@$(RUN) pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-unit: setup ## Run the tests that need no server and take seconds
	@$(RUN) pytest --numprocesses 2 tests/unit tests/component

lint: setup ## Lint, and check the format
	@$(RUN) ruff check
	@$(RUN) ruff format --check

format: setup ## Format, and mend what the linter can mend
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

types: setup ## Check types, strictly
	@$(RUN) mypy

imports: setup ## Check that imports go one way
	@$(RUN) lint-imports

docs: setup ## Generate asyncapi.yaml from the code
	@env -i PATH="$$PATH" HOME="$$HOME" $(RUN) faststream docs gen service.app:app --yaml

docs-check: setup ## Check asyncapi.yaml: up to date, and valid by the AsyncAPI parser and Spectral (needs npm)
	@npm ci --prefix tests/asyncapi --silent --no-audit --no-fund
	@mkdir -p run
	@env -i PATH="$$PATH" HOME="$$HOME" $(RUN) faststream docs gen service.app:app --yaml --out run/asyncapi.yaml
	@diff -u asyncapi.yaml run/asyncapi.yaml || { echo "asyncapi.yaml is out of date: run make docs" >&2; exit 1; }
	@node tests/asyncapi/validate.mjs asyncapi.yaml
	@tests/asyncapi/node_modules/.bin/spectral lint --fail-severity=warn --ruleset tests/asyncapi/.spectral.yaml asyncapi.yaml

schema-check: setup ## Check that the migrations make the tables that the models describe
	@mkdir -p run && rm -f run/schema.db
	@DATABASE_URL=sqlite+aiosqlite:///run/schema.db $(RUN) alembic upgrade head
	@DATABASE_URL=sqlite+aiosqlite:///run/schema.db $(RUN) alembic check
	@rm -f run/schema.db*

servers: setup ## Start a private MariaDB and RabbitMQ until Ctrl-C, and write their environment
	@mkdir -p run
	@exec $(RUN) python -m tests.servers --env-file $(ENV_FILE)

check: lint types imports docs-check schema-check ## All checks that are not tests

ci: check test ## What CI runs

bench: setup ## Measure beside other programs, 25 minutes; BENCH_ARGS=--quick: 2
	@$(RUN) python -m benchmarks $(BENCH_ARGS)

sbom: setup ## Write run/sbom.json: what the service is made of (CycloneDX 1.5)
	@mkdir -p $(dir $(SBOM))
	@$(UV) export --locked --quiet --no-dev --format cyclonedx1.5 | $(RUN) python tools/sbom.py > $(SBOM)

faults: setup ## Break servers and service under load, 4 minutes; FAULTS_ARGS="--cycles 200 --orders 100000"
	@$(RUN) python -m tests.faults $(FAULTS_ARGS)

costs: setup ## Search for messages that cost more than their size, 10 minutes; COSTS_ARGS="--minutes 60 --seed 2"
	@$(RUN) python -m tests.costs $(COSTS_ARGS)

sabotage: setup ## Break the service itself, and see that the checker of faults sees it, 10 minutes
	@$(RUN) python -m tests.faults.sabotage

image: ## Build the Dockerfile without a container engine and start the result (root, Debian)
	@deploy/build_without_engine.sh

clean: ## Remove what was generated
	@rm -rf .venv .uv run orders.db orders.db-* tests/asyncapi/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
