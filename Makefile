# relevo. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell v=$$(git describe --tags --match 'v*' 2>/dev/null) && echo "$${v\#v}" || echo "0.1.0~$$(git rev-list --count HEAD 2>/dev/null || echo 0)")
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
MTIME = $(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)
LDFLAGS = -s -w -X main.release=$(VERSION)
GOBUILD = CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags '$(LDFLAGS)'
TOOL = go tool -modfile=packaging/tools/go.mod
RUN ?= .

export SOURCE_DATE_EPOCH

.PHONY: help build demo test e2e bench deb lint soak fuzz clean

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

build: ## bin/relevo for this machine
	@$(GOBUILD) -o bin/relevo ./cmd/relevo
	@echo "built bin/relevo $(VERSION), $$(stat -c %s bin/relevo | numfmt --to=si)B"

demo: ## a master is killed, a standby takes over: four agents on loopback, no root, under a minute
	@echo "building the demo (the first time takes a minute or two) ..."
	@go build -o bin/demo ./test/demo
	@bin/demo

test: ## everything: lint, unit, race, controls, fuzz seeds, builds, and as root the real hosts
	@go run ./test/report all

e2e: ## the end-to-end tests alone, on real hosts (root); RUN= chooses
	@go run ./test/report e2e '$(RUN)'

bench: ## measure: failover, replication, size, idle cost (root); writes docs/benchmarks.md
	@go run ./test/report bench

lint: ## gofmt, vet, staticcheck, govulncheck
	@go run ./test/report lint
	@$(TOOL) govulncheck ./... || echo "govulncheck: could not ask the vulnerability database, or found something: see above"

soak: ## the lease simulator for SOAK= (default 10m); prints a failing seed, shrunk
	@go test ./agent/lease/sim -run Schedules -soak $${SOAK:-10m} -first $${FIRST:-$$(date +%s)000} -timeout 0 -v

fuzz: ## every fuzzer for FUZZ= (default 1m)
	@for p in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -h '^func Fuzz' $$p/*_test.go | sed 's/func \(Fuzz[A-Za-z]*\).*/\1/'); do \
			echo "$$p $$f"; go test $$p -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZ:-1m}; done; done; echo "fuzz: no finding"

deb: ## dist/relevo_VERSION_{armhf,arm64,amd64}.deb, reproducible
	@rm -rf dist && mkdir -p dist/stage
	@gzip -9nc CHANGELOG.md > dist/stage/changelog.gz
	@gzip -9nc packaging/relevo.1 > dist/stage/relevo.1.gz
	@go run ./cmd/relevo completion bash > dist/stage/bash-completion
	@for a in armhf:arm:6 arm64:arm64: amd64:amd64:; do \
		IFS=: read -r deb arch arm <<< "$$a"; \
		GOARCH=$$arch GOARM=$$arm $(GOBUILD) -o dist/stage/relevo-$$deb ./cmd/relevo; \
		ARCH=$$deb VERSION='$(VERSION)' MTIME='$(MTIME)' BIN=dist/stage/relevo-$$deb STAGE=dist/stage \
			envsubst '$$ARCH $$VERSION $$MTIME $$BIN $$STAGE' < nfpm.yaml > dist/stage/nfpm-$$deb.yaml; \
		$(TOOL) nfpm package -f dist/stage/nfpm-$$deb.yaml -p deb -t dist/relevo_$(VERSION)_$$deb.deb > /dev/null; \
		echo "built dist/relevo_$(VERSION)_$$deb.deb, $$(stat -c %s dist/relevo_$(VERSION)_$$deb.deb | numfmt --to=si)B (binary $$(stat -c %s dist/stage/relevo-$$deb | numfmt --to=si)B)"; \
	done

clean: ## remove what was built
	@rm -rf bin dist
