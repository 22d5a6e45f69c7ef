# shellcheck shell=bash
# What `benches/compare`, `benches/goals` and `benches/growth` share; each sources it from the repository's root.

# Tells people, with the seconds since the beginning.
say() { printf '==> [%4d s] %s\n' "$SECONDS" "$*" >&2; }

# usage FILE prints the comment at a script's head, and ends.
usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$1" >&2
    exit 2
}

# packages COMMAND=PACKAGE … has those installed whose commands are not there.
packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/${pair%%=*}" >/dev/null ||
            missing+=("${pair#*=}")
    done
    if ((${#missing[@]} == 0)); then return; fi
    if ((EUID != 0)); then
        echo "install ${missing[*]}" >&2
        exit 1
    fi
    say "installing ${missing[*]}"
    apt-get update -q >&2
    # RUNLEVEL: the packages' own servers are not started.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# build_sagad sets `target`, the directory of what is built, and `sagad`, the binary that is measured: SAGAD, or it is built.
build_sagad() {
    target=$(cargo metadata --format-version 1 --no-deps --locked | jq -r .target_directory)
    # shellcheck disable=SC2034 # for whoever sources this
    sagad=${SAGAD:-$target/dist/sagad}
    if [[ -z ${SAGAD:-} ]]; then
        say "building sagad"
        cargo build --profile dist --locked >&2
    fi
}
