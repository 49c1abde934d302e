#!/bin/sh
# Trains the twins on two seeds, one run per core, and puts the table together. About two hours on two cores.
# Start it again to go on where it stopped. Arguments: the folder of runs (runs/twins), and how many run at once (2).
set -eu
runs=${1:-runs/twins}
at_once=${2:-2}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
mkdir -p "$runs"

# The first run makes the latent cache for all; then it stops, and goes on below.
if ! ls "$runs"/shipped-0/checkpoint-* > /dev/null 2>&1; then
    videogen train configs/train/twins_tiny_cpu.yaml --set "output=$runs/shipped-0" --max-minutes 0.01
fi

all() { printf "[%s" "$1"; for _ in 1 2 3 4 5 6 7; do printf ",%s" "$1"; done; printf "]"; }

for seed in 0 1; do
    echo "shipped $seed"
    echo "dense $seed --set transformer.feed_forwards=$(all dense)"
    echo "softmax $seed --set transformer.mixers=$(all softmax)"
    echo "linear $seed --set transformer.mixers=$(all linear)"
    echo "windowed $seed --set transformer.window=1"
done | xargs -P "$at_once" -L 1 sh -c '
    runs=$0 name=$1 seed=$2; shift 2
    run=$runs/$name-$seed
    resume=; ls "$run"/checkpoint-* > /dev/null 2>&1 && resume=--resume
    videogen train configs/train/twins_tiny_cpu.yaml --set "seed=$seed" --set "output=$run" "$@" $resume
' "$runs"

python -m videogen.evaluation.twins "$runs" --json "$here/twins.json" --markdown "$here/twins.md"
