#!/usr/bin/env bash
# PPO: from state, and CarRacing from pixels.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    for env in LunarLander-v3 HalfCheetah-v5 Walker2d-v5 Hopper-v5 Ant-v5 Humanoid-v5 CarRacing-v3; do
      run ppo_continuous ppo_continuous "$env" "$seed"
    done
  done
}
launch commands "$@"
