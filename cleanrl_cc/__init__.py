"""Single-file reference implementations of deep reinforcement learning for continuous control."""

import cleanrl_cc.common  # noqa: F401 (registers its environments)

__version__ = "0.1.0"
