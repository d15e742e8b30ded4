#!/usr/bin/env bash
# Rainbow with all of its components, without each of them in turn, without noise and without random actions, DQN, and DQN with Rainbow's
# n-step; on a task of minutes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

components="double per dueling noisy n-step c51"
env=dm_control/cartpole-swingup-v0
flags=(--obs state --total-timesteps 20000 --batch-size 128 --hidden-dim 256 --learning-rate 1e-3 --eval-frequency 5000) # 9,000 updates

commands() {
  for seed in $SEEDS; do
    run ablation-rainbow rainbow "$env" "$seed" "${flags[@]}"
    run ablation-dqn dqn_atari_style "$env" "$seed" "${flags[@]}" --n-step 1
    run ablation-dqn-n-step dqn_atari_style "$env" "$seed" "${flags[@]}"
    run ablation-no-exploration rainbow "$env" "$seed" "${flags[@]}" --components ${components/noisy/} --epsilon-end 0 --epsilon-steps 1
    for left_out in $components; do
      run "ablation-no-$left_out" rainbow "$env" "$seed" "${flags[@]}" --components ${components/$left_out/}
    done
  done
}
launch commands "$@"
