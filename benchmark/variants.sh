#!/usr/bin/env bash
# What the presets were chosen against: two axes where five actions drive better; CarRacing without the rules of the road; DQN
# with fewer random actions, shifted images or slower targets; speed limits of 55 for DDPG, 60 for TD3 and 65 for SAC, a constant
# learning rate, smaller images, fewer updates, and SAC at full throttle, which looks further ahead or has laxer rules; SAC, TD3 and DDPG that look further ahead on LunarLander; SAC's Hopper with targets
# that move half as fast, and with these returns of three steps or more entropy; TD3 with the learning rate of the authors' later
# code, with targets that move twice as fast, and with a learning rate that falls to 0 on LunarLander; another PPO, with a
# learning rate that is constant where the preset's falls and falls where it is constant, with fewer steps, and in the corridors
# with an action for each step; and bf16 beside the fp32 of the presets' runs.
set -euo pipefail
source "$(dirname "$0")/common.sh"

# Tianshou's hyperparameters, examples/mujoco/mujoco_ppo.py, with 8 environments of 256 steps
tianshou=(--num-steps 256 --gamma 0.99 --gae-lambda 0.95 --num-epochs 10 --num-minibatches 32 --clip-coef 0.2 --ent-coef 0 --vf-coef 0.25)
tianshou+=(--max-grad-norm 0.5 --learning-rate 3e-4 --learning-rate-schedule linear --initial-log-std -0.5 --hidden-dim 64 --activation tanh)

# Stable-Baselines3 zoo's, ppo.yml, Humanoid-v3 and Hopper-v3, with 8 environments of 64 steps
zoo=(--num-steps 64 --num-epochs 5 --learning-rate-schedule constant --initial-log-std -2 --hidden-dim 256 --activation relu)
humanoid=("${zoo[@]}" --gamma 0.95 --gae-lambda 0.9 --num-minibatches 2 --clip-coef 0.3 --ent-coef 0.00238306 --vf-coef 0.431892)
humanoid+=(--max-grad-norm 2 --learning-rate 3.56987e-5)
hopper=("${zoo[@]}" --gamma 0.999 --gae-lambda 0.99 --num-minibatches 16 --clip-coef 0.2 --ent-coef 0.00229519 --vf-coef 0.835671)
hopper+=(--max-grad-norm 0.7 --learning-rate 9.80828e-5)

# CarRacing before it had rules of the road
patience=(--gamma 0.99 --training-wrappers Patience,frames=200)
throttle=(--action-set auto --total-timesteps 100000)  # SAC before it drove gently
sac=("${patience[@]}" --action-set auto --target-entropy -2 --policy-average 0)
td3=("${patience[@]}" --learning-rate-schedule constant --total-timesteps 200000 --buffer-size 150000)
dqn=("${patience[@]}" --total-timesteps 200000 --buffer-size 150000)
rainbow=("${dqn[@]}" --v-max 25 --beta-steps 200000)

commands() {
  for seed in $SEEDS; do
    run dqn_atari_style-axes dqn_atari_style CarRacing-v3 "$seed" "${dqn[@]}" --action-set auto
    run dqn_atari_style-patience dqn_atari_style CarRacing-v3 "$seed" "${dqn[@]}"
    run dqn_atari_style-gentle dqn_atari_style CarRacing-v3 "$seed" --action-set gentle --compile
    run dqn_atari_style-less-exploration dqn_atari_style CarRacing-v3 "$seed" --epsilon-end 0.01
    run dqn_atari_style-shifted dqn_atari_style CarRacing-v3 "$seed" --random-shift
    run dqn_atari_style-bf16 dqn_atari_style CarRacing-v3 "$seed" --precision bf16 --compile
    run dqn_atari_style-slower-targets dqn_atari_style CarRacing-v3 "$seed" --target-update-frequency 1000
    run ppo_continuous-full-throttle ppo_continuous CarRacing-v3 "$seed" --action-set auto --training-wrappers Patience,frames=100
    run ppo_continuous-fewer-steps ppo_continuous CarRacing-v3 "$seed" --total-timesteps 500000 --compile
    run rainbow-double rainbow CarRacing-v3 "$seed" --components double n-step --compile
    run rainbow-axes rainbow CarRacing-v3 "$seed" "${rainbow[@]}" --action-set auto
    run rainbow-patience rainbow CarRacing-v3 "$seed" "${rainbow[@]}"
    run td3-patience td3 CarRacing-v3 "$seed" "${td3[@]}"
    run td3-higher-limit td3 CarRacing-v3 "$seed" --training-wrappers RoadRules,speed_limit=60
    run td3-constant-rate td3 CarRacing-v3 "$seed" --learning-rate-schedule constant --total-timesteps 100000 --buffer-size 150000
    run ddpg-lower-limit ddpg CarRacing-v3 "$seed" --training-wrappers RoadRules
    run sac_drq-patience sac_drq CarRacing-v3 "$seed" "${sac[@]}" --total-timesteps 100000
    run sac_drq-longer-horizon sac_drq CarRacing-v3 "$seed" "${throttle[@]}" --gamma 0.99
    run sac_drq-higher-limit sac_drq CarRacing-v3 "$seed" "${throttle[@]}" --training-wrappers RoadRules,speed_limit=65
    run sac_drq-more-steps sac_drq CarRacing-v3 "$seed" --total-timesteps 100000 --compile
    run sac_drq-full-throttle sac_drq CarRacing-v3 "$seed" "${throttle[@]}" --precision fp32
    run sac_drq-full-throttle-bf16 sac_drq CarRacing-v3 "$seed" "${throttle[@]}" --precision bf16 --compile
    run sac_drq-laxer-rules sac_drq CarRacing-v3 "$seed" "${throttle[@]}" --gamma 0.99 --training-wrappers RoadRules,missed=1,speed_limit=60
    run sac_drq-constant-rate sac_drq CarRacing-v3 "$seed" "${sac[@]}" --learning-rate-schedule constant --total-timesteps 180000 --buffer-size 150000
    run sac_drq-64x64 sac_drq CarRacing-v3 "$seed" "${sac[@]}" --image-size 64 --total-timesteps 200000 --buffer-size 200000
    run sac_drq-fewer-updates sac_drq CarRacing-v3 "$seed" "${sac[@]}" --updates-per-step 0.2 --total-timesteps 240000 --buffer-size 240000 --eval-frequency 20000
    run sac_drq-slower-targets sac_drq Hopper-v5 "$seed" --tau 0.005 --total-timesteps 200000
    run sac_drq-three-steps sac_drq Hopper-v5 "$seed" --tau 0.005 --n-step 3 --total-timesteps 200000
    run sac_drq-more-entropy sac_drq Hopper-v5 "$seed" --tau 0.005 --target-entropy -1.5 --total-timesteps 200000
    run td3-later-rate td3 Hopper-v5 "$seed" --learning-rate 3e-4
    run sac_drq-longer-horizon sac_drq LunarLander-v3 "$seed" --gamma 0.995 --compile
    run td3-longer-horizon td3 LunarLander-v3 "$seed" --gamma 0.995 --compile
    run ddpg-longer-horizon ddpg LunarLander-v3 "$seed" --gamma 0.995 --compile
    run td3-linear td3 LunarLander-v3 "$seed" --learning-rate-schedule linear
    run td3-faster-targets td3 Hopper-v5 "$seed" --learning-rate 3e-4 --tau 0.01
    run ppo_continuous-tianshou ppo_continuous HalfCheetah-v5 "$seed" "${tianshou[@]}"
    run ppo_continuous-constant-rate ppo_continuous Walker2d-v5 "$seed" --learning-rate-schedule constant
    run ppo_continuous-constant-rate ppo_continuous LunarLander-v3 "$seed" --learning-rate-schedule constant --total-timesteps 1000000
    run ppo_continuous-linear ppo_continuous LunarLander-v3 "$seed" --total-timesteps 1000000
    run ppo_continuous-linear ppo_continuous HalfCheetah-v5 "$seed" --learning-rate-schedule linear --learning-rate 4e-5
    for script in sac_drq td3 ddpg; do
      for env in HalfCheetah-v5 Hopper-v5; do
        run $script-bf16 $script $env "$seed" --precision bf16 --compile --total-timesteps 200000
      done
    done
    for walls in Static Moving; do
      run ppo_continuous-no-repeat ppo_continuous cleanrl_cc/Corridor$walls-Ball-v0 "$seed" --action-repeat 1 --total-timesteps 1000000
    done
    run ppo_continuous-zoo ppo_continuous Humanoid-v5 "$seed" "${humanoid[@]}"
    run ppo_continuous-zoo ppo_continuous Hopper-v5 "$seed" "${hopper[@]}"
  done
}
launch commands "$@"
