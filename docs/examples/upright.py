"""Reward shaping: LunarLander pays less where the lander leans."""

import gymnasium as gym


class Upright(gym.Wrapper):
    """Takes `weight` times the angle, in radians, off the reward of each step.

    Args:
        env: LunarLander.
        weight: of that cost.
    """

    def __init__(self, env: gym.Env, weight: float = 1.0):
        super().__init__(env)
        self.weight = weight

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        angle = abs(float(obs[4]))
        return obs, reward - self.weight * angle, terminated, truncated, info
