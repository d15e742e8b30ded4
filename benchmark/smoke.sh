#!/usr/bin/env bash
# Every script for about a minute: does it run here?
set -euo pipefail
STEPS=${STEPS:-8000}
SEEDS=${SEEDS:-1}
RUNS_DIR=${RUNS_DIR:-runs/smoke}
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    for script in ppo_continuous sac_drq td3 ddpg dqn_atari_style rainbow; do
      run "$script" "$script" LunarLander-v3 "$seed" --eval-episodes 2
    done
  done
}
launch commands "$@"
