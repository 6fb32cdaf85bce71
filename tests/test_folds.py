"""Folds: every photo is judged by the one model that has not seen it."""

import collections
import csv
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile

import numpy as np
import pytest
from conftest import (
    COLOURS,
    ROOT,
    SIZE,
    SMALL_TRUNK,
    assert_one_line_error,
    make_photo,
    make_raw,
    run_script,
)
from PIL import Image, ImageOps

from pairs.devices.cluster import ALONE
from pairs.errors import UserError
from pairs.evaluation.flags import is_of_training
from pairs.files import file_digest
from pairs.photos import check, folds
from pairs.photos.find import find_class_photos
from pairs.photos.read import Photos
from pairs.training import recipe, run_folder, splits

pytestmark = pytest.mark.usefixtures("small_trunk")
NUM_FOLDS = 3
FLAGS = f"--image-size {SIZE} --batch-size 6 --epochs 2 0 1 --pretrained none --folds {NUM_FOLDS}"


def photos_of(counts):
    """Made-up photos: so many of each class."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    paths = [f"data/{label}/{label}_{number}.jpg" for number, label in enumerate(labels)]
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    return Photos(paths, labels, [str(label) for label in range(len(counts))], digests)


@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_every_class_is_spread_evenly(num_folds):
    photos = photos_of([10, 23, 31, 100])
    cut = folds.cut_folds(photos, [], num_folds, seed=0)
    sizes = np.bincount(cut)[1:]
    assert len(sizes) == num_folds
    assert sizes.max() - sizes.min() <= 1
    for label in range(4):
        own = np.bincount(cut[photos.labels == label], minlength=num_folds + 1)[1:]
        assert own.max() - own.min() <= 1


def test_photos_of_a_group_share_a_fold_also_over_classes():
    photos = photos_of([12, 12, 12])
    groups = [[0, 5, 11], [3, 15], [20, 30, 31, 32, 33]]
    for seed in range(20):
        cut = folds.cut_folds(photos, groups, 3, seed)
        assert all(len(set(cut[group])) == 1 for group in groups)
        for label in range(3):
            assert set(cut[photos.labels == label]) == {1, 2, 3}


def test_the_cut_is_of_names_and_seed_and_not_of_the_order():
    photos = photos_of([9, 12])
    cut = folds.cut_folds(photos, [[2, 10]], 3, seed=4)
    order = np.random.default_rng(0).permutation(21)
    place = {int(old): new for new, old in enumerate(order)}
    moved = folds.cut_folds(photos.take(order), [[place[10], place[2]]], 3, seed=4)
    together = [cut[i] == cut[j] for i in range(21) for j in range(i)]
    again = [moved[place[i]] == moved[place[j]] for i in range(21) for j in range(i)]
    assert np.mean(np.array(together) == again) > 0.95
    assert (folds.cut_folds(photos, [[2, 10]], 3, seed=5) != cut).any()


def test_a_class_of_fewer_different_photos_than_folds_is_refused():
    photos = photos_of([9, 4])
    folds.cut_folds(photos, [], 4, seed=0)
    with pytest.raises(UserError, match=r"1 of 2 classes .*'1' has 3"):
        folds.cut_folds(photos, [[9, 10]], 4, seed=0)  # two of the four are one photo


@pytest.mark.parametrize("seed", range(30))
def test_groups_over_classes_leave_no_fold_without_a_class_to_train(seed):
    rng = np.random.default_rng(seed)
    photos = photos_of([3, 10, 20])
    indices, groups = rng.permutation(33).tolist(), []
    while len(indices) > 12:
        size = int(rng.integers(2, 6))
        groups.append(sorted(indices[:size]))
        indices = indices[size:]
    try:
        cut = folds.cut_folds(photos, groups, 2, seed)
    except UserError:
        return
    for fold in (1, 2):
        assert set(photos.labels[cut != fold]) == {0, 1, 2}


def test_a_small_class_is_not_hidden_by_a_large_one_of_its_group():
    photos = photos_of([2, 10, 20])
    groups = [[0, 2, 3, 4], [1, 12, 13, 14], list(range(15, 25))]
    for seed in range(10):
        cut = folds.cut_folds(photos, groups, 2, seed)
        assert cut[0] != cut[1]


def test_in_the_place_of_a_vanished_photo_stands_one_of_its_fold():
    photos = dataclasses.replace(photos_of([6, 2]), folds=np.array([1, 2, 1, 2, 1, 2, 1, 2]))
    assert list(photos.neighbours(2)) == [2, 4, 0, 3, 5, 1]
    assert list(photos.take(np.arange(1, 8)).neighbours(0)) == [0, 2, 4, 1, 3]


def test_where_no_other_of_the_fold_is_left_one_of_another_fold_stands(tmp_path):
    paths = [tmp_path / typeid / f"{number}.jpg" for typeid in "ab" for number in range(2)]
    for seed, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        make_photo(path, (200, 60, 50), seed)
    names = [str(path) for path in paths]
    digests = [file_digest(path) for path in paths]
    pool = Photos(names, np.array([0, 0, 1, 1], np.int32), ["a", "b"], digests)
    folds.write_folds(tmp_path, pool, np.array([1, 2, 1, 2]))
    held_out = splits.split_folds(tmp_path, pool, 2)[0].valid
    paths[0].unlink()
    training = splits.split_folds(tmp_path, pool, 2)[1].photos  # what fold 2's model learns
    with pytest.raises(UserError, match="no photo of class 'a' can be read any more"):
        training.open(0, 80)
    with Image.open(paths[1]) as other:
        assert np.array_equal(held_out.open(0, other.width), other.resize(2 * [other.width], 2))
    paths[1].unlink()
    with pytest.raises(UserError, match="no photo of class 'a' can be read any more"):
        held_out.open(0, 80)


def test_a_file_of_the_same_name_beside_the_weights_is_somebody_elses(tmp_path):
    (tmp_path / "weights").mkdir()
    for content in ("[", "[1]", '{"fold0": ["a"]}'):
        (tmp_path / "folds.json").write_text(content)
        assert folds.fold_of_folder(tmp_path / "weights") is None


def test_digests_wait_for_no_pipe_and_nothing_is_known_without_a_list(tmp_path):
    from pairs.evaluation import unseen

    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"b")
    (tmp_path / "c.jpg").symlink_to("/dev/zero")
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")]
    digest = hashlib.sha256(b"b").hexdigest()
    assert unseen.find_digests(paths, 2) == [None, digest, None, None]
    alone = types.SimpleNamespace(models=[None], fold=None, weights=tmp_path, home=tmp_path)
    assert unseen.count_trained_on(alone, [digest]) is None


def test_the_time_of_earlier_folds_is_known_after_a_new_start(tmp_path):
    from pairs.training.log import RunLog
    from pairs.training.recipe import STAGES_2017

    log = RunLog(tmp_path, list(STAGES_2017))
    assert log.total_seconds() == 0
    (tmp_path / "times.csv").write_text("stage,epoch,seconds\nheads,1,30.5\nheads,2,20\n")
    assert log.total_seconds() == 50.5


@pytest.mark.parametrize(
    "content",
    [
        "[",
        '{"folds": 2}',
        '{"folds": 2, "held_out": {"a": 3}}',
        '{"folds": 2, "held_out": {"a": 1.5}}',
    ],
)
def test_a_damaged_list_of_folds_is_one_line(content, tmp_path):
    (tmp_path / "folds.json").write_text(content)
    with pytest.raises(UserError, match=r"folds\.json: damaged .*start over"):
        folds.read_folds(tmp_path, "start over")


def test_a_folder_knows_whether_it_is_a_folds(tmp_path, monkeypatch):
    folds.write_folds(tmp_path, photos_of([2, 2]), np.array([1, 2, 1, 2]))
    for name in ("fold-1", "fold-2", "fold-3", "other"):
        (tmp_path / name).mkdir()
    found = [folds.fold_of_folder(path) for path in sorted(tmp_path.glob("*/"))]
    assert found == [1, 2, None, None]
    monkeypatch.chdir(tmp_path / "fold-2")
    assert folds.fold_of_folder(pathlib.Path()) == 2
    # What belongs to all folds is not written over by what is asked of one.
    assert is_of_training("../folds.json", ["."])
    assert not is_of_training("../folds.json", ["../other"])


@pytest.fixture(scope="module")
def sorted_photos(make_once):
    """Class folders with a copy on the other side, and a mirrored, re-encoded one."""
    import img2keras

    def make(folder):
        img2keras.sort_photos(make_raw(folder / "raw"), folder, valid_fraction=0.25)
        some = sorted((folder / "train" / "pug").iterdir())
        shutil.copy(some[0], folder / "valid" / "pug" / "copy.jpg")
        with Image.open(some[1]) as image:
            ImageOps.mirror(image).save(folder / "valid" / "pug" / "mirrored.jpg", quality=70)

    return make_once("sorted_photos", make)


@pytest.fixture(scope="module")
def trained(sorted_photos, make_once):
    """The weights folder of a training of folds, by the command itself; only read."""

    def make(weights):
        done = train(sorted_photos, weights)
        assert done.returncode == 0, done.stdout + done.stderr
        (weights / "stdout.txt").write_text(done.stdout)

    return make_once("weights_of_folds", make)


def train(data, weights, *flags):
    return run_script("train.py", "--data", data, "--weights", weights, *FLAGS.split(), *flags)


def read_table(weights):
    with (weights / "out_of_fold.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_folds_of_a_start_that_failed_are_forgotten_by_the_next(sorted_photos, tmp_path):
    import train as script

    def begin(*flags):
        words = ["--data", sorted_photos, "--weights", tmp_path, "--pretrained", "none", *flags]
        args = script.parse_args(list(map(str, words)))
        tmp_path.mkdir(exist_ok=True)
        listed = check.list_photos(args.data)
        script.begin_or_resume(args, recipe.plan("seed"), tmp_path, listed, ALONE)

    begin("--folds", 3)
    assert (tmp_path / "folds.json").exists()
    (tmp_path / "settings.json").unlink()  # a trial of the stages would have failed before it
    begin()
    assert not (tmp_path / "folds.json").exists()


@pytest.mark.slow
def test_every_photo_is_held_out_once_and_its_copies_with_it(trained, sorted_photos):
    rows = read_table(trained)
    names = collections.Counter(
        path.name for side in ("train", "valid") for path in (sorted_photos / side).glob("*/*")
    )
    assert collections.Counter(row["image"] for row in rows) == names
    assert list(rows[0]) == ["image", "typeid", "fold", "p_2", "p_10", "p_pug"]
    fold = {row["image"]: row["fold"] for row in rows}
    original, mirrored = sorted((sorted_photos / "train" / "pug").iterdir())[:2]
    assert fold["copy.jpg"] == fold[original.name]
    assert fold["mirrored.jpg"] == fold[mirrored.name]
    for row in rows:
        assert sum(float(row[f"p_{typeid}"]) for typeid in COLOURS) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_the_table_says_what_each_folds_model_says_of_the_photos_themselves(trained, sorted_photos):
    """Read from disk, by a network put together anew; the table is of stored activations."""
    from pairs.evaluation.predictor import Predictor

    rows = read_table(trained)
    paths = {path.name: str(path) for path in sorted_photos.glob("*/*/*") if path.is_file()}
    for fold in range(1, NUM_FOLDS + 1):
        own = [row for row in rows if row["fold"] == str(fold)]
        predictor = Predictor(trained / f"fold-{fold}")
        found = predictor.predict([paths[row["image"]] for row in own]).probabilities
        table = [[float(row[f"p_{typeid}"]) for typeid in predictor.typeids] for row in own]
        np.testing.assert_allclose(found, table, atol=1e-4)


@pytest.mark.slow
def test_where_class_centres_vote_the_table_holds_what_they_say(sorted_photos, tmp_path, capsys):
    from pairs.evaluation import unseen
    from pairs.evaluation.predictor import Predictor

    flags = f"--recipe tuned --folds 2 --image-size {SIZE} --batch-size 6 --epochs 0 1"
    words = ("--data", sorted_photos, "--weights", tmp_path, *flags.split(), "--pretrained", "none")
    done = run_script("train.py", *words)
    assert done.returncode == 0, done.stderr
    for fold in (1, 2):
        rows = {row["image"]: row for row in read_table(tmp_path) if row["fold"] == str(fold)}
        paths = [str(path) for path in sorted_photos.glob("*/*/*") if path.name in rows]
        judge = Predictor(tmp_path / f"fold-{fold}")
        assert judge.head == "all"
        for path, probabilities in zip(paths, judge.predict(paths).probabilities, strict=True):
            row = rows[pathlib.Path(path).name]
            found = [float(row[f"p_{typeid}"]) for typeid in judge.typeids]
            np.testing.assert_allclose(found, probabilities, atol=2e-3)
    # Without a fold's centres no fold's have a say, nor in what was kept of a photo.
    (tmp_path / "fold-1" / "similarity.npz").unlink()
    paths = [str(path) for path in sorted_photos.glob("*/*/*")]
    digests = unseen.find_digests(paths, 1)
    capsys.readouterr()
    together = Predictor(tmp_path)
    assert "the class centres have no say" in capsys.readouterr().err
    folds = unseen.find_folds(together, digests)
    kept = unseen.predict_held_out(together, paths, digests, folds)
    (tmp_path / "fold-1" / "held_out.npz").unlink()
    anew = unseen.predict_held_out(Predictor(tmp_path), paths, digests, folds)
    np.testing.assert_allclose(kept.probabilities, anew.probabilities, atol=2e-3)
    # A model of folds that still train is called so.
    (tmp_path / "fold-2" / "checkpoint.npz").touch()
    words = (*paths[:1], "--weights", tmp_path)
    assert "the training has not ended" in run_script("predict.py", *words).stdout


@pytest.mark.slow
def test_the_summary_is_that_of_the_table(trained, sorted_photos):
    rows = read_table(trained)
    guesses = [max(COLOURS, key=lambda typeid, row=row: float(row[f"p_{typeid}"])) for row in rows]
    wrong = [row["typeid"] != guess for row, guess in zip(rows, guesses, strict=True)]
    error = sum(wrong) / len(wrong)
    results = json.loads((trained / "results.json").read_text())
    assert results["photos"] == len(rows) == 26
    assert results["error"] == pytest.approx(error)
    assert results["error_standard_error"] == pytest.approx(math.sqrt(error * (1 - error) / 26))
    assert sum(fold["photos"] for fold in results["folds"]) == 26
    printed = (trained / "stdout.txt").read_text()
    assert f"{error:.4f} ± {results['error_standard_error']:.4f}" in printed
    assert "all folds:" in printed
    assert f"--evaluate {sorted_photos} --report" in printed


@pytest.mark.slow
def test_what_is_frozen_is_computed_once_for_all_folds(trained):
    printed = (trained / "stdout.txt").read_text()
    first, *others = re.split(r"\nfold \d of", printed)[1:]
    assert first.count("computed once and stored") == 2  # where blocks train, and above
    assert others
    assert all("computed once" not in text for text in others)
    assert all(text.count("there already") == text.count("activations of") == 3 for text in others)
    assert not (trained / "activations").exists()


@pytest.mark.slow
def test_the_calibration_is_of_photos_that_no_model_has_seen(trained):
    """The temperature, found by trying many on the table."""
    from pairs.evaluation.predictor import Predictor

    rows = read_table(trained)
    typeids = ["2", "10", "pug"]
    p = np.array([[float(row[f"p_{typeid}"]) for typeid in typeids] for row in rows])
    labels = [typeids.index(row["typeid"]) for row in rows]

    def loss(temperature):
        scaled = p ** (1 / temperature)
        share = (scaled / scaled.sum(axis=1, keepdims=True))[range(26), labels]
        return -np.log(share).sum() + (np.log(temperature) / 0.5) ** 2 / 2

    calibration = Predictor(trained).calibration
    assert calibration.photos == 26
    best = min(np.geomspace(0.05, 20, 2000), key=loss)
    # Their mean, which it is stored for, is not made less sure a second time.
    assert calibration.temperature == pytest.approx(min(1, best), rel=0.01)
    assert 0 < calibration.same_threshold < 1


@pytest.mark.slow
def test_a_folder_of_folds_is_the_mean_of_its_models(trained, sorted_photos):
    from pairs.evaluation.predictor import Predictor

    paths = find_class_photos(sorted_photos / "valid").paths
    together = Predictor(trained, batch_size=4)
    alone = [Predictor(trained / f"fold-{fold}") for fold in (1, 2, 3)]
    found = together.predict(paths)
    each = [predictor.predict(paths) for predictor in alone]
    mean = np.mean([one.probabilities for one in each], axis=0)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    pairs = np.array([[0, 3], [1, 4], [2, 5]])
    same = np.mean(
        [
            predictor.same_probabilities(one.features, pairs)
            for predictor, one in zip(alone, each, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(together.same_probabilities(found.features, pairs), same, atol=1e-5)
    # The trunk's frozen part, most of its weights, is there once.
    trunk = together.models[0].get_layer("trunk").count_params()
    assert together.photo_model.count_params() < 2.3 * trunk


@pytest.mark.slow
def test_the_similarity_of_a_folder_of_folds_is_the_mean_of_its_models(trained, sorted_photos):
    from pairs.evaluation.predictor import Predictor

    paths = find_class_photos(sorted_photos / "valid").paths
    together = Predictor(trained)
    alone = [Predictor(trained / f"fold-{fold}") for fold in (1, 2, 3)]
    found = together.predict(paths)
    each = [predictor.predict(paths) for predictor in alone]
    unit = together.unit(found.features)
    assert unit.shape == found.features.shape == (len(paths), 3 * 24)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    units = [predictor.unit(one.features) for predictor, one in zip(alone, each, strict=True)]
    cosines = np.array([own @ own.T for own in units])
    np.testing.assert_allclose(unit @ unit.T, cosines.mean(axis=0), atol=1e-4)
    assert cosines.std(axis=0).max() > 0.01
    features = found.features.copy()
    assert together.make_unit(features) is features
    np.testing.assert_array_equal(features, unit)
    likenesses = np.array(
        [
            own @ space.centres.T
            for own, predictor in zip(units, alone, strict=True)
            for space in predictor.similarities
        ]
    )
    expected = [max(sum(models) / 3) for models in likenesses.transpose(1, 0, 2)]
    np.testing.assert_allclose(found.likeness, expected, atol=1e-4)
    for own, one in zip(likenesses, each, strict=True):
        np.testing.assert_allclose(one.likeness, own.max(axis=1), atol=1e-5)
    # The class that all see, not the one that each sees: models that look at other photos.
    orders = [np.roll(np.arange(len(paths)), 3 * number) for number in range(3)]
    mixed = np.hstack([one.features[own] for one, own in zip(each, orders, strict=True)])
    seen = np.array([own[order] for own, order in zip(likenesses, orders, strict=True)])
    expected = seen.mean(axis=0).max(axis=1)
    likeness = together.class_cosines(mixed).mean(axis=0).max(axis=1)
    np.testing.assert_allclose(likeness, expected, atol=1e-4)
    # With the class centres, too, the mean of the models is asked.
    together = Predictor(trained, head="all")
    alone = [Predictor(trained / f"fold-{fold}", head="all") for fold in (1, 2, 3)]
    each = [predictor.predict(paths).probabilities for predictor in alone]
    found = together.predict(paths).probabilities
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-4)
    assert np.abs(seen.max(axis=2).mean(axis=0) - expected).max() > 0.01


@pytest.mark.slow
def test_of_a_photo_that_one_fold_holds_out_that_folds_similarity_counts(trained, sorted_photos):
    """As `--evaluate` compares photos; one that no fold has seen is compared by the first."""
    from pairs.evaluation import unseen
    from pairs.evaluation.predictor import Predictor

    paths = find_class_photos(sorted_photos / "valid").paths
    together = Predictor(trained)
    cut = unseen.find_folds(together, unseen.find_digests(paths, 2))
    assert set(cut.tolist()) <= {1, 2, 3}
    assert len(set(cut.tolist())) > 1
    cut[0] = 0
    found = unseen.predict_held_out(together, paths, [None] * len(paths), cut)
    unit = together.unit(found.features, cut)
    alone = {fold: Predictor(trained / f"fold-{fold}") for fold in (1, 2, 3)}
    for path, fold, row, likeness in zip(paths, cut.tolist(), unit, found.likeness, strict=True):
        judge = alone[max(fold, 1)]
        own = judge.predict([path])
        np.testing.assert_allclose(row, judge.unit(own.features)[0], atol=1e-4)
        expected = own if fold else together.predict([path])
        assert likeness == pytest.approx(float(expected.likeness[0]), abs=1e-4)


@pytest.mark.slow
def test_of_folds_one_photo_in_twenty_is_called_none_of_the_classes(trained, sorted_photos):
    """By the model that has not seen it."""
    from pairs.evaluation import unseen
    from pairs.evaluation.predictor import Predictor

    paths = [str(path) for path in sorted_photos.glob("*/*/*") if path.is_file()]
    together = Predictor(trained)
    digests = unseen.find_digests(paths, 2)
    found = unseen.predict_held_out(together, paths, digests, unseen.find_folds(together, digests))
    assert together.calibration.photos == len(paths) == 26
    # 5 % of 27 are 1.35: of as many photos to come 5 % are below the first third of the way from
    # the first score to the second.
    assert together.calibration.shows_none(found).sum() == 1
    assert together.calibration.none_below != 0


@pytest.mark.slow
def test_the_evaluation_asks_the_model_that_has_not_seen_the_photo(
    trained, sorted_photos, tmp_path
):
    from pairs.evaluation import unseen
    from pairs.evaluation.predictor import Predictor

    weights = shutil.copytree(trained, tmp_path / "w")
    results = json.loads((trained / "results.json").read_text())
    done = run_script("predict.py", "--weights", weights, "--evaluate", sorted_photos)
    assert done.returncode == 0, done.stderr
    for number, fold in enumerate(results["folds"], start=1):
        words = f"{fold['photos']} photos that the model of fold {number} has not seen"
        assert words in done.stdout
    assert f"error {results['error']:.4f}" in done.stdout
    assert "calibration of 26 photos stored" in done.stdout
    assert "are read again" not in done.stderr
    printed = done.stdout
    # What the training has kept is what the photos themselves give.
    for fold in (1, 2, 3):
        (weights / f"fold-{fold}" / "held_out.npz").unlink()
    report = tmp_path / "report"
    words = ("--weights", weights, "--evaluate", sorted_photos, "--report", report)
    done = run_script("predict.py", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("are read again") == 3
    for line in ("error ", "same or different"):
        numbers = [
            re.findall(r"[\d.]+\b", text.split(f"\n{line}")[1].splitlines()[0])
            for text in (printed, done.stdout)
        ]
        np.testing.assert_allclose(*np.array(numbers, float), atol=2e-3)
    assert "each judged by the one of 3 models" in (report / "index.html").read_text()
    with (report / "suspects.csv").open(newline="") as file:
        suspects = {row["image"] for row in csv.DictReader(file)}
    assert suspects == {
        row["image"]
        for row in read_table(trained)
        if row["typeid"] != max(COLOURS, key=lambda typeid, row=row: float(row[f"p_{typeid}"]))
    }
    assert f"{len(suspects)} label" in (report / "suspects.html").read_text()
    # One side alone, moved elsewhere, with a photo that is new to all of them.
    moved = shutil.copytree(sorted_photos / "train", tmp_path / "moved")
    Image.new("RGB", (90, 80), (200, 60, 50)).save(moved / "2" / "new.jpg")
    done = run_script("predict.py", "--weights", weights, "--evaluate", moved)
    assert done.returncode == 0, done.stderr
    assert "1 photos that no model has seen" in done.stdout
    # One fold's model alone has seen two thirds of them, and shows those as training photos.
    held_out = {row["image"] for row in read_table(trained) if row["fold"] == "2"}
    one_fold = Predictor(weights / "fold-2")
    shown = {pathlib.Path(path).name for path in unseen.find_training_photos(one_fold).paths}
    assert shown == {row["image"] for row in read_table(trained)} - held_out
    # Photos that came later are none of them.
    later = shutil.copytree(sorted_photos, tmp_path / "later")
    Image.new("RGB", (90, 80), (200, 60, 50)).save(later / "valid" / "2" / "new.jpg")
    for predictor, expected in ((one_fold, shown), (Predictor(weights), shown | held_out)):
        predictor.settings["flags"]["data"] = str(later)
        own = unseen.find_training_photos(predictor)
        assert {pathlib.Path(path).name for path in own.paths} == expected
    done = run_script("predict.py", "--weights", weights / "fold-2", "--evaluate", moved)
    assert done.returncode == 0, done.stderr
    assert "was trained on" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_run_again_a_finished_training_keeps_a_calibration_of_more_photos(
    trained, sorted_photos, tmp_path
):
    weights = shutil.copytree(trained, tmp_path / "w")
    fitted = json.loads((weights / "calibration.json").read_text())
    fitted |= {"photos": 5000, "temperature": 0.777}
    (weights / "calibration.json").write_text(json.dumps(fitted))
    done = train(sorted_photos, weights)
    assert done.returncode == 0, done.stderr
    assert json.loads((weights / "calibration.json").read_text()) == fitted
    (weights / "calibration.json").unlink()
    assert train(sorted_photos, weights).returncode == 0
    found = json.loads((weights / "calibration.json").read_text())
    assert found == json.loads((trained / "calibration.json").read_text())


@pytest.mark.slow
def test_killed_in_the_second_fold_it_ends_as_the_undisturbed_run(trained, sorted_photos, tmp_path):
    weights = tmp_path / "w"
    words = [sys.executable, ROOT / "train.py", "--data", sorted_photos, "--weights", weights]
    with (tmp_path / "out.txt").open("w") as out:
        training = subprocess.Popen(
            [*words, *FLAGS.split()], stdout=out, stderr=out, env={**os.environ, **SMALL_TRUNK}
        )
        while not (weights / "fold-2" / "results.json").exists():
            assert training.poll() is None, (tmp_path / "out.txt").read_text()
            time.sleep(0.01)
        time.sleep(0.7)
        training.send_signal(signal.SIGKILL)
        training.wait()
    done = train(sorted_photos, weights, "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert "stage plain: done already" in done.stdout
    names = [str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()]
    compared = [name for name in names if name.endswith((".csv", ".keras", ".npz", ".json"))]
    assert len(compared) > 30
    for name in compared:
        if name.endswith(("times.csv", "settings.json", "photos.json")):
            continue
        is_same = content(weights / name) == content(trained / name)
        assert is_same, name  # pytest would print megabytes


def content(path):
    """A file's bytes; of a model file those of its weights: a zip notes the time."""
    if path.name == "calibration.json":  # of these model files
        return {**json.loads(path.read_text()), "model": None}
    if path.name == "similarity.npz":
        with np.load(path) as arrays:
            model = path.with_name("model.keras").read_bytes()
            assert str(arrays["model"]) == hashlib.sha256(model).hexdigest()
            return {name: arrays[name].tobytes() for name in arrays if name != "model"}
    if path.suffix != ".keras":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read("model.weights.h5")


@pytest.mark.slow
def test_other_folds_are_another_run_and_restart_keeps_them_aside(trained, sorted_photos, tmp_path):
    weights = shutil.copytree(trained, tmp_path / "w")
    done = train(sorted_photos, weights, "--folds", "2")
    assert_one_line_error(done, "--folds was 3, is now 2", "--restart")
    words = [word for word in FLAGS.split() if word not in ("--folds", str(NUM_FOLDS))]
    done = run_script("train.py", "--data", sorted_photos, "--weights", weights, *words)
    assert_one_line_error(done, "--folds was 3, is now not given")
    model = pathlib.Path("fold-2", "model.keras")
    assert content(weights / model) == content(trained / model)
    (weights / "fold-1" / "mine.txt").write_text("kept")
    run_folder.set_aside(weights)
    assert (weights / "run-1" / "fold-3" / "model.keras").is_file()
    assert (weights / "run-1" / "out_of_fold.csv").is_file()
    assert [path.name for path in weights.rglob("*.keras") if "run-1" not in path.parts] == []
    assert (weights / "fold-1" / "mine.txt").is_file()
    assert not (weights / "fold-2").exists()


def test_photos_that_folds_do_not_know_are_refused_and_a_fold_has_its_own_substitutes(tmp_path):
    photos = photos_of([6, 6])
    folds.write_folds(tmp_path, photos, np.array([1, 2, 3] * 4))
    split = splits.split_folds(tmp_path, photos, 3)[0]
    # A photo that vanishes is replaced by one of its class and fold, which no other model learns.
    substitutes = [split.pool.folds[other] for other in split.pool.neighbours(0)]
    assert substitutes[:2] == [1, 1]
    more = photos_of([6, 7])
    with pytest.raises(UserError, match="not of these photos"):
        splits.split_folds(tmp_path, more, 3)


@pytest.mark.slow
def test_a_training_of_its_own_in_the_folder_of_a_fold_is_not_written_over(sorted_photos, tmp_path):
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "settings.json").write_text("{}")
    assert_one_line_error(train(sorted_photos, tmp_path), "fold-1 holds a training of its own")


@pytest.mark.slow
def test_what_cannot_be_cut_or_is_not_there_is_one_line(trained, sorted_photos, tmp_path):
    done = train(sorted_photos, tmp_path / "w", "--folds", "9")
    assert_one_line_error(done, "--folds 9", "fewer different photos than folds")
    # What the check of the photos found is kept: it may have taken minutes.
    assert {path.name for path in (tmp_path / "w").iterdir()} == {".lock", "photos.json"}
    weights = shutil.copytree(trained, tmp_path / "restarted")
    done = train(sorted_photos, weights, "--folds", "9", "--restart")
    assert_one_line_error(done, "--folds 9", "fewer different photos than folds")
    assert (
        weights / "fold-2" / "model.keras"
    ).is_file()  # the old run stays until a new one begins
    for wrong in ("1", "11"):
        done = train(sorted_photos, tmp_path / "w", "--folds", wrong)
        assert_one_line_error(done, f"--folds {wrong}", "2 to 10")
    weights = shutil.copytree(trained, tmp_path / "unfinished")
    (weights / "fold-3" / "model.keras").unlink()
    done = run_script("predict.py", "--weights", weights, "--test", sorted_photos)
    assert_one_line_error(done, "fold-3", "2 of 3 folds", "train.py")
