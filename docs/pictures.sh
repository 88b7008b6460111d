#!/usr/bin/env bash
# Makes the pictures of README and docs anew: docs/synthetic.png, docs/demo.png, docs/data.png,
# docs/augmented.jpg, docs/corruptions.jpg, docs/occfeat.jpg and docs/report.png (about seven minutes
# on two cores).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for drive in '1 clear' '31 haze' '8 night' '24 rain'; do
  read -r seed weather <<<"$drive"
  .venv/bin/bev synth "$work/town/$weather-$seed" --seed "$seed" --weather "$weather" --seconds 2 --size 480x270
done
.venv/bin/bev preview "$work/town" --out docs/synthetic.png
.venv/bin/bev demo "$work/demo"
cp "$work/demo/demo.png" docs/demo.png
.venv/bin/bev synth "$work/drive" --seconds 2 --size 640x360 --no-image-truth
.venv/bin/bev convert "$work/drive/bag" "$work/frames"
.venv/bin/bev inspect "$work/frames" --png "$work/plots"
cp "$work"/plots/000*.png docs/data.png
.venv/bin/bev label "$work/frames" "$work/drive"
.venv/bin/python docs/augmented_sample.py "$work/frames" docs/augmented.jpg
.venv/bin/python docs/corruptions.py "$work/frames" docs/corruptions.jpg front 3
# How OccFeat pretrains, with the tensors of a run: OCCFEAT=runs/occfeat docs/pictures.sh
if [[ -n ${OCCFEAT:-} ]]; then
  .venv/bin/python docs/occfeat.py "$OCCFEAT" "$work/frames" docs/occfeat.jpg 3
fi
# The upper part of a report, where a Chromium is to be had: CHROMIUM=chromium docs/pictures.sh
if [[ -n ${CHROMIUM:-} ]]; then
  .venv/bin/bev evaluate weights/synthetic.safetensors "$work/frames" --out "$work/scores"
  "$CHROMIUM" --headless --no-sandbox --hide-scrollbars --window-size=1100,1400 \
    --screenshot="$PWD/docs/report.png" "file://$work/scores/report.html"
fi
