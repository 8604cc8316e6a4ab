export PYTHONPATH=. OMP_NUM_THREADS=1
O=/tmp/o; mkdir -p $O
n=$(nproc); nvidia-smi -L
f() { python3 -m harness.cli "$@"; }
f fuzz --device cuda --cases 30 --jobs 2 --corpus /tmp/c > $O/first.txt 2>&1; rc=$?; tail -3 $O/first.txt; [ $rc = 0 ] || { cat $O/first.txt | head -50; exit 1; }
(python3 benchmark/false_alarms.py kernel:flash_attention --device cuda --cases 100000 --time 500 --jobs 12 > $O/fa_kernel.txt 2>&1) &
for b in math flash efficient cudnn; do (python3 benchmark/false_alarms.py sdpa_$b --device cuda --cases 100000 --time 500 --jobs 3 > $O/fa_$b.txt 2>&1) & done
f recall --where kernel --seed 2 --time 120 --jobs 2 --device cpu --json $O/k2.json > $O/k2.txt 2>&1 &
for s in 0 1 2; do f recall --where torch --seed $s --time 30 --jobs 1 --device cpu --json $O/t$s.json --markdown $O/t$s.md > $O/t$s.txt 2>&1 & done
f recall --where process --seed 0 --time 30 --device cpu --json $O/p0.json > $O/p0.txt 2>&1 &
for s in 90 240 400 530 570; do (sleep $s; tar czf $OUT/o.tgz -C $O .) & done
sleep 575
tar czf $OUT/o.tgz -C $O .
tail -qn 4 $O/fa_*.txt | cut -c1-1500
