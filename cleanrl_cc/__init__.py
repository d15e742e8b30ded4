"""Single-file reference implementations of deep reinforcement learning for continuous control.

from cleanrl_cc import load_policy

policy = load_policy("zoo/sac_drq-CarRacing-v3.pt")
env = policy.make_env()
obs, _ = env.reset(seed=0)
action = policy(obs)
"""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # python -m cleanrl_cc.td3, whose first lines are yet to come
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import cleanrl_cc.common  # noqa: F401 (registers its environments)

__version__ = "0.1.0"
__all__ = ["load_policy"]


def __getattr__(name: str):
    if name == "load_policy":  # imported late: torch, and a second, come with the first policy
        from cleanrl_cc.evaluate import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
