#!/usr/bin/env bash
# The Debian package on a Debian that boots: installed, run by its units as they stand, killed, hung, backed up, restored,
# upgraded, removed. Run inside of a throwaway container by .ci/deploy, as root, with systemd; never on a machine of anyone's.
#
#   package_on_debian.sh PACKAGE.deb
set -euo pipefail
package=$1

say() { printf '  - %s\n' "$*"; }
fail() {
    echo "FAILED: $*" >&2
    systemctl status --no-pager --full sagad sagad-backup >&2 || true
    journalctl --no-pager -u sagad -u sagad-backup | tail -n 60 >&2 || true
    exit 1
}
# A command that fails ends the trial; what the units say of it is the reason as a rule.
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
# eventually WHAT COMMAND…: waits until the command succeeds.
eventually() {
    local what=$1
    shift
    for ((i = 0; i < 600; i++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "waited in vain: $what"
}
property() { systemctl show --value --property "$2" "$1"; }
restarts() { property sagad NRestarts; }
restarted_since() { (($(restarts) > $1)) && systemctl is-active --quiet sagad; }
state() { sagad get "$1" -o json | grep -o '"state": *"[A-Z_]*"' | grep -o 'SAGA_[A-Z_]*'; }

say "installed: enabled and started, and it told systemd that it serves"
dpkg --install "$package" >/dev/null
systemctl is-enabled --quiet sagad || fail "not enabled"
systemctl is-active --quiet sagad || fail "not started"
[[ $(property sagad StatusText) == "serving gRPC on 127.0.0.1:7420" ]] || fail "status: $(property sagad StatusText)"
! systemctl is-enabled --quiet sagad-backup.timer || fail "backups are for who wants them"
sagad health | grep -qx serving || fail "not serving"

say "it runs as its own user, and only that one can read the store"
pid=$(property sagad MainPID)
[[ $(stat -c %U "/proc/$pid") == sagad ]] || fail "runs as $(stat -c %U "/proc/$pid")"
[[ $(stat -c '%U %a' /var/lib/sagad) == "sagad 700" ]] || fail "$(stat -c '%U %a' /var/lib/sagad)"
[[ $(stat -c '%U %a' /var/lib/sagad/sagad.db) == "sagad 600" ]] || fail "$(stat -c '%U %a' /var/lib/sagad/sagad.db)"
for line in "NoNewPrivs:.1" "Seccomp:.2" "CapBnd:.0000000000000000"; do
    grep -qP "^$line" "/proc/$pid/status" || fail "not confined: $line"
done

say "killed, it is started again, with what it acknowledged"
sagad create --task-id kept --compensate undo=it >/dev/null
before=$(restarts)
kill -KILL "$pid"
eventually "started again after kill -9" restarted_since "$before"
[[ $(state kept) == SAGA_STATE_PLANNED ]] || fail "the saga is $(state kept)"

say "hung, the watchdog has it started again"
mkdir -p /run/systemd/system/sagad.service.d
printf '[Service]\nWatchdogSec=3s\n' >/run/systemd/system/sagad.service.d/trial.conf
systemctl daemon-reload
systemctl restart sagad
before=$(restarts)
# Idle, it stays: it tells that its writer turns.
sleep 5
[[ $(restarts) == "$before" ]] || fail "restarted without a reason"
kill -STOP "$(property sagad MainPID)"
eventually "started again after a hang" restarted_since "$before"
journalctl -u sagad | grep -q "Watchdog timeout" || fail "it was not the watchdog"
rm -r /run/systemd/system/sagad.service.d
systemctl daemon-reload
systemctl restart sagad

say "backed up, by the unit of the timer"
systemctl start sagad-backup
copies=(/var/lib/sagad-backup/sagad-*.db)
[[ -s ${copies[0]} && $(stat -c '%U %a' "${copies[0]}") == "sagad 600" ]] || fail "no copy: ${copies[*]}"

say "secured, as docs/how-to/deploy.md says; reloaded without a restart; backed up with a token"
cp -a /etc/sagad/sagad.toml /tmp/open.toml
# jo is made now, ann after the start.
sagad token jo --role admin --out /etc/sagad/backup.token 2>/etc/sagad/principals.toml
cp /certificates/{ca,server}.crt /certificates/server.key /etc/sagad/
chown root:sagad /etc/sagad/{server.key,principals.toml,backup.token}
chmod 640 /etc/sagad/{server.key,principals.toml,backup.token}
cat >>/etc/sagad/sagad.toml <<'END'
tls_cert = "/etc/sagad/server.crt"
tls_key = "/etc/sagad/server.key"
principals = "/etc/sagad/principals.toml"
END
cat >/etc/sagad/client.env <<'END'
SAGAD_SERVER=https://127.0.0.1:7420
SAGAD_CA=/etc/sagad/ca.crt
SAGAD_TOKEN_FILE=/etc/sagad/backup.token
END
systemctl restart sagad
# shellcheck source=/dev/null
secured() (
    set -a
    source /etc/sagad/client.env
    "$@"
)
! sagad stats >/dev/null 2>&1 || fail "it answers without TLS"
! secured env -u SAGAD_TOKEN_FILE sagad stats >/dev/null 2>&1 || fail "it answers without a token"
secured sagad stats >/dev/null || fail "it does not answer a token"
pid=$(property sagad MainPID)
sagad token ann --role reader --out /root/ann.token 2>>/etc/sagad/principals.toml
systemctl reload sagad
eventually "a principal of after the start" secured sagad stats --token-file /root/ann.token
[[ $(property sagad MainPID) == "$pid" ]] || fail "reloading restarted it"
rm /var/lib/sagad-backup/*
systemctl start sagad-backup
copies=(/var/lib/sagad-backup/sagad-*.db)
[[ -s ${copies[0]} ]] || fail "no copy with a token: ${copies[*]}"
cp -a /tmp/open.toml /etc/sagad/sagad.toml
rm /etc/sagad/client.env
systemctl restart sagad

say "lost, and restored from the copy"
systemctl stop sagad
[[ $(property sagad Result) == success && $(property sagad ExecMainStatus) == 0 ]] || fail "it did not end well"
rm /var/lib/sagad/*
runuser -u sagad -- sagad restore "${copies[0]}" --data /var/lib/sagad >/dev/null
systemctl start sagad
[[ $(state kept) == SAGA_STATE_PLANNED ]] || fail "the saga is $(state kept)"

say "a wrong configuration says so, and is not tried again and again"
cp /etc/sagad/sagad.toml /tmp/sagad.toml
echo 'no_such_key = 1' >>/etc/sagad/sagad.toml
! systemctl restart sagad 2>/dev/null || fail "started with a wrong configuration"
[[ $(property sagad ExecMainStatus) == 2 ]] || fail "exit status $(property sagad ExecMainStatus)"
journalctl -u sagad | grep -q no_such_key || fail "the journal does not name the key"
cp /tmp/sagad.toml /etc/sagad/sagad.toml
systemctl start sagad

say "upgraded: restarted, and what was configured stays"
sed -i 's/^#drain_grace = .*/drain_grace = "20s"/' /etc/sagad/sagad.toml
pid=$(property sagad MainPID)
dpkg --install "$package" >/dev/null
eventually "serving after the upgrade" sagad health
[[ $(property sagad MainPID) != "$pid" ]] || fail "not restarted"
grep -q '^drain_grace = "20s"$' /etc/sagad/sagad.toml || fail "the configuration was replaced"
[[ $(state kept) == SAGA_STATE_PLANNED ]] || fail "the saga is $(state kept)"

say "removed: stopped, with configuration and store left; purged: the store still left, until it is said"
dpkg --remove sagad >/dev/null
! systemctl is-active --quiet sagad || fail "still runs"
[[ -e /etc/sagad/sagad.toml && -e /var/lib/sagad/sagad.db ]] || fail "removing removed too much"
dpkg --purge sagad >/dev/null 2>&1
[[ ! -e /etc/sagad/sagad.toml && -e /var/lib/sagad/sagad.db ]] || fail "purging removed too much, or too little"
! systemctl is-active --quiet sagad-backup.timer || fail "the timer outlives the package"
dpkg --install "$package" >/dev/null
! systemctl is-active --quiet sagad-backup.timer || fail "a purge forgets that the timer was wanted"
systemctl enable --quiet --now sagad-backup.timer
dpkg --remove sagad >/dev/null
dpkg --install "$package" >/dev/null
systemctl is-active --quiet sagad-backup.timer || fail "the timer is not started with the package"
SAGAD_PURGE_DATA=yes dpkg --purge sagad >/dev/null 2>&1
[[ ! -e /var/lib/sagad ]] || fail "the store is left though it was said"
[[ -n $(ls /var/lib/sagad-backup) ]] || fail "purging took the backups"
echo "the package is as it should be"
