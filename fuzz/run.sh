#!/usr/bin/env bash
# Runs the fuzz targets, two at a time, each for so long:
#     fuzz/run.sh [SECONDS [TARGET…]]
# Begins with the inputs in fuzz/corpus and leaves them as they are; where
# KEEP names a folder, new ones are gathered there. Fails on the first input
# that breaks a target, and says where it lies. It builds on stable Rust,
# without a sanitizer, as there is no unsafe code in what is looked at.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-20}
shift || true
mapfile -t targets < <(cargo fuzz list)
[ $# = 0 ] || targets=("$@")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
keep=${KEEP:-$scratch/new}
cargo fuzz build -s none

one() {
    mkdir -p "$keep/$1" "corpus/$1"
    if cargo fuzz run -s none "$1" "$keep/$1" "corpus/$1" -- \
        -max_total_time="$seconds" -timeout=25 -print_final_stats=1 >"$scratch/$1.log" 2>&1; then
        printf '%-16s %12s runs, coverage %s\n' "$1" \
            "$(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/$1.log")" \
            "$(grep -o 'cov: [0-9]* ft: [0-9]*' "$scratch/$1.log" | tail -n 1)"
    else
        tail -n 60 "$scratch/$1.log"
        return 1
    fi
}

for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
        wait -n || true
    done
    { one "$target" || touch "$scratch/failed"; } &
done
wait
[ ! -e "$scratch/failed" ]
