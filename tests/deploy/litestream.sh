#!/usr/bin/env bash
# Why litestream is not used beside a daemon, with settings that bound its log (litestream.yml): docs/how-to/backup.md tells
# what this shows, and it fails when that is no longer so. Not a part of CI: it is about another program, which takes minutes
# to build.
#
#   litestream.sh SAGAD LITESTREAM
set -euo pipefail
settings=$(realpath "$(dirname "$0")/litestream.yml")
sagad=$1
litestream=$2
# Sagas of 45 kB in the store that the backups are made of: 360 MB.
readonly LARGE=8000
# Seconds after which an acknowledged change has to be on the replica: the intervals of litestream.yml, and a slow machine.
readonly MARGIN=5
work=$(mktemp -d)
pids=()
ended() {
    kill -KILL "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap ended EXIT
say() { printf '  - [%4d s] %s\n' "$SECONDS" "$*"; }
fail() { echo "FAILED: $*" >&2; tail -n 5 "$work"/*.log >&2; exit 1; }
no_longer() { fail "$*: say so in docs/how-to/backup.md"; }

# serve NAME: a daemon on the store NAME; its address is in $SAGAD_SERVER, if it comes to serve.
serve() {
    : >"$work/$1.out"
    "$sagad" serve --listen 127.0.0.1:0 --data "$work/$1" >"$work/$1.out" 2>"$work/$1.log" &
    daemon=$!
    pids+=("$daemon")
    local address
    for ((i = 0; i < 300; i++)); do
        address=$(sed -n 's/^sagad: serving gRPC on //p' "$work/$1.out")
        if [[ -n $address ]]; then
            export SAGAD_SERVER=http://$address
            return
        fi
        kill -0 "$daemon" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
# replicate STORE REPLICA: goes on with the replica, if it is there.
replicate() {
    export STORE=$work/$1 REPLICA=$work/$2
    "$litestream" replicate -config "$settings" >>"$work/$2.log" 2>&1 &
    replicator=$!
    pids+=("$replicator")
    sleep 2
}
stop() {
    kill "-$1" "$2"
    wait "$2" 2>/dev/null || true
}
create() {
    for ((i = 0; i < $2; i++)); do "$sagad" create --task-id "$1-$i" >/dev/null; done
}
# A store of the replica that was last written to; in $work/NAME-restored, with what is said of it in $work/NAME.said.
restored() {
    "$litestream" restore -config "$settings" -o "$work/$1-copy.db" "$STORE/sagad.db" >"$work/$1-copy.log" 2>&1 ||
        fail "litestream does not restore"
    "$sagad" restore "$work/$1-copy.db" --data "$work/$1-restored" >"$work/$1.said" 2>&1
}

say "both ended, the daemon started again, then litestream, which goes on with its replica"
serve small || fail "no daemon"
replicate small first
create a 40
# Not longer: in a store at rest litestream begins the log anew, and notices.
sleep 2
stop KILL "$daemon"
stop TERM "$replicator"
serve small || fail "no daemon"
create b 20
replicate small first
create c 20
sleep "$MARGIN"
if restored first; then no_longer "what was written while litestream did not run is in its replica"; fi
grep -q "is damaged" "$work/first.said" || fail "it is not restored for another reason"
say "$(sed 's/^.*copy.db //' "$work/first.said")"

say "the same with a replica of its own for each start"
stop TERM "$replicator"
"$litestream" reset -config "$settings" "$STORE/sagad.db" >"$work/reset.log" 2>&1
replicate small second
create d 20
sleep "$MARGIN"
restored second || fail "that is damaged, too: $(cat "$work/second.said")"
"$sagad" check --data "$work/second-restored" >"$work/check.said" || fail "$(cat "$work/check.said")"
say "$(sed 's/^.*: //' "$work/check.said")"

say "the daemon killed, and started again while litestream runs"
stop KILL "$daemon"
if serve small; then no_longer "it starts while litestream runs"; fi
grep -q "another process reads the database" "$work/small.log" || fail "it does not start for another reason"
say "$(tail -n 1 "$work/small.log" | sed "s|$work/||")"
stop TERM "$replicator"

say "a store of some size, under load, of which backups are made"
serve large || fail "no daemon"
payload=$(head -c 45000 /dev/urandom | base64 -w 0)
for ((i = 0; i < LARGE; i++)); do printf '{"taskId":"large-%d","payload":"%s"}\n' "$i" "$payload"; done |
    "$sagad" create --from - >"$work/create.log" 2>&1
[[ -n ${WITHOUT_LITESTREAM:-} ]] || replicate large third
"$sagad" bench --server "$SAGAD_SERVER" --mode create --clients 16 --duration 60s --warmup 0s -o json >"$work/bench.json" &
bench=$!
pids+=("$bench")
while kill -0 "$bench" 2>/dev/null && kill -0 "$daemon" 2>/dev/null; do
    rm -f "$work/backup.db"
    "$sagad" backup "$work/backup.db" >"$work/backup.log" 2>&1 || true
done
if kill -0 "$daemon" 2>/dev/null; then no_longer "the daemon goes on beside litestream"; fi
grep -q "the store failed: database is locked" "$work/large.log" || fail "it ended for another reason"
say "the daemon ended: $(tail -n 1 "$work/large.log" | cut -d. -f1)"
[[ ! -e $work/third.log ]] || say "litestream: $(grep -c 'forcing truncate' "$work/third.log") forced checkpoints"

echo "litestream does not work with sagad, as docs/how-to/backup.md tells"
