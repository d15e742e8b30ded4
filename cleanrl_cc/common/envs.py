"""What an environment emits: construction.

`make_env` turns any Gymnasium id into an environment whose observations are float32 vectors or stacked uint8
images, whose actions are Discrete or a Box of [-1, 1], and whose episodes can be stored and restored in the
middle. Nothing here knows an algorithm. The order of the wrappers, from the inside:

    gym.make -> training wrappers -> actions in [-1, 1] -> ActionRepeat
        -> StateObservation or PixelObservation -> Patience -> Episodes
"""

import ast
import difflib
import importlib
import os
import sys
from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from cleanrl_cc.common import wrappers
from cleanrl_cc.common.errors import InputError
from cleanrl_cc.common.rendering import choose_gl_backend, follow, frame_source, is_image
from cleanrl_cc.common.vector import GroupedVectorEnv, usable_cores
from cleanrl_cc.common.wrappers import (
    ActionRepeat,
    Episodes,
    Patience,
    PixelObservation,
    StateObservation,
    TwoAxes,
    UnitActions,
)

# The run fields that say what an agent sees and does.
RECIPE = ("env_id", "obs", "action_set", "action_repeat", "frame_stack", "image_size", "grayscale")


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
    training_wrappers: tuple[str, ...] = (),
    patience: int = 0,
    render_mode: str | None = None,
    seed: tuple[int, ...] = (0,),
) -> Episodes:
    """One environment, wrapped as the head of this file shows.

    Args:
        env_id: any id that Gymnasium knows; `module:Name-v0` imports `module` first.
        obs: "pixels", "state", or "auto": pixels where the environment emits images.
        action_set: "auto": two axes for CarRacing, continuous LunarLander; "native": what the environment
            has; "five": CarRacing's five discrete actions.
        action_repeat: environment steps per agent step. Time limits stay in environment steps.
        frame_stack, image_size, grayscale: shape of pixel observations, uint8
            (frame_stack * C, image_size, image_size).
        training_wrappers: what `apply_wrapper` takes, the innermost first. For training only.
        patience: end an episode as truncated after so many agent steps without a positive
            reward; 0 never does. For training only.
        render_mode: what `render()` returns, None where nobody calls it.
        seed: entropy of the seeds that `reset()` without a seed draws.

    Raises:
        InputError: unknown id, or an observation or action set that this environment does not have.
    """
    spec = find_spec(env_id)
    is_dm_control = env_id.startswith("dm_control/")
    is_car = spec.name == "FastCarRacing"
    if action_set == "five" and not is_car:
        raise InputError(f"--action-set five is CarRacing's; {env_id} has --action-set auto or native.")
    renders = obs == "pixels" or render_mode == "rgb_array"
    # A back end that the user names is tried even where nothing
    # renders: MuJoCo's import fails on a wrong one.
    if (
        is_mujoco(env_id)
        and (renders or "MUJOCO_GL" in os.environ)
        and choose_gl_backend() == "disabled"
        and renders
    ):
        raise InputError(
            "MuJoCo finds no off-screen OpenGL (tried MUJOCO_GL if set, else EGL and OSMesa): "
            "install Debian's libegl1 or libosmesa6, or use --obs state without videos."
        )

    kwargs = {"render_mode": render_mode} if render_mode else {}
    if is_car or spec.name == "LunarLander":
        kwargs["continuous"] = action_set == "auto" or (is_car and action_set == "native")
    if is_dm_control and render_mode == "rgb_array":
        kwargs["render_kwargs"] = {"height": 240, "width": 320, "camera_id": 0}
    renders_by_itself = is_mujoco(env_id) or is_car
    try:
        env = gym.make(spec, disable_env_checker=True, **kwargs)
        emits_images = is_image(env.observation_space)
        if obs == "pixels" and not emits_images and not renders_by_itself and render_mode != "rgb_array":
            if render_mode is not None:
                raise InputError(
                    f"{env_id} cannot be shown in a window while its pixels are the observation."
                )
            env.close()
            env = gym.make(spec, disable_env_checker=True, **kwargs | {"render_mode": "rgb_array"})
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise InputError(f"{env_id} cannot be made: {error}") from error
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise InputError(
            f"{env_id} cannot be drawn: it has no argument render_mode. "
            "Use it without videos and without pixels."
        ) from error
    if obs == "state" and emits_images:
        raise InputError(
            f"{env_id} emits images and has no state observation: use --obs pixels or --obs auto."
        )

    if hasattr(env.unwrapped, "mujoco_renderer"):
        follow(env.unwrapped.mujoco_renderer)
    if is_dm_control:  # shimmy 2.0.1 writes 1000 times the rate, into a dict that all its environments share
        env.metadata = env.unwrapped.metadata = env.metadata | {"render_fps": round(1 / env.unwrapped.dt)}
    for text in training_wrappers:
        env = apply_wrapper(env, text)
    if is_car and action_set == "auto":
        env = TwoAxes(env)
    if isinstance(env.action_space, Box):
        env = UnitActions(env)
    elif not isinstance(env.action_space, Discrete):
        raise InputError(
            f"{env_id} has a {type(env.action_space).__name__} action space; Box and Discrete are supported."
        )
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    if emits_images or obs == "pixels":
        env = PixelObservation(
            env, *frame_source(env, emits_images, image_size), frame_stack, image_size, grayscale
        )
    else:
        env = StateObservation(env)
    if patience:
        env = Patience(env, patience)
    return Episodes(env, seed)


def apply_wrapper(env: gym.Env, text: str) -> gym.Env:
    """`env` in the wrapper that `text` names: RoadRules or module:Class, and after commas arguments, as in
    RoadRules,speed_limit=60. Raises InputError where there is none, or it takes no such argument."""
    name, *pairs = text.split(",")
    module, _, class_name = (name if ":" in name else f"{wrappers.__name__}:{name}").rpartition(":")
    try:
        arguments = {
            key: ast.literal_eval(value) for key, _, value in (pair.partition("=") for pair in pairs)
        }
        return getattr(import_from_here(module), class_name)(env, **arguments)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise InputError(
            f"--training-wrappers {text} cannot be used ({error}): "
            "write module:Class or module:Class,argument=1.5, or our RoadRules."
        ) from error


def import_from_here(module: str):
    """The module, also from the working directory: `python folder/script.py` searches the script's alone."""
    sys.path[:] = dict.fromkeys([*sys.path, os.getcwd()])
    return importlib.import_module(module)


def recipe(args) -> dict:
    """The arguments of `make_env` among a script's run fields: what a
    checkpoint needs to rebuild its environment."""
    return {name: getattr(args, name) for name in RECIPE}


def make_vector_env(args, continuous: bool = False) -> gym.vector.VectorEnv:
    """`args.num_envs` training environments in NEXT_STEP autoreset mode, spread over a process
    per core; this process is one of them.

    Observations are (N, ...), rewards, terminations and truncations (N,). After the last step
    of an episode comes its final observation; the next step ignores its action and brings the
    first observation of the next episode.

    Raises:
        InputError: as `make_env`; or discrete actions where `continuous` ones are needed.
    """
    training = {"training_wrappers": args.training_wrappers, "patience": args.patience}
    make = partial(make_env, **recipe(args), **training)
    env_fns = [partial(make, seed=(args.seed, index)) for index in range(args.num_envs)]
    start_method = "forkserver" if args.obs == "pixels" and is_mujoco(args.env_id) else None
    envs = GroupedVectorEnv(env_fns, min(args.num_envs, usable_cores()), start_method)
    if continuous and not isinstance(envs.single_action_space, Box):
        envs.close()
        raise InputError(
            f"{args.env_id} has discrete actions here and this algorithm needs continuous ones: "
            "use dqn_atari_style.py."
        )
    return envs


def snapshot_envs(envs: gym.vector.VectorEnv) -> list[dict]:
    """The state of every environment as plain data, see `Episodes.snapshot`."""
    return list(envs.call("snapshot"))


def restore_envs(envs: gym.vector.VectorEnv, snapshots: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Puts every environment back where `snapshot_envs` found it.

    Returns:
        The current observations (N, ...), and (N,) bool: whose next step is a reset that ignores its action.
    """
    observations = envs.call("restore", snapshots)
    return np.stack(observations), np.array([snapshot["ended"] for snapshot in snapshots])


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered specification; CarRacing-v3 is found in its faster, pixel-identical form.
    Raises InputError with near matches."""
    if env_id.startswith("dm_control/"):
        choose_gl_backend()  # dm_control chooses for good when it is imported
        try:
            import shimmy  # noqa: F401  (registers the suite)
        except ImportError as error:  # Python 3.13 is installed without
            raise InputError(
                f"{env_id} needs dm_control and shimmy, which Python 3.12 and older install: {error}."
            ) from error
    try:
        module, _, name = env_id.rpartition(":")
        if module:  # gym.spec, unlike gym.make, does not import it
            import_from_here(module)
        return gym.spec("cleanrl_cc/FastCarRacing-v3" if name == "CarRacing-v3" else name)
    except (gym.error.Error, ImportError) as error:
        near = difflib.get_close_matches(env_id, gym.registry, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "see gymnasium.envs.registry, or use module:Name-v0 for your own."
        )
        raise InputError(f"Unknown environment {env_id!r}: {hint}") from error


def is_mujoco(env_id: str) -> bool:
    """True for what MuJoCo renders."""
    entry_point = str(find_spec(env_id).entry_point)
    return (
        env_id.startswith("dm_control/")
        or "mujoco" in entry_point
        or f"{__package__}.obstacles" in entry_point
    )
