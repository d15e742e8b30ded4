"""What an environment emits: construction.

`make_env` turns any Gymnasium id into an environment whose observations are float32 vectors or stacked uint8
images, whose actions are Discrete or a Box of [-1, 1], and whose episodes can be stored and restored in the
middle. Nothing here knows an algorithm. The order of the wrappers, from the inside:

    gym.make -> wrappers -> training wrappers -> Checked -> actions in [-1, 1] -> ActionRepeat
        -> StateObservation or PixelObservation -> Episodes

An environment is known by its class, and our wrappers by reference: the names of attributes are the user's.
"""

import difflib
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from cleanrl_cc.common import announcements
from cleanrl_cc.common.checks import Checked, check_spaces, check_torch
from cleanrl_cc.common.episodes import Episodes
from cleanrl_cc.common.errors import InputError, describe, is_foreign
from cleanrl_cc.common.observations import (
    Picture,
    PixelObservation,
    StateObservation,
    find_picture,
    is_flattenable,
    is_opaque,
    leaves,
)
from cleanrl_cc.common.rendering import (
    car_racing_view,
    choose_gl_backend,
    follow,
    frame_source,
    has_mujoco_renderer,
    is_car_racing,
    uses_mujoco,
)
from cleanrl_cc.common.vector import GroupedVectorEnv, memory_of, usable_cores
from cleanrl_cc.common.wrappers import (
    ActionRepeat,
    Patience,
    RoadRules,
    TwoAxes,
    UnitActions,
    apply_wrapper,
    import_from_here,
)

FAST_CAR_RACING = "cleanrl_cc/FastCarRacing-v3"
LUNAR_LANDER = "gymnasium.envs.box2d.lunar_lander:LunarLander"
MANY = 32  # environments, of which memory is counted first
MUJOCO_MODULES = ("gymnasium.envs.mujoco", f"{__package__}.obstacles")

# The run fields that say what an agent sees and does.
RECIPE = ("env_id", "wrappers", "obs", "action_set", "action_repeat")
RECIPE += ("frame_stack", "image_size", "grayscale")


# --- construction ---


def make_env(
    env_id: str,
    obs: str = "auto",
    action_set: str = "auto",
    action_repeat: int = 1,
    frame_stack: int = 4,
    image_size: int = 84,
    grayscale: bool = True,
    *,
    wrappers: tuple[str, ...] = (),
    training_wrappers: tuple[str, ...] = (),
    render_mode: str | None = None,
    seed: tuple[int, ...] = (0,),
) -> Episodes:
    """One environment, wrapped as the head of this file shows.

    Args:
        env_id: any id that Gymnasium knows; `module:Name-v0` imports `module` first.
        obs: "pixels", "state", or "auto": pixels where the environment emits images, as the head of
            `observations.py` says what that is.
        action_set: "auto": two axes for CarRacing, continuous LunarLander; "gentle": CarRacing's with less
            strength; "five": its five discrete actions; "native": what the environment has.
        action_repeat: environment steps per agent step. Time limits stay in environment steps.
        frame_stack, image_size, grayscale: shape of pixel observations, uint8
            (frame_stack * C, image_size, image_size).
        wrappers: what `apply_wrapper` takes, the innermost first.
        training_wrappers: likewise, around those. For training only.
        render_mode: what `render()` returns, None where nobody calls it.
        seed: entropy of the seeds that `reset()` without a seed draws.

    Raises:
        InputError: unknown id, an environment that cannot be made, or an observation or action set that it
            does not have.
    """
    spec = find_spec(env_id)
    is_car = spec.id == FAST_CAR_RACING
    if action_set in ("five", "gentle") and not is_car:
        raise InputError(f"--action-set {action_set} is CarRacing's; {env_id} has auto or native.")
    kwargs: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}
    if is_car or spec.entry_point == LUNAR_LANDER:
        kwargs["continuous"] = action_set in TwoAxes.STRENGTHS or (is_car and action_set == "native")
    if env_id.startswith("dm_control/") and render_mode == "rgb_array":
        kwargs["render_kwargs"] = {"height": 240, "width": 320, "camera_id": 0}
    make = partial(_make, spec, env_id, wrappers)
    env = make(kwargs, renders=obs == "pixels" or render_mode == "rgb_array")
    picture = find_picture(env_id, env.observation_space, obs)
    draws_itself = uses_mujoco(env) or picture is not None
    if obs == "pixels" and not draws_itself and render_mode != "rgb_array":
        if render_mode is not None:
            raise InputError(f"{env_id} cannot be shown in a window while its pixels are the observation.")
        env.close()
        env = make(kwargs | {"render_mode": "rgb_array"}, renders=True)

    if has_mujoco_renderer(env.unwrapped):
        follow(env.unwrapped.mujoco_renderer)
    # shimmy 2.0.1 writes 1000 times the rate, into a dict that all its environments share
    if env_id.startswith("dm_control/"):
        env.metadata = env.unwrapped.metadata = env.metadata | {"render_fps": round(1 / env.unwrapped.dt)}
    if picture and picture.channels == 4:
        picture = replace(picture, opaque=_is_opaque(env, env_id, picture))
    training = []
    for text in training_wrappers:
        env = apply_wrapper(env, text, "--training-wrappers")
        training.append(env)
    env = Checked(env, env_id)
    if is_car and action_set in TwoAxes.STRENGTHS and env.action_space == env.unwrapped.action_space:
        env = TwoAxes(env, action_set)
    if isinstance(env.action_space, Box):
        env = UnitActions(env)
    elif not isinstance(env.action_space, Discrete):
        raise InputError(
            f"{env_id} has a {type(env.action_space).__name__} action space; Box and Discrete are supported."
        )
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    if picture or obs == "pixels":
        # a user's wrapper may look at every picture, ours do not
        watched = bool(wrappers) or not all(isinstance(wrapper, Patience | RoadRules) for wrapper in training)
        frames = _frames(env, picture, image_size, watched)
        env = PixelObservation(env, *frames, frame_stack, image_size, grayscale)
    else:
        if not is_flattenable(env.observation_space):
            raise InputError(
                f"{env_id} has observations without a fixed number of values ({env.observation_space}): "
                "--wrappers module:Class may make a Box of them."
            )
        env = StateObservation(env)
    return Episodes(env, seed, env_id, training)


def _make(
    spec: gym.envs.registration.EnvSpec, env_id: str, wrappers: tuple[str, ...], kwargs: dict, renders: bool
) -> gym.Env:
    """`gym.make` and the user's wrappers, with a back end for OpenGL where MuJoCo `renders`.

    Raises:
        InputError: it fails.
    """
    # MuJoCo's libraries look for one when they are imported. One that the user names is
    # tried even where nothing renders: MuJoCo's import fails on a wrong one.
    known = any(name in str(spec.entry_point) for name in (*MUJOCO_MODULES, "shimmy"))
    if known and (renders or "MUJOCO_GL" in os.environ):
        choose_gl_backend(quietly=not renders)
    if known or spec.namespace == "dm_control":
        announcements.hush_mujoco()
    try:
        env = gym.make(spec, disable_env_checker=True, **kwargs)
    except TypeError as error:
        if "'render_mode'" not in str(error):
            raise InputError(f"{env_id} cannot be made: {describe(error)}.") from error
        raise InputError(
            f"{env_id} cannot be drawn: it has no argument render_mode. "
            "Use it without videos and without pixels."
        ) from error
    except BaseException as error:  # whatever a user's own code raises
        if not is_foreign(error):
            raise
        raise InputError(f"{env_id} cannot be made: {describe(error)}.") from error
    # Gymnasium's renderer looks for it when it draws first, and so may whoever else has imported MuJoCo
    is_mujoco = uses_mujoco(env)
    draws = is_mujoco or ("mujoco" in sys.modules and not is_car_racing(env.unwrapped))
    if renders and draws and choose_gl_backend(quietly=not is_mujoco) == "disabled" and is_mujoco:
        raise InputError(
            "MuJoCo finds no off-screen OpenGL (tried MUJOCO_GL if set, else EGL and OSMesa): "
            "install Debian's libegl1 or libosmesa6, or use --obs state without videos."
        )
    for text in wrappers:
        env = apply_wrapper(env, text, "--wrappers")
    check_spaces(env, env_id)
    check_torch(env_id)
    return env


def _is_opaque(env: gym.Env, env_id: str, picture: Picture) -> bool:
    """Whether a picture of four channels is RGBA, and no stack of four frames: its first one tells."""
    try:
        return is_opaque(picture, env.reset(seed=0)[0])
    except Exception as error:
        raise InputError(f"{env_id} shows no first picture: {describe(error)}.") from error


def _frames(env: gym.Env, picture: Picture | None, size: int, watched: bool) -> tuple:
    """What `PixelObservation` shows: `draw`, `close`, `source` and `num_frames`.

    Args:
        watched: whether a wrapper may look at what is observed, or change it.
    """
    base = env.unwrapped
    if picture is None:
        draw, close = frame_source(env, size)
        return lambda obs: [draw(obs)], close, "drawn by its renderer", 1
    source = f"from {picture}"
    unseen = [".".join(map(str, path)) for path, _ in leaves(env.observation_space) if path != picture.path]
    if unseen:
        source += f"; not seen: {', '.join(unseen)}"
    if not is_car_racing(base) or env.observation_space != base.observation_space:
        return picture.frames, lambda: None, source, picture.num_frames
    # Drawn once per agent step, instead of at every physics step, where nobody else looks at it
    base.render_observation = watched
    if watched:
        return lambda obs: [car_racing_view(obs)], lambda: None, source, 1
    return lambda obs: [car_racing_view(base.draw())], lambda: None, source, 1


def recipe(args) -> dict:
    """The arguments of `make_env` among a script's run fields: what a
    checkpoint needs to rebuild its environment."""
    return {name: getattr(args, name) for name in RECIPE}


def make_vector_env(args, continuous: bool = False) -> GroupedVectorEnv:
    """`args.num_envs` training environments in NEXT_STEP autoreset mode, spread over a process
    per core; this process is one of them.

    Observations are (N, ...), rewards, terminations and truncations (N,). After the last step
    of an episode comes its final observation; the next step ignores its action and brings the
    first observation of the next episode.

    Raises:
        InputError: as `make_env`; discrete actions where `continuous` ones are needed; or more environments
            than memory or processes allow.
    """
    make = partial(make_env, **recipe(args), training_wrappers=args.training_wrappers)
    env_fns = [partial(make, seed=(args.seed, index)) for index in range(args.num_envs)]
    if args.num_envs >= MANY:
        from cleanrl_cc.common.machine import require_memory  # imports torch, which workers do without

        require_memory(memory_of(env_fns[0]), "num_envs", args.num_envs)
    num_processes = min(args.num_envs, usable_cores())
    envs = GroupedVectorEnv(env_fns, num_processes, partial(_start_method, args.obs), args.seed)
    if continuous and not isinstance(envs.single_action_space, Box):
        envs.close()
        raise InputError(
            f"{args.env_id} has discrete actions here and this algorithm needs continuous ones: "
            "use dqn_atari_style.py."
        )
    if pixels := envs.envs[0].pixels:
        args.frame_stack = pixels.stack
    announcements.keep(f"Observations: {envs.envs[0].describe()}")
    if args.num_envs > 1:
        processes = f"{num_processes} process{'es' * (num_processes > 1)}"
        announcements.keep(f"Environments: {args.num_envs} in {processes}")
    return envs


def _start_method(obs: str, env: gym.Env) -> str | None:
    """How processes start that are to hold environments like `env`: OpenGL does not survive a fork."""
    return "forkserver" if obs == "pixels" and uses_mujoco(env) else None


def snapshot_envs(envs: gym.vector.VectorEnv) -> list[dict]:
    """The state of every environment as plain data, see `Episodes.snapshot`."""
    return list(envs.call("snapshot"))


def restore_envs(
    envs: gym.vector.VectorEnv, snapshots: list[dict]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts every environment back where `snapshot_envs` found it.

    An environment that ignores its seed, or drifts on another machine, does not repeat its episode. A
    sentence then says so, and its next step is the reset of a fresh one.

    Returns:
        The current observations (N, ...); (N,) bool: whose next step is a reset that ignores its action; and
        (N,) bool: whose episode is thereby cut, so that its last step counts as truncated.
    """
    observations, autoreset, differences = zip(*envs.call("restore", snapshots), strict=True)
    announcements.tell()
    if odd := [(index, what) for index, what in enumerate(differences) if what]:
        *others, last = (str(index) for index, _ in odd)
        names = f"environments {', '.join(others)} and {last}" if others else f"environment {last}"
        announcements.say(
            f"Warning: {names} did not repeat the episode that was under way, since {odd[0][1]}: it counts "
            "as truncated, a fresh one begins, and the run is no longer bit-exact."
        )
    autoreset = np.array(autoreset)
    return np.stack(observations), autoreset, autoreset & ~np.array([s["ended"] for s in snapshots])


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered specification; CarRacing-v3 is found in its faster, pixel-identical form.
    Raises InputError with near matches, or with what keeps a module from being imported."""
    if env_id.startswith("dm_control/"):
        choose_gl_backend(quietly=True)  # dm_control chooses for good when it is imported
        try:
            import shimmy  # noqa: F401  (registers the suite)
        except ImportError as error:  # Python 3.13 is installed without
            raise InputError(
                f"{env_id} needs dm_control and shimmy, which Python 3.12 and older install: {error}."
            ) from error
    module, colon, name = env_id.rpartition(":")
    if colon:  # gym.spec, unlike gym.make, does not import it
        _import(module, env_id)
    try:
        spec = gym.spec(FAST_CAR_RACING if name == "CarRacing-v3" else name)
    except (gym.error.Error, ImportError) as error:
        near = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "see gymnasium.envs.registry, or use module:Name-v0 for your own."
        )
        raise InputError(f"Unknown environment {env_id!r}: {hint}") from error
    # a copy of this folder may have registered ours as its own
    _, copied, place = str(spec.entry_point).rpartition("common.")
    is_ours = spec.namespace == "cleanrl_cc" and copied
    return replace(spec, entry_point=f"{__package__}.{place}") if is_ours else spec


def _import(module: str, env_id: str):
    """Imports the module of a user's environment. Raises InputError, whatever that module raises."""
    try:
        import_from_here(module)
    except BaseException as error:
        if not is_foreign(error):
            raise
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        why = f"there is no module {error.name}" if is_missing else f"its module raises {describe(error)}"
        raise InputError(f"Unknown environment {env_id!r}: {why}.") from error
