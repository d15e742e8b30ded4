"""Observations are drawn fast and show what the libraries' pictures show; films stay the libraries'."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.rendering import COARSE, PLAIN, FastRenderer, choose_gl_backend, gymnasium_renderer

if choose_gl_backend() != "egl":
    pytest.skip("without EGL the libraries draw observations too", allow_module_level=True)

import mujoco  # chooses its back end when it is imported
from mujoco.egl import EGL

WALKER, HOPPER, CORRIDOR = "dm_control/walker-walk-v0", "Hopper-v5", "cleanrl_cc/CorridorStatic-Ball-v0"
IDS = [
    WALKER,
    "dm_control/cheetah-run-v0",
    "dm_control/humanoid-walk-v0",
    HOPPER,
    "Reacher-v5",
    "InvertedPendulum-v5",
    "Ant-v5",
    CORRIDOR,
]


def make_pixels(env_id: str, **kwargs):
    return make_env(env_id, obs="pixels", grayscale=False, frame_stack=1, **kwargs)


def step(env) -> np.ndarray:
    """The picture (H, W, 3) after one step."""
    return env.step(np.zeros(env.action_space.shape, np.float32))[0].transpose(1, 2, 0)


def library_source(env):
    """A function that draws by the library what `env` shows; to be called before a reset, as
    Gymnasium's free camera aims at the start."""
    base = env.unwrapped
    if hasattr(base, "physics"):
        return lambda: base.physics.render(
            84, 84, camera_id=getattr(base, "camera_id", 0), render_flag_overrides=PLAIN
        )
    renderer = gymnasium_renderer(base, 84)
    return lambda: renderer.render("rgb_array")


def difference(picture, other) -> tuple[float, float]:
    """The share of pixels that differ by more than 16 levels, and the mean difference in levels."""
    levels = np.abs(picture.astype(int) - other)
    return (levels.max(2) > 16).mean(), levels.mean()


@pytest.mark.parametrize("env_id", IDS)
def test_an_observation_shows_what_the_library_shows(env_id):
    env = make_pixels(env_id)
    library = library_source(env)
    env.reset(seed=1)
    for _ in range(5):
        picture = step(env)
    share, mean = difference(picture, library())
    assert share < 0.12 and mean < 3
    assert difference(picture[::-1], library())[0] > 2 * share  # it is upright
    env.close()


@pytest.mark.parametrize("env_id", [WALKER, HOPPER, CORRIDOR])
def test_films_are_the_librarys_whether_or_not_pixels_are_observed(env_id):
    films = []
    for obs in ("state", "pixels"):
        env = make_env(env_id, obs=obs, render_mode="rgb_array")
        env.reset(seed=1)
        films.append([])
        for _ in range(3):
            env.step(np.ones(env.action_space.shape, np.float32))
            films[-1].append(env.render())
        env.close()
    assert films[0][0].shape[0] >= 240 and films[0][0].std() > 1
    assert np.array_equal(*films)


def test_environments_in_one_process_do_not_disturb_each_other():
    alone = []
    for env_id in IDS:
        env = make_pixels(env_id)
        env.reset(seed=1)
        alone.append([step(env) for _ in range(3)])
        env.close()
    envs = [make_pixels(env_id, render_mode="rgb_array") for env_id in IDS]
    for env in envs:
        env.reset(seed=1)
    for index in range(3):
        for env, pictures in zip(envs, alone, strict=True):
            assert np.array_equal(step(env), pictures[index])
            env.render()
        if index == 0:
            make_pixels(WALKER).close()  # neither do those that come and go
    for env in envs:
        env.close()


MODEL = """<mujoco>
  <asset><hfield name='hills' nrow='9' ncol='9' size='1 1 .5 .1'/></asset>
  <worldbody>
    <light pos='0 0 3'/><geom type='hfield' hfield='hills'/><geom type='sphere' size='.3' pos='0 0 1'/>
    <geom type='plane' size='20 20 .125' pos='0 0 -1'/>
  </worldbody>
</mujoco>"""


def make_renderer(size: int = 84):
    model = mujoco.MjModel.from_xml_string(MODEL)
    source = [model, mujoco.MjData(model)]
    mujoco.mj_forward(*source)
    return FastRenderer(lambda: source, size, -1), source


def test_the_model_and_the_current_context_are_left_as_they_were():
    unseen = mujoco.MjModel.from_xml_string(MODEL)
    renderer, (model, _) = make_renderer(700)  # larger than the model's buffer
    fresh, _ = make_renderer()
    assert renderer.render().shape == (700, 700, 3) and renderer.render().std() > 1
    for name in (*COARSE, "offwidth", "offheight"):
        part = "quality" if name in COARSE else "global_"
        assert getattr(getattr(model.vis, part), name) == getattr(getattr(unseen.vis, part), name)
    assert np.array_equal(model.geom_size, unseen.geom_size)
    mine = mujoco.GLContext(8, 8)
    mine.make_current()
    current = EGL.eglGetCurrentContext().address
    for act in (renderer.render, renderer.close, fresh.close, lambda: make_renderer()[0].render()):
        act()
        assert EGL.eglGetCurrentContext().address == current
    mine.free()


def test_new_terrain_and_a_new_model_are_drawn():
    renderer, source = make_renderer()
    flat = renderer.render()
    source[0].hfield_data[:] = np.random.default_rng(1).uniform(size=81)
    hilly = renderer.render()
    assert difference(flat, hilly)[0] > 0.05
    fresh, fresh_source = make_renderer()
    source[:] = fresh_source
    assert np.array_equal(renderer.render(), fresh.render()) and np.array_equal(fresh.render(), flat)
    renderer.close(), fresh.close()


def test_a_closed_renderer_has_freed_its_context_and_may_be_closed_again():
    env = make_pixels(WALKER)
    env.reset(seed=1)
    renderer = env.get_wrapper_attr("close_source").__self__
    gl = renderer.gl
    env.close()
    assert gl._context is None and renderer.context is None and not renderer.free.alive
    renderer.close()


def test_what_nobody_closes_is_freed_without_complaints():
    code = (
        "from cleanrl_cc.common.envs import make_env; "
        "envs = [make_env(i, obs='pixels', render_mode='rgb_array') for i in ('Hopper-v5', %r)]; "
        "[(env.reset(), env.render()) for env in envs]"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code % WALKER],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0 and "Error" not in done.stderr and "Exception" not in done.stderr, done.stderr
