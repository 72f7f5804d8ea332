# `make help` lists the targets. Everything that is downloaded lies in $(CACHE), outside of the tree.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace
TAGS := synctests
GOTEST := go test -tags $(TAGS)
LINT := $(CACHE)/bin/golangci-lint
LINT_VERSION := 2.15.0
VENV := $(CACHE)/readers
SPARK := $(CACHE)/spark
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The servers that tests use are their own: other ports, other data than `make stack`.
TEST_STACK := MILLRACE_STACK_DIR=$(CURDIR)/.stack/test MILLRACE_STACK_PORT_BASE=auto deploy/local/stack.sh
# Those of the lake are for tests only.
LAKE_STACK := MILLRACE_STACK_SERVERS="kafka registry cassandra elasticsearch postgres s3 catalog" $(TEST_STACK)
BENCH ?=
FAULTS ?=
SOAK ?= 30m

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'

run: build ## the whole system in one process, nothing to install: millrace dev
	@bin/millrace dev

build: ## build bin/millrace
	@deploy/local/setup.sh go compiler
	go build -tags $(TAGS) -ldflags "-X main.version=$(VERSION)" -o bin/millrace .

test-fast: ## unit and in-process tests, no servers: two to three minutes on two cores
	$(GOTEST) ./...

test: lint ## lint, unit, in-process, and the same end to end on real servers; installs what it needs on Debian as root
	@deploy/local/setup.sh go compiler servers lake readers prometheus
	@$(MAKE) build
	@$(MAKE) test-servers

# With MILLRACE_SERVERS=1 the tests that want real servers do their work too. The servers start empty, and the end-to-end
# suite has them to itself: it counts what the topics of the data types hold.
test-servers: $(VENV)/ready
	@$(LAKE_STACK) clean
	@trap '$(LAKE_STACK) down' EXIT; \
	$(LAKE_STACK) up; \
	. .stack/test/env; \
	export MILLRACE_SERVERS=1 MILLRACE_BIN="$(CURDIR)/bin/millrace" MILLRACE_PYTHON="$(VENV)/bin/python"; \
	$(GOTEST) -count=1 -timeout 14m ./deploy/e2e; \
	$(GOTEST) -count=1 -timeout 15m $$(go list -tags $(TAGS) ./... | grep -v -e /deploy/e2e -e /deploy/spark)

test-spark: build $(SPARK)/ready ## Spark's jobs in deploy/spark on the real Kafka and the lake, against `millrace sql`
	@$(TEST_STACK) clean
	@trap '$(TEST_STACK) down' EXIT; \
	$(TEST_STACK) up; \
	. .stack/test/env; \
	export MILLRACE_SERVERS=1 MILLRACE_BIN="$(CURDIR)/bin/millrace" MILLRACE_SPARK_PYTHON="$(SPARK)/venv/bin/python" MILLRACE_SPARK_JARS="$(SPARK)/jars"; \
	$(GOTEST) -count=1 -timeout 15m -v ./deploy/spark

race: ## the tests under the race detector, but for those that link DuckDB: it would take minutes to build again
	$(GOTEST) -race -timeout 20m $$(go list -tags $(TAGS) ./... | grep -v -e '/millrace$$' -e /consumers/lake -e /pkg/devstore -e /pkg/lakesql -e /deploy/)

ci: test race ## what CI runs: make test, the race detector, Spark, the README's commands as written, the short faults, a smoke of the benchmark
	@$(MAKE) test-spark
	@trap 'deploy/local/stack.sh down' EXIT; deploy/e2e/readme.sh README.md
	@$(MAKE) test-faults FAULTS=-short
	@$(MAKE) bench BENCH='-count 20000 -rounds 1'

bench: build ## throughput and CPU per record on the real Kafka, as a table and as .stack/bench.json
	@deploy/local/setup.sh go compiler servers
	@trap '$(TEST_STACK) down' EXIT; \
	$(TEST_STACK) up; \
	. .stack/test/env; \
	go run -tags $(TAGS) ./deploy/bench -out .stack/bench.json $(BENCH)

test-faults: ## break real servers and our processes while records flow, and read everything back; FAULTS='-short' for all of it small
	@deploy/local/setup.sh go compiler servers faults
	go run -tags $(TAGS) ./deploy/faults $(FAULTS)

soak: ## random scenarios of the same with random seeds, for SOAK=30m
	@$(MAKE) test-faults FAULTS='-soak $(SOAK)'

lint: $(LINT)-$(LINT_VERSION) ## golangci-lint with the import rules; vet and format are in it
	@deploy/local/setup.sh go compiler
	$(LINT) run ./...

fmt: $(LINT)-$(LINT_VERSION) ## format the Go code
	$(LINT) fmt ./...

vuln: ## known vulnerabilities in what we call
	go run golang.org/x/vuln/cmd/govulncheck@v1.1.4 -tags $(TAGS) ./...

generate: ## write golden files and generated references anew; review the difference
	$(GOTEST) ./pkg/schema -run Golden -update
	$(GOTEST) . -run MetricsReference -update

alerts: ## write deploy/prometheus/*.yaml anew
	go run -tags $(TAGS) ./deploy/prometheus -o deploy/prometheus

test-alerts: ## the alerts: promtool's tests, then a real Prometheus and Alertmanager that see a lag come and go
	@deploy/local/setup.sh go prometheus
	MILLRACE_SERVERS=1 $(GOTEST) -count=1 ./deploy/prometheus

stack: ## download (first time) and start real Kafka, Cassandra, Elasticsearch and registry on 127.0.0.1
	@deploy/local/setup.sh servers
	@deploy/local/stack.sh up

stack-down: ## stop them; their data stays
	@deploy/local/stack.sh down

stack-clean: ## stop them and remove their data
	@deploy/local/stack.sh clean

$(LINT)-$(LINT_VERSION):
	@mkdir -p $(@D)
	@if ! $(LINT) version --short 2>/dev/null | grep -qx '$(LINT_VERSION)'; then \
		echo "installing golangci-lint v$(LINT_VERSION) into $(@D)"; \
		GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT_VERSION); \
	fi
	@touch $@

# Readers that are not ours, to read what we write.
$(VENV)/ready: deploy/e2e/readers/requirements.txt
	@deploy/local/setup.sh readers
	@rm -rf $(VENV) && mkdir -p $(dir $(VENV)) && python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $<
	@touch $@

# PySpark and the readers in a venv, the connectors as jars: about 500 MB.
$(SPARK)/ready: deploy/spark/requirements.txt deploy/spark/pom.xml
	@deploy/local/setup.sh readers servers
	@rm -rf $(SPARK) && mkdir -p $(SPARK) && python3 -m venv $(SPARK)/venv
	$(SPARK)/venv/bin/pip install --quiet --requirement $<
	mvn -q -B -ntp -f deploy/spark/pom.xml dependency:copy-dependencies -DoutputDirectory=$(SPARK)/jars
	@touch $@

.PHONY: help run alerts test-alerts build test test-fast test-servers test-spark test-faults soak ci bench lint fmt vuln generate stack stack-down stack-clean
