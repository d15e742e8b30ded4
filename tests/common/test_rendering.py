"""Observations are drawn fast and show what the libraries' pictures show; films stay the libraries'."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from cleanrl_cc.common import announcements
from cleanrl_cc.common.envs import make_env
from cleanrl_cc.common.rendering import COARSE, PLAIN, FastRenderer, choose_gl_backend, gymnasium_renderer

if choose_gl_backend() != "egl":
    pytest.skip("without EGL the libraries draw observations too", allow_module_level=True)

import os
from types import SimpleNamespace

import mujoco  # chooses its back end when it is imported
import pytest
from helpers import run_python
from mujoco.egl import EGL

from cleanrl_cc.common.rendering import choose_gl_backend

pytestmark = pytest.mark.slow

WALKER, HOPPER, CORRIDOR = "dm_control/walker-walk-v0", "Hopper-v5", "cleanrl_cc/CorridorStatic-Ball-v0"
FILMED = [WALKER, HOPPER, CORRIDOR]  # by a renderer of dm_control's, of Gymnasium's and of a composer
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


@pytest.mark.parametrize("env_id", FILMED)
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
        alone.append([step(env) for _ in range(2)])
        env.close()
    envs = [make_pixels(env_id, render_mode="rgb_array") for env_id in IDS]
    for env in envs:
        env.reset(seed=1)
    for env_id, env, (picture, _) in zip(IDS, envs, alone, strict=True):
        assert np.array_equal(step(env), picture)
        if env_id in FILMED:
            env.render()
    make_pixels(WALKER).close()  # neither do those that come and go
    for env, (_, picture) in zip(envs, alone, strict=True):
        assert np.array_equal(step(env), picture)
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
        cwd=ROOT,
    )
    assert done.returncode == 0 and "Error" not in done.stderr and "Exception" not in done.stderr, done.stderr


# --- cameras and films ---


@pytest.mark.parametrize("obs", ["state", "pixels"])
@pytest.mark.parametrize(
    "env_id", ["HalfCheetah-v5", "Walker2d-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5", "HalfCheetah-v4"]
)
def test_the_camera_follows_who_runs(env_id, obs):
    env, pictures = make_env(env_id, obs=obs, frame_stack=1, grayscale=False, render_mode="rgb_array"), []
    env.reset(seed=1)
    for distance in (0, 24):  # a multiple of the period of the floor
        base = env.unwrapped
        base.set_state(base.init_qpos + distance * np.eye(base.model.nq)[0], base.init_qvel)
        image = (
            env.render()
            if obs == "state"
            else env.step(np.zeros(env.action_space.shape, np.float32))[0].transpose(1, 2, 0)
        )
        pictures.append(image.astype(int))
    # the floor is green, blue or gray
    brown = [np.sum(picture[..., 0] - picture[..., 2] > 25) for picture in pictures]
    assert brown[0] > 20 and 0.5 < brown[1] / brown[0] < 2


def test_dm_control_videos_have_the_speed_of_the_simulation():
    walker = make_env(WALKER, render_mode="rgb_array")
    cartpole = make_env("dm_control/cartpole-swingup-v0")
    assert walker.metadata["render_fps"] == 40  # control time steps of 0.025 and 0.01 seconds
    assert cartpole.metadata["render_fps"] == 100
    walker.reset(seed=1)
    assert walker.render().shape == (240, 320, 3)


MINE = {
    "gymnasium": "from gymnasium.envs.mujoco.hopper_v5 import HopperEnv as Base; arguments = ()",
    "dm_control": "from dm_control import suite; arguments = [suite.load('cartpole', 'balance')]; "
    "from shimmy.dm_control_compatibility import DmControlCompatibilityV0 as Base",
    "a Renderer of its own": """
import gymnasium, mujoco, numpy
arguments = []
class Base(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"]}
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        floor = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1 1 .1'/></worldbody></mujoco>"
        self.model = mujoco.MjModel.from_xml_string(floor)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
    def reset(self, **kwargs):
        super().reset(**kwargs)
        return numpy.zeros(1, "f"), {}
    def render(self):
        renderer = mujoco.Renderer(self.model, 64, 64)
        renderer.update_scene(self.data)
        return renderer.render()
""",
}


SUBCLASS = """
import gymnasium
class Mine(Base):
    def __init__(self, **kwargs):
        super().__init__(*arguments, **kwargs)
gymnasium.register("Mine-v0", Mine, max_episode_steps=5)
"""


@pytest.mark.parametrize("library", MINE)
def test_a_subclass_of_a_mujoco_environment_draws_without_a_screen(library, tmp_path):
    (tmp_path / "mine.py").write_text(MINE[library] + SUBCLASS)
    code = "from cleanrl_cc.common.envs import make_env\n"
    for fields in ({"obs": "pixels"}, {"render_mode": "rgb_array"}):
        code += (
            f"env = make_env('mine:Mine-v0', **{fields})\n"
            "obs, _ = env.reset(seed=1); picture = env.render() if env.render_mode else obs\n"
            "assert picture.dtype == 'uint8' and picture.std() > 1\n"
        )
    hidden = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "CLEANRL_CC_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- back ends ---


def test_the_gl_backend_is_probed_once_and_told_to_workers():
    code = (
        "import os, cleanrl_cc.common.rendering as r; backend = r.choose_gl_backend(); r.subprocess = None; "
        "assert r.choose_gl_backend() == backend; "
        "assert os.environ['MUJOCO_GL'] == os.environ['CLEANRL_CC_GL'] == backend; print(backend); "
        "from cleanrl_cc.common import announcements; announcements.tell()"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("egl", "osmesa")
    assert f"MuJoCo renders with {done.stdout.strip()}" in done.stderr
    # a worker need not probe
    assert run_python(code, CLEANRL_CC_GL="osmesa", MUJOCO_GL="osmesa").stdout.strip() == "osmesa"


@pytest.mark.parametrize("env_id", FILMED)
def test_a_renderer_is_told_where_something_is_drawn(env_id, monkeypatch, capsys):
    announcements.forget()
    for name in ("MUJOCO_GL", "CLEANRL_CC_GL"):  # it is to be found again
        monkeypatch.setenv(name, "")
    for obs, times in (("state", 0), ("pixels", 1)):
        for _ in range(2):
            env = make_env(env_id, obs=obs)
            env.reset(seed=1)
            env.close()
        announcements.tell()
        assert capsys.readouterr().err.count("MuJoCo renders") == times


def test_egl_is_tried_before_osmesa_and_software_is_told(monkeypatch, capsys):
    tried = []

    def probe(command, env, **_):
        assert env["PYOPENGL_PLATFORM"] == env["MUJOCO_GL"] and env["LP_NUM_THREADS"] == "0"
        tried.append(env["MUJOCO_GL"])
        return SimpleNamespace(returncode=len(tried) < 2, stdout="llvmpipe (LLVM 15)\n")

    monkeypatch.setattr("cleanrl_cc.common.rendering.subprocess", SimpleNamespace(run=probe))
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("CLEANRL_CC_GL", "")
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    assert choose_gl_backend() == "osmesa" and tried == ["egl", "osmesa"]
    announcements.tell()
    assert "software rendering" in capsys.readouterr().err


@pytest.mark.parametrize("env_id", ["Hopper-v5", WALKER])
def test_without_opengl_states_work_and_pixels_are_refused_in_one_sentence(env_id):
    code = (
        f"from cleanrl_cc.common.envs import make_env; env = make_env({env_id!r}); "
        "env.reset(); env.step(env.action_space.sample()); print('works', flush=True); "
        f"make_env({env_id!r}, obs='pixels')"
    )
    done = run_python(code, MUJOCO_GL="nonsense")
    assert (done.returncode, done.stdout) == (1, "works\n"), done.stderr
    assert "off-screen OpenGL" in done.stderr and "libegl1" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
