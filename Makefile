# meshd: everything a person or a CI runs. `make help` lists the targets.
#
# Build output goes outside the checkout (CARGO_TARGET_DIR), reports to target/reports/<target>.json
# inside it. Every step prints how long it took.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CARGO_TARGET_DIR ?= $(HOME)/.cache/meshd/target
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin
export CARGO_TERM_PROGRESS_WHEN ?= never

# How much of the long ones: reduced in CI.
ifdef CI
N ?= 200
FUZZ_SECONDS ?= 10
REPEATS ?= 2
SIZES ?= 100
# A clean clone is built once: incremental data would only fill the disk.
export CARGO_INCREMENTAL ?= 0
else
N ?= 1000
FUZZ_SECONDS ?= 60
REPEATS ?= 20
SIZES ?= 100 1000 3000
endif
ifeq ($(origin SECONDS),command line)
FUZZ_SECONDS := $(SECONDS)
endif
export TORTURE_N := $(N)
export FUZZ_SECONDS
export REPEATS

STEP := bash .ci/step

# Lab tests that are targets of their own.
LAB_OWN := interop torture exits
LAB_TESTS := $(filter-out $(LAB_OWN),$(sort $(basename $(notdir $(wildcard tests/lab/tests/*.rs)))))

.PHONY: help sim sim-mutants exits scenarios start host-dns nat-grid recovery cni k8s k8s-up demo demo-fresh test setup root build lint tidy deny unit web web-quick web-rows web-first web-schema screenshots lab interop fuzz fuzz-web torture bulk bench bench-control bench-dns bench-micro deb deb-test static clean gateway-swap

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 24
	@echo "  build output: $(CARGO_TARGET_DIR)"

demo: root setup build ## a small internet on this machine, the four commands, and what is on the wire
	@$(STEP) demo "$(CARGO_TARGET_DIR)/debug/meshd-demo"

demo-fresh: root ## the demo on a clean clone in a minimal Debian tree (TARGETS=demo, WARM=1 with the build output)
	@bash .ci/setup
	@$(STEP) demo-fresh bash tests/fresh/run $(or $(TARGETS),demo)

test: root setup ## everything that CI runs
	@bash .ci/steps build lint tidy deny unit web-quick lab cni k8s interop fuzz torture bench-control deb-test

root:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "This needs root: it makes network namespaces, TUN devices and nftables rules inside them"; \
	  echo "(the machine's own network stays as it is). Run it again as root: sudo make $(MAKECMDGOALS)"; exit 1; fi

setup: ## install what is missing: Debian packages and Rust
	@$(STEP) setup bash .ci/setup

build: ## all programs, into debug/ of the build output
	@echo "build output: $(CARGO_TARGET_DIR)"
	@$(STEP) build cargo build --locked --workspace --bins --example userspace_pair

lint: ## rustfmt, clippy and rustdoc, with warnings as errors
	@$(STEP) lint-format cargo fmt --all --check
	@$(STEP) lint-clippy cargo clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(STEP) lint-doc cargo doc --locked --workspace --no-deps

tidy: ## the house rules: crate edges, sizes, purity, layout
	@$(STEP) tidy cargo test --locked -p meshd-tidy --no-fail-fast

deny: ## licences, bans and sources of all dependencies (ADVISORIES=1 needs a network)
	@$(STEP) deny bash .ci/deny

unit: ## tests of every crate that need no kernel of their own
	@$(STEP) unit cargo test --locked --workspace --exclude meshd-lab --exclude meshd-k8s --exclude meshd-tidy --no-fail-fast

web: build ## the web admin in headless Chromium: every screen for every role
	@bash .ci/setup chromium:chromium node:nodejs npm:npm
	@$(STEP) web-build cargo build --locked --workspace --bins --example seed --example userspace_pair
	@$(STEP) web bash tests/web/run.sh

web-quick: build ## the same in a short form, for CI
	@bash .ci/setup chromium:chromium node:nodejs npm:npm
	@$(STEP) web-build cargo build --locked --workspace --bins --example seed --example userspace_pair
	@$(STEP) web-quick bash tests/web/run.sh --quick

web-rows: build ## server time of the pages and the API with ROWS= nodes (10000)
	@bash .ci/setup chromium:chromium node:nodejs npm:npm
	@$(STEP) web-build cargo build --locked --workspace --bins --example seed --example userspace_pair
	@$(STEP) web-rows bash tests/web/run.sh --rows "$(or $(ROWS),10000)"

web-first: root build ## a new user's first mesh from the printed link, by the pages, against the clock
	@bash .ci/setup chromium:chromium node:nodejs npm:npm
	@$(STEP) web-first bash tests/web/run.sh --first

web-schema: build ## random requests made from the API's description (EXAMPLES= for each operation, 40): no 5xx
	@python3 -c "import ensurepip" 2>/dev/null || bash .ci/setup python3-with-venv:python3-venv
	@$(STEP) web-build cargo build --locked --workspace --bins --example seed --example userspace_pair
	@$(STEP) web-schema bash tests/web/schemathesis.sh "$(or $(EXAMPLES),40)"

screenshots: build ## the pictures of docs/guide, taken by the test of the web admin
	@bash .ci/setup chromium:chromium node:nodejs npm:npm
	@$(STEP) web-build cargo build --locked --workspace --bins --example seed --example userspace_pair
	@mkdir -p target/screenshots
	@$(STEP) screenshots bash tests/web/run.sh --screenshots "$(CURDIR)/target/screenshots"
	@cp target/screenshots/{welcome,overview,tokens,policy,access}.png docs/guide/images/

lab: root build ## end-to-end tests on real kernels, in network namespaces
	@bash .ci/setup chromium:chromium
	@$(STEP) lab cargo test --locked -p meshd-lab --no-fail-fast --lib $(LAB_TESTS:%=--test %)
	@$(STEP) exits-quick cargo test --locked -p meshd-lab --no-fail-fast --test exits -- s1_1_an s1_13_ s5_4_

exits: root build ## public exits and `meshd expose` on real kernels: NATs, closed networks, roaming, misuse, blindness
	@$(STEP) exits cargo test --locked -p meshd-lab --no-fail-fast --test exits -- --nocapture

cni: root build ## meshd-cni with the specification's cnitool: each rule of its commands, 50 pods at once, kill -9, pods over the mesh
	@$(STEP) cni-tools bash tests/k8s/tools/build
	@MESHD_K8S_TOOLS=$$(bash tests/k8s/tools/build) $(STEP) cni cargo test --locked -p meshd-lab -p meshd-k8s --no-fail-fast --test cni --test pod_network -- --test-threads=4

k8s: root build ## a real control plane, pods by meshd-cni, Services by the real kube-proxy in both modes, type LoadBalancer by the operator (MESHD_LB_KILLS=8; needs Go; first build 10-20 min)
	@$(STEP) k8s-tools bash tests/k8s/control-plane/build
	@MESHD_K8S_CONTROL_PLANE=$$(bash tests/k8s/control-plane/build) $(STEP) k8s cargo test --locked -p meshd-lab -p meshd-k8s --no-fail-fast --test cluster --test loadbalancer -- --test-threads=2

k8s-up: root build ## a Kubernetes to play with, until Ctrl-C: NODES= nodes (2), PROXY=nftables or iptables
	@MESHD_K8S_CONTROL_PLANE=$$(bash tests/k8s/control-plane/build) "$(CARGO_TARGET_DIR)/debug/k8s-up" $(or $(NODES),2) $(or $(PROXY),nftables)

bulk: root build ## 10 GiB (BULK_MIB=) through the mesh, every byte compared, while links flap and keys change
	@BULK_STRICT=1 BULK_MIB=$(or $(BULK_MIB),10240) $(STEP) bulk cargo test --locked -p meshd-lab --no-fail-fast --test bulk -- --nocapture --test-threads=1

interop: root build ## wireguard-go as a peer
	@$(STEP) interop cargo test --locked -p meshd-lab --no-fail-fast --test interop -- --nocapture

start: root build ## from `meshd up` to the first reply by name, REPEATS= times (20; 2 in CI)
	@$(STEP) start cargo test --locked -p meshd-lab --no-fail-fast --test landing from_up -- --nocapture

host-dns: root build ## 100 SIGKILLs each: the host's DNS is as before (plain, bind-mounted, systemd-resolved, openresolv, Debian's resolvconf)
	@$(STEP) host-dns cargo test --locked -p meshd-lab --no-fail-fast --test host_dns -- --nocapture

scenarios: root build ## every scenario of docs/scenarios.md that has a test, with its feature and without (ONLY="s4_2_ s4_3_")
	@$(STEP) k8s-tools bash tests/k8s/control-plane/build
	@MESHD_K8S_CONTROL_PLANE=$$(bash tests/k8s/control-plane/build) $(STEP) scenarios "$(CARGO_TARGET_DIR)/debug/scenarios" $(if $(ONLY),--some) docs/scenarios.md \
	  cargo test --locked -p meshd-lab -p meshd-k8s --no-fail-fast -- --show-output $(or $(ONLY),s1_ s2_ s3_ s4_ s5_)

recovery: root build ## how long traffic stands still when something breaks, REPEATS= times (20; 2 in CI)
	@$(STEP) recovery "$(CARGO_TARGET_DIR)/debug/recovery" $(ROWS)

nat-grid: root build ## every kind of NAT against every other one, as a table (KINDS="home symmetric" for some)
	@$(STEP) nat-grid "$(CARGO_TARGET_DIR)/debug/nat-grid" $(KINDS)

sim: ## the mesh in virtual time: SCHEDULES= random schedules (10000), and REAL= on real sessions (500)
	@MESHD_SIM_SCHEDULES=$(or $(SCHEDULES),10000) MESHD_SIM_REAL_SCHEDULES=$(or $(REAL),500) \
	  $(STEP) sim cargo test --locked -p meshd-sim --no-fail-fast

sim-mutants: ## faults put into a copy of the engine, one at a time: the simulation has to notice each (FAULTS= for some)
	@$(STEP) sim-mutants cargo run --locked -p meshd-sim --bin sim-mutants -- $(FAULTS)

fuzz: ## every fuzz target for SECONDS= seconds (60; 10 in CI)
	@$(STEP) fuzz bash tests/fuzz/run.sh "$(FUZZ_SECONDS)"

fuzz-web: ## forms and JSON of the coordinator, changed at random for SECONDS= seconds (60): no 5xx, no panic
	@HOSTILE_SECONDS="$(FUZZ_SECONDS)" $(STEP) fuzz-web cargo test --locked -p meshd-coordinator --lib hostile -- --nocapture

torture: root build ## kill -9 N= times (1000; 200 in CI) at every planned change
	@$(STEP) torture cargo test --locked -p meshd-lab --no-fail-fast --test torture -- --nocapture

bench: root setup ## speed and footprint beside other VPNs (QUICK=1, ROUNDS=, ONLY=, UNDERLAYS=, MEASURES=)
	@$(STEP) bench bash tests/bench/run

bench-control: build ## the control plane with SIZES= simulated nodes (100 1000 3000; 100 in CI)
	@$(STEP) bench-control "$(CARGO_TARGET_DIR)/debug/meshd-bench-control" $(SIZES)

gateway-swap: ## a gateway's configuration changes every 100 ms under load for a minute: 0 failed requests
	@GATEWAY_SWAP_SECONDS=60 $(STEP) gateway-swap cargo test --locked -p meshd-gateway --test swap a_change -- --nocapture

bench-dns: ## CPU time of a name beside NSD, unbound, dnsmasq and a bare echo (ROUNDS= 7, SLICE_MS= 1000), overload
	@bash .ci/setup unbound:unbound nsd:nsd dnsmasq:dnsmasq-base
	@$(STEP) bench-dns-build cargo build --locked --release -p meshd-bench-dns --bins
	@$(STEP) bench-dns "$(CARGO_TARGET_DIR)/release/meshd-bench-dns"

bench-micro: ## nanoseconds of the packet path: seal, open, split, coalesce, routes, filter
	@$(STEP) bench-micro cargo bench --locked -p meshd-engine --bench data

static: ## programs that need nothing of the system, started under qemu (unfinished for ARMv7 and v6; TARGETS= PROGRAMS=)
	@bash .ci/setup qemu-arm-static:qemu-user-static pip3:python3-pip readelf:binutils
	@$(STEP) static bash packaging/static/build

deb: ## Debian packages, into target/deb (ARCHS="amd64 arm64 armhf")
	@$(STEP) deb bash packaging/deb/build

deb-test: root ## install, upgrade and purge the packages in a fresh Debian tree
	@PROFILE=$(or $(PROFILE),dev) $(STEP) deb-build bash packaging/deb/build
	@$(STEP) deb-test bash packaging/deb/test

clean: ## remove what was built
	rm -rf target "$(CARGO_TARGET_DIR)"
