#!/usr/bin/env bash
# DDPG: from state, and CarRacing from pixels.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    for env in LunarLander-v3 HalfCheetah-v5 Walker2d-v5 Hopper-v5 Ant-v5 CarRacing-v3; do
      run ddpg ddpg "$env" "$seed"
    done
  done
}
launch commands "$@"
