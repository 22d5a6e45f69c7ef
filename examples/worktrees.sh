#!/usr/bin/env bash
# Twenty branches, four workers, one of which is killed in the middle: who cleans up?
#
# A git repository with a real history gets a saga for each of twenty branches. Each saga names what it will leave behind: a
# worktree and a branch, with the compensations that remove them. Four `sagad work` processes add a worktree each, run a
# command in it, merge the result and clean up after themselves. One of them is killed with -9 half way; what it started goes
# on as an orphan. `sagad compensate --stale` learns of it when the lease runs out, stops the orphan and undoes what it left.
#
# Ends with 0 only if no worktree and no branch is left over, no saga was run by two owners at once, and no saga of a dead
# worker waited longer than its ttl plus one second.
#
#   SAGAD   the sagad binary (default: on PATH, else the one that cargo built in this checkout)
#   KEEP    set: the directory with repository, logs and ledger is kept
set -euo pipefail

readonly SAGAS=20 WORKERS=4 VICTIM=worker-2 TTL_S=3 PATIENCE_S=240
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/sagad-worktrees.XXXXXX")
export LEDGER=$dir/ledger REPO=$dir/repo TRUNK=$dir/trunk TREES=$dir/trees HOLD=$dir/hold HALFWAY=$dir/halfway
export VICTIM

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf '\nFAILED: %s\n' "$*" >&2
    tail -n 20 "$dir"/*.log >&2 2>/dev/null || true
    exit 1
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# ---------------------------------------------------------------------------------------------------------------- cleanup

pids=()
cleanup() {
    local pid file
    rm -f "$HOLD"
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for file in "$dir"/trees/*.pid; do
        if [[ -e $file ]]; then "$dir/stop-orphan" "$file" || true; fi
    done
    for pid in "${pids[@]}"; do
        # The grace that the daemon takes for itself, and a little more.
        for ((i = 0; i < 120; i++)); do
            if gone "$pid"; then break; fi
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n ${KEEP:-} ]]; then echo "kept: $dir"; else rm -rf "$dir"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# until_true WHAT COMMAND… waits until the command succeeds.
until_true() {
    local what=$1 end=$((SECONDS + PATIENCE_S))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "waited $PATIENCE_S s in vain until $what"
        sleep 0.05
    done
}

# ------------------------------------------------------------------------------------------------------------- the binary

if [[ -z ${SAGAD:-} ]]; then
    for SAGAD in "$(command -v sagad || true)" "$root/target/release/sagad" "$root/target/debug/sagad"; do
        if [[ -x $SAGAD ]]; then break; fi
    done
fi
[[ -x $(command -v "$SAGAD" || true) ]] || fail "no sagad found: build it, or set SAGAD"
for tool in git jq flock; do command -v "$tool" >/dev/null || fail "$tool is needed"; done

# ---------------------------------------------------------------------------------------------------------- the repository

# Nothing of the caller's git gets in: no hooks, no signing, no enclosing repository.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_OBJECT_DIRECTORY GIT_PREFIX
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=worktrees GIT_AUTHOR_EMAIL=worktrees@example.org
export GIT_COMMITTER_NAME=worktrees GIT_COMMITTER_EMAIL=worktrees@example.org

say "a repository with a history"
if [[ $(git -C "$root" rev-parse --show-toplevel 2>/dev/null) == "$root" &&
    $(git -C "$root" rev-parse --is-shallow-repository 2>/dev/null) == false ]]; then
    git clone --quiet --no-tags "$root" "$REPO"
    echo "cloned $root"
else
    # A shallow checkout or an unpacked archive: nothing to clone.
    git init --quiet "$REPO"
    for name in clock store service; do
        printf '# %s\n' "$name" >"$REPO/$name.md"
        git -C "$REPO" add -A
        git -C "$REPO" commit --quiet -m "$name: begin"
        printf 'What the %s does.\n' "$name" >>"$REPO/$name.md"
        git -C "$REPO" commit --quiet -am "$name: say what it does"
    done
    echo "no full checkout at $root: made one"
fi
# The clone's own worktree is on no branch, so that `trunk` can be checked out in another one, where work is merged.
git -C "$REPO" checkout --quiet --detach
git -C "$REPO" worktree add --quiet -b trunk "$TRUNK"
git -C "$TRUNK" log --oneline | wc -l | xargs printf '%s commits\n'
mkdir "$TREES"
: >"$LEDGER"

# ------------------------------------------------------------------------------------------ the work, and what undoes it

# Who did what, to which saga, when. Each line is appended whole.
cat >"$dir/note" <<'SCRIPT'
#!/usr/bin/env bash
# note TASK_ID WHAT WHO
line="$1 $2 $3 $(date +%s%N)"
exec 8>>"$LEDGER"
flock 8
echo "$line" >&8
SCRIPT

cat >"$dir/job" <<'SCRIPT'
#!/usr/bin/env bash
# The work of one saga, as `sagad work` runs it.
set -euo pipefail
here=$(dirname "$0")
# Before the first effect: who is at it, so that whoever undoes it can stop us first.
echo "$$ $SAGAD_TASK_ID $SAGAD_TOKEN" >"$SAGAD_WORKTREE.pid"
"$here/note" "$SAGAD_TASK_ID" start "$SAGAD_OWNER/$SAGAD_TOKEN"

# git's worktrees and refs belong to all of them: one at a time.
exec 9>"$REPO.lock"
flock 9
git -C "$REPO" worktree add --quiet -b "$SAGAD_BRANCH" "$SAGAD_WORKTREE" trunk
exec 9>&-

cd "$SAGAD_WORKTREE"
mkdir -p reports
{
    echo "# $SAGAD_BRANCH"
    git log --format='%an' | sort | uniq -c
    # sed reads to the end: a `head` that stops early would end `sort` by a signal, and so the job.
    git grep -I -c '' | sort -t: -k2,2nr | sed -n 1,5p
} >"reports/$SAGAD_ISSUE.md"
git add -A
git commit --quiet -m "reports: issue $SAGAD_ISSUE"

# One worker's work takes long, and is in the middle of it when the worker is killed. The orphan writes on.
if [[ $SAGAD_OWNER == "$VICTIM" && -e $HOLD ]]; then
    echo "$SAGAD_TASK_ID" >"$HALFWAY.new"
    mv "$HALFWAY.new" "$HALFWAY"
    while [[ -e $HOLD ]]; do
        date >>"reports/$SAGAD_ISSUE.md"
        sleep 0.05
    done
fi
sleep 0.2

exec 9>"$REPO.lock"
flock 9
git -C "$TRUNK" merge --quiet --no-ff -m "merge $SAGAD_BRANCH" "$SAGAD_BRANCH"
cd /
git -C "$REPO" worktree remove --force "$SAGAD_WORKTREE"
git -C "$REPO" branch --quiet -D "$SAGAD_BRANCH"
exec 9>&-
"$here/note" "$SAGAD_TASK_ID" end "$SAGAD_OWNER/$SAGAD_TOKEN"
rm -f "$SAGAD_WORKTREE.pid"
SCRIPT

cat >"$dir/stop-orphan" <<'SCRIPT'
#!/usr/bin/env bash
# stop-orphan PIDFILE: kills the job that the file names, if it still runs, with all that it started. Notes that it is over.
set -euo pipefail
read -r pid task token <"$1"
# The number may be another process's by now.
is_the_job() { { tr '\0' '\n' <"/proc/$pid/environ"; } 2>/dev/null | grep -xF -e "SAGAD_TASK_ID=$task" >/dev/null; }
if is_the_job; then
    # Its process group too, if it leads one.
    kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
    while is_the_job; do sleep 0.01; done
fi
"$(dirname "$0")/note" "$task" over "orphan/$token"
rm -f "$1"
SCRIPT

cat >"$dir/remove-worktree" <<'SCRIPT'
#!/usr/bin/env bash
# A compensation may be run again after it was interrupted: it is about what is to be gone, not about what to do.
set -euo pipefail
here=$(dirname "$0")
# Whoever may hold the saga chose the target, and this acts with rights of its own: so it removes a worktree, and nothing else,
# wherever links and `..` lead.
target=$(realpath -m -- "$SAGAD_TARGET" 2>/dev/null || echo /)
if [[ $(dirname "$target") != "$(realpath -- "$TREES")" ]]; then
    echo "refused: '$SAGAD_TARGET' is no directory in $TREES" >&2
    exit 1
fi
task=$(basename "$target")
if [[ -e $target.pid ]]; then "$here/stop-orphan" "$target.pid"; fi
"$here/note" "$task" start "undo/$SAGAD_KIND"
exec 9>"$REPO.lock"
flock 9
rm -rf -- "$target"
git -C "$REPO" worktree prune
exec 9>&-
"$here/note" "$task" end "undo/$SAGAD_KIND"
SCRIPT

cat >"$dir/delete-branch" <<'SCRIPT'
#!/usr/bin/env bash
set -euo pipefail
# As above: the branches of this work, and no other.
if [[ $SAGAD_TARGET != work/* || $SAGAD_TARGET == *..* ]]; then
    echo "refused: '$SAGAD_TARGET' is no branch of this work" >&2
    exit 1
fi
exec 9>"$REPO.lock"
flock 9
if git -C "$REPO" show-ref --quiet --verify "refs/heads/$SAGAD_TARGET"; then
    git -C "$REPO" branch --quiet -D "$SAGAD_TARGET"
fi
SCRIPT
chmod +x "$dir"/{note,job,stop-orphan,remove-worktree,delete-branch}

# -------------------------------------------------------------------------------------------------------- the coordinator

say "the coordinator"
: >"$dir/serve.out"
"$SAGAD" serve --listen 127.0.0.1:0 --data "$dir/data" >"$dir/serve.out" 2>"$dir/serve.log" &
daemon=$!
pids+=("$daemon")
serving() {
    if gone "$daemon"; then fail "sagad serve ended"; fi
    grep -q '^sagad: serving gRPC on ' "$dir/serve.out"
}
until_true "the coordinator serves" serving
export SAGAD_SERVER
SAGAD_SERVER=http://$(sed -n '1s/^sagad: serving gRPC on //p' "$dir/serve.out")
echo "$SAGAD_SERVER"

say "$SAGAS sagas"
for ((n = 1; n <= SAGAS; n++)); do
    id=$(printf 'issue-%02d' "$n")
    # Undone in reverse: the worktree first, as git keeps a branch that is checked out.
    "$SAGAD" create --task-id "$id" --queue worktrees --issue "$n" --branch "work/$id" --worktree "$TREES/$id" \
        --compensate "delete-branch=work/$id" --compensate "remove-worktree=$TREES/$id" \
        --on-stale hold --settle 500ms >>"$dir/create.log"
done
"$SAGAD" stats

# ------------------------------------------------------------------------------------------------------- workers, recoverer

say "a watcher, a recoverer, $WORKERS workers; then $VICTIM is killed"
# Every stale saga, with the time at which the watcher heard of it.
"$SAGAD" watch --stale --after 0 -o json > >(
    while read -r line; do printf '%s %s\n' "$(date +%s%N)" "$line"; done >"$dir/stale"
) 2>"$dir/watch.log" &
pids+=("$!")
"$SAGAD" compensate --queue worktrees --stale --owner recoverer \
    --handler remove-worktree="'$dir/remove-worktree'" --handler delete-branch="'$dir/delete-branch'" \
    >"$dir/compensate.log" 2>&1 &
pids+=("$!")
: >"$HOLD"
workers=()
for ((n = 1; n <= WORKERS; n++)); do
    "$SAGAD" work --queue worktrees --owner "worker-$n" --ttl "${TTL_S}s" --drain -- "$dir/job" \
        >"$dir/worker-$n.log" 2>&1 &
    workers+=("$!")
    pids+=("$!")
    if [[ worker-$n == "$VICTIM" ]]; then
        victim=$!
        # Its death is no news to this shell.
        disown "$victim"
    fi
done

until_true "$VICTIM is in the middle of its work" test -e "$HALFWAY"
dead=$(<"$HALFWAY")
kill -KILL "$victim"
killed_ns=$(date +%s%N)
echo "killed $VICTIM in the middle of $dead; its orphan runs on"

for pid in "${workers[@]}"; do
    if [[ $pid == "$victim" ]]; then continue; fi
    until_true "the workers have nothing left to do" gone "$pid"
    wait "$pid" || fail "a worker ended with exit code $?"
done
all_ended() { [[ -z $("$SAGAD" list --queue worktrees --in-flight -o json) ]]; }
until_true "every saga has ended" all_ended
rm -f "$HOLD"

# --------------------------------------------------------------------------------------------------------------- the proof

say "what became of them"
"$SAGAD" list --queue worktrees
"$SAGAD" list --queue worktrees -o json >"$dir/sagas"
while read -r id; do "$SAGAD" history "$id" -o json; done < <(jq -r .taskId "$dir/sagas") >"$dir/history"

say "the history of $dead"
"$SAGAD" history "$dead"

say "the proof"
# Everything ended well, and the victim's saga was undone.
[[ $(jq -s length "$dir/sagas") == "$SAGAS" ]] || fail "there are not $SAGAS sagas"
odd=$(jq -r 'select(.state | IN("SAGA_STATE_COMPLETED", "SAGA_STATE_COMPENSATED") | not) | .taskId' "$dir/sagas")
[[ -z $odd ]] || fail "neither completed nor compensated: $odd"
[[ $(jq -r --arg id "$dead" 'select(.taskId == $id) | .state' "$dir/sagas") == SAGA_STATE_COMPENSATED ]] ||
    fail "$dead was not compensated"
completed=$(jq -s 'map(select(.state == "SAGA_STATE_COMPLETED")) | length' "$dir/sagas")
merged=$(git -C "$TRUNK" log --merges --oneline --grep '^merge work/issue-' | wc -l)
((completed == merged)) || fail "$completed sagas are completed, but $merged branches are merged"
echo "$completed completed and merged, $((SAGAS - completed)) compensated"

# Nothing is left over.
left=$(git -C "$REPO" worktree list --porcelain | sed -n 's/^worktree //p' | grep -vxF -e "$REPO" -e "$TRUNK" || true)
[[ -z $left ]] || fail "worktrees are left: $left"
left=$(git -C "$REPO" for-each-ref --format='%(refname:short)' refs/heads/work)
[[ -z $left ]] || fail "branches are left: $left"
left=$(ls -A "$TREES")
[[ -z $left ]] || fail "files are left in $TREES: $left"
echo "no worktree and no branch is left over"

# Never two at once, by the ledger of the jobs: what begins on a saga finds everything ended that began on it before.
sort -s -k4,4n "$LEDGER" | awk '
    $2 == "start" { if ($1 in at) { print $1 ": " $3 " began while " at[$1] " was at it"; bad = 1 } at[$1] = $3 }
    $2 == "end" || $2 == "over" { delete at[$1] }
    END { for (id in at) { print id ": " at[id] " never ended"; bad = 1 } exit bad }
' || fail "two owners were at one saga"
# … and by the history: a lease is given only when the one before has ended.
jq -s -r '
    group_by(.taskId)[] | reduce (sort_by(.revision | tonumber)[]) as $e ({held: false, bad: []};
        if $e.type == "EVENT_TYPE_CLAIMED" then
            (if .held then .bad += ["\($e.taskId): \($e.actor) claimed a lease that was held"] else . end) | .held = true
        elif $e.type | IN("EVENT_TYPE_RELEASED", "EVENT_TYPE_LEASE_EXPIRED", "EVENT_TYPE_COMPLETED", "EVENT_TYPE_FAILED",
            "EVENT_TYPE_RETRY_SCHEDULED", "EVENT_TYPE_COMPENSATING", "EVENT_TYPE_COMPENSATED",
            "EVENT_TYPE_QUARANTINED") then .held = false
        else . end) | .bad[]
' "$dir/history" >"$dir/double"
[[ ! -s $dir/double ]] || fail "the history shows two owners at once: $(<"$dir/double")"
echo "no saga was run by two owners at once"

# No dead worker's saga waited longer than its ttl plus a second.
until_true "the watcher has heard of $dead" grep -q "\"$dead\"" "$dir/stale"
sed 's/^[0-9]* //' "$dir/stale" | jq -r --slurpfile history "$dir/history" '
    def us: capture("^(?<s>[^.Z]+)([.](?<f>[0-9]+))?Z$")
        | ((.s + "Z") | fromdateiso8601) * 1000000 + (((.f // "") + "000000")[0:6] | tonumber);
    select(.stale) | .revision as $revision | .stale
        | ($history[] | select(.revision == $revision) | .time | us) as $told
        | "\(.taskId) \($told - (.expireTime | us)) \($told)"
' >"$dir/waits"
while read -r id late_us told_us; do
    ((late_us >= 0 && late_us <= 1000000)) || fail "$id: reported $late_us us after its lease had run out"
    echo "$id: reported as stale $((late_us / 1000)) ms after its lease had run out"
    if [[ $id == "$dead" ]]; then
        heard_ns=$(grep -m 1 -F "\"$dead\"" "$dir/stale" | cut -d' ' -f1)
        ((told_us * 1000 - killed_ns <= (TTL_S + 1) * 1000000000)) || fail "$id: stale too long after the kill"
        ((heard_ns - killed_ns <= (TTL_S + 1) * 1000000000)) || fail "$id: heard of too long after the kill"
        echo "$id: heard of $(((heard_ns - killed_ns) / 1000000)) ms after the kill, with a ttl of $TTL_S s"
    fi
done <"$dir/waits"
