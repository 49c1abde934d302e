#!/bin/sh
# Trains the twins on two seeds, one run per core, judges their clips, and puts the table together. About two and a half hours on two cores.
# Start it again to go on where it stopped. Arguments: the folder of runs (runs/twins), and how many run at once (2).
set -eu
runs=${1:-runs/twins}
at_once=${2:-2}
here=$(dirname "$0")
export OMP_NUM_THREADS=1
mkdir -p "$runs"

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
    [ -e "$run/.finished" ] && exit 0
    resume=; ls "$run"/checkpoint-* > /dev/null 2>&1 && resume=--resume
    videogen train configs/train/twins_tiny_cpu.yaml --set "seed=$seed" --set "output=$run" "$@" $resume && touch "$run/.finished"
' "$runs"

for run in "$runs"/*-[0-9]; do
    videogen publish "$run/weights" --tokenizer videogen/assets/weights/tiny/vae -o "$run/model"
    videogen evaluate stage --split dev --rung rung1 --seeds 1 --kinds seen --num-prompts 100 --workers "$at_once" --model "$run/model" \
        --output "$run/stage" --json "$run/stage.json"
done
python -m videogen.evaluation.twins "$runs" --json "$here/twins.json" --markdown "$here/twins.md"
