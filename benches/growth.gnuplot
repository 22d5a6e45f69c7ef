# One question of `benches/growth`: throughput and p99 over a size. Wants data, picture and label.
set terminal svg size 720,360 font "sans-serif,13" background "white"
set output picture
set datafile separator "\t"
set logscale x
set format x "10^{%L}"
set xlabel label
set ylabel "changes a second"
set y2label "p99, milliseconds"
set yrange [0:*]
set y2range [0:*]
set ytics nomirror
set y2tics
set grid x y
set key outside top center horizontal
plot data using 1:2 skip 1 with linespoints linewidth 2 pointtype 7 linecolor rgb "#1b6ca8" title "changes a second", \
     data using 1:3 skip 1 axes x1y2 with linespoints linewidth 2 pointtype 5 dashtype 2 linecolor rgb "#c8553d" title "p99"
