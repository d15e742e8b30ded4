#!/usr/bin/env bash
# Rainbow without one of its components each, with all, and with none, which is DQN; on a task of minutes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

components="double per dueling noisy n-step c51"

commands() {
  for seed in $SEEDS; do
    run ablation-rainbow rainbow LunarLander-v3 "$seed" --action-set native
    run ablation-dqn dqn_atari_style LunarLander-v3 "$seed" --action-set native
    for left_out in $components; do
      run "ablation-no-$left_out" rainbow LunarLander-v3 "$seed" --action-set native --components ${components/$left_out/}
    done
  done
}
launch commands "$@"
