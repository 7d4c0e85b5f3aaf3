UV := tools/uv
RUN := $(UV) run --locked --quiet
PORT ?= 8000
# `make servers` writes the environment of its servers here; `make dev` reads it.
ENV_FILE ?= run/servers.env
# Output of `make sbom`.
SBOM ?= run/sbom.json

.DEFAULT_GOAL := help
.PHONY: help setup hooks run dev bench faults costs sabotage test test-unit coverage lint format types imports docs docs-check schema-check servers check ci sbom image clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create the locked environment in .venv
	@$(UV) sync --locked --quiet

hooks: setup ## Install git hooks that run `make check` before commit and push
	@$(RUN) pre-commit install

run: setup ## Run the service; with no servers configured: SQLite and an in-process broker
	@echo "Order service on http://localhost:$(PORT)"
	@echo "  /console        live view, and a form to send a test order"
	@echo "  /docs/asyncapi  the messages, in and out"
	@echo "  /health         and /metrics"
	@if [ -z "$$DB_HOST$$DATABASE_URL$$MQ_HOST$$MQ_URL" ]; then \
		echo "Embedded mode: SQLite file orders.db and an in-process broker, for a first try."; \
		echo "Real servers: set DB_* and MQ_* (see .env.example), or docker compose up --build."; fi
	@exec $(RUN) faststream run service.app:app --port $(PORT)

dev: setup ## Run with reload and debug logs; uses the servers of `make servers` if they are up
	@if [ -z "$$DB_HOST$$DATABASE_URL$$MQ_HOST$$MQ_URL" ] && [ -e "$(ENV_FILE)" ]; then \
		set -a; . "$(abspath $(ENV_FILE))"; set +a; fi; \
	if [ -n "$$DB_HOST$$DATABASE_URL" ]; then $(RUN) orders migrate || exit; fi; \
	export LOG_LEVEL="$${LOG_LEVEL:-DEBUG}" LOG_FORMAT=text; \
	exec $(RUN) faststream run service.app:app --reload --port $(PORT)

test: setup ## Run all tests; names those that need real servers, and how to get them
	@$(RUN) pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-unit: setup ## Run the tests that need no server
	@$(RUN) pytest --numprocesses 2 tests/unit tests/component

coverage: setup ## Run the tests that need no server, and print their branch coverage
	@$(RUN) pytest --numprocesses 2 tests/unit tests/component --cov --cov-report=term

lint: setup ## Lint, and check the format
	@$(RUN) ruff check
	@$(RUN) ruff format --check

format: setup ## Format, and fix what the linter can fix
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

types: setup ## Check types, strictly
	@$(RUN) mypy

imports: setup ## Check the import contracts
	@$(RUN) lint-imports

docs: setup ## Generate asyncapi.yaml from the code
	@env -i PATH="$$PATH" HOME="$$HOME" $(RUN) faststream docs gen service.app:app --yaml

docs-check: setup ## Check that asyncapi.yaml is up to date and valid: parser and Spectral (needs npm)
	@npm ci --prefix tests/asyncapi --silent --no-audit --no-fund
	@mkdir -p run
	@env -i PATH="$$PATH" HOME="$$HOME" $(RUN) faststream docs gen service.app:app --yaml --out run/asyncapi.yaml
	@diff -u asyncapi.yaml run/asyncapi.yaml || { echo "asyncapi.yaml is out of date: run make docs" >&2; exit 1; }
	@node tests/asyncapi/validate.mjs asyncapi.yaml
	@tests/asyncapi/node_modules/.bin/spectral lint --fail-severity=warn --ruleset tests/asyncapi/.spectral.yaml asyncapi.yaml

schema-check: setup ## Check that the migrations create the tables the models describe
	@mkdir -p run && rm -f run/schema.db
	@DATABASE_URL=sqlite+aiosqlite:///run/schema.db $(RUN) alembic upgrade head
	@DATABASE_URL=sqlite+aiosqlite:///run/schema.db $(RUN) alembic check
	@rm -f run/schema.db*

servers: setup ## Run a private MariaDB and RabbitMQ until Ctrl-C; writes their environment to a file
	@mkdir -p run
	@exec $(RUN) python -m tests.servers --env-file $(ENV_FILE)

check: lint types imports docs-check schema-check ## Run all checks other than tests

ci: check test ## Run what CI runs, without coverage

bench: setup ## Benchmark beside other programs, 25 minutes; BENCH_ARGS=--quick: 2
	@$(RUN) python -m benchmarks $(BENCH_ARGS)

sbom: setup ## Write the software bill of materials to run/sbom.json (CycloneDX 1.5)
	@mkdir -p $(dir $(SBOM))
	@$(UV) export --locked --quiet --no-dev --format cyclonedx1.5 | $(RUN) python tools/sbom.py > $(SBOM)

faults: setup ## Inject faults under load, 4 minutes; FAULTS_ARGS="--cycles 200 --orders 100000"
	@$(RUN) python -m tests.faults $(FAULTS_ARGS)

costs: setup ## Search for messages that cost more than their size, 10 minutes; COSTS_ARGS="--minutes 60 --seed 2"
	@$(RUN) python -m tests.costs $(COSTS_ARGS)

sabotage: setup ## Break the service on purpose and check that the fault suite notices, 10 minutes
	@$(RUN) python -m tests.faults.sabotage

image: ## Build the Dockerfile without a container engine and start the result (root, Debian)
	@deploy/build_without_engine.sh

clean: ## Remove everything generated
	@rm -rf .venv .uv run orders.db orders.db-* tests/asyncapi/node_modules .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
