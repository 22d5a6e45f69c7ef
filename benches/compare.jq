# The results of `benches/compare`: medians and spread as a table of tabs, then, behind an empty line each, the rows of S1 to S3 and the
# peers' table of docs/explanation/performance.md.
def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
# Three digits, thousands as "k".
def rounded: if . == 0 then 0 else (2 - (fabs | log10 | floor)) as $digits
    | if $digits > 0 then (. * pow(10; $digits) | round) / pow(10; $digits) else round end end;
def short: if . == null then "" elif . < 1000 then "\(round)" elif . < 99950 then "\(. / 100 | round / 10)k" else "\(. / 1000 | round)k" end;

. as $results |
(group_by([.side, .measure, .clients, .connections]) | map({
    side: .[0].side, measure: .[0].measure, clients: .[0].clients, connections: .[0].connections, passes: length,
    median: (map(.ops_per_s) | median), least: (map(.ops_per_s) | min), most: (map(.ops_per_s) | max)
})) as $all |

# The median of one measure, or null.
def of($side; $measure; $clients): first(($all[] | select(.side == $side and .measure == $measure and .clients == $clients) | .median), null);
def best($side): [$all[] | select(.side == $side) | .median] | max;
def goal($goal; $name; $over; $under; $bound):
    if $over and $under and $under > 0 then ($over / $under) as $ratio
        | "| \($goal) | \($name) | ≥ \($bound) | \($ratio | rounded) | \(if $ratio >= $bound then "met" else "missed" end) |" else empty end;
def peer($name; $side; $measure; $together): [1, 16, 64, 256 | of($side; $measure; .) | short] + [of($side; $together; 256) | short]
    | if all(. == "") then empty else "| \($name) | \(join(" | ")) |" end;
of("sagad"; "session"; 256) as $session |

([["SIDE", "MEASURE", "CLIENTS", "CONNECTIONS", "PASSES", "OPS/S", "LEAST", "MOST"]] +
    [$all | sort_by(.side != "sagad", .side, .measure, .clients)[] |
        [.side, .measure, .clients, .connections, .passes, (.median | round), (.least | round), (.most | round)]]
    | .[] | @tsv),
"",
goal("S1"; "cycle over the empty call, 256 clients"; of("sagad"; "cycle"; 256); of("sagad"; "echo"; 256); 0.55),
goal("S1"; "16 sessions of 16 cycles over it"; $session; of("sagad"; "echo"; 256); 1.1),
goal("S2"; "cycle over Redis, 64 clients"; of("sagad"; "cycle"; 64); of("redis"; "cycle"; 64); 1),
goal("S2"; "sessions over Redis pipelined, 16 by 16"; $session; of("redis"; "pipelined"; 256); 1),
goal("S3"; "sessions over PostgreSQL at its best"; $session; best("postgres"); 5),
goal("S3"; "sessions over etcd at its best"; $session; best("etcd"); 15),
goal("S3"; "sessions over Temporal at its best"; $session; best("temporal"); 50),
"",
"| | C=1 | C=16 | C=64 | C=256 | 16 × 16 |",
"|---|---|---|---|---|---|",
peer("sagad"; "sagad"; "cycle"; "session"),
peer("its empty call"; "sagad"; "echo"; "none"),
peer("Redis, AOF `always`"; "redis"; "cycle"; "pipelined"),
peer("PostgreSQL, `SKIP LOCKED`"; "postgres"; "cycle"; "none"),
peer("etcd"; "etcd"; "cycle"; "none"),
peer("Temporal"; "temporal"; "cycle"; "none"),
peer("beanstalkd, `-f 0`"; "beanstalkd"; "cycle"; "none"),
"",
($results | map(.fdatasync // empty) | if length > 0 then "one fdatasync: \(median | rounded) µs (median)" else empty end)
