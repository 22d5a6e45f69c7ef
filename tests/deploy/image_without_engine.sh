#!/usr/bin/env bash
# Runs the image's file system without a container engine: read-only but for /data, as the image's user, with no program in
# it but sagad, no /proc, no network but loopback. As root.
#
#   image_without_engine.sh DIRECTORY      what deploy/docker/build made
set -euo pipefail
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/copies"
chown 65532:65532 "$work/copies"

# The mounts end with the namespace, and so do all its processes.
unshare --mount --net --ipc --pid --fork --kill-child bash -euo pipefail -s "$out" "$work" <<'INSIDE'
out=$1 work=$2
ip link set lo up
root=$work/root
mkdir "$root"
mount --bind "$out" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o size=64m,uid=65532,gid=65532,mode=0700 data "$root/data"
# Without any environment env itself would not find it.
chroot=$(command -v chroot)
inside=(env -i SAGAD_DATA=/data SAGAD_OPS_LISTEN=127.0.0.1:7421 "$chroot" --userspec=65532:65532 "$root" /sagad)
alone() { "${inside[@]}" "$@"; }

if touch "$root/written" 2>/dev/null; then echo "the root can be written to" >&2; exit 1; fi
"${inside[@]}" serve >"$work/stdout" 2>"$work/log" &
daemon=$!
for ((i = 0; i < 300; i++)); do
    if alone --server http://127.0.0.1:7421 health >/dev/null 2>&1; then break; fi
    sleep 0.1
done
alone --server http://127.0.0.1:7421 health | grep -qx serving || { cat "$work/log" >&2; exit 1; }
alone create --task-id alone >/dev/null
alone claim alone --owner nobody -o json | grep -q SAGA_STATE_RUNNING
alone backup /data/copy.db >/dev/null
alone restore /data/copy.db --data /data/again >/dev/null
alone check --data /data/again >/dev/null
[[ $(stat -c '%u:%g %a' "$root/data/sagad.db") == "65532:65532 600" ]]
kill -TERM "$daemon"
wait "$daemon"
INSIDE
