# FLOOD="check silent" for some of the floods.
# BENCH_ROUNDS=N (5), BENCH_QUICK=1 for a smoke run, BENCH_TABLES="direct fleet envoy memory" for some of the tables. Stands on its
# own too: make -f benches/bench.mk bench

BENCH_BUILT := $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: bench bench-tools floods
bench: bench-tools ## Tollgate and its references side by side: one table, and target/bench.json
	@cargo build --release --locked -p tollgate -p tollgate-bench
	@ENVOY="$$(scripts/envoy --print)" $(BENCH_BUILT)/bench

floods: bench-tools ## What is left for the known while 1,100 strangers hold a door: one table, and target/floods.json; takes about 10 minutes
	@cargo build --release --locked -p tollgate -p tollgate-bench
	@$(BENCH_BUILT)/bench floods "$(FLOOD)"

bench-tools:
	@scripts/envoy
	@scripts/redis
	@command -v taskset >/dev/null || { echo "taskset is missing: install util-linux"; exit 1; }
	@command -v h2load >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -qq -y --no-install-recommends nghttp2-client; \
	  else echo "h2load is missing: sudo apt-get install nghttp2-client"; exit 1; fi
