#!/usr/bin/env bash
# All that takes a GPU, in one command: the checks, the speed table, one training on CarRacing. Some two hours.
#
#   pip install -e ".[dev,peers]" "jax[cuda12]"
#   bash benchmark/gpu.sh
#
#   CUDA_VISIBLE_DEVICES=1    another GPU
#   STEPS=200000              of the training
#   CSV=...                   where the table goes, instead of benchmark/results/speed-gpu.csv
#   RUNS_DIR=runs             where the run folder goes
#
# The table is to be read beside LeanRL's published ratios over CleanRL: SAC 5.7, TD3 3.4, PPO 2.7.
set -euo pipefail
cd "$(dirname "$0")/.."
CSV=${CSV:-benchmark/results/speed-gpu.csv}

python -c "import sys, torch; torch.cuda.is_available() or sys.exit('gpu.sh: torch finds no NVIDIA GPU.')"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
python -m pytest -m cuda -q -rs
python benchmark/speed.py --device cuda --tasks sac td3 ddpg ppo sac-pixels ppo-pixels dqn-pixels --csv "$CSV"
python cleanrl_cc/sac_drq.py --env-id CarRacing-v3 --device cuda --compile --total-timesteps "${STEPS:-200000}" \
  --runs-dir "${RUNS_DIR:-runs}"
