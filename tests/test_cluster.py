"""Several devices and processes train one model: the same as one alone, and all end together."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import (
    ROOT,
    SIZE,
    SMALL_TRUNK,
    assert_one_line_error,
    run_script,
    with_devices,
)

import pair_generator
from pairs.devices import cluster, sharding, supervisor

needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")
FLAGS = f"--image-size {SIZE} --batch-size 8 --pretrained none --workers 3"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize(("count", "batch_size"), [(8, 8), (7, 8), (2, 8), (9, 8), (21, 24)])
@pytest.mark.parametrize(("num_processes", "num_devices"), [(1, 1), (2, 2), (2, 4), (4, 4)])
def test_the_parts_of_a_batch_are_the_batch(count, batch_size, num_processes, num_devices):
    partner = pair_generator.swap_partners(np.arange(count) % 3, np.random.default_rng(count))
    parts = [
        cluster.Cluster(process, num_processes, num_devices).spread(partner, batch_size)
        for process in range(num_processes)
    ]
    assert len({len(rows) for rows, _, _ in parts}) == 1
    rows, places, is_image = map(np.concatenate, zip(*parts, strict=True))
    assert len(rows) % num_devices == 0
    assert len(rows) >= batch_size
    assert rows[is_image].tolist() == list(range(count))
    # Who stands at the partner's place is the partner.
    assert rows[places[is_image]].tolist() == partner.tolist()
    assert places.max() < len(rows)
    assert len(rows) == cluster.Cluster(num_devices=num_devices).padded_length(count, batch_size)


@pytest.mark.parametrize("num_devices", [1, 4])  # on one, for XLA
@pytest.mark.parametrize("validation", [True, False])
def test_padding_changes_no_validation_and_no_gradient(
    validation, num_devices, data, built_small_trunk
):
    import keras

    from model import build_model
    from pairs.network import parts
    from pairs.photos.find import find_class_photos
    from pairs.training.batches import KerasBatches
    from pairs.training.optimizer import compile_model

    photos = find_class_photos(data / "valid")  # six: a batch of four, and a batch of two
    pairs = pair_generator.PairBatches(photos, SIZE, 4, 0, validation=validation)
    keras.utils.set_random_seed(0)
    model = build_model(built_small_trunk, photos.typeids)
    whole = parts.connect(*parts.split(model, None))
    compile_model(whole, "sgd")
    heads = list(whole.output)
    alone = KerasBatches(pairs, heads, 1, None, cluster.ALONE)
    mesh = cluster.Cluster(num_devices=4, engine="a mesh")
    devices = mesh if num_devices > 1 else cluster.ALONE
    spread = KerasBatches(pairs, heads, 1, None, devices, padded=num_devices == 1)
    assert len(spread[1][0]["img_1"]) == 4
    if validation:
        found, wanted = (
            whole.evaluate(batches, verbose=0, return_dict=True) for batches in (spread, alone)
        )
        names = [name for name in wanted if name == "loss" or name.endswith("accuracy")]
        assert len(names) == 4
    else:
        # The loss of the short batch alone is what its gradient is taken of.
        found, wanted = (
            whole.test_on_batch(*batches[1], return_dict=True) for batches in (spread, alone)
        )
        names = ["loss"]
    for name in names:
        assert found[name] == pytest.approx(wanted[name], rel=1e-5), name


@pytest.mark.parametrize("count", [16, 15, 13, 5, 3, 2, 17])
@pytest.mark.parametrize("num_groups", [2, 4])
def test_a_replica_finds_every_partner_in_its_own_slice(count, num_groups):
    labels = np.random.default_rng(count).integers(0, 3, count)
    members = sharding.groups(count, num_groups)
    assert [index for group in members for index in group] == list(range(count))
    assert min(map(len, members)) >= 2
    rng = np.random.default_rng(1)
    partner = np.concatenate(
        [pair_generator.swap_partners(labels[group], rng) + group.start for group in members]
    )
    devices = cluster.Cluster(num_devices=num_groups, num_groups=num_groups)
    slices = zip(
        *(np.split(array, num_groups) for array in devices.spread(partner, 16)), strict=True
    )
    seen = []
    for own_rows, own_places, is_image in slices:
        assert own_places.max() < len(own_rows)
        assert is_image[own_places[is_image]].all()
        assert own_rows[own_places[is_image]].tolist() == partner[own_rows[is_image]].tolist()
        seen += own_rows[is_image].tolist()
    assert sorted(seen) == list(range(count))


@pytest.mark.slow
@needs_jax
def test_a_dead_process_ends_all_and_another_number_of_them_goes_on(data, tmp_path, monkeypatch):
    from benchmarks import loopback

    for name, value in SMALL_TRUNK.items():
        monkeypatch.setenv(name, value)
    flags = ["--data", data, *FLAGS.split(), "--epochs", "0", "0", "3", "--weights"]
    one, two = tmp_path / "one", tmp_path / "two"
    undisturbed = loopback.start(1, [*flags, one])[0]
    output, errors = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, errors
    assert "1 devices, 1 processes" in output

    first, second = loopback.start(2, [*flags, two])
    while not (two / "checkpoint.npz").exists():
        assert first.poll() is None
        assert second.poll() is None
        time.sleep(0.01)
    second.kill()
    _, errors = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 2, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith(f"train.py: error: {supervisor.LOST}")

    # On with one process of two devices.
    more = {"KERAS_BACKEND": "jax", "XLA_FLAGS": with_devices(2)}
    done = run_script("train.py", *flags, two, "--distribute", **more)
    assert done.returncode == 0, done.stderr
    assert "stage plain: resumes after epoch" in done.stdout
    ours, others = (loopback.weights_of(path / "model.keras") for path in (two, one))
    largest, relative = loopback.difference(ours, others)
    assert largest < 1e-5
    assert relative < 1e-5


@pytest.mark.slow
def test_two_replicas_of_tensorflow_train_as_one_device_with_their_pairs(
    data, tmp_path, monkeypatch
):
    from benchmarks import loopback
    from pairs.training import recipe

    flags = [*FLAGS.split(), "--epochs", "0", "1", "1", "--distribute", "--data", str(data)]
    code = (
        "import tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "import train\nfrom pairs.training import recipe\n"
        "recipe.DROPOUT = 0.0\n"  # every replica draws the masks of its slice
        "train.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--weights", str(tmp_path / "two")],
        cwd=ROOT,
        env={**os.environ, **SMALL_TRUNK},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(recipe, "DROPOUT", 0.0)
    monkeypatch.setattr(cluster, "join", lambda *_: cluster.Cluster(num_groups=2))
    done = run_script("train.py", *flags, "--weights", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    mirrored, alone = (
        loopback.weights_of(tmp_path / name / "model.keras") for name in ("two", "one")
    )
    largest, relative = loopback.difference(mirrored, alone)
    assert largest < 1e-5
    assert relative < 1e-5


@needs_jax
@pytest.mark.parametrize(
    ("backend", "more", "words", "precision"),
    [
        ("jax", {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, "among 3", "float32"),
        ("tensorflow", {cluster.NUM_PROCESSES: "2"}, "KERAS_BACKEND=jax", "float32"),
        ("tensorflow", {}, "take mixed_bfloat16", "mixed_float16"),
        ("jax", {cluster.NUM_PROCESSES: "2"}, "no cluster", "float32"),
    ],
)
def test_what_cannot_be_distributed_is_one_line(backend, more, words, precision, data, tmp_path):
    flags = ["--data", data, "--weights", tmp_path, *FLAGS.split(), "--distribute"]
    flags += ["--precision", precision]
    done = run_script("train.py", *flags, KERAS_BACKEND=backend, **more)
    assert_one_line_error(done, words)


@pytest.mark.parametrize(
    ("dies", "code", "last", "seen"),
    [
        # As JAX's C++ dies where process 0 is gone.
        (
            "print('E1123 19:57:34 coordination_service_agent.cc:289] Polled', file=sys.stderr);"
            "print('F1123 19:57:34.8 client.h:80] the JAX distributed service', file=sys.stderr);"
            "sys.stderr.flush(); os.abort()",
            2,
            supervisor.LOST,
            False,
        ),
        # And as it dies of something else.
        (
            "print('F1123 19:57:34.8 x.cc:1] CUDA went wrong: JAX', file=sys.stderr);"
            "sys.stderr.flush(); os.abort()",
            2,
            "ended by SIGABRT",
            True,
        ),
        ("os.kill(os.getpid(), 9)", 2, "ended by SIGKILL", False),
        ("print('E1123 19:57:34 cuda: JAX', file=sys.stderr); 1 / 0", 1, "ZeroDivision", True),
        ("sys.stderr.write('train.py: error: JAX lost\\n'); os.abort()", 2, "JAX lost", True),
    ],
)
def test_the_supervisor_ends_with_one_line_and_hides_nothing_else(dies, code, last, seen, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from pairs import command_line\nfrom pairs.devices import supervisor\n"
        f"def main():\n    if supervisor.is_supervised(): {dies}\n"
        "    else: supervisor.supervise()\n"
        "command_line.run(main)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert last in done.stderr.splitlines()[-1]
    assert ("JAX" in done.stderr) == seen


def test_the_supervisor_runs_the_script_that_was_called_with_all_its_words(tmp_path):
    """experiments/variants.py takes its own word off before train.py reads the flags."""
    script = tmp_path / "variants.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from pairs.devices import supervisor\n"
        "print(sys.argv)\n"
        "if not supervisor.is_supervised():\n"
        "    sys.argv[:2] = ['train.py']\n"
        "    supervisor.supervise()\n"
    )
    words = [sys.executable, script, "couples", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second == str([str(script), "couples", "--seed", "1"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_leaves_no_child(number, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from pairs import command_line\nfrom pairs.devices import supervisor\n"
        "if supervisor.is_supervised():\n"
        "    supervisor.end_with_parent()\n"
        "    print('running', flush=True)\n"
        "    time.sleep(600)\n"
        "command_line.stop_at_once(lambda: 'run the same command again')\n"
        "supervisor.supervise()\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    # Waits for the end of the child, too: it shares the output.
    _, errors = process.communicate(timeout=20)
    if number == signal.SIGTERM:
        assert errors.splitlines()[-1] == "stopped by SIGTERM; run the same command again"


def test_the_first_to_say_how_a_stopped_process_resumes_is_right(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from pairs import command_line\n"
        "command_line.stop_at_once(lambda: 'the next demo starts over')\n"
        "command_line.stop_at_once(lambda: 'run the same command again')\n"  # the training in it
        "print('running', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert errors.splitlines()[-1] == "stopped by SIGINT; the next demo starts over"
