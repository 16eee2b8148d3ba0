# Every target is non-interactive. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Tools are pinned in tools/go.mod and built once per content of tools/go.sum
# and toolchain; golangci-lint takes minutes the first time.
TOOLS := bin/tools/$(shell { cat tools/go.mod tools/go.sum; $(GO) version; } | sha256sum | cut -c1-12)

FUZZTIME ?= 30s
COUNT    ?= 6
OLD      ?= bin/bench/old.txt
NEW      ?= bin/bench/new.txt

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/backstay: static, pure Go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/backstay ./cmd/backstay

.PHONY: test
test: ## everything: parts, lint, architecture, race tests with real servers, README, examples
	scripts/test.sh

.PHONY: test-short
test-short: ## quick tests only; nothing is installed or started
	$(GO) test ./...

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## the linters of .golangci.yml, formatting included
	$(TOOLS)/golangci-lint run ./...
	for m in crash public; do (cd test/$$m && $(CURDIR)/$(TOOLS)/golangci-lint run $(QUICKLY) ./...); done

# Linters that read every dependency first. For a module of one test package each
# that takes as long as for the whole program; the night does it (QUICKLY=).
QUICKLY ?= --disable staticcheck,unused,gosec,unparam,bodyclose,rowserrcheck,sqlclosecheck,govet,exhaustive

.PHONY: crash
crash: ## every crash image and every n-th I/O failure, of the ledger and of file steps, with their counts
	$(GO) -C test/crash test -count=1 -v ./... -crash.full | grep -v '^=== '
	$(GO) test -count=1 -v ./internal/sim/power -power.full | grep -v '^=== '

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## format: gofumpt, import groups
	$(TOOLS)/golangci-lint fmt ./...

.PHONY: generate
generate: ## write the generated files: import table, state machine, reference, schema
	$(GO) test -count=1 ./internal/archtest -run '^TestArchitectureShowsTable$$' -update
	scripts/generate.sh .

.PHONY: verify
verify: ## fail if a generated file is out of date; changes nothing
	$(GO) test -count=1 ./internal/archtest -run '^TestArchitectureShowsTable$$'
	scripts/generate.sh --check

.PHONY: golden
golden: ## rewrite the golden files of all tests; read the diff before you commit it
	dirs=$$(grep -rlE 'flag\.Bool\("update"' --include='*_test.go' . | xargs -r -n1 dirname | sort -u); \
	bad=0; for d in $$dirs; do $(GO) test -count=1 "$$d" -update || bad=1; done; exit $$bad

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s)
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

# What CI hunts with; the counts go to bin/sim/*.json.
SCHEDULES ?= 100000
SIM := $(GO) test -count=1 -timeout 3h ./internal/sim -sim.report $(CURDIR)/bin/sim -v -run

.PHONY: sim
sim: ## every fault over every plan, every pair over one, SCHEDULES (100000) random schedules
	$(SIM) '^(TestDepth1|TestMemoryIsALedger)$$' -sim.full | grep -vE '^(=== |    --- PASS)'
	$(SIM) '^TestDepth2$$' -sim.pairs linear | grep -vE '^(=== |    --- PASS)'
	$(SIM) '^TestSchedules$$' -sim.schedules $(SCHEDULES) | grep -vE '^(=== |    --- PASS)'

# Each prints one table of docs/benchmarks.md; `make sim-stats TABLES=TestDetection` makes one of them.
TABLES ?= TestFalseRollbacks TestDetection TestLatencyDetection TestLateRegression TestPromotionError TestRollouts

.PHONY: sim-stats
sim-stats: ## what the analysis promises, by simulation, and whole rollouts beside other tools' policies, into bin/sim
	mkdir -p bin/sim; bad=0; for table in $(TABLES); do \
		$(GO) test -count=1 -timeout 3h ./internal/sim/stats -stats.full -v -run "$$table" | \
			grep -vE '^ *(=== |--- PASS)' | tee bin/sim/$${table//\//-}.txt || bad=1; \
	done; exit $$bad

.PHONY: mutants
mutants: ## seed every bug of internal/sim/mutant and demand that a test catches it
	mkdir -p bin/sim
	$(GO) test -count=1 -timeout 1h ./internal/sim/mutant -mutant.run -parallel 4 -v -mutant.report $(CURDIR)/bin/sim/mutants.txt | grep -vE '^(=== |    --- PASS)'

.PHONY: night
night: ## hours: every pair over every plan, five million schedules from a new seed, every mutant, releases under load
	$(SIM) '^(TestDepth1|TestMemoryIsALedger)$$' -sim.full | grep -vE '^(=== |    --- PASS)'
	$(SIM) '^TestDepth2$$' -sim.pairs all | grep -vE '^(=== |    --- PASS)'
	$(SIM) '^TestSchedules$$' -sim.schedules 5000000 -sim.seed $$(date +%s) | grep -vE '^(=== |    --- PASS)'
	$(MAKE) --no-print-directory lint QUICKLY=
	$(MAKE) --no-print-directory mutants
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 1h ./internal/sim ./internal/sim/kill
	BACKSTAY_REAL=1 $(GO) test -count=1 -timeout 2h ./internal/sim/release -release.full -v
	BACKSTAY_REAL=1 $(GO) test -count=1 -timeout 2h ./internal/driver/migration -run 'TestKilled|TestBackfill|TestManyInserts' -migration.stride 1 -migration.kills 100 -migration.many -v
	BACKSTAY_REAL=1 $(GO) test -count=1 -timeout 10m ./internal/driver/flag -run '^TestUnleash$$' -flag.unleash -v | grep -vE '^ *(=== |--- PASS)'
	BACKSTAY_REAL=1 $(GO) test -count=1 -timeout 1h ./cmd/backstay -run '^TestDrillDatabases$$' -long -night
	$(GO) test -count=1 -timeout 1h ./internal/sim/kill -run '^TestKilledExposing$$' -kill.full -kill.night -v | grep -vE '^ *(=== |--- PASS)'
	BACKSTAY_REAL=1 $(GO) test -count=1 -timeout 2h ./internal/sim/routers -routers.full -v

.PHONY: bench
bench: ## benchmarks, COUNT (6) times each, into NEW (bin/bench/new.txt)
	mkdir -p $(dir $(NEW))
	$(GO) test -run '^$$' -bench . -benchmem -count $(COUNT) ./... | tee $(NEW)

.PHONY: bench-diff
bench-diff: $(TOOLS)/benchstat ## compare OLD with NEW: make bench NEW=bin/bench/old.txt, change, make bench bench-diff
	$(TOOLS)/benchstat $(OLD) $(NEW)

.PHONY: vuln
vuln: ## known vulnerabilities in what is linked; needs network
	@echo "vuln: needs network: the vulnerability database and the checker are downloaded"
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...

.PHONY: cover
cover: ## coverage of all packages by all tests, into bin/cover.html
	mkdir -p bin
	$(GO) test -coverpkg=./... -coverprofile=bin/cover.out ./...
	$(GO) tool cover -html=bin/cover.out -o bin/cover.html
	$(GO) tool cover -func=bin/cover.out | tail -1

.PHONY: examples
examples: build ## run every example in a fresh copy
	scripts/examples.sh

.PHONY: ci
ci: ## what CI runs
	.ci/run

.PHONY: clean
clean: ## remove what was built, but for the tools
	mkdir -p bin
	find bin -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +

.PHONY: tools
tools: $(TOOLS)/golangci-lint $(TOOLS)/gotestsum $(TOOLS)/benchstat ## build the pinned tools into bin/tools

$(TOOLS)/golangci-lint: PKG = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/gotestsum:     PKG = gotest.tools/gotestsum
$(TOOLS)/benchstat:     PKG = golang.org/x/perf/cmd/benchstat
$(TOOLS)/%:
	@echo "building $* (once for this tools/go.sum)"
	CGO_ENABLED=0 $(GO) -C tools build -trimpath -ldflags "-s -w" -o "$(CURDIR)/$@" $(PKG)

# For scripts/test.sh: builds gotestsum and prints where it is.
.PHONY: print-gotestsum
print-gotestsum:
	@$(MAKE) --no-print-directory --silent $(TOOLS)/gotestsum >&2
	@echo $(TOOLS)/gotestsum
