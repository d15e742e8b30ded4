"""What a copied script remembers and no checkpoint would hold is told; what is saved, or stays, is not."""

import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from helpers import SCRIPTS, having, input_error, train
from torch import nn

from cleanrl_cc.common.checkpoints import not_finite
from cleanrl_cc.common.sum_tree import SumTree
from cleanrl_cc.common.unsaved import Unsaved
from cleanrl_cc.common.updates import Adam


class Agent(nn.Module):
    """One layer, and whatever a test adds."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.optimizers = {"layer": Adam(self.layer.parameters(), 0.1)}
        self.num_updates = 0


class Buffer:
    """Two columns and a tree, as those of the scripts, and whatever a test adds."""

    def __init__(self):
        self.rewards = np.zeros((5, 1))
        self.frames = torch.zeros(5, 1)
        self.priorities = SumTree((5, 1))
        self.num_added = 0

    def arrays(self) -> dict:
        columns = {"rewards": self.rewards[: self.num_added], "frames": self.frames[: self.num_added]}
        return columns | {"tree": self.priorities.nodes, "num_added": np.array(self.num_added)}


def warnings(change, agent: Agent, buffer: Buffer) -> list[str]:
    """The names that are told after `change`, and nothing before it."""
    unsaved = Unsaved(agent, buffer)
    told = []
    unsaved.check(told.append)
    assert told == []
    change(agent, buffer)
    unsaved.check(told.append)
    assert all("in no checkpoint" in text and text[-1] == "." for text in told)
    return [text.split()[0] for text in told]


# What the agent has beside its layer, and what an update does to it.
REMEMBERED = {
    "a number": (0.5, lambda agent: setattr(agent, "own", 0.7)),
    "a count": (np.int64(0), lambda agent: setattr(agent, "own", agent.own + 1)),
    "an array": (np.zeros(3), lambda agent: agent.own.fill(1)),
    "a tensor": (torch.zeros((), dtype=torch.bfloat16), lambda agent: agent.own.fill_(1)),
    "a generator": (np.random.default_rng(1), lambda agent: agent.own.random()),
    "Python's generator": (random.Random(1), lambda agent: agent.own.random()),
    "torch's generator": (torch.Generator(), lambda agent: torch.rand(1, generator=agent.own)),
    "a space that draws": (Discrete(9, seed=1), lambda agent: agent.own.sample()),
    "the last returns": (deque(maxlen=5), lambda agent: agent.own.append(3.0)),
    "visits": ({}, lambda agent: agent.own.update({(1, 2): 1})),
    "statistics": (SimpleNamespace(mean=np.zeros(3)), lambda agent: agent.own.mean.fill(1)),
    "networks in a list": ([nn.Linear(2, 2)], lambda agent: nn.init.ones_(agent.own[0].weight)),
    "a schedule of torch's": (
        torch.optim.lr_scheduler.ExponentialLR(torch.optim.SGD([torch.ones(1)], 0.1), 0.9),
        lambda agent: agent.own.step(),
    ),
}


@pytest.mark.parametrize("own, change", REMEMBERED.values(), ids=REMEMBERED)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_what_an_agent_remembers_is_told(own, change):
    agent = Agent()
    agent.own = own
    assert warnings(lambda agent, _: change(agent), agent, Buffer()) == ["Agent.own"]


def test_what_a_layer_remembers_is_told_by_its_path():
    agent = Agent()
    agent.layer.calls = 0
    told = warnings(lambda agent, _: setattr(agent.layer, "calls", 1), agent, Buffer())
    assert told == ["Agent.layer.calls"]


def test_what_first_appears_in_an_update_is_told():
    assert warnings(lambda agent, _: setattr(agent, "own", 1.0), Agent(), Buffer()) == ["Agent.own"]


@pytest.mark.parametrize("own", [np.zeros((5, 1)), torch.zeros(5, 1)], ids=["array", "tensor"])
def test_a_column_that_arrays_leaves_out_is_told(own):
    buffer = Buffer()
    buffer.own = own

    def add(_, buffer):
        buffer.own[0] = 1.0
        buffer.num_added = 1

    assert warnings(add, Agent(), buffer) == ["Buffer.own"]


class Counting(Agent):
    """Says itself what it saves, as any module may."""

    def __init__(self):
        super().__init__()
        self.visits = {}

    def get_extra_state(self) -> dict:
        return self.visits

    def set_extra_state(self, state: dict):
        self.visits = state


def test_what_a_module_says_itself_that_it_saves_is_not_told():
    agent = Counting()
    assert warnings(lambda agent, _: agent.visits.update({(1, 2): 1}), agent, Buffer()) == []
    assert not_finite(agent.state_dict()) is None


def test_what_is_saved_or_never_changes_is_not_told():
    agent = Agent()
    agent.register_buffer("saved", torch.zeros(3))
    agent.register_buffer("computed", torch.zeros(3), persistent=False)
    agent.same_tensors = [agent.layer.weight, agent.saved]
    agent.same_layers = [agent.layer]
    agent.same_optimizer = agent.optimizers["layer"]
    agent.function = torch.compile(lambda x: x)
    agent.constants = {"sizes": (3, 4), "rows": np.arange(5), "nan": float("nan")}

    def change(agent, buffer):
        agent.layer.weight.data.fill_(3)
        agent.saved.fill_(3)
        agent.computed.fill_(3)
        agent.saved = agent.saved + 1
        agent.same_tensors[1] = agent.saved
        agent.optimizers["layer"].step([torch.ones(2, 2), torch.ones(2)])
        agent.num_updates = 1
        agent.eval()
        buffer.rewards[:] = 3
        buffer.frames[:] = 3
        buffer.priorities[[0], [0]] = 3
        buffer.num_added = 2

    assert warnings(change, agent, Buffer()) == []


def test_an_optimizer_that_would_not_be_saved_is_refused():
    agent = Agent()
    agent.other = Adam(agent.layer.parameters(), 0.1)
    assert "Agent.other would not be saved" in input_error(Unsaved, agent, Buffer())
    agent.optimizers["other"] = agent.other
    Unsaved(agent, Buffer())
    agent.several = [torch.optim.SGD(agent.layer.parameters())]
    assert "Agent.several would not be saved" in input_error(Unsaved, agent, Buffer())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_save_all_that_they_remember(script, tmp_path, capsys):
    noise = {"exploration_steps": 80, "final_exploration_noise": 0.5}
    changes = {name: value for name, value in noise.items() if script in having(name)}
    train(script, tmp_path / "run", total_timesteps=100, **changes)
    assert "in no checkpoint" not in capsys.readouterr().err
