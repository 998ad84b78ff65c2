# make demo    watch a hub work on a recorded wiki (ARGS=--once ends it)
# make demo-federation   watch two hubs tell each other what crosses between them
# make test    everything that must hold, with the set-up it needs
# make build   bin/freshwire, static
# make bench   the figures
# make soak    the random tests for long (SOAK_SEEDS=n)
# make mutants break one line after another: some test must notice (ONLY=word)
# make fuzz    each fuzz target for a while (FUZZTIME=30s)

SHELL := bash
.SHELLFLAGS := -uo pipefail -c

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 30s

# The product needs no C, so that one static file runs everywhere. Only the race
# detector does.
export CGO_ENABLED := 0

# compiles succeeds where there is a C compiler with the headers of its library.
compiles = printf '\043include <stdlib.h>\n' | $$(go env CC) -x c -fsyntax-only - 2>/dev/null
race = $(shell $(compiles) && echo -race)

# stage tells the name of a step, runs it, and tells how long it took.
stage = @echo '== $(1)'; $(2); code=$$?; echo "-- $(1): $$SECONDS s"; exit $$code

.PHONY: build demo demo-federation test setup bench soak mutants fuzz

build:
	go build -trimpath -buildvcs=auto -ldflags '-s -w' -o bin/freshwire ./cmd/freshwire

demo:
	@go run ./cmd/freshwire demo $(ARGS)

demo-federation:
	@go run ./cmd/freshwire demo federation $(ARGS)

# The whole takes less than 15 minutes on two cores that do nothing else. The limits are
# for machines that are slower or busy: one of all tests together, one of each package
# that shows what hangs.
test: setup
	$(call stage,modules,go mod download)
	$(call stage,format and house rules,go test -count=1 ./internal/house)
	$(call stage,vet,go vet ./...)
	$(call stage,staticcheck,go run $(STATICCHECK) ./...)
	$(call stage,tests,go run ./internal/house/slowest -limit 22m \
		env CGO_ENABLED=$(if $(race),1,0) go test -json -vet=off $(race) -count=1 -timeout 20m ./...)
	$(call stage,courses of three hubs,env CGO_ENABLED=0 go test -vet=off -count=1 -timeout 5m -run '^TestThreeHubs' ./graph)

# missing lists the Debian packages of what is not there.
missing = { $(compiles) || echo gcc libc6-dev; command -v curl >/dev/null || echo curl; \
	command -v chromium chromium-browser google-chrome >/dev/null || echo chromium; \
	command -v mkfs.ext4 /usr/sbin/mkfs.ext4 >/dev/null || echo e2fsprogs; \
	command -v varnishd /usr/sbin/varnishd >/dev/null || echo varnish; \
	compgen -G '/usr/lib/*/varnish/vmods/libvmod_xkey.so' >/dev/null || echo varnish-modules; \
	command -v xmllint >/dev/null || echo libxml2-utils; \
	for program in jq zstd openssl; do command -v $$program >/dev/null || echo $$program; done; }

# The tests start caches of their own. What would run one as a service of the
# machine is left out, so that none starts, now or later.
no_service = -o DPkg::Options::=--path-exclude='/etc/init.d/varnish*' \
	-o DPkg::Options::=--path-exclude='/lib/systemd/system/varnish*' \
	-o DPkg::Options::=--path-exclude='/usr/lib/systemd/system/varnish*'

# setup installs what the tests need, or says what they leave out without it.
setup:
	@missing() $(missing); \
	[ -z "$$(missing)" ] && exit; \
	if [ -e /etc/debian_version ] && [ "$$(id -u)" = 0 ]; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && for package in $$(missing); do \
			apt-get -qq install --no-install-recommends $(no_service) $$package </dev/null; \
		done; \
	fi; \
	for package in $$(missing); do case $$package in \
		gcc) echo 'left out: the race detector; it needs a C compiler (Debian: apt install gcc libc6-dev)' ;; \
		curl) echo 'left out: reading a stream with curl; it needs curl (Debian: apt install curl)' ;; \
		chromium) echo 'left out: reading a stream in a browser; it needs Chromium (Debian: apt install chromium)' ;; \
		e2fsprogs) echo 'left out: power cuts of a real disk; they need mkfs.ext4 (Debian: apt install e2fsprogs)' ;; \
		varnish) echo 'left out: purges of a real cache; they need Varnish (Debian: apt install varnish varnish-modules)' ;; \
		varnish-modules) command -v varnishd /usr/sbin/varnishd >/dev/null && \
			echo 'left out: purges by key of a real cache; they need its module xkey (Debian: apt install varnish-modules)' ;; \
		libxml2-utils) echo 'left out: digests by a schema of their XML; it needs xmllint (Debian: apt install libxml2-utils)' ;; \
		jq) echo 'left out: reading digests as their page says; it needs jq (Debian: apt install jq)' ;; \
		zstd) echo 'left out: reading digests in Zstandard; it needs zstd (Debian: apt install zstd)' ;; \
		openssl) echo 'left out: keys and signatures by OpenSSL; they need openssl (Debian: apt install openssl)' ;; \
	esac; done; \
	[ -z "$$(missing)" ] || [ "$${CI:-}" != true ]

bench:
	go test -run '^$$' -bench . -benchmem -timeout 60m ./...

# A seed that fails is printed; SOAK_SEED=n begins with that one. The simulation
# plays 10,000 seeds in about 20 minutes. SOAK_KILLS=n kills a hub so often, and cuts
# its disk's power.
soak:
	SOAK_SEEDS=$${SOAK_SEEDS:-10000} go test -count=1 -timeout 0 -run '^TestNothingOfAHub' ./hub
	SOAK_SEEDS=$${SOAK_SEEDS:-200} go test -count=1 -timeout 0 -run '^TestOneHistory' ./hub
	SOAK_SEEDS=$${SOAK_SEEDS:-1000} go test -count=1 -timeout 0 ./graph
	SOAK_SEEDS=$${SOAK_SEEDS:-3000} go test -count=1 -timeout 0 ./subscriptions/delivery
	SOAK_SEEDS=$${SOAK_SEEDS:-1000} go test -count=1 -timeout 0 -run '^TestAnyHistory' ./digest
	SOAK_SEEDS=$${SOAK_SEEDS:-100} SOAK_READERS=$${SOAK_READERS:-9000} \
		go test -count=1 -timeout 0 -run '^TestReaders' ./hub
	SOAK_SEEDS=$${SOAK_SEEDS:-50} go test -count=1 -timeout 0 -run '^TestThreeHubsAreAsOne' ./hub
	SOAK_KILLS=$${SOAK_KILLS:-60} go test -count=1 -timeout 0 -run '^TestAHubThatIsKilled|^TestAPowerCutOfARealDisk' ./hub

# ONLY=word tries those whose description has it.
mutants:
	go run ./internal/house/mutants $(if $(ONLY),-only '$(ONLY)')

fuzz:
	@for package in $$(go list ./...); do \
		list=$$(go test -list '^Fuzz' $$package) || exit; \
		for target in $$(grep '^Fuzz' <<<"$$list"); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit; \
		done; \
	done
