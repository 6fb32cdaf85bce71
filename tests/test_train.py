import argparse
import collections
import csv
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
from conftest import (
    FLAGS,
    REAL_TRUNK,
    ROOT,
    SIZE,
    SMALL_TRUNK,
    assert_one_line_error,
    make_photo,
    run_script,
    write_legacy_weights,
)
from PIL import Image

import train
from pair_generator import PairBatches
from pairs.demo import demo
from pairs.devices.cluster import ALONE
from pairs.errors import UserError
from pairs.network import parts
from pairs.network.files import load_model
from pairs.network.similarity import SHARPNESS, SHRINKAGE
from pairs.network.trunks import TRUNKS
from pairs.photos.find import find_class_photos
from pairs.photos.read import Photos
from pairs.training import callbacks, next_command, recipe, run_folder, stage
from pairs.training.optimizer import compile_model
from pairs.training.recipe import ALL_PAIRS_WEIGHT, LOSS_WEIGHTS, RECIPES, STAGES_2017, TUNED, Stage
from pairs.training.scoring import judge

MORE_WORKERS = FLAGS.replace("--workers 2", "--workers 5")


def rows_of(weights):
    with (weights / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("script", ["img2keras.py", "pair_generator.py", "train.py", "predict.py"])
@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--workers=none", 2), ("--oops", 2)])
def test_help_and_wrong_flags_answer_without_tensorflow(script, flag, code):
    look = (
        "import runpy, sys\nsys.argv = sys.argv[1:3]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", look, script, flag]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("usage:" in done.stdout) == (code == 0)
    assert len(done.stderr.splitlines()) == (code == 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--image-size 70", "at least 71 pixels"),
        ("--recipe night --image-size 931", "--recipe night takes at most 930"),
        ("--trunk inceptionv3 --image-size 74", "at least 75 pixels"),
        ("--batch-size 1", "at least 2 images"),
        ("--epochs 1 -1 1", "0 (skip the stage) or more"),
        ("--epochs 0 0 0", "at least one stage"),
        ("--seed -1", "0 or more"),
        ("--seed 99999999999", "at most"),
        ("--workers 0", "at least 1"),
        ("--workers 100000", "at most 256"),
        ("--workers many", "'many' given, a whole number is needed"),
        ("--epochs one 1 1", "'one' given, a whole number is needed"),
        ("--tensorboard README.md", "README.md: a file; a folder is needed"),
        ("--pretrained nowhere.h5", "no such file"),
        ("--data nowhere", "no such folder"),
        ("--tensorboard=", "--tensorboard: an empty name"),  # of a variable that is not set
        ("--trunk resnet", "invalid choice"),
        ("--image-size abc", "invalid int value"),
        ("--epochs 1 1", "2 numbers given"),
        ("--demo --epochs 1 1 1", "--demo takes --seed and --workers alone"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags, words, data, tmp_path):
    done = run_script("train.py", "--data", data, "--weights", tmp_path / "w", *flags.split())
    assert_one_line_error(done, words)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "w" / "model.keras").exists()


def test_a_side_without_a_pair_is_refused_before_anything_is_written(data, tmp_path):
    shutil.copytree(data / "train", tmp_path / "train")
    photo = next((data / "valid" / "2").iterdir())
    (tmp_path / "valid" / "2").mkdir(parents=True)
    shutil.copy(photo, tmp_path / "valid" / "2")
    done = run_script("train.py", "--data", tmp_path, "--weights", tmp_path / "w")
    assert_one_line_error(done, "1 valid photo: at least 2 make a pair")
    assert [path.name for path in (tmp_path / "w").iterdir()] == [".lock"]


def test_who_stops_a_restart_is_told_to_repeat_it_only_until_the_new_run_has_begun(tmp_path):
    weights, settings = str(tmp_path), tmp_path / "settings.json"

    def advice(restart):
        return next_command.how_to_resume(weights, restart, began)

    began = next_command.settings_times(weights)
    assert "not begun" in advice(False)  # the first run, while it looks at the photos
    settings.write_text("of the earlier run")
    began = next_command.settings_times(weights)
    assert advice(False) == "run the same command again to resume after the last finished epoch"
    assert "not begun" in advice(True)
    settings.rename(tmp_path / "aside.json")
    assert "not begun" in advice(True)
    settings.write_text("of the new run")
    assert "again, without --restart, to resume" in advice(True)


def test_the_recipe_is_the_references():
    heads, blocks, plain = STAGES_2017
    assert (heads.unfreeze, heads.optimizer, heads.augment) == (None, "adam", "affine")
    assert (blocks.unfreeze, blocks.optimizer, blocks.augment) == ("blocks", "sgd", "affine")
    assert (plain.unfreeze, plain.optimizer, plain.augment) == ("blocks", "sgd", None)
    assert [stage.epochs for stage in STAGES_2017] == [30, 30, 10]
    assert blocks.learning_rate == plain.learning_rate == 1e-4
    assert heads.patience == 3
    assert LOSS_WEIGHTS == {"ctg_out_1": 1, "ctg_out_2": 1, "bin_out": 0.5}


def test_tuned_and_night_are_what_the_tables_of_the_docs_were_made_with():
    for plan, scale in ((TUNED, 1.6), (RECIPES["night"].stages, 2.2)):
        heads, blocks = plan
        assert (heads.unfreeze, heads.optimizer, heads.learning_rate) == (None, "adam", 1e-3)
        assert (blocks.unfreeze, blocks.optimizer, blocks.learning_rate) == ("blocks", "sgd", 6e-3)
        assert (heads.epochs, blocks.epochs) == (10, 12)
        for each in plan:
            assert (each.augment, each.schedule, each.image_scale) == ("mirror", "cosine", scale)
    assert (ALL_PAIRS_WEIGHT, SHRINKAGE, SHARPNESS) == (2, 3, 30)


@pytest.mark.slow
def test_a_training_leaves_everything_it_promises(trained):
    rows = rows_of(trained)
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        *(("heads", "1"), ("heads", "2"), ("heads", "3")),
        ("blocks", "1"),
        *(("plain", "1"), ("plain", "2")),
    ]
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-3)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-4)
    assert all(np.isfinite(float(row["val_loss"])) for row in rows)
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["typeids"] == ["2", "10", "pug"]
    assert settings["flags"]["seed"] == 0
    assert settings["photos"] == {"train": 18, "valid": 6}
    for name in ("curves.png", "pairs.png"):
        with Image.open(trained / name) as picture:
            assert picture.format == "PNG"
            assert picture.width > 1000
    last_lines = (trained / "stdout.txt").read_text().splitlines()[-2:]
    assert f"python predict.py --weights {trained} --evaluate" in last_lines[0]
    assert not [path for path in trained.iterdir() if path.name.startswith(".tmp")]


def start(data, weights, **more):
    """Starts the command behind `trained` in the background, with more threads."""
    words = [
        sys.executable,
        ROOT / "train.py",
        "--data",
        data,
        "--weights",
        weights,
        *MORE_WORKERS.split(),
    ]
    environment = {**os.environ, **SMALL_TRUNK}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more
    )


def weights_of(folder):
    with zipfile.ZipFile(folder / "model.keras") as file:
        return file.read("model.weights.h5")


@pytest.mark.slow
def test_stopped_out_of_disk_and_killed_it_ends_as_the_undisturbed_run(data, trained, tmp_path):
    """And with another number of threads."""
    weights = tmp_path / "weights"
    # SIGTERM, as an operating system sends it when it shuts down.
    training = start(data, weights)
    while not (weights / "checkpoint.npz").exists():
        assert training.poll() is None
        time.sleep(0.01)
    before = time.monotonic()
    training.send_signal(signal.SIGTERM)
    _, errors = training.communicate(timeout=60)
    assert time.monotonic() - before < 5
    assert training.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1] == (
        "stopped by SIGTERM; run the same command again to resume after the last finished epoch"
    )

    # A disk with room for less than a checkpoint.
    checkpoint = (weights / "checkpoint.npz").read_bytes()
    limit = len(checkpoint) // 2
    before = set(weights.rglob(".tmp-*"))  # of a file that is written again later
    training = start(
        data,
        weights,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = training.communicate(timeout=300)
    assert training.returncode == 2, errors
    assert "Traceback" not in errors
    assert "could not be written" in errors.splitlines()[-1]
    assert (weights / "checkpoint.npz").read_bytes() == checkpoint
    assert set(weights.rglob(".tmp-*")) <= before

    # And a power cut, somewhere in the second stage.
    training = start(data, weights)
    while not (weights / "results.json").exists():
        assert training.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    assert training.poll() is None
    training.kill()
    training.communicate()

    done = run_script("train.py", "--data", data, "--weights", weights, *MORE_WORKERS.split())
    assert done.returncode == 0, done.stderr
    assert "stage heads: done already" in done.stdout
    assert weights_of(weights) == weights_of(trained)
    for name in ("log.csv", "results.json"):
        assert (weights / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_and_another_recipe_is_refused(data, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "w")
    done = run_script("train.py", "--data", data, "--weights", folder, *FLAGS.split())
    assert done.returncode == 0, done.stderr
    assert "stage plain: done already" in done.stdout
    flags = FLAGS.replace("--batch-size 6", "--batch-size 5")
    done = run_script("train.py", "--data", data, "--weights", folder, *flags.split())
    assert_one_line_error(done, "--batch-size was 6, is now 5", "--restart")
    # Begun by the same command with --restart, and not ended.
    begun = json.loads((folder / "settings.json").read_text())
    as_begun = {**begun, "flags": {**begun["flags"], "restart": True}}
    (folder / "settings.json").write_text(json.dumps(as_begun))
    (folder / "checkpoint.npz").write_bytes(b"")
    done = run_script("train.py", "--data", data, "--weights", folder, *FLAGS.split(), "--restart")
    assert_one_line_error(done, "Leave --restart out to resume")
    (folder / "settings.json").write_text(json.dumps(begun))
    (folder / "checkpoint.npz").unlink()
    # What begins anew keeps the old run, and knows its own photos.
    done = run_script(
        *("train.py", "--data", data, "--weights", folder, "--restart"),
        *flags.replace("--epochs 3 1 2", "--epochs 1 0 0").split(),
    )
    assert done.returncode == 0, done.stderr
    assert weights_of(folder / "run-1") == weights_of(trained)
    assert (folder / "run-1" / "log.csv").read_bytes() == (trained / "log.csv").read_bytes()
    assert json.loads((folder / "settings.json").read_text())["flags"]["batch_size"] == 5
    assert (folder / "photos.json").read_bytes() == (trained / "photos.json").read_bytes()
    shutil.rmtree(folder)
    shutil.copytree(trained, folder)
    # What cannot begin leaves the old run where it is.
    (folder / "damaged.weights.h5").write_bytes(b"cut off")
    words = ("--pretrained", folder / "damaged.weights.h5", "--restart")
    done = run_script("train.py", "--data", data, "--weights", folder, *flags.split(), *words)
    assert_one_line_error(done, "damaged.weights.h5")
    assert not (folder / "run-1").exists()
    assert weights_of(folder) == weights_of(trained)
    assert (folder / "log.csv").read_bytes() == (trained / "log.csv").read_bytes()


@pytest.mark.slow
def test_tensorboard_gets_every_epoch_or_its_installation_is_named(data, tmp_path):
    flags = FLAGS.replace("--epochs 3 1 2", "--epochs 1 0 0")
    words = ("--data", data, "--weights", tmp_path / "w", "--tensorboard", tmp_path / "board")
    done = run_script("train.py", *words, *flags.split())
    if not importlib.util.find_spec("tensorboard"):
        assert_one_line_error(done, "pip install tensorboard")
        return
    assert done.returncode == 0, done.stderr
    assert {path.parent.name for path in tmp_path.rglob("events*")} == {"train", "validation"}


@pytest.mark.slow
def test_a_photo_that_vanishes_while_training_is_named_and_training_goes_on(data, tmp_path):
    shutil.copytree(data / "train", tmp_path / "train")
    shutil.copytree(data / "valid", tmp_path / "valid")
    flags = FLAGS.replace("--epochs 3 1 2", "--epochs 3 0 0")
    training = subprocess.Popen(
        [
            *(sys.executable, ROOT / "train.py", "--data", tmp_path, "--weights", tmp_path / "w"),
            *flags.split(),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **SMALL_TRUNK},
    )
    while not (tmp_path / "w" / "photos.json").exists():
        assert training.poll() is None
        time.sleep(0.01)
    gone = next((tmp_path / "train" / "pug").iterdir())
    gone.unlink()
    _, errors = training.communicate(timeout=300)
    assert training.returncode == 0, errors
    assert errors.count(f"{gone}: not a readable photo") == 1


@pytest.mark.slow
def test_each_stage_prints_error_and_pair_accuracy(trained):
    lines = [
        line
        for line in (trained / "stdout.txt").read_text().splitlines()
        if "validation error" in line
    ]
    results = json.loads((trained / "results.json").read_text())
    assert [result["stage"] for result in results] == ["heads", "blocks", "plain"]
    for line, result in zip(lines, results, strict=True):
        assert f"stage {result['stage']}: validation error {result['error']:.4f}" in line
        assert f"same {result['same']:.4f}, different {result['different']:.4f}" in line


def moved_layers(folder):
    """Has it moved since the heads stage? A bool for every layer of the trunk."""
    first = load_model(folder / "heads-best.keras").get_layer("trunk")
    last = load_model(folder / "model.keras").get_layer("trunk")
    return [
        any(
            (old.numpy() != new.numpy()).any()
            for old, new in zip(a.weights, b.weights, strict=True)
        )
        for a, b in zip(first.layers, last.layers, strict=True)
    ]


@pytest.mark.slow
def test_weights_below_the_cut_never_move_and_those_above_do(trained):
    moved = moved_layers(trained)
    assert not any(moved[:10])
    assert any(moved[10:])


@pytest.mark.slow
def test_the_model_is_the_epoch_with_the_lowest_validation_loss(trained, data):
    """Judged by Keras' own evaluation of a reloaded file."""
    from pair_generator import PairBatches
    from pairs.photos.find import find_class_photos
    from pairs.training.batches import KerasBatches

    model = load_model(trained / "model.keras")
    whole = parts.connect(*parts.split(model, None))
    compile_model(whole, keras.optimizers.SGD(0.0))
    valid = find_class_photos(data / "valid", ["2", "10", "pug"])
    batches = PairBatches(valid, SIZE, 6, seed=0, validation=True)
    fed = KerasBatches(batches, list(whole.output), 1, None, ALONE)
    loss = whole.evaluate(fed.for_keras, verbose=0, return_dict=True)["loss"]
    best = min(float(row["val_loss"]) for row in rows_of(trained) if row["stage"] == "plain")
    assert loss == pytest.approx(best, rel=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(
    data, tmp_path, monkeypatch, small_trunk
):
    wild = Stage(1, "heads", None, "sgd", float("inf"), epochs=2, augment=None)
    monkeypatch.setitem(recipe.RECIPES, "seed", recipe.Recipe("wild", (wild,)))
    flags = f"--data {data} --weights {tmp_path} --image-size {SIZE} --batch-size 6 "
    args = train.parse_args((flags + "--pretrained none --epochs 2").split())
    with pytest.raises(UserError, match=r"loss is nan in stage heads, epoch 1, step 2"):
        train.train(args)


def test_a_disk_too_small_for_the_models_is_known_before_epoch_1(
    data, tmp_path, monkeypatch, small_trunk
):
    flags = f"--data {data} --weights {tmp_path} --image-size {SIZE} --batch-size 6 "
    args = train.parse_args((flags + "--pretrained none").split())
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 10))
    with pytest.raises(UserError, match=r"will take .* are free; make room and run the same"):
        train.train(args)
    assert not (tmp_path / "settings.json").exists()  # with room, it begins


@pytest.mark.slow
def test_the_tuned_recipe_trains_on_larger_images_from_keras_own_weight_file(data, trunk, tmp_path):
    """The default `--pretrained imagenet`, the file brought into `--weights`, no network."""
    write_legacy_weights(trunk, tmp_path / TRUNKS["xception"].weights_file)
    nowhere = "http://127.0.0.1:9"
    no_network = {
        **{"https_proxy": nowhere, "HTTPS_PROXY": nowhere},
        "KERAS_HOME": str(tmp_path / "empty"),
    }
    flags = f"--recipe tuned --loss softmax --image-size {SIZE} --batch-size 6"
    words = ("--data", data, "--weights", tmp_path, *flags.split(), "--epochs", "3", "2")
    done = run_script("train.py", *words, **REAL_TRUNK, **no_network)
    assert done.returncode == 0, done.stderr
    begun = load_model(tmp_path / "start.keras").get_layer("trunk")
    for found, weight in zip(begun.weights, trunk.weights, strict=True):
        np.testing.assert_array_equal(found, weight)
    moved = moved_layers(tmp_path)
    assert not any(moved[:106])
    assert any(moved[106:])
    rows = rows_of(tmp_path)
    assert [row["stage"] for row in rows] == 3 * ["heads"] + 2 * ["blocks"]
    # Each stage's cosine ends at zero.
    assert float(rows[2]["learning_rate"]) == pytest.approx(0, abs=1e-9)
    assert float(rows[4]["learning_rate"]) == pytest.approx(0, abs=1e-9)
    assert load_model(tmp_path / "model.keras").input_shape[1] == round(1.6 * SIZE)
    # 18 photos and their mirror images, once through the trunk for both stages.
    assert done.stdout.count("activations of 18 photos and their mirror images") == 3
    assert done.stdout.count("there already") == 2  # of training and validation
    judged = run_script("predict.py", "--weights", tmp_path, "--evaluate", data / "valid")
    result = json.loads((tmp_path / "results.json").read_text())[-1]
    assert f"error {result['error']:.4f}" in judged.stdout


def test_a_random_trunk_looks_at_few_photos_at_a_time(data, small_trunk, monkeypatch):
    """All activations of a batch are in memory at once, before any trial of the stages."""
    seen = []
    monkeypatch.setattr(
        train.trunks, "estimate_statistics", lambda _, images: seen.extend(map(len, images))
    )
    flags = f"--data {data} --image-size {SIZE} --batch-size 32 --pretrained none"
    train.build_first_model(train.parse_args(flags.split()), find_class_photos(data / "train"))
    assert seen == [8, 8, 2]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="how TensorFlow traces")
def test_a_step_is_traced_once(data, tmp_path, monkeypatch):
    """It would be again after one that makes variables, which takes seconds in every stage."""
    traced = []
    monkeypatch.setattr("pairs.training.trial.try_stages", lambda *_, **__: None)  # on a GPU

    def count(name):
        step = getattr(keras.Model, name)
        monkeypatch.setattr(
            keras.Model, name, lambda model, batch: traced.append(name) or step(model, batch)
        )

    count("train_step")
    count("test_step")
    flags = f"--recipe tuned --image-size {SIZE} --batch-size 6 --pretrained none --epochs 1 0"
    done = run_script("train.py", "--data", data, "--weights", tmp_path, *flags.split())
    assert done.returncode == 0, done.stderr
    assert sorted(traced) == ["test_step", "train_step"]


class PowerCut(Exception):
    """In place of one."""


def worse_every_epoch(cut_at):
    """`Validate` whose losses only rise, so the first epoch is the best; cut at an epoch."""

    class Worse(callbacks.Validate):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            logs["val_loss"] = 1.0 + epoch
            if epoch == cut_at:
                raise PowerCut

    return Worse


@pytest.mark.slow
def test_the_best_epoch_is_the_model_and_the_next_stages_start_also_after_a_cut(
    data, tmp_path, monkeypatch, small_trunk
):
    """The best epoch is always the first; the second stage learns nothing (rate 0)."""
    plan = (
        Stage(1, "heads", None, "sgd", 0.1, epochs=3, augment=None),
        Stage(2, "blocks", "blocks", "sgd", 0.0, epochs=1, augment=None),
        Stage(3, "plain", None, "sgd", 0.1, epochs=2, augment=None),
    )
    monkeypatch.setitem(recipe.RECIPES, "seed", recipe.Recipe("short", plan))
    seeds = []

    class Noted(PairBatches):
        def __init__(self, photos, image_size, batch_size, seed, *args, validation=False, **more):
            super().__init__(photos, image_size, batch_size, seed, *args, validation, **more)
            if not validation:
                seeds.append(seed)

    monkeypatch.setattr(train, "PairBatches", Noted)
    flags = f"--data {data} --weights {tmp_path} --image-size {SIZE} --batch-size 6 --workers 3 "
    args = train.parse_args((flags + "--pretrained none").split())
    monkeypatch.setattr(stage, "Validate", worse_every_epoch(cut_at=2))
    with pytest.raises(PowerCut):
        train.train(args)
    monkeypatch.setattr(stage, "Validate", worse_every_epoch(cut_at=None))
    train.train(args)

    def weights(name):
        return [
            keras.ops.convert_to_numpy(weight)
            for weight in load_model(tmp_path / f"{name}.keras").weights
        ]

    def same(one, other):
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    best, last = weights("heads-best"), weights("heads-last")
    assert not same(best, last)
    for name in ("blocks-best", "blocks-last"):
        assert same(weights(name), best), name
    model = weights("model")
    assert same(model, weights("plain-best"))
    assert not same(model, weights("plain-last"))
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "1", "1", "2"]
    # At the end twice the first stage (cut and resumed), the second, the third: no two
    # stages draw the same pairs and transforms.
    first, resumed, second, third = seeds[-4:]
    assert first == resumed
    assert len({first, second, third}) == 3


def test_the_error_counts_what_both_heads_say_of_each_image():
    """Row `i` of the second head is about image `partner[i]`, and only that head knows."""
    labels = np.arange(6)
    partner = np.array([3, 0, 1, 5, 2, 4])

    class Pairs:
        photos = Photos([str(label) for label in labels], labels, list("abcdef"))

        def pairs(self, step):
            return labels, partner, {"ctg_out_1": labels, "bin_out": labels % 2}

    class Batches:
        pairs = Pairs()

        def __len__(self):
            return 1

        def __getitem__(self, step):
            return None, None

    class Model:
        output = ("ctg_out_1", "ctg_out_2", "bin_out")

        def predict_on_batch(self, inputs):
            return {
                "ctg_out_1": np.full((6, 6), 1 / 6),
                "ctg_out_2": np.eye(6)[labels[partner]],
                "bin_out": np.eye(2)[[0, 1, 0, 1, 1, 1]],
            }

    found = judge(Model(), Batches()).result()
    assert found == {"photos": 6, "error": 0.0, "same": 1.0, "different": pytest.approx(2 / 3)}


@pytest.mark.slow
def test_a_deleted_model_comes_back_from_the_last_stages_best(data, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "w")
    (folder / "model.keras").unlink()
    done = run_script("train.py", "--data", data, "--weights", folder, *FLAGS.split())
    assert done.returncode == 0, done.stderr
    assert weights_of(folder) == weights_of(trained)
    for name in ("model.keras", "plain-best.keras"):
        (folder / name).unlink()
    done = run_script("train.py", "--data", data, "--weights", folder, *FLAGS.split())
    assert_one_line_error(done, "plain-best.keras: gone", "--restart")


@pytest.mark.slow
def test_a_run_goes_on_though_a_photo_has_vanished_since(data, trained, tmp_path):
    shutil.copytree(data / "train", tmp_path / "data" / "train")
    shutil.copytree(data / "valid", tmp_path / "data" / "valid")
    folder = shutil.copytree(trained, tmp_path / "w")
    # As if killed in the last stage.
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results[:-1]))
    gone = next((tmp_path / "data" / "train" / "pug").iterdir())
    gone.unlink()
    flags = ("--data", tmp_path / "data", "--weights", folder, *FLAGS.split())
    done = run_script("train.py", *flags)
    assert done.returncode == 0, done.stderr
    assert (
        f"note: 1 train photos have vanished since the run began: 'pug/{gone.name}'" in done.stdout
    )
    assert "18 photos to train" in done.stdout
    assert json.loads((folder / "photos.json").read_text())["train"].keys() == (
        json.loads((trained / "photos.json").read_text())["train"].keys()
    )


def test_a_batch_of_nearly_all_photos_is_noted(tmp_path, capsys):
    paths = [str(tmp_path / f"{number}.png") for number in range(40)]
    for number, path in enumerate(paths):
        make_photo(path, (9, 9, 9), seed=number)
    photos = Photos(paths, np.arange(40, dtype=np.int32) % 2, ["a", "b"])
    for batch_size, words in (
        (40, "note: --batch-size 40: an epoch of 40 photos has 1 of them"),
        (32, ""),
    ):
        args = argparse.Namespace(batch_size=batch_size, seed=0, recipe="tuned", loss="paired")
        train.draw_first_pairs(args, list(TUNED), photos, tmp_path / "pairs.png")
        said = capsys.readouterr().out
        assert words in said if words else "note" not in said


def test_a_second_demo_deletes_nothing_that_the_first_trains_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "data" / "demo" / "sorted-0" / "train" / "pug" / "pug_1.png"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"")
    with (
        run_folder.locked(tmp_path / "weights" / "demo"),
        pytest.raises(UserError, match="another training writes there"),
    ):
        demo.run_demo(seed=0, workers=1)
    assert photo.is_file()


@pytest.mark.slow
def test_the_demo_prints_and_runs_the_commands_of_the_readme(tmp_path):
    """On three photos per breed and one stage of one epoch."""
    code = (
        "from pairs.demo import demo\n"
        "demo.PHOTOS_PER_BREED, demo.TEST_PHOTOS_PER_BREED = 3, 1\n"
        f"demo.TRAINING = '--pretrained none --image-size {SIZE} --batch-size 16 --epochs 1 0 0'\n"
        "demo.run_demo(seed=1, workers=2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **SMALL_TRUNK},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    shown = [line.split()[2] for line in lines if line.startswith("$ python ")]
    assert shown == ["img2keras.py", "train.py", "predict.py", "predict.py"]
    submission = (tmp_path / "weights" / "demo" / "predict.txt").read_text().splitlines()
    assert len(submission) == 12
    wrong = round(float(lines[-1].split()[2].rstrip(",")) * 12)
    assert f"; {wrong} of 12 held-out photos wrong" in lines[-2]
    assert lines[-1].endswith("chance 0.9167")
