#!/usr/bin/env bash
# SAC: from state; with DrQ, CarRacing and three tasks of the DeepMind Control Suite from pixels.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    for env in LunarLander-v3 HalfCheetah-v5 Walker2d-v5 Hopper-v5 Ant-v5 CarRacing-v3; do
      run sac_drq sac_drq "$env" "$seed"
    done
    for task in walker-walk cheetah-run hopper-hop; do
      run sac_drq sac_drq "dm_control/$task-v0" "$seed" --total-timesteps 250000 # 500,000 frames
    done
  done
}
launch commands "$@"
