# What people and CI run. Each target sets the machine up first; the second time that takes a moment.

# In CI the lock file is the law; at a desk, a changed manifest may update it.
LOCKED := $(if $(CI),--locked)
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# Tests may stop the service at named points; release builds have no such points.
TESTED := --features faultpoints

.PHONY: help setup demo test check prove kit
.NOTPARALLEL:

help:
	@echo 'make setup   install what is missing: Debian packages, cargo-deny, cargo-nextest'
	@echo 'make demo    build, then show a license signed by a key that never leaves its token (examples/demo.sh)'
	@echo 'make test    all tests, against real tokens and stores that the tests start themselves'
	@echo 'make check   format, clippy, dependencies, tidiness'
	@echo 'make prove   what takes long: kills under load, statistics, large logs, fuzzing'

setup:
	@scripts/setup

demo:
	@scripts/setup build
	cargo build --release $(LOCKED)
	KEYWARD="$(TARGET)/release/keyward" examples/demo.sh

# For the tests: Kryoptic as a PKCS#11 module, a module that fails by script, files that can be written no more, a TPM that
# signs strangely. Packages of their own.
kit: setup
	cargo build --release $(LOCKED) --quiet --manifest-path tests/kit/kryoptic/Cargo.toml --target-dir "$(TARGET)/kit"
	cargo build --release $(LOCKED) --quiet --manifest-path tests/kit/faulty/Cargo.toml --target-dir "$(TARGET)/kit"
	cargo build --release $(LOCKED) --quiet --manifest-path tests/kit/readonly/Cargo.toml --target-dir "$(TARGET)/kit"
	cargo build --release $(LOCKED) --quiet --manifest-path tests/kit/strange/Cargo.toml --target-dir "$(TARGET)/kit"

test: kit
	cargo test --doc $(TESTED) $(LOCKED)
	cargo nextest run $(TESTED) $(LOCKED)

check: setup
	cargo fmt --check
	cargo clippy --all-targets --all-features $(LOCKED) -- -D warnings
	cargo deny $(LOCKED) check bans licenses sources
	cargo nextest run $(TESTED) $(LOCKED) -E 'test(/^tidy::/)'

prove: kit
	cargo nextest run --release --profile prove --features prove $(LOCKED) -E 'binary(prove)'
	scripts/fuzz
