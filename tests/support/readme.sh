#!/usr/bin/env bash
# Runs the `sh` blocks of a page, in order and in one shell, as a reader would who pastes them one by one,
# and compares what each prints with the `json` or `text` block that follows it.
#
#   readme.sh PAGE ADDRESS    a coordinator serves at ADDRESS (host:port); sagad, grpcurl and jq are on PATH
set -euo pipefail
page=$1
address=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One file per block: 01.sh, 01.expected, 02.sh, …
awk -v dir="$work" -v address="$address" '
    /^```/ && !inside {
        inside = 1
        language = substr($0, 4)
        if (language == "sh") { out = sprintf("%s/%02d.sh", dir, ++n); printf "" >out; open = n }
        else if ((language == "json" || language == "text") && open) { out = sprintf("%s/%02d.expected", dir, open); open = 0 }
        else { out = ""; open = 0 }
        next
    }
    /^```/ { inside = 0; if (out) close(out); out = ""; next }
    inside && out { gsub(/127\.0\.0\.1:7420/, address); print >out }
' "$page"
blocks=("$work"/*.sh)
if [[ ! -e ${blocks[0]} ]]; then
    echo "no sh block found in $page" >&2
    exit 1
fi

export SAGAD_SERVER=http://$address
failed=0
for block in "${blocks[@]}"; do
    code=0
    # Sourced, as what one block defines is used by later ones. A reader's shell goes on after a command that fails.
    set +eu +o pipefail
    # shellcheck disable=SC1090 # that the file is not known before is the point
    source "$block" >"$work/printed" 2>&1 || code=$?
    set -eu -o pipefail
    expected=${block%.sh}.expected
    if [[ ! -e $expected ]]; then
        # Nothing is shown, so nothing is to be printed.
        : >"$expected"
    fi
    if ((code)) || ! cmp -s "$expected" "$work/printed"; then
        failed=1
        echo "--- this block of $page ended with exit code $code:"
        cat "$block"
        echo "--- shown on the page (-), printed (+):"
        diff -u "$expected" "$work/printed" || true
        # What comes after builds on it.
        break
    fi
done >&2
if ((failed)); then exit 1; fi
echo "${#blocks[@]} blocks did as $page says"
