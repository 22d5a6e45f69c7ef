# What is done often. `just --list` shows it.

# Tools that `.ci/run` has installed are found here, as it finds them
export PATH := env("SAGAD_CI_TOOLS", env("HOME") / ".cache/sagad-ci") / "bin:" + env("PATH")

# The recipes that there are
default:
    @just --list

# Exactly what CI runs: looks, and changes no source
verify:
    .ci/run

# Formats, and repairs what can be repaired without a decision
fix:
    cargo fmt
    cargo fmt --manifest-path fuzz/Cargo.toml
    cargo fmt --manifest-path examples/rust/Cargo.toml
    cargo clippy --fix --allow-dirty --allow-staged --all-targets --locked
    buf format -w proto

# The tests, or those whose name contains NAME
test *NAME:
    cargo test --locked {{ NAME }}

# The tests that `cargo test` leaves out, or those of them whose name contains NAME
slow *NAME:
    .ci/slow {{ NAME }}

# Formatting and lints only
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    buf lint proto
    buf breaking proto --against proto/baseline.binpb
    cargo fmt --check --manifest-path fuzz/Cargo.toml
    cargo fmt --check --manifest-path examples/rust/Cargo.toml
    shellcheck -x .ci/run .ci/slow .ci/mutants .ci/fuzz .ci/instructions .ci/deploy examples/*.sh fuzz/*.sh tests/support/*.sh \
        benches/compare benches/goals benches/growth benches/lib.sh benches/peers/beanstalkd benches/peers/build-go \
        benches/peers/etcd benches/peers/postgres benches/peers/redis benches/peers/temporal \
        deploy/dist deploy/docker/build deploy/debian/postinst deploy/debian/postrm deploy/systemd/sagad-rotate-backups \
        tests/deploy/*.sh

# The workers of the languages named (all) through the situations named (all): `just polyglot python,go killed`
polyglot LANGUAGES="" SITUATIONS="":
    POLYGLOT={{ LANGUAGES }} POLYGLOT_ONLY={{ SITUATIONS }} cargo test --locked --test polyglot -- --nocapture

# Fuzzes each target for SECONDS; cargo-fuzz is found where `.ci/run` has installed it
fuzz SECONDS="10":
    FUZZ_SECONDS={{ SECONDS }} .ci/fuzz

# The Debian package, in target/debian; needs cargo-deb
package:
    cargo build --profile dist --locked
    deploy/dist target/dist/sagad target/package
    cargo deb --profile dist --no-build --strip

# Checks what is in deploy/ by doing it, all of it or the parts named (units dist package image kubernetes compose); as root
deploy *PARTS:
    cargo build --profile dist --locked
    .ci/deploy {{ PARTS }}

# The pages of docs/ as a book, in target/book; mdbook is found where `.ci/run` has installed it
book:
    mdbook build

# Makes the contract as it is now the one that `buf breaking` guards: after an extension, never to get a breakage through
baseline:
    buf build proto --exclude-source-info -o proto/baseline.binpb

# The coordinator on 127.0.0.1:7420, with its data in ./sagad-data
serve *FLAGS:
    cargo run --release -- serve {{ FLAGS }}

# The benches of the rules, the codec and the writer, or those whose name contains NAME; whole systems: `sagad bench`
bench *NAME:
    cargo bench --profile dist --locked --bench rules --bench codec --bench writer -- {{ NAME }}

# sagad and its peers in turn on this machine, as one table
compare *FLAGS:
    benches/compare {{ FLAGS }}

# The goals of docs/explanation/performance.md on this machine, or some of them: `just goals --quick s9 s12`
goals *PARTS:
    benches/goals {{ PARTS }}
