#!/usr/bin/env bash
# Boots a Debian with systemd in a container without a network, runs a command in it, and ends with that command's exit code.
#
#   boot_debian.sh ROOT COMMAND…     ROOT: the file system; it is changed. As root.
set -euo pipefail
root=$1
shift

cat >"$root/etc/systemd/system/trial.service" <<EOF
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=file:/trial.log
StandardError=file:/trial.log
TimeoutStartSec=300
ExecStart=/bin/sh -c '$*; echo \$? >/trial.code'
ExecStopPost=/bin/systemctl --no-block poweroff
EOF
mkdir -p "$root/etc/systemd/system/default.target.wants"
ln -sf ../trial.service "$root/etc/systemd/system/default.target.wants/trial.service"
rm -f "$root"/trial.{log,code} "$root/etc/systemd/system/default.target"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
# Not registered: there is no systemd outside that it could be registered with.
timeout --kill-after=10 400 systemd-nspawn --quiet --register=no --keep-unit --private-network --console=pipe \
    --directory="$root" --boot </dev/null >"$root/boot.log" 2>&1 || true
cat "$root/trial.log" || tail -n 50 "$root/boot.log"
exit "$(cat "$root/trial.code" || echo 1)"
