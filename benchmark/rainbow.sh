#!/usr/bin/env bash
# Rainbow: CarRacing and four tasks of the DeepMind Control Suite from pixels; three of these from state.
set -euo pipefail
source "$(dirname "$0")/common.sh"

pixels=(--total-timesteps 250000 --image-size 64 --batch-size 128 --encoder-channels 16 --eval-episodes 5) # a CPU's share of the preset

commands() {
  for seed in $SEEDS; do
    run rainbow rainbow CarRacing-v3 "$seed"
    for task in walker-walk cheetah-run hopper-hop humanoid-walk; do
      run rainbow-pixels rainbow "dm_control/$task-v0" "$seed" "${pixels[@]}"
    done
    run rainbow rainbow dm_control/walker-walk-v0 "$seed" --obs state --total-timesteps 250000 --eval-frequency 25000
    run rainbow rainbow dm_control/cheetah-run-v0 "$seed" --obs state --total-timesteps 450000 --eval-frequency 25000
    run rainbow rainbow dm_control/humanoid-walk-v0 "$seed" --obs state --total-timesteps 500000 --eval-frequency 25000
  done
}
launch commands "$@"
