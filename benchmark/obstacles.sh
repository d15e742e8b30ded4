#!/usr/bin/env bash
# Corridors with static and moving obstacles, from state.
set -euo pipefail
source "$(dirname "$0")/common.sh"

commands() {
  for seed in $SEEDS; do
    for walker in Ball Ant; do
      for obstacles in Static Moving; do
        run ppo_continuous ppo_continuous "cleanrl_cc/Corridor$obstacles-$walker-v0" "$seed"
        run sac_drq sac_drq "cleanrl_cc/Corridor$obstacles-$walker-v0" "$seed" --total-timesteps 50000
      done
    done
  done
}
launch commands "$@"
