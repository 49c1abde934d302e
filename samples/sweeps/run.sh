#!/bin/sh
# Trains and judges the variants of variants.yaml one after another on one core, and puts the tables together: 5 minutes each single-image variant,
# 8 a clip variant, 2 to 3 a way of sampling, after the latent cache (a quarter of an hour on two cores). Start it again to go on where it stopped.
# Arguments: the folder of the trials (runs/sweeps), and then what `python -m videogen.evaluation.sweeps` understands, e.g. --only guidance.
set -eu
runs=${1:-runs/sweeps}
[ $# -gt 0 ] && shift
here=$(dirname "$0")
export OMP_NUM_THREADS=1
python -m videogen.evaluation.sweeps "$here/variants.yaml" --runs "$runs" --json "$here/sweeps.json" --markdown "$here/sweeps.md" "$@"
