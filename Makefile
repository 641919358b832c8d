# make demo and make test are all that a fresh Debian 12 with Go needs; everything else is a part of these two.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X k8s.io/component-base/version.gitVersion=$(VERSION)
# What the gateways run, what the lab looks with, systemd's check of our unit, and a C compiler for the race detector.
PACKAGES := haproxy keepalived nftables openssh-server iproute2 iputils-arping iputils-ping ndisc6 conntrack procps \
            curl systemd gcc libc6-dev

# One way to compile Kubernetes' libraries for everything: each further way costs minutes. The race detector needs cgo and
# is kept to the rooms that have no such library.
export CGO_ENABLED := 0

.PHONY: build demo test unit lab-test lint bench simulation lab chaos packages controlplane clean

build: ## both programs, static, into bin/
	@echo "compiling both programs (minutes the first time)"
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: packages controlplane ## the main job for real; KEEP=1 leaves it running
	@echo "compiling the demo (minutes the first time)"
	@$(GO) run ./test/demo $(if $(KEEP),-keep)

test: packages lint unit lab-test ## everything

lint:
	@test -z "$$(gofmt -l cmd provider loadbalancer ipam test)" || { gofmt -l cmd provider loadbalancer ipam test; exit 1; }
	@echo "vetting and checking, which compiles Kubernetes' libraries (minutes the first time)"
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

unit: ## what needs no lab: pure code, and renderers against the real daemons' checkers
	@echo "testing what needs no lab (minutes the first time; go test tells of a package when it is done)"
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./ipam/... ./loadbalancer/...
	$(GO) test -timeout 30m -run FaultAtEveryOperation ./loadbalancer/agent # each operation; a sample of them under -race
	$(GO) test ./provider/... ./cmd/...

lab-test: controlplane ## one package at a time: they measure failovers on two cores
	@echo "testing in the lab (minutes each time; go test tells of a package when it is done)"
	$(GO) test -p 1 -count 1 -timeout 60m ./test/...

simulation: ## 10 000 histories of controllers and gateways in memory; SEED=42 tells one
	$(GO) test -count 1 -v ./test/simulation $(if $(SEED),-seed $(SEED) -seeds 1 -tell)

lab: packages ## a lab for people: a client, two gateways, three workers; Ctrl-C cleans up
	@echo "compiling the lab (minutes the first time)"
	$(GO) run ./test/lab/cmd

chaos: packages controlplane ## break everything under traffic, print what a client saw; CHAOS='-times 10 -run holder' changes that
	@echo "compiling the chaos (minutes the first time)"
	@$(GO) build -o bin/ ./test/chaos
	@bin/chaos $(CHAOS)

controlplane: ## kube-apiserver, etcd and the rest for the lab, built once and cached outside the checkout
	@$(GO) -C test/controlplane run .

bench: ## speed, where it is promised; fails where the promise is not kept
	$(GO) test -run '^$$' -bench . -benchmem ./ipam/... ./loadbalancer/... ./provider/...

packages: ## Debian packages that are missing, when we may install them
	@missing=; for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "not root: cannot install$$missing; tests that need them are skipped"; exit 0; fi; \
	echo "installing$$missing"; \
	{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; } >/tmp/cloud-provider-haproxy-apt.log 2>&1 || \
	  { cat /tmp/cloud-provider-haproxy-apt.log; exit 1; }

clean:
	rm -rf bin
