#!/usr/bin/env bash
# Rainbow with all of its components, without each of them in turn, without noise and without random actions, DQN, and DQN with Rainbow's
# n-step; on two tasks of minutes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

components="double per dueling noisy n-step c51"
cartpole=(--obs state --total-timesteps 20000 --batch-size 128 --hidden-dim 256 --learning-rate 1e-3 --eval-frequency 5000) # 9,000 updates
lander=(--total-timesteps 50000) # 49,000 updates

# ablate <environment> <seed> [flag ...]
ablate() {
  local env=$1 seed=$2
  shift 2
  run ablation-rainbow rainbow "$env" "$seed" "$@"
  run ablation-dqn dqn_atari_style "$env" "$seed" "$@" --n-step 1
  run ablation-dqn-n-step dqn_atari_style "$env" "$seed" "$@" --n-step 3
  run ablation-no-exploration rainbow "$env" "$seed" "$@" --components ${components/noisy/} --epsilon-end 0 --epsilon-steps 1
  for left_out in $components; do
    run "ablation-no-$left_out" rainbow "$env" "$seed" "$@" --components ${components/$left_out/}
  done
}

commands() {
  for seed in $SEEDS; do
    ablate dm_control/cartpole-swingup-v0 "$seed" "${cartpole[@]}"
    ablate LunarLander-v3 "$seed" "${lander[@]}"
  done
}
launch commands "$@"
