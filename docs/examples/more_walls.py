"""A curriculum: the corridor begins empty and gets a wall more after every success."""

import gymnasium as gym


class MoreWalls(gym.Wrapper):
    """One wall more for the next episode whenever the walker came `goal` metres far, up to the number that
    the corridor was made with.

    Args:
        env: a corridor.
        goal: metres, of 60.
    """

    def __init__(self, env: gym.Env, goal: float = 50.0):
        super().__init__(env)
        self.arena = env.unwrapped.task.root_entity
        self.most = self.arena.num_walls
        self.goal = goal
        self.num_walls = 0

    def reset(self, **kwargs):
        self.arena.num_walls = self.num_walls
        return self.env.reset(**kwargs)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and info["distance"] >= self.goal:
            self.num_walls = min(self.num_walls + 1, self.most)
        return obs, reward, terminated, truncated, info

    # What it has learned: a checkpoint keeps it as it was when the episode began, and replays the episode.

    def state_dict(self) -> dict:
        return {"num_walls": self.num_walls}

    def load_state_dict(self, state: dict):
        self.num_walls = state["num_walls"]
