# Two commands do all set-up: `make demo` and `make test`. What they install
# (uv, Python packages, the linter) goes to CACHE, keyed by content, so that
# the second time is quick and the tree stays clean.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

# An empty or missing HOME must do: the cache then lies in the temporary folder.
export HOME := $(or $(wildcard $(HOME)),$(shell mkdir -p /tmp/loadline-home && echo /tmp/loadline-home))
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/loadline

UV_VERSION   := 0.13.8
LINT_VERSION := v2.15.0
UV           := $(CACHE)/tools/uv-$(UV_VERSION)/bin/uv
LINT         := $(CACHE)/tools/golangci-lint-$(LINT_VERSION)/golangci-lint
ENV_KEY      := $(shell cat test/env/*.txt | sha256sum | cut -c1-16)
TEST_ENV     := $(CACHE)/envs/test-$(ENV_KEY)
PYTHON       := $(TEST_ENV)/bin/python

# What tests find their tools by.
export LOADLINE_TEST_PYTHON := $(PYTHON)
export LOADLINE_TEST_CLIENTS_PYTHON := $(PYTHON)
export LOADLINE_UV := $(UV)

# Rooms whose code runs concurrently are tested under the race detector.
RACE := ./link/... ./agent/... ./gateway/... ./control/... ./internal/... ./platform/fake/... ./model/... ./prepare/... ./pyenv/... ./rest/... ./auth/...

.PHONY: build test lint demo bench bench-full e2e cluster fuzz clean tools env

build: ## the one binary
	CGO_ENABLED=0 go build -o bin/loadline ./cmd/loadline

tools: $(UV)
$(UV):
	@echo "installing uv $(UV_VERSION) into the cache"
	@mkdir -p $(dir $(@D))
	@python3 -m venv $(CACHE)/tools/uv-$(UV_VERSION).tmp
	@$(CACHE)/tools/uv-$(UV_VERSION).tmp/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@rm -rf $(CACHE)/tools/uv-$(UV_VERSION) && mv $(CACHE)/tools/uv-$(UV_VERSION).tmp $(CACHE)/tools/uv-$(UV_VERSION)

env: $(PYTHON)
$(PYTHON): $(UV)
	@echo "building the test environment (MLflow, scikit-learn, XGBoost, LightGBM, databricks-sdk)"
	@mkdir -p $(CACHE)/envs && rm -rf $(TEST_ENV).tmp
	@$(UV) venv -q --no-python-downloads --relocatable --python 3.11 $(TEST_ENV).tmp
	@VIRTUAL_ENV=$(TEST_ENV).tmp $(UV) pip install -q $(addprefix -r ,$(wildcard test/env/*.txt))
	@rm -rf $(TEST_ENV) && mv $(TEST_ENV).tmp $(TEST_ENV)

# The linter builds for two minutes, so it starts first and runs last.
$(LINT):
	@mkdir -p $(@D)
	@cd $(@D) && GOBIN=$(@D) nice -n 10 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

lint: $(LINT)
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(LINT) run ./...

test: $(PYTHON) build
	CI=$${CI:-true} go test -count=1 -timeout 20m ./...
	CI=$${CI:-true} go test -race -short -timeout 15m $(RACE)

e2e: $(PYTHON) build
	CI=true go test -count=1 -timeout 15m ./test/...

demo: $(PYTHON) build ## six real models: trained, registered, deployed, queried, killed, restarted
	@go run ./test/demo -bin bin/loadline -python $(PYTHON) $(if $(KEEP),-keep)

clean:
	rm -rf bin

bench: $(PYTHON) build ## the short set, each figure beside its rival in the same run
	@cd bench && go run . -bin ../bin/loadline -python $(PYTHON)
