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
H2SPEC       := $(CACHE)/tools/h2spec-v2.2.1/h2spec
HTTPX        := $(CACHE)/envs/httpx-0.28.1/bin/python
UV           := $(CACHE)/tools/uv-$(UV_VERSION)/bin/uv
LINT         := $(CACHE)/tools/golangci-lint-$(LINT_VERSION)/golangci-lint
ENV_KEY      := $(shell cat test/env/*.txt | sha256sum | cut -c1-16)
TEST_ENV     := $(CACHE)/envs/test-$(ENV_KEY)
PYTHON       := $(TEST_ENV)/bin/python
TOOLS_KEY    := $(shell cat test/tools/*.txt | sha256sum | cut -c1-16)
TOOLS_ENV    := $(CACHE)/envs/tools-$(TOOLS_KEY)

# What tests find their tools by.
export LOADLINE_TEST_PYTHON := $(PYTHON)
export LOADLINE_TEST_CLIENTS_PYTHON := $(PYTHON)
export LOADLINE_TEST_TOOLS := $(TOOLS_ENV)
export LOADLINE_UV := $(UV)
export LOADLINE_H2SPEC := $(H2SPEC)
export LOADLINE_TEST_HTTPX_PYTHON := $(HTTPX)
export LOADLINE_BIN := $(CURDIR)/bin/loadline

# Rooms whose code runs concurrently are tested under the race detector; the
# rest without it. The object stores' clients are left out: compiling them for
# the detector costs minutes and they start nothing of their own.
CONCURRENT := $(addprefix ./,agent/... autopilot/cockpit control/... gateway/... internal/... link/... platform/... prepare/... pyenv/... rest/... auth/... model model/registry)

.PHONY: build test lint demo bench bench-full e2e cluster fuzz clean tools env linter

build: ## the one binary, with the small one for replicas inside
	@mkdir -p cmd/loadline/carried
	CGO_ENABLED=0 go build -trimpath -ldflags=-s -o cmd/loadline/carried/agent ./cmd/agent
	@gzip -9nkf cmd/loadline/carried/agent
	CGO_ENABLED=0 go build -tags carry_agent -o bin/loadline ./cmd/loadline

tools: $(UV)
$(UV):
	@echo "installing uv $(UV_VERSION) into the cache"
	@mkdir -p $(dir $(@D))
	@python3 -m venv $(CACHE)/tools/uv-$(UV_VERSION).tmp
	@$(CACHE)/tools/uv-$(UV_VERSION).tmp/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@rm -rf $(CACHE)/tools/uv-$(UV_VERSION) && mv $(CACHE)/tools/uv-$(UV_VERSION).tmp $(CACHE)/tools/uv-$(UV_VERSION)

env: $(PYTHON)
$(PYTHON): | $(UV)
	@echo "building the test environment (MLflow, scikit-learn, XGBoost, LightGBM, databricks-sdk)"
	@mkdir -p $(CACHE)/envs && rm -rf $(TEST_ENV).tmp
	@$(UV) venv -q --no-python-downloads --relocatable --python 3.11 $(TEST_ENV).tmp
	@VIRTUAL_ENV=$(TEST_ENV).tmp $(UV) pip install -q $(addprefix -r ,$(wildcard test/env/*.txt))
	@rm -rf $(TEST_ENV) && mv $(TEST_ENV).tmp $(TEST_ENV)

$(TOOLS_ENV): | $(UV)
	@echo "building the environment of the converters (skl2onnx, ONNX Runtime)"
	@mkdir -p $(CACHE)/envs && rm -rf $(TOOLS_ENV).tmp
	@$(UV) venv -q --no-python-downloads --relocatable --python 3.11 $(TOOLS_ENV).tmp
	@VIRTUAL_ENV=$(TOOLS_ENV).tmp $(UV) pip install -q $(addprefix -r ,$(wildcard test/tools/*.txt))
	@mv $(TOOLS_ENV).tmp $(TOOLS_ENV)

# The linter builds for minutes, so CI starts this first and runs it last.
linter: $(LINT)
$(LINT):
	@mkdir -p $(@D)
	@cd $(@D) && GOBIN=$(@D).tmp nice -n 10 go install -p 1 github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv $(@D).tmp/golangci-lint $@ && rmdir $(@D).tmp

# HTTP/2 is held to its conformance suite, and to a client of another make.
$(H2SPEC):
	@echo "building h2spec into the cache"
	@mkdir -p $(@D)
	@cd $(@D) && GOBIN=$(@D).tmp go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
	@mv $(@D).tmp/h2spec $@ && rmdir $(@D).tmp

$(HTTPX): | $(UV)
	@mkdir -p $(CACHE)/envs && rm -rf $(CACHE)/envs/httpx-0.28.1.tmp
	@$(UV) venv -q --no-python-downloads --relocatable $(CACHE)/envs/httpx-0.28.1.tmp
	@VIRTUAL_ENV=$(CACHE)/envs/httpx-0.28.1.tmp $(UV) pip install -q 'httpx[http2]==0.28.1'
	@rm -rf $(CACHE)/envs/httpx-0.28.1 && mv $(CACHE)/envs/httpx-0.28.1.tmp $(CACHE)/envs/httpx-0.28.1

lint: $(LINT)
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(LINT) run ./...

test: $(PYTHON) $(TOOLS_ENV) $(H2SPEC) $(HTTPX) build
	CGO_ENABLED=1 go test -count=1 -race -timeout 20m $(CONCURRENT)
	go test -count=1 -timeout 30m $$(go list ./... | grep -vxF "$$(go list $(CONCURRENT))")
	cd bench && go vet ./...

e2e: $(PYTHON) $(TOOLS_ENV) build ## only the tests that drive the real binary
	go test -count=1 -timeout 30m ./test/...

demo: $(PYTHON) build ## six real models: trained, registered, deployed, queried, killed, restarted
	@go run ./test/demo -bin bin/loadline -python $(PYTHON) $(if $(KEEP),-keep)

# Each target that outsiders' bytes reach, FUZZ_TIME each.
FUZZ_TIME ?= 60s
fuzz:
	@for package in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$package/*_test.go | cut -c6-); do \
			echo "$$package $$target"; go test -run xxx -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) $$package || exit 1; \
		done; done

# Where the public traces lie, if they do.
bench bench-full: export LOADLINE_TRACES ?= $(abspath $(wildcard ../shared/traces))

bench: $(PYTHON) build ## the short set, each figure beside its rival in the same run
	@cd bench && go run . -bin ../bin/loadline -python $(PYTHON)

bench-full: $(PYTHON) build ## the same at length
	@cd bench && go run . -full -bin ../bin/loadline -python $(PYTHON)

clean:
	rm -rf bin
