import csv
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, SIZE, assert_one_line_error, run_script
from PIL import Image

import model as network
import train


def rows_of(weights):
    with (weights / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("script", ["img2keras.py", "pair_generator.py", "train.py", "predict.py"])
def test_help_answers_without_tensorflow(script):
    code = (
        "import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--image-size 70", "at least 71 pixels"),
        ("--trunk inceptionv3 --image-size 74", "at least 75 pixels"),
        ("--batch-size 1", "at least 2 images"),
        ("--epochs 1 -1 1", "0 (skip the stage) or more"),
        ("--epochs 0 0 0", "at least one stage"),
        ("--seed -1", "0 or more"),
        ("--workers 0", "at least 1"),
        ("--pretrained nowhere.h5", "no such file"),
        ("--data nowhere", "no such folder"),
        ("--trunk resnet", "invalid choice"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags, words, data, tmp_path):
    done = run_script("train.py", "--data", data, "--weights", tmp_path / "w", *flags.split())
    assert_one_line_error(done, words)
    assert not (tmp_path / "w" / "model.keras").exists()


def test_the_recipe_is_the_references():
    heads, blocks, plain = train.STAGES
    assert (heads.unfreeze, heads.optimizer, heads.augment) == (False, "adam", True)
    assert (blocks.unfreeze, blocks.optimizer, blocks.augment) == (True, "sgd", True)
    assert (plain.unfreeze, plain.optimizer, plain.augment) == (True, "sgd", False)
    assert [stage.epochs for stage in train.STAGES] == [30, 30, 10]
    assert blocks.learning_rate == plain.learning_rate == 1e-4
    assert heads.patience == 3
    assert network.LOSS_WEIGHTS == {"ctg_out_1": 1, "ctg_out_2": 1, "bin_out": 0.5}


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
    with Image.open(trained / "curves.png") as curves:
        assert curves.format == "PNG"
        assert curves.width > 1000
    assert not [path for path in trained.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.slow
def test_each_stage_prints_error_and_pair_accuracy(trained):
    lines = [line for line in (trained / "stdout.txt").read_text().splitlines() if "error" in line]
    results = json.loads((trained / "results.json").read_text())
    assert [result["stage"] for result in results] == ["heads", "blocks", "plain"]
    for line, result in zip(lines, results, strict=True):
        assert f"stage {result['stage']}: validation error {result['error']:.4f}" in line
        assert f"same {result['same']:.4f}, different {result['different']:.4f}" in line


@pytest.mark.slow
def test_weights_below_layer_105_never_move_and_those_above_do(trained):
    first = network.load_model(trained / "heads-best.keras").get_layer("trunk")
    last = network.load_model(trained / "model.keras").get_layer("trunk")
    moved = [
        any(
            (old.numpy() != new.numpy()).any()
            for old, new in zip(a.weights, b.weights, strict=True)
        )
        for a, b in zip(first.layers, last.layers, strict=True)
    ]
    assert not any(moved[:106])
    assert any(moved[106:])


@pytest.mark.slow
def test_the_model_is_the_epoch_with_the_lowest_validation_loss(trained, data):
    """Judged by Keras' own evaluation of a reloaded file."""
    import stage
    from pair_generator import PairBatches
    from photo import find_class_photos

    model = network.load_model(trained / "model.keras")
    whole = network.connect(*network.split(model, None))
    network.compile_model(whole, keras.optimizers.SGD(0.0))
    valid = find_class_photos(data / "valid", ["2", "10", "pug"])
    batches = PairBatches(valid, SIZE, 6, seed=0, validation=True)
    loss = whole.evaluate(
        stage.KerasBatches(batches, list(whole.output), 1), verbose=0, return_dict=True
    )["loss"]
    best = min(float(row["val_loss"]) for row in rows_of(trained) if row["stage"] == "plain")
    assert loss == pytest.approx(best, rel=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(data, tmp_path, monkeypatch):
    import command_line

    wild = train.Stage(1, "heads", False, "sgd", float("inf"), epochs=2, augment=False)
    monkeypatch.setattr(train, "STAGES", (wild,))
    flags = f"--data {data} --weights {tmp_path} --image-size {SIZE} --batch-size 6 "
    args = train.parse_args((flags + "--pretrained none --epochs 2").split())
    with pytest.raises(
        command_line.UserError, match=r"loss is nan in stage heads, epoch 1, step 2"
    ):
        train.train(args)
