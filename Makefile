# Everything a developer or a CI job runs. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Pinned tools are built once, into a cache that a fresh clone may share with
# another one: make AMMONITE_CACHE=/var/cache/ammonite test
AMMONITE_CACHE ?= $(CURDIR)/.cache
LAB_DIR        ?= $(CURDIR)/.lab
TOOL_BIN       := $(AMMONITE_CACHE)/bin
export AMMONITE_CACHE
export GOTOOLCHAIN := local
export PATH := $(CURDIR)/bin:$(TOOL_BIN):$(PATH)

# go-ceph is compiled against the installed librbd and has to be told which one
# that is; Ceph's own command prints the name of its release.
CEPH_TAG = $(shell rbd --version 2>/dev/null | awk '{print $$5}')

# Modules of this repository that hold Go code of its own.
MODULES := . tests tests/lab
# This one is checked as it is built, so as not to compile a server twice.
SERVER_MODULE := tests/lab/tools/temporal-server
SERVER_ENV    := CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath'

include tests/lab/tools/tools.mk

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##
## What the machine needs
##

.PHONY: deps
deps: ## Install the Debian packages that building and the lab need (root or sudo)
	@scripts/deps

.PHONY: tools
tools: deps $(LAB_TOOLS) $(CODE_TOOLS) ## Build the pinned tools into the cache

.PHONY: lab-tools
lab-tools: deps $(LAB_TOOLS)

##
## The product
##

.PHONY: build
build: deps ## Build bin/ammonite and bin/ammonite-worker
	CGO_ENABLED=0 go build -trimpath $(STAMPED) -o bin/ammonite ./starter
	go build -trimpath $(STAMPED) -tags '$(CEPH_TAG)' -o bin/ammonite-worker ./worker

# A source tree without git, such as an unpacked archive, builds too.
VERSION = $(shell git describe --always --dirty 2>/dev/null || echo dev)
STAMPED = -ldflags '-X main.version=$(VERSION)'

##
## The lab: real Ceph, Kubernetes, Temporal and restic on this machine
##

.PHONY: bin/lab
bin/lab: deps
	@cd tests/lab && CGO_ENABLED=0 go build -trimpath -o '$(CURDIR)/bin/lab' ./cmd/lab

.PHONY: lab-up
lab-up: bin/lab lab-tools ## Bring up the lab and write .lab/env (a no-op when it is up)
	@bin/lab up --dir '$(LAB_DIR)'

.PHONY: lab-down
lab-down: bin/lab ## Take down the lab with everything it made
	@bin/lab down --dir '$(LAB_DIR)'

.PHONY: lab-status
lab-status: bin/lab ## Say which parts of the lab answer
	@bin/lab status --dir '$(LAB_DIR)'

.PHONY: demo
demo: build lab-tools ## See volumes backed up and restored, from nothing, in a lab of its own
	@cd tests && CGO_ENABLED=0 go build -trimpath -o '$(CURDIR)/bin/demo' ./demo
	@bin/demo

##
## Checks
##

.PHONY: test
test: fmt-check vet lint workflowcheck test-unit test-vm test-integration test-lab test-e2e ## Run every check and every test

.PHONY: test-unit
test-unit: deps $(TOOL_restic) ## Test the root module, without the lab
	go test -tags '$(CEPH_TAG)' -timeout 5m ./...

# Without KVM the machine has to be emulated, which takes a core for a minute: beside
# other tests it would take several.
.PHONY: test-vm
test-vm: deps $(TOOL_restic) ## Test what reads disks in a virtual machine
	CGO_ENABLED=0 go test -tags '$(CEPH_TAG),vm' -count=1 -timeout 15m -run TestFilesystemsOfADiskAreMounted ./starter

.PHONY: record-histories
record-histories: lab-up ## Record the workflow histories that test-unit replays, in the lab
	go build -tags '$(CEPH_TAG),faults' -o bin/faults/ammonite-worker ./worker
	cd tests && CGO_ENABLED=0 go run ./record --lab '$(LAB_DIR)' \
		--worker '$(CURDIR)/bin/faults/ammonite-worker' --out '$(CURDIR)/workflows/testdata'

.PHONY: test-lab
test-lab: lab-tools ## Test the lab itself
	cd tests/lab && go test -count=1 -timeout 10m ./...

.PHONY: test-integration
test-integration: bin/lab lab-tools ## Test what speaks to Ceph and Kubernetes, on a lab of its own
	@bin/lab up --dir '$(INTEGRATION_LAB)'
	@trap "bin/lab down --dir '$(INTEGRATION_LAB)'" EXIT; . '$(INTEGRATION_LAB)/env'; \
	go test -tags '$(CEPH_TAG),lab' -count=1 -timeout 20m ./internal/ceph ./internal/clusters ./internal/kube ./internal/mount ./worker ./workflows

INTEGRATION_LAB := $(LAB_DIR)/tests/integration

# Fault tests spend most of their time waiting for heartbeats that do not come,
# so more of them run at once than there are cores.
.PHONY: test-e2e
test-e2e: build lab-tools ## Test the product end to end, on a lab of its own
	cd tests && go test -tags '$(CEPH_TAG)' -count=1 -parallel $(PARALLEL) -timeout 65m ./...

PARALLEL := 5

# What test-e2e draws a part of, whole: AMMONITE_CHAOS also takes the seed of such a
# part, which the tests tell.
CHAOS := TestWorkerKilledAtEachStep|TestStepSucceedsButIsReportedAsFailed|TestNodeFrozenAndResumed|TestRepositoryUnderChaos|TestRepositoryFaults|TestReconcileAfterCrashes|TestRestoreSurvives

.PHONY: chaos
chaos: build lab-tools ## Try every fault at every step
	cd tests && AMMONITE_CHAOS=all go test -tags '$(CEPH_TAG)' -count=1 -parallel $(PARALLEL) -timeout 3h -run '$(CHAOS)' -v .

.PHONY: bench-block
bench-block: build lab-tools ## Time backups against the bare tools, on a lab of its own (BENCH='-size 2 -rounds 5')
	@cd tests && CGO_ENABLED=0 go build -trimpath -o '$(CURDIR)/bin/bench' ./bench
	@bin/bench $(BENCH)

.PHONY: bench-restore
bench-restore: build lab-tools ## Time restores against the bare tools, on a lab of its own (BENCH='-size 4 -files 200000 -rounds 3')
	@cd tests && CGO_ENABLED=0 go build -trimpath -o '$(CURDIR)/bin/bench' ./bench
	@bin/bench -restore -size 4 -rounds 3 $(BENCH)

.PHONY: bench-sweep
bench-sweep: build lab-tools ## Sweep many volumes, on a lab of its own (BENCH='-volumes 300 -namespaces 40')
	@cd tests && CGO_ENABLED=0 go build -trimpath -o '$(CURDIR)/bin/benchsweep' ./benchsweep
	@bin/benchsweep $(BENCH)

.PHONY: scale
scale: build lab-tools ## Sweep 10,000 volumes of which only Temporal's part is real; takes about an hour
	cd tests && AMMONITE_SWEEP_VOLUMES=10000 go test -tags '$(CEPH_TAG)' -count=1 -timeout 3h -run TestSweepOfManyVolumes -v .

# Each module with the tags that show all of its code. The code that injects
# faults takes the place of other code, so it is looked at by itself.
define each_module
	@failed=; \
	for m in $(MODULES); do (cd $$m && $(1) $(2) '$(CEPH_TAG),lab,vm' ./...) || failed=1; done; \
	$(1) $(2) '$(CEPH_TAG),faults' ./worker || failed=1; \
	(cd $(SERVER_MODULE) && $(SERVER_ENV) $(1) ./...) || failed=1; \
	test -z "$$failed"
endef

.PHONY: vet
vet: deps
	$(call each_module,go vet,-tags)

.PHONY: lint
lint: deps $(TOOL_golangci-lint) ## Run golangci-lint over every module
	$(call each_module,$(LINT),--build-tags)

# Another clone may be linted at the same time.
LINT := golangci-lint run --allow-parallel-runners --config '$(CURDIR)/.golangci.yml'

.PHONY: workflowcheck
workflowcheck: deps $(TOOL_workflowcheck) ## Look for non-deterministic calls in workflow code
	workflowcheck -config scripts/workflowcheck.yml ./workflows/...

.PHONY: fmt
fmt: ## Format all Go code
	gofmt -w $(GO_FILES)

.PHONY: fmt-check
fmt-check:
	@bad=$$(gofmt -l $(GO_FILES)); \
	if [ -n "$$bad" ]; then echo "not formatted (run make fmt):"; echo "$$bad"; exit 1; fi

GO_FILES = $(shell git ls-files --cached --others --exclude-standard '*.go')

.PHONY: clean
clean: bin/lab ## Take down all labs and remove what was built, but for the cache
	@bin/lab down --all --dir '$(LAB_DIR)'
	@rm -rf bin
