#!/usr/bin/env bash
# Makes the weights that the demo uses: synthetic drives, frames, labels, training, scores. A good hour
# on two cores, 3 GB of disk.
#
#   make env-train && benchmarks/train_town.sh WORK
#
# WORK/town/{train,val}      50 and 10 drives of `bev synth`, towns that have nothing in common
# WORK/frames/{train,val}    the same as frames with labels
# WORK/run/final.safetensors the weights;  WORK/scores  what `bev evaluate` says of them on the 10 drives
#
# Every step goes on where it was interrupted. The demo's drive (seed 1005) is in neither set.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:?usage: benchmarks/train_town.sh WORK}
bev=.venv/bin/bev

drives() { # drives NAME COUNT FIRST_SEED
  "$bev" synth "$work/town/$1" --drives "$2" --seed "$3" --seconds 12 --size 640x360 \
    --rig config/rigs/nuscenes_2hz.yaml --no-image-truth
  "$bev" convert "$work/town/$1" "$work/frames/$1" --every all
  "$bev" label "$work/frames/$1" "$work/town/$1"
}

drives train 50 0
drives val 10 900000
resume=()
[[ -e $work/run/last.ckpt ]] && resume=(--resume)
"$bev" finetune --config config/train/town.yaml --train "$work/frames/train" --val "$work/frames/val" \
  --out "$work/run" "${resume[@]}"
"$bev" evaluate "$work/run/final.safetensors" "$work/frames/val" --out "$work/scores"
