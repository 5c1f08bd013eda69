# Everything a developer runs. Needs rustup, git, make and a C compiler; build output stays outside of the checkout.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/landfall
export CARGO_TARGET_DIR := $(CACHE)/target
# The policies' workspace has targets and profiles of its own. plugins/build.sh uses the same folder.
PLUGINS_TARGET := $(CACHE)/plugins-target
COMPONENTS := $(CACHE)/plugins
TOOLS := $(CACHE)/tools
LANDFALL := $(CARGO_TARGET_DIR)/debug/landfall
QUICKSTART := examples/quickstart
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

.PHONY: help build run plugins test lint deny e2e bench bench-e2e schema clean
.DEFAULT_GOAL := help

help: ## Say what there is
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/make \1 \2/p' Makefile | awk '{ printf "%s %-9s", $$1, $$2; $$1 = $$2 = ""; print }'

# Makes a component of every policy and puts those that changed beside the quickstart's configuration. A policy that
# did not change keeps its file, so that a running daemon has nothing to swap; one that did is renamed into place, so
# that the daemon never reads half of it.
define make_components
@set -eu; \
mkdir -p $(COMPONENTS) $(QUICKSTART)/policies; \
cores=$$(plugins/build.sh); \
for core in $$cores; do \
    name=$$(basename "$$core" .wasm | tr _ -).wasm; \
    $(LANDFALL) policy componentize "$$core" --output $(COMPONENTS)/$$name; \
    if ! cmp -s $(COMPONENTS)/$$name $(QUICKSTART)/policies/$$name; then \
        cp $(COMPONENTS)/$$name $(QUICKSTART)/policies/.$$name.new; \
        mv $(QUICKSTART)/policies/.$$name.new $(QUICKSTART)/policies/$$name; \
        echo "$(QUICKSTART)/policies/$$name"; \
    fi; \
done
endef

# The dev profile: dependencies are optimized in it too, and a first build takes less time than a release build.
build: ## Build the daemon
	cargo build --locked --package landfall

plugins: build ## Build the policies and put them beside the quickstart's configuration
	$(make_components)

run: plugins ## Run the quickstart: a registry file, a policy in Rust, a folder of Istio resources
	exec $(LANDFALL) run -c $(QUICKSTART)/landfall.yaml

# The daemon is built together with the tests and not by `build`: alone it would get other features of its
# dependencies, and half of them would be compiled twice.
test: ## Run every test that needs no real server
	cargo build --locked --workspace --bins --tests
	$(make_components)
	cargo test --locked --workspace --quiet
	cd plugins && CARGO_TARGET_DIR=$(PLUGINS_TARGET) cargo test --locked --workspace --quiet

# The documentation is for whoever works on the code, so that it may link to what is private.
lint: deny ## Check formatting, lints, documentation, dependencies and shell scripts
	cargo fmt --all --check
	cd plugins && cargo fmt --all --check
	cd tests/fuzz && cargo fmt --check
	@# Its lock file at least: to compile it takes minutes, for it shares nothing with the other workspaces.
	cargo metadata --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
	cargo clippy --locked --workspace --all-targets --all-features --quiet -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
	    cargo doc --locked --workspace --no-deps --document-private-items --quiet
	cd plugins && CARGO_TARGET_DIR=$(PLUGINS_TARGET) cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	@if command -v shellcheck >/dev/null; then \
	    git ls-files --cached --others --exclude-standard '*.sh' .ci/run | xargs shellcheck; \
	else \
	    echo 'lint: SKIPPED shellcheck: it is not installed (Debian package shellcheck).' >&2; \
	fi

# Advisories live in a git repository of their own. Where it cannot be fetched everything else is still checked.
deny: $(CARGO_DENY) ## Check licenses, sources and homes of dependencies, and known vulnerabilities
	$(CARGO_DENY) --locked --log-level error check bans licenses sources
	$(CARGO_DENY) --locked --log-level error --config deny.toml --manifest-path plugins/Cargo.toml check bans licenses sources
	@if reason=$$(timeout 60 $(CARGO_DENY) --locked fetch db 2>&1); then \
	    $(CARGO_DENY) --locked check --disable-fetch advisories && \
	    $(CARGO_DENY) --locked --config deny.toml --manifest-path plugins/Cargo.toml check --disable-fetch advisories; \
	else \
	    printf '%s\n' "$$reason" | tail -n 3 >&2; \
	    echo 'lint: SKIPPED advisories: the advisory database cannot be fetched from here, see above.' >&2; \
	fi

# Built once, so its build is worth no optimization that takes long.
$(CARGO_DENY):
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
	CARGO_TARGET_DIR=$(TOOLS)/target cargo install cargo-deny --quiet --locked --version $(CARGO_DENY_VERSION) \
	    --root $(TOOLS)/cargo-deny-$(CARGO_DENY_VERSION)
	rm -rf $(TOOLS)/target

# The same packages as in `test`, so that only what the feature adds is compiled.
e2e: ## Run the tests against real Consul, Eureka, moto, kube-apiserver, istiod and Envoy; installs them first
	cargo build --locked --workspace --bins --tests --features landfall-tests/e2e
	$(make_components)
	servers=$$(tests/servers/install.sh) && eval "$$servers" && \
	cargo test --locked --workspace --features landfall-tests/e2e --test adopt_real --test cloudmap_real --test consul_real --test eureka_real --test mesh_real -- --test-threads=2 && \
	cargo test --locked --workspace --features landfall-tests/e2e --test costs --test failures --test mcp -- --test-threads=1 --nocapture && \
	cargo test --locked --workspace --features landfall-tests/e2e --test e2e -- --test-threads=1 --nocapture

bench: plugins ## Measure what a call and a change cost
	cargo bench --locked --package landfall-tests

# The daemon with the profile of a release. It takes about four minutes, of which most is to fill Consul.
bench-e2e: plugins ## Measure a cold start of 10,000 services with real Consul and kube-apiserver, against a bare client
	servers=$$(tests/servers/install.sh) && eval "$$servers" && \
	cargo bench --locked --package landfall-tests --features e2e --bench cold_start

schema: build ## Write the configuration's JSON Schema anew
	$(LANDFALL) check --schema > $(CACHE)/landfall.schema.json
	cp $(CACHE)/landfall.schema.json landfall.schema.json

clean: ## Remove what was built; the test servers and tools stay
	rm -rf $(CARGO_TARGET_DIR) $(PLUGINS_TARGET) $(COMPONENTS) $(QUICKSTART)/policies $(QUICKSTART)/out
