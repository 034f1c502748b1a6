#!/usr/bin/env bash
# Runs every test: unit tests, and end-to-end tests on a real Courier in
# private namespaces. Installs what is missing for that (courierfilter/prepare.sh).
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=courierfilter/prepare.sh
. "$top/courierfilter/prepare.sh"
[ "$(id -u)" = 0 ] || fail "the tests need root: they make namespaces and run a real Courier in them (sudo tests/run.sh)"
need_tests

cd "$top"
# The end-to-end tests install the programs themselves.
cargo build --workspace --locked
output=$(mktemp)
trap 'rm -f "$output"' EXIT
code=0
cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$output" || code=$?

# cargo prints a line for each test program: their sum.
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$output"
exit $code
