# What the other scripts share. Each lists its runs with `run`, and hands them to launch.py with `launch`.
#
#   SEEDS="1 2 3"     seeds
#   STEPS=20000       agent steps of every run, instead of the preset's
#   WORKERS=8         runs side by side, instead of one per core
#   RUNS_DIR=runs     where the run folders go
#   FLAGS="--device cuda:0"   more flags for every run
#   LIST=1            print the commands and run nothing
#
# What follows a script's name on the command line goes to launch.py: bash benchmark/td3.sh --engine ray
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SEEDS=${SEEDS:-1 2 3}

# run <name in the tables> <script> <environment> <seed> [flag ...]
run() {
  local name=$1 script=$2 env=$3 seed=$4 steps=()
  shift 4
  if [ -n "${STEPS:-}" ]; then steps=(--total-timesteps "$STEPS"); fi
  echo python "cleanrl_cc/$script.py" --env-id "$env" --seed "$seed" "$@" ${steps[@]+"${steps[@]}"} ${FLAGS:-} \
    --run-name "$name/${env//[\/:]/-}/seed-$seed"
}

# launch <function that lists the runs> [launch.py's flag ...]
launch() {
  local list
  list=$("$1")
  shift
  if [ -n "${LIST:-}" ]; then
    echo "$list"
  else
    exec python benchmark/launch.py --runs-dir "${RUNS_DIR:-runs}" ${WORKERS:+--workers "$WORKERS"} "$@" <<< "$list"
  fi
}
