#!/usr/bin/env bash
# What litestream does beside a daemon, and the daemon beside litestream: docs/operations.md tells what this shows, and it fails
# when that is no longer so. Not a part of CI: it is about another program, which takes minutes to build.
#
#   litestream.sh SAGAD LITESTREAM
set -euo pipefail
sagad=$1
litestream=$2
work=$(mktemp -d)
pids=()
ended() {
    kill -KILL "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap ended EXIT
say() { printf '  - %s\n' "$*"; }
fail() { echo "FAILED: $*" >&2; tail -n 5 "$work"/*.log >&2; exit 1; }

# serve NAME: a daemon on the store NAME, with a log of at most 4 MiB; its address is in $address, if it comes to serve.
serve() {
    "$sagad" serve --listen 127.0.0.1:0 --data "$work/$1" --max-wal-bytes 4MiB >"$work/$1.out" 2>"$work/$1.log" &
    daemon=$!
    pids+=("$daemon")
    for ((i = 0; i < 300; i++)); do
        address=$(sed -n 's/^sagad: serving gRPC on //p' "$work/$1.out")
        if [[ -n $address ]]; then return; fi
        kill -0 "$daemon" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
# The largest that the log of NAME gets under load.
load() {
    "$sagad" bench --server "http://$address" --mode create --duration 20s --warmup 0s -o json >"$work/bench.json" &
    local bench=$! bytes largest=0
    while kill -0 "$bench" 2>/dev/null; do
        bytes=$(stat -c %s "$work/$1/sagad.db-wal" 2>/dev/null || echo 0)
        ((bytes <= largest)) || largest=$bytes
        sleep 0.1
    done
    wait "$bench"
    echo "$largest"
}

serve alone || fail "no daemon"
alone=$(load alone)
say "alone: the log grew to $alone bytes"
# A batch may be added before it is begun anew.
((alone <= 8 << 20)) || fail "the log is not bounded though nothing holds it"

serve beside || fail "no daemon"
cat >"$work/litestream.yml" <<EOF
dbs:
  - path: $work/beside/sagad.db
    replica: {type: file, path: $work/replica, sync-interval: 1s}
EOF
"$litestream" replicate -config "$work/litestream.yml" >"$work/litestream.log" 2>&1 &
replicator=$!
pids+=("$replicator")
sleep 3
beside=$(load beside)
say "beside litestream: the log grew to $beside bytes"

sleep 3
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
if serve beside; then started=yes; else started=no; fi
say "killed, and started again while litestream runs: $started"
if [[ $started == no ]]; then say "it says: $(tail -n 1 "$work/beside.log")"; fi
say "tables of its own: $(sqlite3 "$work/beside/sagad.db" "SELECT group_concat(name) FROM sqlite_schema WHERE name LIKE '%litestream%'")"

kill -INT "$replicator"
wait "$replicator" 2>/dev/null || true
if [[ $started == no ]]; then
    serve beside || fail "it does not start after litestream has ended either"
fi
"$litestream" restore -config "$work/litestream.yml" -o "$work/copy.db" "$work/beside/sagad.db" >"$work/restore.log" 2>&1 ||
    fail "litestream does not restore"
if "$sagad" restore "$work/copy.db" --data "$work/restored" >"$work/sagad-restore.log" 2>&1; then restored=yes; else restored=no; fi
say "a store is made of what litestream restores: $restored, $(tail -n 1 "$work/sagad-restore.log")"

if [[ $started == yes ]]; then
    fail "litestream is no longer in the way of a daemon: say so in docs/operations.md"
fi
echo "litestream does not work with sagad, as docs/operations.md tells"
