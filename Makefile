# What is run here is what CI runs. Each target does its own set-up.
LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(LINT_VERSION)

.PHONY: all build demo run test crash crash-rebuild crash-instances hostile bench lint e2e e2e-esdb e2e-kubernetes e2e-systemd clean test-host

all: lint test

build: ## bin/commissaire, which needs nothing else; VERSION=1.2.3 of a release
	CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags '-s -w $(if $(VERSION),-X commissaire/cmd/internal/version.Version=$(VERSION))' -o bin/commissaire ./cmd/commissaire

demo: ## what it does, in a minute, on simulated hosts; leaves nothing behind
	go run ./cmd/commissaire demo

run: ## the service, for trying it: loopback only, everything under ./var
	go run ./cmd/commissaire serve --dev

test: test-host ## all tests; of the whole service on EventStoreDB a few only, e2e-esdb runs them all
	go vet ./...
	go test -race -shuffle=on -timeout 14m ./test/e2e ./... # the longest first
	go test -race -shuffle=on -timeout 9m ./test/e2e -run '^(TestEveryRoute|TestAKilledServiceFinishesItsOperation|TestSecretsAreNowhere)$$' -args -store=esdb

e2e: test-host ## the whole-service tests alone
	go test -race -shuffle=on -timeout 9m -v ./test/e2e/...

e2e-esdb: test-host ## the whole-service tests on a double of EventStoreDB
	go test -race -shuffle=on -timeout 20m -v ./test/e2e/... -args -store=esdb

e2e-systemd: ## the whole program on real hosts: systemd, OpenSSH, apt and dnf in containers, on a disk that is made here, which takes minutes once
	@why=$$(sh test/systemd/root.sh "$(CURDIR)/bin/systemd-root.tar") || { status=$$?; echo "$$why"; [ $$status = 2 ]; exit; }; \
	go build -o bin/ ./cmd/commissaire && \
	go test -count=1 -timeout 15m -v -parallel 4 -run '^TestRealHosts$$' ./test/e2e -args -systemd="$(CURDIR)/bin/systemd-root.tar"

e2e-kubernetes: test-host ## container managers against a real API server: that of COMMISSAIRE_TEST_KUBECONFIG, or one that is built here, which takes 10 minutes once
ifdef COMMISSAIRE_TEST_KUBECONFIG
	go test -race -count=1 -parallel 1 -timeout 9m -v ./adapters/containermanager
	go test -race -count=1 -timeout 9m -v ./test/e2e -run '^TestManaged'
else
	cd test/apiserver && go mod verify && go build -o ../../bin/apiserver . && go vet .
	bin/apiserver $(MAKE) e2e-kubernetes
endif

bench: ## what the service does a second, in one table
	go run ./test/bench

crash: test-host ## kill the service 100 times while hosts and clients go on, and 100 times while a cluster is rolled over
	go test -count=1 -timeout 9m -v -run TestNoKill ./test/e2e -args -kills=100

crash-rebuild: ## rebuild the views of a million events 50 times while they are served, and cancel or kill that at any moment
	go test -count=1 -timeout 45m -v -run TestARebuild ./test/e2e -args -events=1000000 -rebuilds=50

crash-instances: ## kill and pause two and three instances on one store, and take the store away, 100 times each
	go test -count=1 -timeout 45m -v -run TestNoFault ./test/e2e -args -faults=100 -outage=30s

hostile: ## operations over hosts that answer at random, 2000 times
	go test -count=1 -timeout 15m -v ./test/hostile -args -sequences=2000

# Real OpenSSH servers, other shells and sudo to test against.
test-host:
	@if [ -x /usr/sbin/sshd ] && command -v busybox >/dev/null && command -v sudo >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends openssh-server busybox sudo >/dev/null; \
	else echo "openssh-server, busybox or sudo is missing and cannot be installed here: the tests against real sshd and busybox are left out"; fi

lint: $(LINT) ## formatting, modules and linters
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go mod tidy -diff
	go mod verify
	$(LINT) run ./...

$(LINT):
	GOBIN="$(CURDIR)/bin" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $(LINT)

clean:
	rm -rf bin var
