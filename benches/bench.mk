# `make bench` builds Tollgate and its references in the same profile, measures them side by side, prints one table and
# writes target/bench.json. BENCH_ROUNDS=N (5), BENCH_QUICK=1 for a smoke run, BENCH_TABLES="direct envoy
# memory" for some of the tables, ENVOY=/path/to/envoy.
# Stands on its own too: make -f benches/bench.mk bench

BENCH_TARGET := $(or $(CARGO_TARGET_DIR),target)
BENCH_ENVOY = $(or $(ENVOY),$(shell command -v envoy),$(wildcard .venv/bin/envoy))

.PHONY: bench bench-tools
bench: bench-tools
	cargo build --release --locked -p tollgate -p tollgate-bench
	ENVOY="$(BENCH_ENVOY)" $(BENCH_TARGET)/release/bench

bench-tools:
	@command -v taskset >/dev/null || { echo "taskset is missing: install util-linux"; exit 1; }
	@command -v h2load >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	    apt-get update -q && apt-get install -q -y --no-install-recommends nghttp2-client; \
	  else echo "h2load is missing: sudo apt-get install nghttp2-client"; exit 1; fi
