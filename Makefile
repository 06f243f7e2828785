# What a newcomer needs is `make demo`; `make help` lists the rest.

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
# Namespaces need root, cargo does not: it may only be there for the user.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Where the package is made and how it is called.
DEB = $(TARGET)/debian

.PHONY: help deps build demo deb test test-offload test-deb test-ha test-operate bench bench-growth bench-sync bench-wire bench-apps lint

help:
	@echo 'make demo        see it forward real traffic, in all four methods'
	@echo 'make deb         a Debian package, in target/debian'
	@echo 'make test        unit, property and end-to-end tests (the last need root)'
	@echo 'make test-offload  the same with all connections carried in the kernel, and with none'
	@echo 'make test-ha     failover between two directors, all methods and faults, under load'
	@echo 'make test-operate  stories of operating a director (STORY=NAME for some only)'
	@echo 'make test-deb    install, upgrade, remove and purge the package in a fresh Debian'
	@echo 'make lint        formatting and clippy'
	@echo 'make deps        install the Debian packages that are missing'
	@echo
	@echo 'What these show is in bench/README.md; results go to target/bench.'
	@echo 'make bench         time the parts of the packet path (BENCH=ID for some only)'
	@echo 'make bench-growth  memory for each connection, longest gap between two polls'
	@echo 'make bench-sync    session synchronisation: lag, cost to forwarding, full transfer'
	@echo 'make bench-wire    packets a second on a wire, by each method'
	@echo 'make bench-apps    real programs through Sluice, haproxy, nginx and nftables'

deps:
	@bench/deps.sh

build: deps
	cargo build --release --locked --workspace

demo: build
	@$(SUDO) $(RELEASE)/demo

deb: deps
	cargo build --release --locked -p sluice-control
	@control/package/build $(TARGET)
	@ls $(DEB)/*.deb

# Takes some two minutes, and fetches a small Debian from the configured mirror.
test-deb: deb
	@bench/deps.sh deb
	@$(SUDO) control/package/test $(DEB)/*.deb

# What is tried again with connections carried from their second packet on, and what with none: where that matters
# most. `make test-offload` does all.
CARRIED = -- nat:: fullnat:: dr:: tun:: connections:: thresholds:: capture:: listing:: standby:: recorded_states::

# End-to-end tests run the release build of the director, two at a time: each director keeps a CPU busy.
test:
	@bench/deps.sh test
	cargo test --locked --workspace --exclude sluice-bench
	cargo build --release --locked -p sluice-control
	SLUICE_BIN=$(abspath $(RELEASE))/sluice RUST_TEST_THREADS=2 cargo test --locked -p sluice-bench
	SLUICE_TEST_OFFLOAD=on cargo test --locked -p sluice-dataplane --test forwarding $(CARRIED)
	SLUICE_LAB_OFFLOAD=off SLUICE_BIN=$(abspath $(RELEASE))/sluice RUST_TEST_THREADS=2 \
		cargo test --locked -p sluice-bench --test forwarding --test observe --test sync

# What `make test` tries by default settings, once with connections carried from their second packet on and once with
# none: some 25 minutes. `make test` has a part of each.
test-offload:
	@bench/deps.sh test
	# FTP is never carried, and the other makes many directors, each of which loads the program.
	SLUICE_TEST_OFFLOAD=on cargo test --locked -p sluice-dataplane --test forwarding -- --skip ftp:: --skip fragments_meet
	cargo build --release --locked -p sluice-control
	for offload in on off; do \
		SLUICE_LAB_OFFLOAD=$$offload SLUICE_BIN=$(abspath $(RELEASE))/sluice RUST_TEST_THREADS=2 \
			cargo test --locked -p sluice-bench || exit; \
	done

# Takes some five minutes.
test-ha: build
	@$(SUDO) $(RELEASE)/test-ha

# STORY is a part of the names to run. They have figures in them, so they run one after the other.
test-operate:
	@bench/deps.sh test
	cargo build --release --locked -p sluice-control
	@SLUICE_BIN=$(abspath $(RELEASE))/sluice cargo run --quiet --locked -p sluice-bench --bin test-operate -- $(STORY)

# BENCH is a part of the ids to run, as criterion takes it.
bench: deps
	cargo bench --locked -p sluice-bench -- $(BENCH)

bench-growth: build
	@$(RELEASE)/bench-growth --output target/bench/growth.json

bench-sync: build
	@$(RELEASE)/bench-sync --output target/bench/sync.json

bench-wire: build
	@$(SUDO) $(RELEASE)/bench-wire --output target/bench/wire.json

bench-apps: build
	@bench/deps.sh bench
	@$(SUDO) $(RELEASE)/bench-apps --output target/bench/apps.json

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
