# GNU make; recipes are POSIX sh. Every target sets up what it needs, inside target/ and .tools/.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:

CARGO  ?= cargo
PYTHON ?= python3

# The pinned server rather than one that happens to be on the PATH; set it to use another.
export PELTON_NATS_SERVER ?= $(CURDIR)/.tools/nats-server
# Test runs leave no __pycache__ in the checkout.
export PYTHONDONTWRITEBYTECODE := 1

# In CI a Cargo.lock that does not fit Cargo.toml is an error; at a desk cargo mends it.
LOCKED := $(if $(CI),--locked)

CARGO_DENY := 0.20.2

say  = @printf '\n== %s\n' '$(1)'
need = @command -v $(1) >/dev/null 2>&1 || { echo 'error: $(1) is missing: $(2)' >&2; exit 1; }

.PHONY: help
help: ## this list
	@echo 'usage: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

.PHONY: setup
setup: need-python ## fetch the pinned nats-server into .tools/ (hash checked; PELTON_NATS_SERVER=path uses yours)
	@$(PYTHON) tools/fetch.py nats-server

# The wasm function of the shop, from its source.
COMPONENTIZE = .tools/guests/node_modules/.bin/componentize-qjs --wit functions/wit -n function --sync --stub-wasi

.PHONY: shop
shop: need-python need-node functions/invoice/invoice.wasm ## build the parts of the example shop that are compiled: functions/invoice/invoice.wasm

functions/invoice/invoice.wasm: functions/invoice/invoice.js functions/wit/event.wit tools/guests/package-lock.json
	@$(PYTHON) tools/fetch.py guests
	$(COMPONENTIZE) --js $< -o $@

# Guests that their own documentation builds, called by tests that are ignored otherwise. The one in C
# is compiled by its test.
.PHONY: guests
guests: need-rust need-python need-node ## build the example components in JavaScript and in C and run their tests
	@$(PYTHON) tools/fetch.py guests
	@$(PYTHON) tools/fetch.py zig
	mkdir -p target/guests
	$(COMPONENTIZE) --js functions/wit/examples/ship.js -o target/guests/ship-js.wasm
	$(CARGO) test $(LOCKED) --test it -- --ignored a_component_in_

.PHONY: demo
demo: need-rust need-node setup shop ## the example shop on a private server, until Ctrl-C; ONCE=1 ends after its flows ended
	$(call say,building pelton and the shop (the first time takes a few minutes))
	$(CARGO) build $(LOCKED) --bins --example shop
	$(call say,running the shop)
	@$(CARGO) run $(LOCKED) --quiet --example shop -- $(if $(filter-out 0,$(ONCE)),--once)

.PHONY: peers
peers: need-rust need-python need-node ## fetch and build what runs the functions of others in the tests: Functions Framework, Knative, AWS Lambda (Python, Rust)
	@$(PYTHON) tools/fetch.py peers
	@$(CARGO) build --quiet --locked --manifest-path tests/peers/lambda-rust/Cargo.toml --target-dir target/peers
	@echo 'peers in Rust: target/peers/debug'

# Apart, because it is C++ that needs a compiler and Node's headers.
.PHONY: peer-lambda-node
peer-lambda-node: need-python need-node ## build AWS Lambda's client for Node (two minutes) and run its test
	$(call need,c++,install a C++ compiler (Debian: apt-get install build-essential))
	@$(PYTHON) tools/fetch.py peer-lambda-node
	$(CARGO) test $(LOCKED) --test it -- --ignored aws_lambda_ric_for_node

.PHONY: test
test: need-rust need-node setup shop peers ## every test: Rust against a real nats-server, then the Python and Node shims
	$(call say,cargo test (the first time takes a few minutes to build))
	$(CARGO) test $(LOCKED) --no-fail-fast
	$(call say,tests of the shims)
	$(PYTHON) -m unittest discover tests/shims

.PHONY: traces
traces: need-rust need-node setup shop ## the test of traces: builds with the feature otel, and shows them to a collector
	$(call say,cargo test --features otel (a build of its own))
	$(CARGO) test $(LOCKED) --features otel --test traces

.PHONY: faults
faults: need-rust need-node setup ## the fault suite in full size; ONLY=name EVENTS=n KILLS=n SEED=n
	$(call say,faults under load)
	PELTON_FAULTS=full $(CARGO) test $(LOCKED) --test it -- 'chaos::$(ONLY)' --nocapture --test-threads 1

# The profile of what is shipped: that is what counts, and it is built once.
BENCH = $(CARGO) bench $(LOCKED) --profile release --bench bench

.PHONY: bench
bench: need-rust need-node setup ## Pelton beside bare loops and peers, release build, into target/bench/; QUICK=1 ONLY=consume|latency|growth|… WITH=python,… FULL=1
	@$(PYTHON) tools/fetch.py bench
	$(call say,cargo bench (a release build first))
	@QUICK='$(QUICK)' ONLY='$(ONLY)' WITH='$(WITH)' FULL='$(FULL)' $(BENCH)

# A profile of its own, that is built sooner; in CI without WebAssembly, whose compiler is most of that.
.PHONY: bench-guard
bench-guard: need-rust need-node setup ## fails when Pelton is slower, beside a bare loop, than was recorded (one minute); RECORD=1 records
	$(call say,speed beside a bare loop (a release build first))
	@GUARD=1 RECORD='$(RECORD)' $(CARGO) bench $(LOCKED) --profile guard --bench bench \
	  $(if $(CI),--no-default-features --features mimalloc)

.PHONY: lint
lint: need-rust ## formatting, clippy and rustdoc, warnings are errors
	$(call say,cargo fmt)
	$(CARGO) fmt --check
	$(call say,cargo clippy)
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	$(call say,cargo doc)
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --no-deps

# `advisories` is left out: its database is a git repository that a closed network cannot reach.
# With access to it: .tools/bin/cargo-deny check
.PHONY: check-small
check-small: need-rust ## everything without WebAssembly (--no-default-features), for errors
	$(call say,cargo check --no-default-features)
	$(CARGO) check $(LOCKED) --no-default-features --all-targets

.PHONY: deny
deny: need-rust .tools/cargo-deny-$(CARGO_DENY) ## licences, bans and sources of the dependencies (not advisories: see deny.toml)
	$(call say,cargo-deny check licenses bans sources)
	.tools/bin/cargo-deny $(LOCKED) check licenses bans sources

.tools/cargo-deny-$(CARGO_DENY):
	$(call say,building cargo-deny $(CARGO_DENY) into .tools/bin (two minutes, once))
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install cargo-deny --debug --locked --version $(CARGO_DENY) --root .tools
	@touch $@

.PHONY: deploy-check
deploy-check: need-rust need-python need-node setup ## deploy/: held to schemas and to restricted Pod Security, run, scraped by a Prometheus, its alerts tried
	$(call need,kubectl,Debian: apt-get install kubernetes-client; elsewhere: any kubectl from 1.20 on)
	$(call need,promtool,Debian: apt-get install prometheus; elsewhere: the binaries of Prometheus 2.42 or later)
	$(call need,prometheus,it comes with promtool)
	$(call need,openssl,Debian: apt-get install openssl)
	@$(PYTHON) tools/fetch.py venv
	@$(PYTHON) tools/fetch.py crds
	$(call say,building pelton)
	$(CARGO) build $(LOCKED) --bin pelton
	$(call say,deploy check)
	.tools/venv/bin/python tools/deploy_check.py
	$(call say,tests of deploy/)
	.tools/venv/bin/python -m unittest discover --start-directory tests/deploy

# Not a part of CI: an optimized build of everything, in a container. Bases are made here, of Debian's
# packages and of this machine's Rust, so that no image registry is needed.
.PHONY: image-check
image-check: need-rust need-python setup shop ## build both images with buildah (root, no registry, no daemon), run the shop in them, tell their sizes
	$(call need,buildah,Debian: apt-get install buildah)
	$(call need,debootstrap,Debian: apt-get install debootstrap)
	$(PYTHON) tools/image_check.py

.PHONY: clean
clean: ## remove target/ and .tools/
	rm -rf target .tools

.PHONY: need-rust need-python need-node
need-rust:
	$(call need,$(CARGO),install a Rust toolchain (rustup does it))
need-python:
	$(call need,$(PYTHON),install Python 3 with pip or venv (Debian: apt-get install python3 python3-venv))
need-node:
	$(call need,node,install Node.js 20.6 or later)
	@node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 6) ? 0 : 1)' \
	  || { echo "error: this is Node.js $$(node --version): functions in Node need 20.6 or later" >&2; exit 1; }
