"""Corridors with obstacles: a walker of dm_control's locomotion library runs as far as
it can past walls that stand or slide.

    python cleanrl_cc/sac_drq.py --env-id cleanrl_cc/CorridorStatic-Ball-v0
    python cleanrl_cc/sac_drq.py --env-id cleanrl_cc/CorridorMoving-Ant-v0 --obs pixels

Importing `cleanrl_cc` registers Static, StaticDense, Moving and MovingDense for Ball, Ant and
Humanoid. What is ours is the obstacles, the reward and the measures; floor, side walls, walkers and
falls are the library's (`dm_control.locomotion`).
"""

from functools import partial
from typing import Any

import numpy as np

from cleanrl_cc.common.episodes import Measured
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.rendering import choose_gl_backend

choose_gl_backend(quietly=True)  # dm_control chooses for good when it is imported

# ruff: noqa: E402
from dm_control import composer
from dm_control.composer.observation import observable
from dm_control.composer.variation.distributions import Uniform
from dm_control.locomotion.arenas.corridors import EmptyCorridor
from dm_control.locomotion.tasks import RunThroughCorridor
from dm_control.locomotion.walkers import Ant, CMUHumanoidPositionControlled, RollingBallWithHead
from dm_control.locomotion.walkers.initializers import NoOpInitializer
from dm_control.utils.transformations import quat_to_mat
from shimmy.dm_control_compatibility import DmControlCompatibilityV0

# The library's initializer warns at every reset that the Ball has no free joint.
Ball = partial(RollingBallWithHead, initializer=NoOpInitializer())
WALKERS = {"Ball": Ball, "Ant": Ant, "Humanoid": CMUHumanoidPositionControlled}

TIME_LIMIT = 20.0  # seconds, 500 steps
CONTROL_TIMESTEP = 0.04  # 8 substeps
PHYSICS_TIMESTEP = 0.005
LENGTH = 60.0  # metres
WIDTH = 6.0
CLEAR = 4.0  # of the length, where nothing stands
# depth, width and height: at least 2 m remain beside a wall, and the Ant needs 1.6
WALL_SIZE = np.array((0.2, 2.0, 1.0))
SWING = (WIDTH - WALL_SIZE[1]) / 2  # metres from the middle
PERIODS = (6.0, 12.0)  # seconds there and back, from and to
NUM_SEEN = 3  # walls in the state
SIGHT = 10.0  # metres ahead at which they are seen
BEHIND = 1.0  # metres behind at which they still count as next
# seconds: a touch so soon after the last belongs to the same collision, in which a walker bounces
REBOUND = 0.5


class ObstacleArena(EmptyCorridor):
    """The library's corridor with `num_walls` walls across it; the i-th is at yᵢ(t) = SWING
    sin(ωᵢ t + φᵢ), where ωᵢ = 0 if it stands.

    Walls are motion-capture bodies: moving them needs no new model, so an episode begins in milliseconds.

    Attributes:
        num_walls: how many the next episode has; at first, and at most, all of them.
    """

    def _build(self, num_walls: int, moving: bool):
        size: dict[str, Any] = {"corridor_width": WIDTH, "corridor_length": LENGTH}  # it says integers
        super()._build(name="corridor", **size)
        self.num_walls = num_walls
        self.moving = moving
        self.xs = self.phases = self.omegas = np.empty(0)  # observed once before the first episode
        root = self.mjcf_model
        # the unit of the clipping planes, which the walls' places would otherwise decide
        root.statistic.extent = 10.0
        # a plain floor would show a camera no speed
        checker = {"rgb1": (0.25, 0.3, 0.35), "rgb2": (0.4, 0.45, 0.5)}
        texture = root.asset.add(
            "texture", name="floor", type="2d", builtin="checker", width=64, height=64, **checker
        )
        self._ground_plane.material = root.asset.add(
            "material", name="floor", texture=texture, texrepeat=(0.5, 0.5), texuniform=True
        )
        for plane in (self._left_plane, self._right_plane, self._near_plane, self._far_plane):
            plane.set_attributes(group=0, rgba=(0.3, 0.5, 0.7, 0.5))  # the library's group is not drawn
        color = (0.9, 0.3, 0.2, 1) if moving else (0.9, 0.7, 0.2, 1)
        self.walls = []
        for index in range(num_walls):
            # Until the first episode at the far end: in the walker's place they would
            # give more contacts than fit into memory.
            body = root.worldbody.add(
                "body", name=f"wall_{index}", mocap=True, pos=(LENGTH, 0, WALL_SIZE[2] / 2)
            )
            self.walls.append(
                body.add("geom", name=f"wall_{index}", type="box", size=WALL_SIZE / 2, rgba=color)
            )

    def initialize_episode(self, physics, random_state):
        """Draws where the walls stand along the corridor, each in the middle half of its share,
        and their phases and angular speeds. Those beyond `num_walls` are under the floor."""
        shares = np.arange(self.num_walls) + random_state.uniform(0.25, 0.75, self.num_walls)
        self.xs = CLEAR + (LENGTH - CLEAR) * shares / max(self.num_walls, 1)
        self.phases = random_state.uniform(0, 2 * np.pi, self.num_walls)
        self.omegas = self.moving * 2 * np.pi / random_state.uniform(*PERIODS, self.num_walls)
        physics.data.mocap_pos[:, 2] = -WALL_SIZE[2]
        standing = physics.data.mocap_pos[: self.num_walls]
        standing[:, 0] = self.xs
        standing[:, 1] = SWING * np.sin(self.phases)
        standing[:, 2] = WALL_SIZE[2] / 2

    def before_substep(self, physics, random_state):
        if self.moving:
            standing = physics.data.mocap_pos[: len(self.xs)]
            standing[:, 1] = SWING * np.sin(self.omegas * physics.time() + self.phases)

    def next_walls(self, physics, x: float, y: float) -> np.ndarray:
        """Distance ahead, distance to the left and speed to the left of the next
        walls, (NUM_SEEN, 3), in metres and seconds.

        A wall farther than SIGHT, or none, is (SIGHT, 0, 0).
        """
        seen = np.tile((SIGHT, 0.0, 0.0), (NUM_SEEN, 1))
        first, last = np.searchsorted(self.xs, (x - BEHIND, x + SIGHT))
        near = slice(first, min(last, first + NUM_SEEN))
        angles = self.omegas[near] * physics.time() + self.phases[near]
        velocities = SWING * self.omegas[near] * np.cos(angles)
        seen[: len(angles)] = np.stack([self.xs[near] - x, SWING * np.sin(angles) - y, velocities], axis=1)
        return seen


class RunPastObstacles(RunThroughCorridor):
    """The library's task, rewarded by forward speed, that counts collisions
    and truncates at the end of the corridor.

    The library ends an episode as failed where anything but a foot touches the floor. The Ball cannot fall.
    """

    def __init__(self, walker, arena: ObstacleArena):
        corners: list[Any] = [(0, -1, 0), (0, 1, 0)]  # it says numbers
        start = Uniform(*corners)
        has_feet = bool(walker.observable_joints)
        timesteps = {"physics_timestep": PHYSICS_TIMESTEP, "control_timestep": CONTROL_TIMESTEP}
        super().__init__(walker, arena, start, contact_termination=has_feet, **timesteps)
        seen = walker.observables
        seen.disable_all()  # the library's choice draws a picture at every step
        joints = [seen.joints_pos, seen.joints_vel, seen.end_effectors_pos] if has_feet else []
        for part in [
            seen.orientation,
            seen.body_height,
            seen.sensors_velocimeter,
            seen.sensors_gyro,
            *joints,
        ]:
            part.enabled = True
        self._walls = observable.Generic(lambda physics: arena.next_walls(physics, *self.position(physics)))
        self._lateral = observable.Generic(lambda physics: self.position(physics)[1:])
        self._walls.enabled = self._lateral.enabled = True
        body = walker.root_body  # its frame is turned by its quaternion, a camera that follows it is not
        turned = (
            np.eye(3) if body.quat is None else quat_to_mat(body.quat / np.linalg.norm(body.quat))[:3, :3]
        )
        position, right, up = np.array([(-4, 0, 3), (0, -1, 0), (0.5, 0, 1)]) @ turned
        body.add("camera", name="following", mode="trackcom", pos=position, xyaxes=(*right, *up))

    @property
    def task_observables(self):
        return {"walls": self._walls, "lateral": self._lateral}

    def position(self, physics) -> np.ndarray:
        """Metres along the corridor and to the left of its middle, (2,)."""
        return physics.bind(self._walker.root_body).xpos[:2]

    def initialize_episode(self, physics, random_state):
        super().initialize_episode(physics, random_state)
        self.is_wall = np.zeros(physics.model.ngeom, bool)
        self.is_wall[[physics.bind(wall).element_id for wall in self._arena.walls]] = True
        self.distance = 0.0
        self.collisions = 0
        self.contact_time = 0.0
        self.last_contact = -np.inf

    def before_step(self, physics, action, random_state):
        super().before_step(physics, action, random_state)
        self.touching = False

    def after_substep(self, physics, random_state):
        # (contacts, 2): all a wall can touch is the walker
        self.touching |= bool(self.is_wall[physics.data.contact.geom].any())

    def after_step(self, physics, random_state):
        super().after_step(physics, random_state)
        if self.touching:
            self.collisions += int(physics.time() - self.last_contact > REBOUND)
            self.contact_time += CONTROL_TIMESTEP
            self.last_contact = physics.time()
        previous = self.distance
        self.distance = float(self.position(physics)[0])
        self.speed = (self.distance - previous) / CONTROL_TIMESTEP

    def get_reward(self, physics) -> float:
        return self.speed

    def should_terminate_episode(self, physics) -> bool:
        # the discount tells them apart
        return super().should_terminate_episode(physics) or self.distance >= LENGTH

    def measures(self) -> dict:
        return {"distance": self.distance, "collisions": self.collisions, "contact_time": self.contact_time}


class Corridor(DmControlCompatibilityV0, Measured):
    """The corridor as a Gymnasium environment.

    Observations are a dictionary of float64 (`make_env` makes it one float32 vector): of the walker its
    orientation, height, velocity, angular velocity and, if it has any, joints; its distance to the left of
    the middle; and `ObstacleArena.next_walls`. The reward is the forward speed in m/s. A fall terminates; the
    time limit and the end of the corridor truncate. `info` holds `distance` (m along the corridor),
    `touching` (a wall, during this step), and what the episode has had so far: `collisions` (touches of a
    wall after none for REBOUND) and `contact_time` (s).

    Args:
        walker: "Ball" (2 actions: roll and steer), "Ant" (8) or "Humanoid" (56).
        moving: whether walls slide from side to side.
        density: walls per 10 m.

    Raises:
        InputError: no such walker, or a density outside [0, 10].
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": round(1 / CONTROL_TIMESTEP)}
    camera_id = "walker/egocentric"  # of pixel observations; videos follow the walker

    def __init__(
        self, walker: str = "Ball", moving: bool = False, density: float = 2.0, render_mode: str | None = None
    ):
        if walker not in WALKERS:
            raise InputError(f"A corridor's walker must be {', '.join(WALKERS)}, not {walker}.")
        if not 0 <= density <= 10:
            raise InputError(f"A corridor's density must be between 0 and 10 walls per 10 m, not {density}.")
        arena = ObstacleArena(num_walls=round(density * (LENGTH - CLEAR) / 10), moving=moving)
        self.task = RunPastObstacles(WALKERS[walker](name="walker"), arena)
        env = composer.Environment(
            self.task,
            TIME_LIMIT,
            raise_exception_on_physics_error=False,  # a simulation that diverges terminates the episode
            strip_singleton_obs_buffer_dim=True,
            recompile_mjcf_every_episode=False,
        )
        self.metadata = dict(self.metadata)  # shimmy 2.0.1 writes 1000 times the control time step into it
        camera = {
            "camera_id": "walker/following",
            "render_flag_overrides": {"shadow": False, "reflection": False},
        }
        super().__init__(env, render_mode, {"height": 240, "width": 320} | camera)
        self.metadata = type(self).metadata

    def step(self, action: np.ndarray):
        obs, reward, terminated, truncated, info = super().step(action)
        return (
            obs,
            reward,
            terminated,
            truncated,
            info | self.task.measures() | {"touching": self.task.touching},
        )

    def episode_metrics(self) -> dict:
        """Measures of the episode so far; `Episodes` keeps them when it ends."""
        return self.task.measures()
