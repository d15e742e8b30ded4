"""Trains Stable-Baselines3's or SBX's TD3 with the settings of our preset and evaluates it as ours
is: is a slow start ours, or the task's?

    pip install -e ".[peers]"
    python benchmark/peer_curve.py --library sbx --env-id Hopper-v5 --csv td3-peers.csv

The CSV gets a line per evaluation.
"""

import csv
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box

from cleanrl_cc import td3
from cleanrl_cc.common.arguments import check_args, preset_args
from cleanrl_cc.common.envs import find_spec
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.files import writing
from cleanrl_cc.common.ranges import Count, Seed
from cleanrl_cc.common.tables import start_csv

COLUMNS = ("library", "env_id", "seed", "global_step", "return_mean", "length_mean")


@dataclass
class Options:
    csv: str
    """the file that is appended to"""
    library: Literal["sb3", "sbx"] = "sb3"
    """Stable-Baselines3 or SBX"""
    env_id: str = "Hopper-v5"
    """an environment with states and continuous actions"""
    seed: Seed = 1
    """of networks and environment"""
    total_timesteps: Count = 1_000_000
    """environment steps"""


def main(options: Options):
    check_args(options)
    try:
        library = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[options.library])
    except ImportError as error:
        raise InputError(f'There is no {options.library}: pip install -e ".[peers]".') from error
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise

    torch.set_num_threads(1)
    args = preset_args(td3.Args, td3.PRESETS, options.env_id)
    find_spec(options.env_id)
    env, played = gym.make(options.env_id), gym.make(options.env_id)
    is_vector = isinstance(env.observation_space, Box) and len(env.observation_space.shape) == 1
    if not is_vector or not isinstance(env.action_space, Box):
        raise InputError(f"--env-id {options.env_id} must have states and continuous actions.")
    start_csv(Path(options.csv), COLUMNS)

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % args.eval_frequency == 0:
                episodes = np.array(
                    [play(self.model, played, seed) for seed in range(1000, 1000 + args.eval_episodes)]
                )
                row = (
                    options.library,
                    options.env_id,
                    options.seed,
                    self.num_timesteps,
                    *episodes.mean(axis=0).round(1),
                )
                with writing(Path(options.csv)), open(options.csv, "a", newline="") as file:
                    csv.writer(file).writerows([row] if file.tell() else [COLUMNS, row])
            return True

    sigma = np.full(env.action_space.shape, args.exploration_noise)
    shared = ("learning_rate", "buffer_size", "batch_size", "learning_starts", "tau", "gamma")
    model = library.TD3(
        "MlpPolicy",
        env,
        **{name: getattr(args, name) for name in shared},
        policy_delay=args.policy_frequency,
        target_policy_noise=args.policy_noise,
        target_noise_clip=args.noise_clip,
        action_noise=NormalActionNoise(np.zeros_like(sigma), sigma),
        policy_kwargs={"net_arch": [args.hidden_dim, args.hidden_dim]},
        seed=options.seed,
    )
    model.learn(options.total_timesteps, callback=Evaluate())


def play(model, env: gym.Env, seed: int) -> tuple[float, int]:
    """Return and length of a deterministic episode."""
    obs, _ = env.reset(seed=seed)
    total, length, done = 0.0, 0, False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
        total, length, done = total + float(reward), length + 1, terminated or truncated
    return total, length


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
