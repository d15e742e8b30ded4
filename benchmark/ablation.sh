#!/usr/bin/env bash
# Rainbow without one of its components each, with all, and with none, which is DQN; on a task of minutes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

components="double per dueling noisy n-step c51"
flags=(--action-set native --total-timesteps 50000 --updates-per-step 0.5) # 25,000 updates a run

commands() {
  for seed in $SEEDS; do
    run ablation-rainbow rainbow LunarLander-v3 "$seed" "${flags[@]}"
    run ablation-dqn dqn_atari_style LunarLander-v3 "$seed" "${flags[@]}"
    for left_out in $components; do
      run "ablation-no-$left_out" rainbow LunarLander-v3 "$seed" "${flags[@]}" --components ${components/$left_out/}
    done
  done
}
launch commands "$@"
