# relevo. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell v=$$(git describe --tags --match 'v*' 2>/dev/null) && echo "$${v\#v}" || echo "0.1.0~$$(git rev-list --count HEAD 2>/dev/null || echo 0)")
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
MTIME = $(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)
LDFLAGS = -s -w -X main.release=$(VERSION)
# HTTP/2 (460 kB on ARMv6) is never used: agents speak HTTP/1.1 on a protocol of their own, and
# to Kubernetes. What runs seldom, if ever, is compiled without inlining: 540 kB.
SELDOM = relevo.dev/relevo/cmd/relevo github.com/fxamacker/... github.com/json-iterator/... github.com/miekg/... \
	github.com/spf13/... go.yaml.in/... gopkg.in/... k8s.io/... sigs.k8s.io/...
GOBUILD = CGO_ENABLED=0 GOOS=linux go build -tags nethttpomithttp2 -trimpath $(SELDOM:%=-gcflags=%=-l) -ldflags '$(LDFLAGS)'
BIN ?= bin/relevo
TOOL = go tool -modfile=packaging/tools/go.mod
RUN ?= .

export SOURCE_DATE_EPOCH

.PHONY: help build demo test e2e bench deb lint soak nemesis model fuzz clean

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

build: ## bin/relevo for this machine
	@$(GOBUILD) -o $(BIN) ./cmd/relevo
	@echo "built $(BIN) $(VERSION), $$(stat -c %s $(BIN) | numfmt --to=si)B"

demo: ## a master is killed, a standby takes over: four agents on loopback, no root, under a minute
	@echo "building the demo (the first time takes a minute or two) ..."
	@go build -o bin/demo ./test/demo
	@bin/demo

test: ## everything: lint, unit, race, controls, fuzz seeds, builds, and as root the real hosts
	@go run ./test/report all

e2e: ## the end-to-end tests alone, on real hosts (root); RUN= chooses
	@go run ./test/report e2e '$(RUN)'

bench: ## measure: failover, losses, replication, idle cost, size (root); RUN= chooses; writes docs/benchmarks.md
	@BENCH='$(RUN)' go run ./test/report bench

lint: ## gofmt, vet, staticcheck, govulncheck (VULNDB=file:///… for a copy of its database)
	@go run ./test/report lint

soak: ## the lease simulator for SOAK= (default 10m); prints a failing seed, shrunk
	@go test ./agent/lease/sim -run Schedules -soak $${SOAK:-10m} -first $${FIRST:-$$(date +%s)000} -timeout 0 -v

nemesis: ## N= random faults on real hosts from SEED= (FAULT= in their names), with all audits after each, and N= rounds of losses (root)
	@NEMESIS=$${N:-50} go run ./test/report e2e '^Test(Nemesis|Loss|WallClock|Card|Health)$$'

model: ## the lease with fence and watchdog as a formal model, every state of it (spin; under 2 GB)
	@test/model/check.sh

fuzz: ## every fuzzer for FUZZ= (default 1m); RUN= chooses
	@FUZZ='$(FUZZ)' go run ./test/report fuzz '$(RUN)'

# armhf is built for ARMv6: Raspberry Pi OS calls that armhf, too.
DEB_ARCHES ?= armhf:arm:6 arm64:arm64: amd64:amd64:
DIST ?= dist

deb: ## dist/relevo_VERSION_{armhf,arm64,amd64}.deb and relevo-cloudy, reproducible
	@rm -rf $(DIST) && mkdir -p $(DIST)/stage
	@gzip -9nc CHANGELOG.md > $(DIST)/stage/changelog.gz
	@gzip -9nc packaging/relevo.1 > $(DIST)/stage/relevo.1.gz
	@go run ./cmd/relevo completion bash > $(DIST)/stage/bash-completion
	@for a in $(DEB_ARCHES); do \
		IFS=: read -r deb arch arm <<< "$$a"; bin=$(DIST)/stage/relevo-$$deb; out=$(DIST)/relevo_$(VERSION)_$$deb.deb; \
		GOARCH=$$arch GOARM=$$arm $(GOBUILD) -o $$bin ./cmd/relevo; \
		sed -e "s|\$${ARCH}|$$deb|; s|\$${VERSION}|$(VERSION)|; s|\$${MTIME}|$(MTIME)|; s|\$${BIN}|$$bin|; s|\$${STAGE}|$(DIST)/stage|" nfpm.yaml > $$bin.yaml; \
		$(TOOL) nfpm package -f $$bin.yaml -p deb -t $$out > /dev/null; \
		echo "built $$out, $$(stat -c %s $$out | numfmt --to=si)B (binary $$(stat -c %s $$bin | numfmt --to=si)B)"; \
	done
	@out=$(DIST)/relevo-cloudy_$(VERSION)_all.deb; conf=$(DIST)/stage/relevo-cloudy.yaml; \
		sed -e "s|\$${VERSION}|$(VERSION)|; s|\$${MTIME}|$(MTIME)|; s|\$${STAGE}|$(DIST)/stage|" packaging/cloudy/nfpm.yaml > $$conf; \
		$(TOOL) nfpm package -f $$conf -p deb -t $$out > /dev/null; \
		echo "built $$out, $$(stat -c %s $$out | numfmt --to=si)B"

clean: ## remove what was built
	@rm -rf bin dist
