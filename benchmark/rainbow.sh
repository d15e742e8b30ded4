#!/usr/bin/env bash
# Rainbow: CarRacing from pixels; two tasks of the DeepMind Control Suite from state.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    run rainbow rainbow CarRacing-v3 "$seed"
    for env in dm_control/walker-walk-v0 dm_control/cheetah-run-v0; do
      run rainbow rainbow "$env" "$seed" --obs state --total-timesteps 250000 --eval-frequency 25000 # 500,000 frames
    done
  done
}
launch commands "$@"
