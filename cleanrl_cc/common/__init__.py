"""What the scripts share. Helpers know no algorithm, and each imports only those
below it; `errors` is the ground floor.

Importing this package registers its environments with Gymnasium; their
simulators are imported when one is made.
"""

import itertools
import os

import gymnasium as gym

# else SDL, which draws Gymnasium's environments, keeps a program from ending upon SIGTERM
os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")


def register(env_id: str, entry_point: str, **spec):
    """Registers an id, unless it is: a copy of this folder may stand beside an installed one."""
    if env_id not in gym.registry:
        gym.register(env_id, f"{__name__}.{entry_point}", **spec)


register("cleanrl_cc/FastCarRacing-v3", "car_racing:FastCarRacing", max_episode_steps=1000)
for walker, moving, dense in itertools.product(("Ball", "Ant", "Humanoid"), (False, True), (False, True)):
    name = f"cleanrl_cc/Corridor{'Moving' if moving else 'Static'}{'Dense' if dense else ''}-{walker}-v0"
    density = 4.0 if dense else 2.0  # walls per 10 m
    register(name, "obstacles:Corridor", kwargs={"walker": walker, "moving": moving, "density": density})
