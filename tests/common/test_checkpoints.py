"""Not a bit of a checkpoint or a replay file that was changed is used, and no file of another checkpoint."""

import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_same_training, checkpoint, input_error, resume, train

from cleanrl_cc.common.checkpoints import (
    args_of_today,
    checked_arrays,
    load_checkpoint,
    load_replay,
    not_finite,
    rng_state,
    save_checkpoint,
    save_replay,
    set_rng_state,
)

pytestmark = pytest.mark.slow

NUM_FLIPS = 200


class Rows:
    """A buffer that takes what a file holds."""

    def __init__(self, path: Path):
        with np.load(path) as arrays:
            self.columns = {name: array.copy() for name, array in arrays.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        return self.columns


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a tiny run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train("td3", folder, total_timesteps=60, hidden_dim=2, learning_starts=40)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """The same, in a copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, bit: int):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def is_refused(path: Path, rows: Rows, token: str) -> bool:
    """Whether the file is not used."""
    try:
        if path.suffix == ".npz":
            load_replay(path, rows, token=token)
        else:
            load_checkpoint(path)
    except (SystemExit, ValueError, zipfile.BadZipFile):
        return True
    return False


# --- damage ---


def test_no_flipped_bit_is_used(run):
    names = ("last.pt", "best.pt", "replay-60.npz")
    contents = {name: (run / name).read_bytes() for name in names}
    rows, token = Rows(run / "replay-60.npz"), checkpoint(run)["replay_token"]
    assert not any(is_refused(run / name, rows, token) for name in names)
    rng = np.random.default_rng(1)
    for number in range(NUM_FLIPS):
        name = names[number % 3]
        bit = int(rng.integers(8 * len(contents[name])))
        flip(run / name, bit)
        assert is_refused(run / name, rows, token), f"bit {bit} of {name}"
        (run / name).write_bytes(contents[name])


@pytest.mark.parametrize("name", ["last.pt", "replay-60.npz"])
def test_no_flipped_bit_of_a_seal_is_used(name, run):
    rows, token = Rows(run / "replay-60.npz"), checkpoint(run)["replay_token"]
    size = (run / name).stat().st_size
    for bit in range(8 * (size - 50), 8 * size):
        flip(run / name, bit)
        assert is_refused(run / name, rows, token), f"bit {bit - 8 * size} from the end"
        flip(run / name, bit)


def test_arguments_of_an_earlier_version_are_named_as_today():
    args = {"action_repeat": 4, "training_wrappers": ("RoadRules",), "patience": 50, "matmul": "onednn"}
    rules = ("RoadRules", "Patience,frames=200")
    assert args_of_today(args) == {"action_repeat": 4, "training_wrappers": rules, "matmul": "onednn"}
    assert args_of_today({"action_repeat": 1, "patience": 0}) == {"action_repeat": 1, "matmul": "mkl"}


def test_weights_of_an_earlier_version_are_not_used_with_a_flipped_bit(tmp_path):
    path = tmp_path / "best.pt"
    weights = torch.full((1000,), 1 / 3)
    torch.save(
        {"algorithm": "td3", "args": {}, "recipe": {"env_id": "A-v0"}, "global_step": 1, "agent": weights},
        path,
    )
    assert torch.equal(load_checkpoint(path)["agent"], weights)
    start = path.read_bytes().index(weights.numpy().tobytes())
    for bit in np.random.default_rng(1).integers(8 * start, 8 * (start + 4000), 30):
        flip(path, int(bit))
        assert "damaged" in input_error(load_checkpoint, path)
        flip(path, int(bit))


@pytest.mark.parametrize("name", ["last.pt", "replay-60.npz"])
def test_a_file_that_is_too_short_or_too_long_is_not_used(name, run):
    rows, token = Rows(run / "replay-60.npz"), checkpoint(run)["replay_token"]
    data = (run / name).read_bytes()
    for length in (0, 7, 8, 30, len(data) // 2, len(data) - 25, len(data) - 1):
        (run / name).write_bytes(data[:length])
        assert is_refused(run / name, rows, token), length
    (run / name).write_bytes(data + b"\0")
    assert is_refused(run / name, rows, token)


# --- pairs ---


def of_another_run(run: Path, other: Path):
    shutil.copyfile(other / "replay-60.npz", run / "replay-60.npz")


def of_an_earlier_version(run: Path, other: Path):
    np.savez(run / "replay-60.npz", **Rows(run / "replay-60.npz").columns)


def of_another_folder(run: Path, other: Path):
    save_checkpoint(run / "last.pt", checkpoint(other) | {"replay": f"../{other.name}/replay-60.npz"})


def by_its_whole_path(run: Path, other: Path):
    save_checkpoint(run / "last.pt", checkpoint(run) | {"replay": str(run / "replay-60.npz")})


@pytest.mark.parametrize(
    "swap, word",
    [
        (of_another_run, "another checkpoint"),
        (of_an_earlier_version, "another checkpoint"),
        (of_another_folder, "lie beside it"),
        (by_its_whole_path, "lie beside it"),
    ],
)
def test_a_replay_file_that_is_no_pair_is_refused(swap, word, run, finished, tmp_path):
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    resume("td3", other, total_timesteps=61)
    resume("td3", run, total_timesteps=61)
    for folder in (run, other):  # the same rows, another token
        (folder / "replay-61.npz").rename(folder / "replay-60.npz")
        save_checkpoint(folder / "last.pt", checkpoint(folder) | {"replay": "replay-60.npz"})
    swap(run, other)
    message = input_error(resume, "td3", run, total_timesteps=62)
    assert "cannot be resumed" in message and word in message


def test_a_whole_run_folder_may_be_copied(run, finished, tmp_path):
    resume("td3", run / "last.pt", total_timesteps=80)
    train("td3", tmp_path / "direct", total_timesteps=80, hidden_dim=2, learning_starts=40)
    assert_same_training(run, tmp_path / "direct")


# --- a buffer of one's own ---


class Own:
    """A buffer with one more array; that of a copied script."""

    def __init__(self, give):
        self.give = give
        self.num_added = 0

    def arrays(self) -> dict:
        return {"mine": self.give(), "num_added": np.array(self.num_added)}


@pytest.mark.parametrize(
    "give, word",
    [
        (lambda: [0.0] * 5, "a list"),
        (lambda: np.full(5, None), "object"),
        (lambda: np.full(5, "text"), "<U4"),
        (lambda: torch.zeros(5, dtype=torch.bfloat16), "bfloat16"),
        (lambda: np.array(3.0), "a copy"),
        (lambda: np.array([1.0, 2.0]), "a copy"),
        (lambda: torch.tensor(3.0), "a copy"),
    ],
)
def test_an_array_that_could_not_be_read_back_is_told(give, word):
    message = input_error(checked_arrays, Own(give))
    assert "mine in arrays() of Own" in message and word in message


def test_an_array_in_any_order_is_read_back(tmp_path):
    values = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    orders = [values, np.asfortranarray(values), values.T, torch.tensor(values).permute(2, 0, 1)]
    orders += [values[:, ::2], np.zeros((), np.float32), torch.tensor(values)[:0]]
    for number, order in enumerate(orders):
        path = tmp_path / f"{number}.npz"
        buffer = Own(lambda order=order: order)
        expected = np.array(order)
        save_replay(path, checked_arrays(buffer))
        order[...] = -1
        load_replay(path, buffer)
        assert np.array_equal(order, expected), number


# --- numbers ---


def test_every_generator_goes_on_where_it_was(tmp_path):
    rng = np.random.default_rng(1)

    def draw() -> list[float]:  # of a pair of normal numbers a generator keeps the second
        return [random.gauss(), np.random.normal(), torch.randn(1).item(), rng.normal()]

    draw()
    save_checkpoint(tmp_path / "generators.pt", rng_state(rng))
    expected = [draw() for _ in range(3)]
    set_rng_state(torch.load(tmp_path / "generators.pt", weights_only=True), rng)
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_what_is_not_finite_is_named(value, make):
    whole = {"bytes": make([1, 2]), "empty": make([]), "numbers": make([1.0, -2.0])}
    assert not_finite(whole) is None
    assert not_finite(whole | {"rewards": make([1.0, value, 2.0])}) == "rewards"
