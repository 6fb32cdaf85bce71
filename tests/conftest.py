"""What several test files share: made photos, a small trunk, one small training."""

import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import warnings

import hypothesis
import numpy as np
import pytest
from PIL import Image

from pairs import command_line

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# On JAX compiling is most of a small run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Keras is half a million objects, and they stay: the garbage collector need not look at them
# again and again, which took a seventh of the time of trainings.
gc.disable()  # until `pytest_collection_finish`
# No test is timed: a loaded machine would fail it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
SIZE = 71  # the smallest image Xception takes
# A small trunk in Xception's place, for the processes that tests start.
SMALL_TRUNK = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "small_trunk")])}
REAL_TRUNK = {"PYTHONPATH": str(ROOT)}
SMALL_CUT = 9  # the last layer that is frozen, as 105 of Xception
# Of the training behind `trained`.
FLAGS = f"--image-size {SIZE} --batch-size 6 --epochs 3 1 2 --pretrained none --workers 2"
COLOURS = {"2": (200, 60, 50), "10": (60, 160, 70), "pug": (50, 70, 190)}


def pytest_collection_finish(session):
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared():
    """The folder of real photos and weights; without it the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real photos and ImageNet weights), which is not here")
    return SHARED


def make_photo(path, colour, seed, size=(90, 80)):
    """Writes a noisy photo of one colour; every seed is another photo."""
    noise = np.random.default_rng(seed).normal(0, 25, size=(size[1], size[0], 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def make_raw(folder, photos_per_class=8):
    """Writes a folder of `typeid_hash.jpg` photos of three classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for label, (typeid, colour) in enumerate(COLOURS.items()):
        for number in range(photos_per_class):
            make_photo(folder / f"{typeid}_{number},{label}.jpg", colour, 100 * label + number)
    return folder


def run_script(*words, cwd=ROOT, **environment):
    """Runs a command of the project as a user would, but for a small trunk.

    `train.py`, `predict.py` and the experiments run in this process, where Keras is
    loaded already: most of the time of a small run. Whatever kills a training, other
    backends and the demo have processes of their own.

    Args:
        words: the script, or a module, and its flags.
        cwd: the folder it runs in.
        environment: of the process; `**REAL_TRUNK` for the real Xception.

    Returns:
        the finished process.
    """
    script, *flags = [str(word) for word in words]
    is_here = script in ("train.py", "predict.py") or script.startswith("experiments.")
    if is_here and not environment:
        return run_here(script, flags, cwd)
    command = [ROOT / script] if script.endswith(".py") else ["-m", script]
    return subprocess.run(
        [sys.executable, *command, *flags],
        cwd=cwd,
        env={**os.environ, **SMALL_TRUNK, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_here(script, flags, cwd):
    """A script in this process, with the small trunk also in those that it starts.

    Returns:
        what `run_script` does.
    """
    from pairs.network import parts

    module = importlib.import_module(script.removesuffix(".py"))
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        contextlib.chdir(cwd),
        warnings.catch_warnings(),
    ):
        put_small_trunk(patch)
        for name, value in SMALL_TRUNK.items():
            patch.setenv(name, value)
        parts.forget_models()  # Keras numbers the names of layers on, and they are in the files
        patch.setattr(sys, "argv", [module.__file__, *flags])
        patch.setattr(module, "stop_at_once", lambda _: None, raising=False)  # it is pytest's
        try:
            command_line.run(module.main)
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess([script, *flags], code, output.getvalue(), errors.getvalue())


def put_small_trunk(patch):
    """Puts the small trunk in Xception's place, in this process."""
    import keras

    from pairs.network import trunks

    patch.syspath_prepend(ROOT / "tests" / "small_trunk")
    small = importlib.import_module("small")
    patch.setattr(keras.applications, "Small", small.build, raising=False)
    patch.setitem(trunks.TRUNKS, "xception", small.SMALL)


def with_devices(count):
    """XLA_FLAGS for a process of JAX with so many devices."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"


def make_run(folder, **changes):
    """A `Run` in a folder, of two threads on one device."""
    from benchmarks.bench_run import bench_run
    from pairs.training.recipe import STAGES_2017

    folder.mkdir(parents=True, exist_ok=True)
    plan = {"stages": list(STAGES_2017), "image_size": SIZE, "batch_size": 6}
    return bench_run(folder, **{**plan, **changes})


def write_legacy_weights(trunk, path):
    """Keras' own layout of 2017: a group for each layer, in order, under names of its own.

    As in `xception_weights_tf_dim_ordering_tf_kernels_notop.h5`, which has names that
    no layer has today: weights find their layer by their place.
    """
    import h5py

    with h5py.File(path, "w") as file:
        names = []
        for number, layer in enumerate(trunk.layers):
            names.append(f"layer_of_2017_{number}")
            group = file.create_group(names[-1])
            keys = [f"{names[-1]}/weight_{place}:0" for place in range(len(layer.weights))]
            for key, weight in zip(keys, layer.weights, strict=True):
                group.create_dataset(key, data=weight.numpy())
            group.attrs["weight_names"] = [key.encode() for key in keys]
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.0.5"


def assert_one_line_error(done, *words):
    """The process ended with exit code 2 and one line that holds these words."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, worker_id):
    """A function that fills a folder which all workers of pytest-xdist share; the first does it."""
    base = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        base = base.parent

    def make_once(name, make):
        folder, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def data(make_once):
    """A folder with sorted `train/` and `valid/` photos of three classes; only read."""
    import img2keras

    def make(folder):
        img2keras.sort_photos(make_raw(folder / "raw"), folder, valid_fraction=0.25)

    return make_once("data", make)


def make_trunk():
    """A random trunk with the statistics of noise, and its weights."""
    import keras

    from pairs.network.trunks import build_trunk, estimate_statistics

    keras.utils.set_random_seed(0)
    trunk = build_trunk("xception", SIZE, "none")
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-1, 1, size=(8, SIZE, SIZE, 3)).astype(np.float32) for _ in range(2)]
    estimate_statistics(trunk, noise)
    return trunk, trunk.get_weights()


@pytest.fixture(scope="session")
def trunk_and_weights():
    """`trunk`, and its weights as they were made."""
    return make_trunk()


@pytest.fixture(scope="session")
def small_trunk_and_weights():
    """`built_small_trunk`, and its weights as they were made."""
    with pytest.MonkeyPatch.context() as patch:
        put_small_trunk(patch)
        return make_trunk()


@pytest.fixture(scope="session")
def trunk(trunk_and_weights):
    """A small random Xception trunk with the statistics of noise."""
    return trunk_and_weights[0]


@pytest.fixture(scope="session")
def built_small_trunk(small_trunk_and_weights):
    """The small trunk, where it does not matter what it is made of; cut at `SMALL_CUT`."""
    return small_trunk_and_weights[0]


@pytest.fixture(autouse=True)
def untouched_trunk(request):
    """Some tests train the trunk: the next one finds it as it was, whatever their order."""
    yield
    for name in ("trunk_and_weights", "small_trunk_and_weights"):
        if name in request.fixturenames:
            trunk, weights = request.getfixturevalue(name)
            trunk.set_weights(weights)


@pytest.fixture
def small_trunk(monkeypatch):
    """The small trunk in this process, too."""
    put_small_trunk(monkeypatch)


@pytest.fixture(scope="session")
def trained(data, make_once):
    """A weights folder after a real three-stage training by the command itself; only read."""

    def make(weights):
        done = run_script("train.py", "--data", data, "--weights", weights, *FLAGS.split())
        assert done.returncode == 0, done.stdout + done.stderr
        (weights / "stdout.txt").write_text(done.stdout)

    return make_once("weights", make)


@pytest.fixture(scope="session")
def chromium():
    """The words that start a browser without a window; without one the test is skipped."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("needs Chromium (Debian: apt-get install chromium), which is not here")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    return [program, *flags]


def add_script(page, script, copy):
    """Writes a copy of a page that runs a script at its end; returns its address."""
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return copy.as_uri()


@pytest.fixture(scope="session")
def browse(chromium, tmp_path_factory):
    """A function that opens a page, maybe runs a script in it, and returns its DOM."""

    def browse(page, script="", size="1280,1600", flags=("--dump-dom",)):
        folder = tmp_path_factory.mktemp("page")
        words = [*chromium, f"--window-size={size}", f"--user-data-dir={folder}", *flags]
        done = subprocess.run(
            [*words, add_script(page, script, folder / "page.html")],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return browse


@pytest.fixture(scope="session")
def download(chromium, tmp_path_factory):
    """A function that runs a script in a page and returns the file that it downloads."""

    def download(page, script, name):
        folder = tmp_path_factory.mktemp("download")
        (folder / "Default").mkdir()
        wanted = {"default_directory": str(folder), "prompt_for_download": False}
        (folder / "Default" / "Preferences").write_text(json.dumps({"download": wanted}))
        address = add_script(page, script, folder / "page.html")
        with (folder / "stderr.txt").open("w+") as stderr:
            words = [*chromium, f"--user-data-dir={folder}", address]
            browser = subprocess.Popen(words, stdout=stderr, stderr=stderr)
            try:
                # The browser gives a file its name once it is complete.
                deadline = time.monotonic() + 60
                while not (folder / name).exists() and time.monotonic() < deadline:
                    time.sleep(0.1)
            finally:
                browser.terminate()
                browser.wait(timeout=60)
            said = (folder / "stderr.txt").read_text()
        assert "CONSOLE" not in said, said
        assert (folder / name).exists(), said
        return folder / name

    return download
