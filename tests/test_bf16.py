"""In bf16 the best action is that of fp32, and is the only one: the last layer is not rounded to 8 bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from helpers import ROOT, load_script

from cleanrl_cc.common.checkpoints import load_checkpoint
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.evaluate import Policy

pytestmark = pytest.mark.slow

ZOO = sorted(
    path for script in ("dqn_atari_style", "rainbow") for path in (ROOT / "zoo").glob(f"{script}-*.pt")
)


def compare(agent, obs: np.ndarray) -> tuple[int, float, float]:
    """Dimensions whose best bins tie in bf16; the share of dimensions where bf16 and fp32 choose alike, of
    all and of the clear ones, whose two best bins differ by more than a thousandth of the value: bf16 holds
    three digits, and the hidden layers stay in it."""
    chosen = []
    for enabled in (True, False):
        agent.autocast = lambda enabled=enabled: torch.autocast("cpu", torch.bfloat16, enabled=enabled)
        chosen.append(agent.q_values(obs))  # (N, D, bins)
    rounded, exact = chosen
    ties = (rounded == rounded.max(axis=2, keepdims=True)).sum(axis=2) > 1
    alike, ranked = rounded.argmax(axis=2) == exact.argmax(axis=2), np.sort(exact, axis=2)
    clear = ranked[:, :, -1] - ranked[:, :, -2] > 1e-3 * np.abs(ranked[:, :, -1])
    return int(ties.sum()), float(alike.mean()), float(alike[clear].mean())


@pytest.mark.parametrize(
    "script, fields",
    [
        ("dqn_atari_style", {}),
        ("rainbow", {"components": ()}),
        ("rainbow", {"components": ("dueling",)}),
        ("rainbow", {"components": ("dueling", "c51")}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "obs_space", [Box(0, 255, (4, 84, 84), np.uint8), Box(-1, 1, (17,))], ids=["pixels", "state"]
)
def test_best_actions_do_not_tie_on_random_states(obs_space, script, fields):
    torch.manual_seed(0)
    module = load_script(script)
    args = module.Args(precision="bf16", encoder_channels=16, hidden_dim=64, **fields)
    for action_space in (Discrete(5), Box(-1, 1, (6,))):
        agent = module.Agent(args, obs_space, action_space, torch.device("cpu"))
        rng = np.random.default_rng(0)
        obs = (
            rng.integers(0, 256, (100, 4, 84, 84), dtype=np.uint8)
            if len(obs_space.shape) == 3
            else rng.normal(size=(500, 17))
        )
        ties, *_ = compare(agent, obs if obs.dtype == np.uint8 else obs.astype(np.float32))
        assert ties == 0


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_policies_of_the_zoo_choose_as_in_fp32(path: Path):
    checkpoint = load_checkpoint(path)
    env = make_env(**checkpoint["recipe"])
    agent = Policy(checkpoint, "cpu").agent
    states = [env.reset(seed=10_000)[0]]
    while len(states) < 300:
        obs, _, terminated, truncated, _ = env.step(agent.act(states[-1][None], deterministic=True)[0])
        states.append(env.reset()[0] if terminated or truncated else obs)
    env.close()
    ties, agreement, clear_agreement = compare(agent, np.stack(states))
    assert ties == 0
    assert clear_agreement >= 0.995 and agreement >= 0.99
