#!/usr/bin/env bash
# Makes the corpus anew: of the requests that the tests send, of what is in it already and of FOUND, the inputs that reach
# something which no smaller one reaches.
#
#   fuzz/seeds.sh [FOUND]   FOUND: a directory as `.ci/fuzz` fills it (FUZZ_FOUND)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly FLAGS=(--sanitizer none --no-cfg-fuzzing --codegen-units 16 --target-dir target/fuzz)
work=$(mktemp -d)
SAGAD_SEEDS=$work/captured cargo test --locked --features fuzzing --test contract wire::
# The first byte of an input says which request it is, by its place among those that `fuzz/src/requests.rs` lists.
mkdir -p "$work/corpus/requests"
place=0
while read -r request; do
    for seed in "$work/captured/$request"/*; do
        [[ -f $seed ]] || { echo "no test sends a $request"; continue; }
        { printf '%b' "\\x$(printf '%02x' "$place")"; cat "$seed"; } >"$work/corpus/requests/$request-${seed##*/}"
    done
    place=$((place + 1))
done < <(sed -n '/^rpcs! {/,/^}/p' fuzz/src/requests.rs | grep -oE '\b[A-Za-z]+Request\b')
for target in $(cargo fuzz list); do
    mkdir -p "$work/corpus/$target" "fuzz/corpus/$target"
    if [[ -d ${1:-}/$target ]]; then cp -r "$1/$target/." "$work/corpus/$target/"; fi
    cp -r "fuzz/corpus/$target/." "$work/corpus/$target/"
    cargo fuzz cmin "${FLAGS[@]}" "$target" "$work/corpus/$target"
    # Some tens, of all sizes: the rest is soon found again.
    step=$(($(find "$work/corpus/$target" -type f | wc -l) / 60 + 1))
    rm -rf "fuzz/corpus/$target" && mkdir -p "fuzz/corpus/$target"
    find "$work/corpus/$target" -type f -printf '%s %p\n' | sort -n | awk -v step="$step" 'NR % step == 0' |
        while read -r _ path; do cp "$path" "fuzz/corpus/$target/$(sha1sum <"$path" | cut -c 1-16)"; done
done
