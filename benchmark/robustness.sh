#!/usr/bin/env bash
# Robustness: PPO, SAC, DQN and Rainbow in corridors whose walls stand or move, each then evaluated in both. The Ball and the Ant, from state.
#
#   EPISODES=100      of each policy in each corridor; the scores go to benchmark/results/robustness.csv
set -euo pipefail
source "$(dirname "$0")/common.sh"

# DQN's and Rainbow's presets of dm_control without the pixels; a discounted return times 0.05 is at most 22
bins=(--total-timesteps 100000 --batch-size 256 --learning-starts 2000 --updates-per-step 0.5 --n-step 3 --reward-scale 0.05)
bins+=(--target-update-frequency 100 --epsilon-steps 10000 --epsilon-end 0.1 --hidden-dim 256)

commands() {
  for seed in $SEEDS; do
    for walker in Ball Ant; do
      local steps=50000
      if [ "$walker" = Ant ]; then steps=300000; fi # it must learn to walk first
      for walls in Static Moving; do
        local env="cleanrl_cc/Corridor$walls-$walker-v0"
        run ppo_continuous ppo_continuous "$env" "$seed" --num-envs 8 --num-steps 256
        run sac_drq sac_drq "$env" "$seed" --total-timesteps $steps
        run dqn_atari_style dqn_atari_style "$env" "$seed" "${bins[@]}"
        run rainbow rainbow "$env" "$seed" "${bins[@]}" --beta-steps 100000 --v-min -2 --v-max 22
      done
    done
  done
}
(launch commands "$@")
if [ -z "${LIST:-}" ]; then
  python benchmark/robustness.py "${RUNS_DIR:-runs}" --episodes "${EPISODES:-100}"
fi
