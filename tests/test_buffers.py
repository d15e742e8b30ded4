"""Whatever a replay buffer returns must be what a slow list of episodes says.

`Counting` environments tell episode and step in every observation, so a stack or window that reaches into
another episode, another environment, or over the write head of the ring shows.
"""

import importlib
import tracemalloc
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from helpers import assert_same

from cleanrl_cc import ppo_continuous, rainbow
from cleanrl_cc.common import machine
from cleanrl_cc.common.checkpoints import load_replay, save_replay
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.errors import InputError

CPU = torch.device("cpu")
GAMMA = 0.9


@pytest.fixture(params=["sac_drq", "dqn_atari_style", "rainbow"])
def script(request):
    return importlib.import_module(f"cleanrl_cc.{request.param}")


class Recorder:
    """Random play of a vector of counting environments, stored in a buffer
    as `train` does, and in plain lists."""

    def __init__(
        self,
        script,
        env_id="CountingImages-v0",
        num_envs=1,
        frame_stack=1,
        n_step=1,
        buffer_size=60,
        grayscale=True,
        **more,
    ):
        fields = more | {
            "num_envs": num_envs,
            "frame_stack": frame_stack,
            "n_step": n_step,
            "buffer_size": buffer_size,
            "gamma": GAMMA,
        }
        obs = "pixels" if "Images" in env_id else "state"
        make = partial(make_env, env_id, obs, frame_stack=frame_stack, image_size=4, grayscale=grayscale)
        self.envs = gym.vector.SyncVectorEnv([partial(make, seed=(7, index)) for index in range(num_envs)])
        self.buffer = script.ReplayBuffer(
            script.Args(**fields), self.envs.single_observation_space, self.envs.single_action_space, CPU
        )
        self.rng = np.random.default_rng(0)
        self.stack, self.n_step, self.row = frame_stack if "Images" in env_id else 1, n_step, 0
        self.obs, self.autoreset = self.envs.reset()[0], np.zeros(num_envs, bool)
        self.episodes = {}  # by tag
        self.playing = [self.begin(obs) for obs in self.obs]

    def begin(self, obs) -> dict:
        tag, step = self.decode(obs[None])[0, -1]
        assert step == 0 and tag not in self.episodes
        self.episodes[tag] = {"first_row": self.row, "actions": [], "rewards": [], "terminated": False}
        return self.episodes[tag]

    def play(self, num_rows: int):
        for _ in range(num_rows):
            # nobody looks at them: as what the buffer keeps
            actions = self.rng.uniform(-100, 100, self.envs.action_space.shape)
            actions = actions.astype(str(self.buffer.actions.dtype).removeprefix("torch."))
            next_obs, rewards, terminations, truncations, _ = self.envs.step(actions)
            self.buffer.add(self.obs, actions, rewards, terminations, truncations, final=self.autoreset)
            self.row += 1
            for index in range(self.envs.num_envs):
                if self.autoreset[index]:
                    self.playing[index] = self.begin(next_obs[index])
                else:
                    self.playing[index]["actions"].append(actions[index].copy())
                    self.playing[index]["rewards"].append(rewards[index])
                    self.playing[index]["terminated"] = terminations[index]
            self.obs, self.autoreset = next_obs, terminations | truncations

    def decode(self, obs) -> np.ndarray:
        """(B, stack, 2): tag and step of every frame."""
        if obs.ndim == 2:
            return np.asarray(obs, int)[:, None]
        frames = np.asarray(obs, int).reshape(len(obs), self.stack, -1, 4, 4)
        assert (frames == frames[:, :, :1]).all()  # gray frames have equal color channels
        return np.stack([256 * frames[:, :, 0, 0, 0] + frames[:, :, 0, 0, 1], frames[:, :, 0, 0, 2]], axis=2)

    def expected_stack(self, tag: int, step: int) -> list:
        return [[tag, max(0, step - back)] for back in reversed(range(self.stack))]

    def valid_starts(self) -> set:
        """Steps taken (so no final observations) with the whole stack
        before and n rows after them in the ring."""
        oldest = max(0, self.row - self.buffer.num_rows)
        first, last = oldest + (self.stack - 1 if oldest else 0), self.row - self.n_step
        starts = (
            (tag, step, e["first_row"] + step)
            for tag, e in self.episodes.items()
            for step in range(len(e["actions"]))
        )
        return {(tag, step) for tag, step, row in starts if first <= row < last}

    def check(self, batch):
        starts, nexts = self.decode(batch.obs), self.decode(batch.next_obs)
        valid = self.valid_starts()
        for i, (tag, step) in enumerate(starts[:, -1].tolist()):
            assert (tag, step) in valid
            assert starts[i].tolist() == self.expected_stack(tag, step)
            episode = self.episodes[tag]
            rewards = episode["rewards"][step : step + self.n_step]
            beyond = step + len(rewards)
            ended = beyond == len(episode["actions"]) and episode["terminated"]
            assert np.array_equal(batch.actions[i], episode["actions"][step])
            assert batch.rewards[i].item() == pytest.approx(
                sum(GAMMA**j * r for j, r in enumerate(rewards)), abs=1e-5
            )
            assert nexts[i].tolist() == self.expected_stack(tag, beyond)
            assert batch.terminations[i].item() == float(ended)
            assert batch.gammas[i].item() == pytest.approx(GAMMA ** len(rewards))


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize(
    "env_id, frame_stack, grayscale",
    [
        ("CountingState-v0", 4, True),
        *(("CountingImages-v0", stack, True) for stack in (1, 3, 4)),
        ("CountingImages-v0", 3, False),
    ],
)
def test_batches_equal_a_list_of_episodes(script, env_id, frame_stack, grayscale, n_step, num_envs):
    recorder = Recorder(script, env_id, num_envs, frame_stack, n_step, 25 * num_envs, grayscale)
    rng = np.random.default_rng(1)
    recorder.play(n_step + 1)  # the first moment at which `train` samples
    for _ in range(25):  # the ring wraps 5 times
        recorder.check(recorder.buffer.sample(16, rng))
        recorder.play(5)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("frame_stack, n_step", [(1, 1), (4, 5)])
def test_the_smallest_buffer_that_is_accepted_works(script, frame_stack, n_step, num_envs):
    smallest = num_envs * (frame_stack + n_step + 1)
    recorder = Recorder(script, "CountingImages-v0", num_envs, frame_stack, n_step, smallest)
    recorder.play(n_step + 1)
    for _ in range(50):
        recorder.check(recorder.buffer.sample(8, recorder.rng))
        recorder.play(1)
    with pytest.raises(InputError, match=f"--buffer-size must be at least {smallest}"):
        Recorder(script, "CountingImages-v0", num_envs, frame_stack, n_step, smallest - 1)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [30, 130])  # before and after the ring of 50 rows has wrapped
@pytest.mark.parametrize("num_envs", [1, 3])
def test_every_valid_start_is_drawn_equally_often(script, num_envs, num_rows):
    recorder = Recorder(script, num_envs=num_envs, frame_stack=3, n_step=3, buffer_size=50 * num_envs)
    recorder.play(num_rows)
    drawn = recorder.decode(recorder.buffer.sample(50_000, np.random.default_rng(2)).obs)[:, -1]
    starts, counts = np.unique(drawn, axis=0, return_counts=True)
    assert set(map(tuple, starts.tolist())) == recorder.valid_starts()
    expected, freedom = counts.mean(), len(counts) - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # four standard deviations; rainbow.py's draws are more even than chance
    assert chi_square - freedom < 4 * np.sqrt(2 * freedom)


def test_stored_rows_are_copies(script):
    buffer = script.ReplayBuffer(
        script.Args(buffer_size=50, n_step=1), Box(-1, 1, (2,)), Box(-1, 1, (1,)), CPU
    )
    columns = (
        np.zeros((1, 2), np.float32),
        np.zeros((1, 1), np.float32),
        np.zeros(1),
        np.zeros(1, bool),
        np.zeros(1, bool),
    )
    for row in range(4):  # an environment that reuses its arrays
        columns[0][:], columns[1][:], columns[2][:] = row, row, row
        buffer.add(*columns, final=np.zeros(1, bool))
    batch = buffer.sample(64, np.random.default_rng(0))
    assert torch.equal(batch.obs[:, 0], batch.rewards) and torch.equal(
        batch.actions[:, 0].float(), batch.rewards
    )
    assert torch.equal(batch.next_obs[:, 0], batch.rewards + 1)
    assert batch.rewards.unique().tolist() == [0, 1, 2]


def test_a_stack_late_in_a_long_episode_is_whole(script):
    space = Box(0, 255, (3, 2, 2), np.uint8)
    buffer = script.ReplayBuffer(
        script.Args(buffer_size=600, frame_stack=3, n_step=1), space, Box(-1, 1, (1,)), CPU
    )
    ends = np.zeros(1, bool)
    for row in range(600):  # more steps than a byte can count
        obs = np.zeros((1, *space.shape), np.uint8)
        obs[0, -1, 0] = divmod(row, 256)
        buffer.add(obs, np.zeros((1, 1)), np.full(1, row), ends, ends, final=ends)
    batch = buffer.sample(1000, np.random.default_rng(0))
    rows = 256 * batch.obs[:, :, 0, 0].int() + batch.obs[:, :, 0, 1]
    expected = batch.rewards[:, None].int() + torch.tensor([-2, -1, 0])
    assert torch.equal(rows, expected.clamp(min=0))


@pytest.mark.parametrize("num_rows", [30, 130])
def test_a_buffer_from_a_checkpoint_goes_on_like_the_stored_one(script, num_rows, tmp_path):
    stored, fresh = (Recorder(script, num_envs=3, frame_stack=3, n_step=3, buffer_size=150) for _ in range(2))
    stored.play(num_rows)
    save_replay(tmp_path / "replay.npz", stored.buffer.arrays())
    load_replay(tmp_path / "replay.npz", fresh.buffer)
    stored.buffer, replaced = fresh.buffer, stored.buffer
    for batch, other in zip(
        *(buffer.sample(64, np.random.default_rng(3)) for buffer in (stored.buffer, replaced)), strict=True
    ):
        assert torch.equal(batch, other)
    stored.play(7)  # goes on in the middle of an episode
    stored.check(stored.buffer.sample(64, stored.rng))


def test_a_buffer_is_not_in_memory_twice_when_it_is_loaded(script, tmp_path):
    stored, fresh = car_racing_buffer(script, 5000), car_racing_buffer(script, 5000)
    stored.num_added = 5000
    save_replay(tmp_path / "replay.npz", stored.arrays())
    tracemalloc.start()  # counts NumPy's memory and Python's
    load_replay(tmp_path / "replay.npz", fresh)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * fresh.frames.nbytes
    assert torch.equal(stored.frames, fresh.frames)


@pytest.mark.parametrize("script", ["dqn_atari_style", "rainbow"], indirect=True)
def test_actions_beyond_16_bits_are_kept(script):
    spaces = Box(-1, 1, (2,)), Discrete(2**20)
    buffer = script.ReplayBuffer(script.Args(buffer_size=50, n_step=1), *spaces, CPU)
    never = np.zeros(1, bool)
    for _ in range(4):
        buffer.add(np.zeros((1, 2)), np.array([[2**20 - 1]]), np.zeros(1), never, never, final=never)
    assert buffer.sample(8, np.random.default_rng(0)).actions.unique().tolist() == [2**20 - 1]


# --- priorities ---


def prioritised(num_rows: int, **fields) -> Recorder:
    recorder = Recorder(rainbow, **fields)
    recorder.play(num_rows)
    return recorder


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("frame_stack, n_step", [(1, 1), (4, 1), (1, 5), (3, 3)])
def test_prioritised_batches_equal_a_list_of_episodes(frame_stack, n_step, num_envs):
    fields = {
        "num_envs": num_envs,
        "frame_stack": frame_stack,
        "n_step": n_step,
        "buffer_size": 25 * num_envs,
    }
    recorder, rng = prioritised(n_step + 1, **fields), np.random.default_rng(1)
    buffer = recorder.buffer
    for _ in range(25):  # the ring wraps 5 times
        batch = buffer.sample(16, rng, beta=0.5)
        recorder.check(batch)
        buffer.update_priorities(batch.places, torch.from_numpy(rng.exponential(10, 16)))
        recorder.check(buffer.sample(16, rng))
        recorder.play(5)


def test_rows_that_cannot_start_a_window_have_no_priority_and_new_ones_the_largest():
    recorder = prioritised(130, num_envs=2, frame_stack=3, n_step=4, buffer_size=100)
    buffer, rng = recorder.buffer, np.random.default_rng(1)
    buffer.update_priorities(buffer.sample(64, rng).places, torch.full((64,), 9.0))
    assert buffer.max_priority == pytest.approx(3)
    recorder.play(1)
    ready = (recorder.row - 1 - 4) % 50  # the first four rows after it are written
    assert np.array_equal(buffer.priorities[ready], np.where(buffer.final[ready], 0, buffer.max_priority))
    assert (buffer.priorities[buffer.final] == 0).all()
    unfinished, overwritten = np.arange(-4, 0), np.arange(2)  # rows from the write head
    assert (buffer.priorities[(recorder.row + np.append(unfinished, overwritten)) % 50] == 0).all()
    assert np.count_nonzero(buffer.priorities.leaves) == len(recorder.valid_starts())


def test_rows_are_drawn_in_proportion_to_their_priorities():
    buffer = prioritised(130, num_envs=2, frame_stack=3, n_step=3, buffer_size=100).buffer
    rng = np.random.default_rng(2)
    places = buffer.sample(10_000, rng).places.unique(dim=1)
    errors = torch.from_numpy(rng.normal(0, 5, places.shape[1]))
    buffer.update_priorities(places, errors)
    expected = (errors.abs() + 1e-6).sqrt()
    expected /= expected.sum()
    batch = buffer.sample(100_000, rng, beta=0.7)
    drawn, number, counts = batch.places.unique(dim=1, return_inverse=True, return_counts=True)
    assert torch.equal(drawn, places)
    assert ((counts - 100_000 * expected).abs() < 2).all()  # one draw from each equal share
    assert batch.weights.numpy() == pytest.approx(((expected.min() / expected) ** 0.7)[number].numpy())


def test_without_priorities_errors_change_nothing():
    buffer, rng = prioritised(130, components=("n-step",)).buffer, np.random.default_rng(5)
    before = buffer.priorities.nodes.copy()
    batch = buffer.sample(64, rng)
    buffer.update_priorities(batch.places, torch.from_numpy(rng.exponential(3, 64)))
    assert np.array_equal(buffer.priorities.nodes, before) and (batch.weights == 1).all()


def test_without_n_step_one_reward_is_summed():
    batch = prioritised(30, n_step=3, components=("per",)).buffer.sample(64, np.random.default_rng(5))
    assert torch.equal(batch.gammas, torch.full((64,), GAMMA))


# --- rollouts ---


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.8, 1.0])
def test_advantages_of_a_rollout_equal_those_of_its_episodes(gae_lambda, num_envs):
    def values_of(obs):
        return np.sin(obs @ np.array([0.01, 2], np.float32))

    make = partial(make_env, "CountingState-v0")
    envs = gym.vector.SyncVectorEnv([partial(make, seed=(8, index)) for index in range(num_envs)])
    args = ppo_continuous.Args(num_envs=num_envs, num_steps=40, gamma=GAMMA, gae_lambda=gae_lambda)
    buffer = ppo_continuous.RolloutBuffer(args, envs.single_observation_space, envs.single_action_space)
    (obs, _), autoreset, rng = envs.reset(), np.zeros(num_envs, bool), np.random.default_rng(0)
    episode_returns = np.zeros(num_envs)
    for _ in range(5):
        # of each environment, without ignored actions
        transitions, discounted = [[] for _ in range(num_envs)], {}
        for row in range(args.num_steps):
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            next_obs, rewards, terminations, truncations, _ = envs.step(actions)
            buffer.add(
                obs, actions, rewards, values_of(obs), rewards, terminations, truncations, final=autoreset
            )
            for n in np.flatnonzero(~autoreset):
                transitions[n].append((row, obs[n], rewards[n], terminations[n], truncations[n], next_obs[n]))
                episode_returns[n] = discounted[row, n] = rewards[n] + GAMMA * episode_returns[n]
                episode_returns[n] *= not (terminations[n] or truncations[n])
            obs, autoreset = next_obs, terminations | truncations
        advantages = buffer.advantages(buffer.rewards, values_of(obs))
        returns = buffer.discounted_returns()
        for n in range(num_envs):
            following = 0.0
            for row, before, reward, terminated, truncated, after in reversed(transitions[n]):
                following *= not (terminated or truncated)
                delta = reward + GAMMA * values_of(after) * (not terminated) - values_of(before)
                following = delta + GAMMA * gae_lambda * following
                assert advantages[row, n] == pytest.approx(following, abs=1e-4)
                assert returns[row, n] == pytest.approx(discounted[row, n], abs=1e-4)
        assert buffer.final.sum() == sum(args.num_steps - len(chosen) for chosen in transitions) > 0
        buffer.num_added = 0


@pytest.mark.parametrize("num_rows", [0, 3, 5])
def test_a_rollout_from_a_checkpoint_equals_the_stored_one(num_rows, tmp_path):
    args, rng = ppo_continuous.Args(num_envs=2, num_steps=5), np.random.default_rng(0)
    spaces = Box(0, 255, (1, 4, 4), np.uint8), Box(-1, 1, (3,))
    stored, fresh = (ppo_continuous.RolloutBuffer(args, *spaces) for _ in range(2))
    stored.discounted_return[:] = 7
    for _ in range(num_rows):
        stored.add(
            rng.integers(0, 256, (2, 1, 4, 4)),
            rng.normal(size=(2, 3)),
            *rng.normal(size=(3, 2)),
            *rng.random((3, 2)) < 0.5,
        )
    save_replay(tmp_path / "replay.npz", stored.arrays())
    load_replay(tmp_path / "replay.npz", fresh)
    assert fresh.num_added == num_rows
    assert np.array_equal(fresh.discounted_return, [7, 7])
    assert_same(fresh.arrays(), stored.arrays(), "arrays")


# --- memory ---


def car_racing_buffer(script, buffer_size: int):
    return script.ReplayBuffer(
        script.Args(buffer_size=buffer_size, frame_stack=4),
        Box(0, 255, (4, 84, 84), np.uint8),
        Box(-1, 1, (2,)),
        CPU,
    )


def test_100_000_transitions_of_84x84_pixels_take_three_quarters_of_a_gigabyte(script, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 10**12)
    # never written: free
    columns = [
        column for column in vars(car_racing_buffer(script, 100_000)).values() if hasattr(column, "nbytes")
    ]
    num_bytes = sum(column.nbytes for column in columns)
    assert num_bytes <= 0.75e9
    assert num_bytes / 100_000 <= 7500


def test_a_buffer_too_large_for_the_memory_is_refused_with_the_largest_size_that_fits(script, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 10**8)
    with pytest.raises(InputError, match="--buffer-size 100000 needs 0.7 GB and 0.1 GB are free") as refusal:
        car_racing_buffer(script, 100_000)
    largest = int(str(refusal.value).rstrip(".").split("--buffer-size ")[-1])
    assert 0.85e8 < 7500 * largest < 1e8
    car_racing_buffer(script, largest)
    with pytest.raises(InputError):
        car_racing_buffer(script, largest + 1)


# --- augmentation ---


@pytest.mark.parametrize("script", ["sac_drq"], indirect=True)
@pytest.mark.parametrize("shape, pad", [((4, 10, 10), 4), ((9, 10, 12), 2)])
def test_random_shift_is_a_crop_of_the_edge_padded_image(script, shape, pad):
    images = np.random.default_rng(4).integers(0, 256, (10 * (2 * pad + 1) ** 2, *shape), dtype=np.uint8)
    agent = script.Agent(script.Args(shift_pad=pad), Box(-1, 1, (1,)), Box(-1, 1, (1,)), CPU)
    torch.manual_seed(5)
    shifted = agent.random_shift(torch.from_numpy(images)).numpy()
    assert shifted.shape == images.shape and shifted.dtype == np.uint8

    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge")
    (_, height, width), offsets = shape, range(2 * pad + 1)
    # (offsets², B, C, H, W)
    crops = np.stack([padded[:, :, y : y + height, x : x + width] for y in offsets for x in offsets])
    matches = (crops == shifted).all(axis=(2, 3, 4))
    assert (matches.sum(axis=0) == 1).all()  # every image is one of its crops, all channels moved alike
    counts = matches.sum(axis=1)
    assert counts.min() > 0 and counts.max() < 40  # every shift occurs, none much more often than 10 times
