#!/usr/bin/env bash
# Corridors with static and moving obstacles, from state.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    for walker in Ball Ant; do
      for obstacles in Static Moving; do
        for script in ppo_continuous sac_drq; do
          run "$script" "$script" "cleanrl_cc/Corridor$obstacles-$walker-v0" "$seed"
        done
      done
    done
  done
}
launch commands "$@"
