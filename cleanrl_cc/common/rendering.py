"""Pictures without a screen: the OpenGL back end, where frames come from, and
MuJoCo's pictures several times faster."""

import atexit
import importlib
import os
import subprocess
import sys
import weakref
from contextlib import contextmanager

import gymnasium as gym
import numpy as np

from cleanrl_cc.common import announcements
from cleanrl_cc.common.errors import InputError

_PROBE = (
    "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); "
    "from OpenGL import GL; print(GL.glGetString(GL.GL_RENDERER).decode())"
)

_introduction: list[str] = []  # of the renderer that was found: said once, when it is certain that it draws


def choose_gl_backend(quietly: bool = False) -> str:
    """Sets MUJOCO_GL to the first back end that works, found in a child process
    because a failed attempt cannot be undone.

    Args:
        quietly: says nothing, where it is not certain that MuJoCo will draw; the call that knows then does.

    Returns:
        "egl", "osmesa", the user's own MUJOCO_GL, "glfw" where the system
        has a desktop's OpenGL, or "disabled".
    """
    if sys.platform != "linux":
        return os.environ.get("MUJOCO_GL", "glfw")
    # inherited by worker processes, which need not probe again
    chosen_by_us = os.environ.get("CLEANRL_CC_GL")
    if chosen_by_us:
        if not quietly:
            _introduce_renderer()
        return chosen_by_us
    # Mesa's software renderer: its threads cost a small picture more than they
    # give, and take cores from other processes.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    for backend in [os.environ["MUJOCO_GL"]] if os.environ.get("MUJOCO_GL") else ["egl", "osmesa"]:
        environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True
        )
        if probe.returncode == 0:
            renderer = probe.stdout.strip()
            _introduction.append(f"MuJoCo renders with {backend}: {renderer}")
            if "llvmpipe" in renderer or "softpipe" in renderer:
                _introduction.append("Warning: this is software rendering; pixels from MuJoCo will be slow.")
            break
    else:
        backend = "disabled"
    os.environ["MUJOCO_GL"] = os.environ["CLEANRL_CC_GL"] = backend
    if not quietly:
        _introduce_renderer()
    library = sys.modules.get("dm_control._render")
    if (
        library and library.BACKEND == "glfw"
    ):  # a user's module has imported it, and it has chosen a desktop's
        importlib.reload(library)
    if backend in ("egl", "osmesa"):
        _move_from_desktop()
    return backend


def _move_from_desktop():
    """Makes MuJoCo's own Renderer draw off-screen: a user's module that has imported MuJoCo before MUJOCO_GL
    was set has left it with a desktop's OpenGL."""
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):  # the second reads the first
        library = sys.modules.get(name)
        if library and getattr(library, "GLContext", object).__module__.endswith("glfw"):
            importlib.reload(library)
            sys.modules["mujoco"].GLContext = library.GLContext


def _introduce_renderer():
    for line in _introduction:
        announcements.keep(line)
    _introduction.clear()


def is_a(value, path: str) -> bool:
    """`isinstance` of the class at `path`, which is not imported for it: it then has no instances."""
    module, _, name = path.rpartition(".")
    return isinstance(value, getattr(sys.modules.get(module), name, ()))


def is_car_racing(base: gym.Env) -> bool:
    return is_a(base, f"{__package__}.car_racing.FastCarRacing")


def is_dm_control(base: gym.Env) -> bool:
    return is_a(base, "shimmy.dm_control_compatibility.DmControlCompatibilityV0")


def has_mujoco_renderer(base: gym.Env) -> bool:
    """True for Gymnasium's own robots, a user's subclasses of them, and whoever else has its renderer."""
    renderer = vars(base).get("mujoco_renderer")  # `__getattr__` is the user's, and may do anything
    return is_a(renderer, "gymnasium.envs.mujoco.mujoco_rendering.MujocoRenderer")


def uses_mujoco(env: gym.Env) -> bool:
    """True for what MuJoCo renders."""
    return is_dm_control(env.unwrapped) or has_mujoco_renderer(env.unwrapped)


PLAIN = {"shadow": False, "reflection": False}  # without them software rendering is four to nine times faster


def frame_source(env: gym.Env, size: int):
    """What draws an environment: a function, called once per agent step, from the observation to a frame
    uint8 (H, W, 1) or (H, W, 3); and one that closes what the first has opened."""
    base = env.unwrapped
    if is_dm_control(base):
        camera = getattr(base, "camera_id", 0)
        if os.environ.get("MUJOCO_GL") != "egl":
            return lambda obs: base.physics.render(
                size, size, camera_id=camera, render_flag_overrides=PLAIN
            ), lambda: None
        renderer = FastRenderer(
            lambda: (base.physics.model.ptr, base.physics.data.ptr), size, camera, rangefinders=False
        )
        return renderer.render, renderer.close
    if has_mujoco_renderer(base):
        if os.environ.get("MUJOCO_GL") != "egl":
            renderer = gymnasium_renderer(base, size)
            return lambda obs: renderer.render("rgb_array"), renderer.close
        free = {"lookat": np.median(base.data.geom_xpos, axis=0), "distance": base.model.stat.extent}
        free |= base.mujoco_renderer.default_cam_config or {}
        renderer = FastRenderer(lambda: (base.model, base.data), size, base.mujoco_renderer.camera_id, free)
        return renderer.render, renderer.close
    return lambda obs: as_frame(env.render(), env), lambda: None


def as_frame(picture, env: gym.Env) -> np.ndarray:
    """What `env.render()` returned as a frame uint8, (H, W, 1) or (H, W, 3): an alpha is left out.

    Raises:
        InputError: it is no picture.
    """
    shape = np.shape(picture)
    is_bytes = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    is_picture = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if not is_bytes or not is_picture or min(shape[:2]) < 2:  # the encoder wants an even number of pixels
        what = (
            f"{picture.dtype} of shape {shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        )
        raise InputError(
            f"{env.spec.id if env.spec else env} cannot be drawn: its render() must return a picture, uint8 "
            f"(H, W, 3), and returns {what}."
        )
    if len(shape) == 2:
        return picture[..., None]
    return picture[..., :3] if shape[2] == 4 else picture


def gymnasium_renderer(base: gym.Env, size: int):
    """A renderer of Gymnasium's for pictures of size x size; the
    environment's own has the size of its films."""
    from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
    from mujoco import mjtRndFlag

    renderer = MujocoRenderer(
        base.model, base.data, base.mujoco_renderer.default_cam_config, width=size, height=size
    )
    follow(renderer)
    renderer.render("rgb_array")  # creates the scene
    for flag in (mjtRndFlag.mjRND_SHADOW, mjtRndFlag.mjRND_REFLECTION):
        renderer.viewer.scn.flags[flag] = 0
    return renderer


def follow(renderer):
    """Gymnasium 1.4's free camera stays where it is and robots run out of the picture: the
    model's own, `track`, goes with them."""
    from mujoco import mj_name2id, mjtObj

    # -1, the free camera, where there is none
    renderer.camera_id = mj_name2id(renderer.model, mjtObj.mjOBJ_CAMERA, "track")


# Tiles of the road are (102, 102, 102) once visited and up to 107 before: 2 % of the range, and all
# there is to see of where the car has been. The curve gives these five levels a quarter of the range. It
# is monotone: no two grays swap places.
_ROAD_CONTRAST = np.interp(np.arange(256), [0, 101, 108, 255], [0, 64, 128, 255]).round().astype(np.uint8)


def car_racing_view(frame: np.ndarray) -> np.ndarray:
    """CarRacing's 96x96 picture without the dashboard (bottom 12 rows) and the 6
    columns at either side: (84, 84, 3) uint8."""
    return _ROAD_CONTRAST[frame[:84, 6:90]]


# --- fast pictures from MuJoCo ---

# Samples per pixel, and what round shapes are made of: the libraries' values take
# nine tenths of software rendering's time.
COARSE = {"offsamples": 0, "numslices": 8, "numstacks": 6, "numquads": 1, "shadowsize": 0}
# of a plane: light is computed at their corners, so few and large ones would lose the spotlights
MOST_SQUARES = 10_000


@contextmanager
def current_context_kept():
    """Leaves EGL's current context as it was: dm_control and Gymnasium take for
    granted that theirs is still current."""
    from mujoco import egl

    context = egl.EGL.eglGetCurrentContext()  # EGL_NO_CONTEXT where none is
    try:
        yield
    finally:
        egl.EGL.eglMakeCurrent(egl.EGL_DISPLAY, egl.EGL.EGL_NO_SURFACE, egl.EGL.EGL_NO_SURFACE, context)


class FastRenderer:
    """Draws a MuJoCo environment's observations several times faster than
    the libraries draw films. For EGL alone.

    It has an OpenGL context of its own, with a framebuffer of the picture's size, one sample per
    pixel and round shapes of few faces; it draws no shadows and no reflections. The model is
    left as it was, so films stay beautiful.

    Args:
        source: returns the environment's current (MjModel, MjData). Where the
            model is a new one, so is the context.
        size: height and width of the picture.
        camera: the name or the number of one of the model's cameras, or -1, the free camera.
        free_camera: attributes of the free camera; None puts it where the model's author has put it.
        rangefinders: whether their rays are drawn, as Gymnasium does and dm_control does not.
    """

    def __init__(
        self, source, size: int, camera: str | int, free_camera: dict | None = None, rangefinders: bool = True
    ):
        import mujoco

        self.source = source
        self.size = size
        self.camera = camera
        self.free_camera = free_camera
        self.option = mujoco.MjvOption()
        self.perturb = mujoco.MjvPerturb()
        self.option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = rangefinders
        self.rect = mujoco.MjrRect(0, 0, size, size)
        self.pixels = np.empty((size, size, 3), np.uint8)
        with current_context_kept():
            self._build(source()[0])

    def render(self, obs=None) -> np.ndarray:
        """The current picture, (size, size, 3) uint8; the observation, which every frame
        source is given, says nothing about it."""
        import mujoco

        model, data = self.source()
        with current_context_kept():
            if model is not self.model:
                self.close()
                self._build(model)
            self.gl.make_current()
            # quadruped-escape has new hills in each episode
            if model.nhfield and not np.array_equal(model.hfield_data, self.terrain):
                for index in range(model.nhfield):
                    mujoco.mjr_uploadHField(model, self.context, index)
                self.terrain = model.hfield_data.copy()
            mujoco.mjv_updateScene(
                model, data, self.option, self.perturb, self.view, mujoco.mjtCatBit.mjCAT_ALL, self.scene
            )
            mujoco.mjr_render(self.rect, self.scene, self.context)
            mujoco.mjr_readPixels(self.pixels, None, self.rect, self.context)
        return self.pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self):
        """Frees the context; a second call does nothing."""
        self.free()
        self.model = self.gl = self.context = self.scene = None

    def _build(self, model):
        import mujoco
        from mujoco import egl

        self.model = model
        self.terrain = model.hfield_data.copy()
        self.scene = mujoco.MjvScene(model, 10_000)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self.scene.flags[
            mujoco.mjtRndFlag.mjRND_REFLECTION
        ] = 0
        self.view = mujoco.MjvCamera()
        number = (
            mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, self.camera)
            if isinstance(self.camera, str)
            else self.camera
        )
        if self.free_camera is None:
            mujoco.mjv_defaultFreeCamera(model, self.view)
        for name, value in (self.free_camera or {}).items():
            setattr(self.view, name, value)
        is_free = not 0 <= number < model.ncam
        self.view.type = mujoco.mjtCamera.mjCAMERA_FREE if is_free else mujoco.mjtCamera.mjCAMERA_FIXED
        self.view.fixedcamid = -1 if is_free else number

        self.gl = egl.GLContext(self.size, self.size)
        # At exit mujoco would end the display that it shares with dm_control, whose
        # contexts are freed later and would complain.
        atexit.unregister(egl.EGL.eglTerminate)
        self.gl.make_current()
        quality, buffers = model.vis.quality, model.vis.global_
        before = {name: getattr(quality, name) for name in COARSE}, (buffers.offwidth, buffers.offheight)
        planes = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        sizes = model.geom_size.copy()
        try:  # a context keeps the values that it was made with
            for name, value in COARSE.items():
                setattr(quality, name, value)
            buffers.offwidth = buffers.offheight = self.size
            # A plane's third size is the side of the squares that it is made of: Hopper's
            # floor has 102,400, humanoid's a million.
            model.geom_size[planes, 2] = np.maximum(
                sizes[planes, 2], np.sqrt(4 * sizes[planes, 0] * sizes[planes, 1] / MOST_SQUARES)
            )
            self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        finally:
            for name, value in before[0].items():
                setattr(quality, name, value)
            buffers.offwidth, buffers.offheight = before[1]
            model.geom_size[:] = sizes
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.free = weakref.finalize(self, _free, self.gl, self.context)  # also where nobody calls close


def _free(gl, context):
    """Frees both with their own context current: OpenGL frees by number, and would free what is another's."""
    with current_context_kept():
        gl.make_current()
        context.free()
        gl.free()
