#!/bin/sh
# Makes the reports in this folder from the shipped model: the Stage dev list, and the 100 VBench prompts nearest to what it knows.
# Needs: pip install 'videogen-moe[evaluation]' and pip install --no-deps vbench==0.1.5 (its list of prompts only).
# Start it again to go on where it stopped. Arguments: the folder of clips (runs/evaluation) and the number of processes (2).
set -eu
clips=${1:-runs/evaluation}
workers=${2:-2}
here=$(dirname "$0")

videogen evaluate sample --suite stage --split dev --samples 1 --workers "$workers" --out "$clips/stage"
videogen evaluate score "$clips/stage" --workers "$workers" --markdown --json "$here/stage-dev.json" --html "$here/stage-dev.html"

# A part of a suite: one clip of each prompt, all metrics on all clips, never a Total.
videogen evaluate sample --suite vbench --nearest 100 --samples 1 --flickering-samples 1 --workers "$workers" --out "$clips/vbench-100"
videogen evaluate score "$clips/vbench-100" --all-clips --workers "$workers" --markdown --json "$here/vbench-100.json" --html "$here/vbench-100.html"
