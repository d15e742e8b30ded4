"""Trains Stable-Baselines3 or SBX with our settings and evaluates it as ours is: on the same version of the
task, with the same wrappers, over the same episodes. Is a slow start ours, or the task's?

    pip install -e ".[peers]"
    python benchmark/peer_curve.py --peer sbx --script sac_drq --env-id Hopper-v5 --total-timesteps 200000
    python benchmark/collect.py runs && python benchmark/report.py

What follows --peer and --script are flags of that script. Its preset is translated, and what the peer has no
counterpart of is refused in one sentence. The run folder holds `args.json` and `evaluations.csv` as ours do,
so that the report draws both curves. DQN's networks are the peers' own, of our width.
"""

import importlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro

from cleanrl_cc.common.arguments import RunArgs, check_args, parse_args
from cleanrl_cc.common.envs import make_env, recipe
from cleanrl_cc.common.errors import InputError, require
from cleanrl_cc.common.evaluation import EVALUATION_SEED, play_episodes, side_by_side, summarize
from cleanrl_cc.common.folders import new_folder, write_description
from cleanrl_cc.common.runs import crossed
from cleanrl_cc.common.tables import append_csv

LIBRARIES = {"sb3": "stable_baselines3", "sbx": "sbx"}
PEERS = {"ppo_continuous": "PPO", "sac_drq": "SAC", "td3": "TD3", "ddpg": "DDPG", "dqn_atari_style": "DQN"}

# Fields of ours under the peers' names.
SAME = {
    "buffer_size": "buffer_size",
    "batch_size": "batch_size",
    "learning_starts": "learning_starts",
    "n_step": "n_steps",
    "gamma": "gamma",
    "tau": "tau",
    "policy_frequency": "policy_delay",
    "policy_noise": "target_policy_noise",
    "noise_clip": "target_noise_clip",
    "num_steps": "n_steps",
    "gae_lambda": "gae_lambda",
    "num_epochs": "n_epochs",
    "clip_coef": "clip_range",
    "clip_value": "clip_range_vf",
    "ent_coef": "ent_coef",
    "vf_coef": "vf_coef",
    "max_grad_norm": "max_grad_norm",
    "target_kl": "target_kl",
    "epsilon_end": "exploration_final_eps",
}
# Fields that `translate` and `train_peer` see to.
TRANSLATED = ("learning_rate", "learning_rate_schedule", "updates_per_step", "hidden_dim", "reward_scale")
TRANSLATED += ("initial_alpha", "target_entropy", "exploration_noise", "target_update_frequency")
TRANSLATED += ("epsilon_steps", "num_minibatches", "normalize", "initial_log_std", "activation")
# Fields without a counterpart, and the value at which ours are the peers' algorithms.
ABSENT = {
    "policy_average": 0.0,
    "final_exploration_noise": None,
    "exploration_noise_type": "gaussian",
    "batch_norm": False,
    "action_distribution": "normal",
    "loss": "huber",
}
# Fields that say nothing where states are seen, or where another one has the value above.
UNUSED = ("encoder_channels", "feature_dim", "random_shift", "shift_pad", "exploration_steps", "bins")


@dataclass
class Options:
    peer: Literal["sb3", "sbx"]
    """Stable-Baselines3 or SBX"""
    script: Literal["ppo_continuous", "sac_drq", "td3", "ddpg", "dqn_atari_style", "rainbow"]
    """script whose counterpart is trained"""


def main(argv: list[str] | None = None):
    train_peer(*read(argv))


def read(argv: list[str] | None) -> tuple[Options, RunArgs]:
    """Our own flags, and those of the script."""
    options, words = tyro.cli(Options, description=__doc__, args=argv, return_unknown_args=True)
    script = importlib.import_module(f"cleanrl_cc.{options.script}")
    args = parse_args(script.Args, script.PRESETS, words)
    check_args(args)
    if args.run_name is None:
        task = args.env_id.replace("/", "-").replace(":", "-")
        args.run_name = f"{options.script}-{options.peer}/{task}/seed-{args.seed}"
    return options, args


# --- translating ---


def translate(options: Options, args: RunArgs) -> dict:
    """The arguments of the peer's class that mean what `args` say.

    Raises:
        InputError: they say what the peer has no counterpart of.
    """
    given = {item.name: getattr(args, item.name) for item in fields(args)}
    for name, value in ABSENT.items():
        if name in given:
            require(given[name] == value, name, given[name], f"{value!r} for a peer, which has nothing else")
    arguments = {theirs: given[ours] for ours, theirs in SAME.items() if ours in given}
    arguments["learning_rate"] = schedule(args)
    width = [args.hidden_dim, args.hidden_dim]
    arguments["policy_kwargs"] = {"net_arch": width}
    if options.script == "ppo_continuous":
        arguments["batch_size"] = args.num_envs * args.num_steps // args.num_minibatches
        activation = activation_of(options.peer, args.activation)
        arguments["policy_kwargs"] = {
            "net_arch": {"pi": width, "vf": width},
            "log_std_init": args.initial_log_std,
            "activation_fn": activation,
        }
        return arguments
    ratio = Fraction(args.updates_per_step).limit_denominator(1000)
    arguments["train_freq"] = ratio.denominator
    arguments["gradient_steps"] = ratio.numerator * args.num_envs
    if options.script == "sac_drq":
        arguments["ent_coef"] = f"auto_{args.initial_alpha}"
        arguments["target_entropy"] = "auto" if args.target_entropy is None else args.target_entropy
    if options.script == "dqn_atari_style":  # theirs counts steps, ours updates
        arguments["target_update_interval"] = round(args.target_update_frequency / args.updates_per_step)
    return arguments


def schedule(args: RunArgs) -> float | Callable[[float], float]:
    """The learning rate, a function of the share of steps that remains where it falls."""
    kind = getattr(args, "learning_rate_schedule", "constant")
    if kind == "constant":
        return args.learning_rate
    if kind == "linear":
        return lambda remaining: args.learning_rate * remaining
    return lambda remaining: args.learning_rate * (1 - np.cos(np.pi * remaining)) / 2


def activation_of(peer: str, name: str):
    if peer == "sbx":
        import flax.linen

        return {"tanh": flax.linen.tanh, "relu": flax.linen.relu}[name]
    return {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[name]


def peer_class(options: Options, arguments: dict) -> type:
    """The peer's class, which takes all of `arguments` but those it does not know and that change nothing.

    Raises:
        InputError: it is not installed, has no such algorithm, or lacks what an argument asks for.
    """
    name = PEERS.get(options.script)
    try:
        found = getattr(importlib.import_module(LIBRARIES[options.peer]), name or "", None)
    except ImportError as error:
        raise InputError(f'--peer {options.peer} needs pip install -e ".[peers]": {error}.') from error
    if found is None:
        raise InputError(f"--peer {options.peer} has no counterpart of {options.script}.py.")
    known = inspect.signature(found).parameters
    neutral = {"n_steps": 1, "clip_range_vf": None, "target_kl": None}
    for argument in [argument for argument in arguments if argument not in known]:
        value = arguments.pop(argument)
        if argument not in neutral or neutral[argument] != value:
            raise InputError(
                f"--peer {options.peer} has no {argument} in its {name}, which is to be {value}."
            )
    return found


# --- training ---


class Player:
    """A peer as `play_episodes` knows an agent."""

    def __init__(self, model, normalize: Callable[[np.ndarray], np.ndarray]):
        self.model = model
        self.normalize = normalize

    def act(self, obs: np.ndarray, deterministic: bool = False) -> np.ndarray:
        return self.model.predict(self.normalize(obs), deterministic=deterministic)[0]


def train_peer(options: Options, args: RunArgs) -> Path:
    """Trains and evaluates; returns the run folder."""
    require(args.resume is None, "resume", args.resume, "left out, since a peer's run cannot be resumed")
    arguments = translate(options, args)
    algorithm = peer_class(options, arguments)
    args.device = "cpu"
    args.precision = "fp32"
    args.num_threads = args.num_threads or 1
    torch.set_num_threads(args.num_threads)

    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    eval_envs = [make_env(**recipe(args))]
    if len(eval_envs[0].observation_space.shape) != 1:
        raise InputError("The peers' encoders of images are not ours: add --obs state.")
    actions = eval_envs[0].action_space
    if options.script == "dqn_atari_style" and isinstance(actions, gym.spaces.Box):
        raise InputError(f"The peers' DQN has only discrete actions, and {args.env_id} has continuous ones.")
    if options.script != "dqn_atari_style" and not isinstance(actions, gym.spaces.Box):
        raise InputError(f"{args.env_id} has discrete actions here and {options.script}.py continuous ones.")
    while len(eval_envs) < side_by_side(eval_envs[0], args.eval_episodes):
        eval_envs.append(make_env(**recipe(args)))

    folder = new_folder(args, options.script)
    write_description(folder, args, options.script)
    envs = DummyVecEnv([partial(training_env, args, index) for index in range(args.num_envs)])
    normalize = np.asarray
    if getattr(args, "normalize", False):
        envs = VecNormalize(envs, gamma=args.gamma)
        normalize = envs.normalize_obs
    if hasattr(args, "exploration_noise"):
        sigma = np.full(actions.shape, args.exploration_noise)
        arguments["action_noise"] = NormalActionNoise(np.zeros_like(sigma), sigma)
    model = algorithm("MlpPolicy", envs, **arguments, seed=args.seed, device=args.device)
    if options.script == "dqn_atari_style":
        model.exploration_schedule = partial(exploration, args)
    player = Player(model, normalize)
    started_at = time.perf_counter()
    evaluated = [0]

    def evaluate(global_step: int):
        seeds = range(EVALUATION_SEED, EVALUATION_SEED + args.eval_episodes)
        summary = summarize(play_episodes(eval_envs, player, seeds))
        row = {"global_step": global_step, "frames": global_step * args.action_repeat}
        row |= {"seconds": round(time.perf_counter() - started_at, 1)}
        append_csv(
            folder / "evaluations.csv",
            row | summary | {"episodes": len(seeds), "first_seed": EVALUATION_SEED},
        )
        print(f"step {global_step:,}: evaluation {summary['return_mean']:.1f}", flush=True)
        evaluated.append(global_step)

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            if crossed(self.num_timesteps, self.num_timesteps - args.num_envs, args.eval_frequency):
                evaluate(self.num_timesteps)
            return True

    model.learn(args.total_timesteps, callback=Evaluate())
    if evaluated[-1] < model.num_timesteps:
        evaluate(model.num_timesteps)
    print(folder)
    return folder


def training_env(args: RunArgs, index: int) -> gym.Env:
    env = make_env(**recipe(args), training_wrappers=args.training_wrappers, seed=(args.seed, index))
    scale = getattr(args, "reward_scale", 1.0)
    return env if scale == 1 else gym.wrappers.TransformReward(env, lambda reward: scale * reward)


def exploration(args: RunArgs, remaining: float) -> float:
    """ε falls from 1 to its end over `epsilon_steps` after `learning_starts`, as ours does."""
    steps = (1 - remaining) * args.total_timesteps - args.learning_starts
    return 1 - min(max(steps / args.epsilon_steps, 0), 1) * (1 - args.epsilon_end)


if __name__ == "__main__":
    main()
