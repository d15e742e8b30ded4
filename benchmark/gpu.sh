#!/usr/bin/env bash
# All that takes a GPU, in one command: the checks, the speed table, one training on CarRacing. Some three hours.
#
#   pip install -e ".[dev,peers]" "jax[cuda12]"
#   bash benchmark/gpu.sh
#
#   CUDA_VISIBLE_DEVICES=1    another GPU
#   STEPS=200000              of the training
#   CSV=...                   where the table goes, instead of benchmark/results/speed-gpu.csv
#   RUNS_DIR=runs             where the run folder goes
#
# torch for CUDA 13 knows no V100: install that for CUDA 12.6 first. Triton needs gcc and Python's headers.
# A check that fails is listed and does not keep the others from running; the exit code then tells.
set -euo pipefail
cd "$(dirname "$0")/.."
CSV=${CSV:-benchmark/results/speed-gpu.csv}

python - <<'END'
import sys, torch
if not torch.cuda.is_available():
    sys.exit("gpu.sh: torch finds no NVIDIA GPU.")
card = torch.cuda.get_device_properties(0)
print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}, "
      f"torch {torch.__version__}")
torch.ones(1, device="cuda")  # which a torch that does not know the card cannot
END
checks=0
python -m pytest -m cuda -q -rsfE || checks=$?
python benchmark/speed.py --device cuda --tasks sac td3 ddpg ppo sac-pixels ppo-pixels dqn-pixels --csv "$CSV"
echo "Published, to be read beside it: LeanRL over CleanRL, SAC 5.7, TD3 3.4, PPO 2.7 times as fast."
python cleanrl_cc/sac_drq.py --env-id CarRacing-v3 --device cuda --compile --total-timesteps "${STEPS:-200000}" \
  --runs-dir "${RUNS_DIR:-runs}"
exit "$checks"
