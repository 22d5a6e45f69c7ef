# shellcheck shell=bash
# What the peers' scripts share; each sources it, begins its server, stores its tasks and prints a line of JSON for each number
# of clients. From the environment, set by `benches/compare`:
#   TASKS     tasks stored before the first measurement
#   CLIENTS   numbers of clients, each measured, such as "1 16 64 256"
#   LENGTH    seconds of each measurement
#   DIR       an empty directory on the disk that is measured
#   DRIVER    the built peers-driver
#   GO        where `build-go` has put etcd and Temporal
set -euo pipefail
: "${TASKS:?}" "${CLIENTS:?}" "${LENGTH:?}" "${DIR:?}" "${DRIVER:?}" "${GO:?}"
server=

# A port that nobody listens on.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# listening PORT waits until somebody does.
listening() {
    local try
    for ((try = 0; try < 600; try++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    echo "nobody listens on port $1" >&2
    return 1
}

# Ends the server, by its process id.
stop() {
    [[ -n $server ]] || return 0
    kill -TERM "$server" 2>/dev/null || true
    # A server that is not our child can't be waited for.
    wait "$server" 2>/dev/null || while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
    server=
}
trap stop EXIT

# measured PEER CLIENTS OPS [MEASURE CONNECTIONS] prints one result.
measured() {
    printf '{"side":"%s","measure":"%s","clients":%d,"connections":%d,"ops_per_s":%s}\n' "$1" "${4:-cycle}" "$2" "${5:-$2}" "$3"
}

# each PEER PORT has the driver measure each number of clients. Tasks begin at a number of their own each time.
each() {
    local clients ops first=1 share
    share=$((TASKS / $(wc -w <<<"$CLIENTS")))
    for clients in $CLIENTS; do
        ops=$("$DRIVER" "$1" run "$2" "$first" "$clients" "$LENGTH")
        measured "$1" "$clients" "$ops"
        first=$((first + share))
    done
}
