#!/usr/bin/env bash
# Rainbow: CarRacing from pixels; two tasks of the DeepMind Control Suite from state.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    run rainbow rainbow CarRacing-v3 "$seed"
    run rainbow rainbow dm_control/walker-walk-v0 "$seed" --obs state --total-timesteps 250000 --eval-frequency 25000
    run rainbow rainbow dm_control/cheetah-run-v0 "$seed" --obs state --total-timesteps 450000 --eval-frequency 25000
  done
}
launch commands "$@"
