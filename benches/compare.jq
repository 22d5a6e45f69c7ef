# The results of `benches/compare` as two tables, an empty line between them: medians and spread, then ratios and their goals.
def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def hundredths: . * 100 | round / 100;

. as $results |
(group_by([.side, .measure, .clients, .connections]) | map({
    side: .[0].side, measure: .[0].measure, clients: .[0].clients, connections: .[0].connections, passes: length,
    median: (map(.ops_per_s) | median), least: (map(.ops_per_s) | min), most: (map(.ops_per_s) | max)
})) as $all |

# The median of one measure, or null.
def of($side; $measure; $clients; $connections): first(($all[] | select(
    .side == $side and .measure == $measure and .clients == $clients
    and ($connections == null or .connections == $connections)) | .median), null);
def best($side): [$all[] | select(.side == $side) | .median] | max;
def ratio($name; $over; $under; $goal):
    if $over and $under and $under > 0 then [$name, ($over / $under | hundredths), $goal] else empty end;
of("sagad"; "session"; 256; 16) as $session |

["SIDE", "MEASURE", "CLIENTS", "CONNECTIONS", "PASSES", "OPS/S", "LEAST", "MOST"],
($all | sort_by(.side != "sagad", .side, .measure, .connections >= 16, .clients)[] |
    [.side, .measure, .clients, .connections, .passes, (.median | round), (.least | round), (.most | round)]),
[],
["RATIO OF MEDIANS", "IS", "GOAL"],
ratio("S1: cycle over empty call, 256 clients"; of("sagad"; "cycle"; 256; 16); of("sagad"; "echo"; 256; 16); 0.55),
ratio("S1: 16 sessions of 16 cycles over it"; $session; of("sagad"; "echo"; 256; 16); 1.1),
ratio("S2: cycle over Redis, 64 clients"; of("sagad"; "cycle"; 64; 16); of("redis"; "cycle"; 64; null); 1),
ratio("S2: sessions over Redis pipelined, 16 by 16"; $session; of("redis"; "pipelined"; 256; null); 1),
ratio("S3: sessions over PostgreSQL at its best"; $session; best("postgres"); 5),
ratio("S3: sessions over etcd at its best"; $session; best("etcd"); 15),
ratio("S3: sessions over Temporal at its best"; $session; best("temporal"); 50),
ratio("sessions over beanstalkd at its best"; $session; best("beanstalkd"); "none"),
($results | map(.fdatasync // empty) | if length > 0 then ["one fdatasync, microseconds", (median | hundredths), "none"] else empty end)
| @tsv
