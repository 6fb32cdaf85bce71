import argparse
import csv
import dataclasses
import json
import math
import os
import pathlib
import shutil

import numpy as np
import pytest
from conftest import COLOURS, assert_one_line_error, make_photo, run_script
from PIL import Image

import predict
from pairs.errors import UserError
from pairs.evaluation import evaluate, flags
from pairs.evaluation.calibration import Calibration, models_digest
from pairs.evaluation.flags import parse_args
from pairs.evaluation.predictor import Predictor
from pairs.evaluation.unseen import predict_together
from pairs.network.similarity import write_similarity
from pairs.photos.find import PHOTO_SUFFIXES, find_class_photos, find_photos
from pairs.photos.read import read_photo
from pairs.photos.views import MAX_VIEWS, read_views
from pairs.training.run_folder import RUN_FILES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def test_folder(tmp_path_factory):
    """Photos to predict: nested, with names that hold commas and dots."""
    folder = tmp_path_factory.mktemp("test")
    (folder / "b" / "c").mkdir(parents=True)
    make_photo(folder / "20,1.jpg", COLOURS["10"], seed=900)
    make_photo(folder / "b" / "10,7.5.jpg", COLOURS["pug"], seed=901)
    make_photo(folder / "b" / "c" / "30 ü.png", COLOURS["2"], seed=902)
    (folder / "Thumbs.db").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained, batch_size=2, workers=2)


def submit(predictor, folder, out):
    """The lines of a submission for a folder."""
    predict.write_submission(predictor, predictor.predict(find_photos(folder)), out)
    return out.read_bytes().decode("utf-8", "surrogateescape").splitlines()


def test_the_submission_has_a_line_a_photo_sorted_by_file_name(predictor, test_folder, tmp_path):
    lines = submit(predictor, test_folder, tmp_path / "predict.txt")
    assert [line.split("\t")[1] for line in lines] == ["10,7.5", "20,1", "30 ü"]
    assert {line.split("\t")[0] for line in lines} <= set(COLOURS)


def test_every_photo_has_a_line_and_the_unreadable_ones_the_most_frequent_class(
    trained, test_folder, tmp_path
):
    shutil.copytree(test_folder, tmp_path / "test")
    (tmp_path / "test" / "21,2.jpg").write_bytes(b"<html>")
    os.mkfifo(tmp_path / "test" / "22,3.jpg")
    (tmp_path / "test" / "IMG_1.HEIC").write_bytes(b"a phone's")
    flags = ("--weights", trained, "--test", tmp_path / "test", "--out", tmp_path / "predict.txt")
    done = run_script("predict.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "note: 1 skipped, no ending of a photo" in done.stdout
    assert "5 photos, 2 of them not readable" in done.stdout
    assert "21,2.jpg: not a readable photo" in done.stderr
    assert "22,3.jpg: not a readable photo" in done.stderr
    lines = dict(
        line.split("\t")[::-1] for line in (tmp_path / "predict.txt").read_text().splitlines()
    )
    assert list(lines) == ["10,7.5", "20,1", "21,2", "22,3", "30 ü"]
    # All three classes have 6 photos to train on: the first of the most frequent.
    assert lines["21,2"] == lines["22,3"] == "2"


def test_a_name_cannot_forge_a_line(predictor, tmp_path):
    (tmp_path / "test").mkdir()
    names = ["a\nb\t1.jpg", "a\x85\u2028.jpg", os.fsdecode(b"\xff\xfe.jpg"), "-rf.jpg"]
    for seed, name in enumerate(names):
        make_photo(tmp_path / "photo.jpg", COLOURS["2"], seed)
        (tmp_path / "photo.jpg").rename(tmp_path / "test" / name)
    lines = submit(predictor, tmp_path / "test", tmp_path / "predict.txt")
    # Bytes that are no text stay what they are.
    assert b"\t\xff\xfe\n" in (tmp_path / "predict.txt").read_bytes()
    assert len(lines) == 4
    assert all(line.count("\t") == 1 for line in lines)


def test_a_photo_is_predicted_alike_in_any_batch(predictor, test_folder, trained):
    paths = find_photos(test_folder)
    together = predictor.predict(paths)
    alone = Predictor(trained, batch_size=32, workers=1).predict(paths[1:2])
    np.testing.assert_allclose(alone.probabilities[0], together.probabilities[1], atol=1e-6)
    np.testing.assert_allclose(together.probabilities.sum(axis=1), 1, atol=1e-5)
    assert together.features.shape == (3, 24)


def test_evaluation_agrees_with_the_submission(predictor, data, tmp_path):
    """Counted from the written file, by folder names."""
    photos = find_class_photos(data / "valid", predictor.typeids)
    numbers = evaluate.evaluate(predictor, photos, predictor.predict(photos.paths)).numbers
    lines = submit(predictor, data / "valid", tmp_path / "predict.txt")
    wrong = sum(line.split("\t")[0] != line.split("\t")[1].split("_")[0] for line in lines)
    assert numbers["photos"] == len(lines) == 6
    assert numbers["error"] == pytest.approx(wrong / 6)
    assert numbers["top5_error"] == 0  # three classes


def test_the_commands_print_what_they_promise(trained, data, test_folder, tmp_path):
    shutil.copytree(trained, tmp_path / "w")
    done = run_script("predict.py", "--weights", tmp_path / "w", "--evaluate", data / "valid")
    assert done.returncode == 0, done.stderr
    assert "calibration of 6 photos stored" in done.stdout.splitlines()[-1]
    words = done.stdout.splitlines()[-2].split()
    assert words[:1] + words[2:4] == ["error", "top-5", "error"]
    assert len(words[1].rstrip(",").split(".")[1]) == 4
    done = run_script(
        "predict.py", "--weights", trained, "--test", test_folder, "--out", tmp_path / "p.txt"
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "p.txt").read_text().splitlines()) == 3


def test_folder_order_cannot_shift_a_label(predictor, data, tmp_path):
    """Only '10' and 'pug' are there: as text and as numbers '10' comes first."""
    for typeid in ("10", "pug"):
        shutil.copytree(data / "valid" / typeid, tmp_path / typeid)
    photos = find_class_photos(tmp_path, predictor.typeids)
    some = evaluate.evaluate(predictor, photos, predictor.predict(photos.paths))
    guesses = predictor.predict(photos.paths).probabilities.argmax(axis=1)
    right = [
        path.split("/")[-2] == predictor.typeids[g]
        for path, g in zip(photos.paths, guesses, strict=True)
    ]
    assert some.numbers["error"] == pytest.approx(1 - np.mean(right))
    assert some.classes["photos"].tolist() == [0, 2, 2]


def test_people_get_the_likeliest_classes_by_name(trained, test_folder, tmp_path):
    (tmp_path / "names.txt").write_text(
        "10\t西藏獒\npug\tPug <dog>\n2\tアラバイ\n", encoding="utf-8"
    )
    photo = test_folder / "20,1.jpg"
    done = run_script(
        *("predict.py", photo, "--weights", trained, "--names", tmp_path / "names.txt"),
        PYTHONIOENCODING="utf-8",
    )
    assert done.returncode == 0, done.stderr
    note, first, *guesses = done.stdout.splitlines()
    assert note.startswith("note: not calibrated yet")
    assert first == str(photo)
    shares = [float(line.split()[0]) for line in guesses]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert {line.split("  ")[-1] for line in guesses} == {
        *("西藏獒 (10)", "Pug <dog> (pug)", "アラバイ (2)")
    }


def test_two_photos_are_the_same_or_not(trained, test_folder):
    photo, other = test_folder / "20,1.jpg", test_folder / "b" / "10,7.5.jpg"
    done = run_script("predict.py", photo, photo, "--same", "--weights", trained)
    assert done.returncode == 0, done.stderr
    assert "cosine 1.0000 (not calibrated yet" in done.stdout
    there = run_script("predict.py", photo, other, "--same", "--weights", trained).stdout
    back = run_script("predict.py", other, photo, "--same", "--weights", trained).stdout
    assert there == back
    assert -1 <= float(there.split("cosine ")[1].split()[0]) < 1
    done = run_script("predict.py", photo, "--same", "--weights", trained)
    assert_one_line_error(done, "exactly 2 photos are needed, not 1")


def test_a_folder_gives_the_submission_and_a_table(trained, test_folder, tmp_path):
    words = ("--out", tmp_path / "p.txt", "--csv", tmp_path / "p.csv")
    done = run_script("predict.py", test_folder, "--weights", trained, *words)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [line.split("\t") for line in (tmp_path / "p.txt").read_text().splitlines()]
    assert [[row["typeid"], row["image_id"]] for row in rows] == lines
    for row in rows:  # ids hold commas, and still each column is where it belongs
        assert row["typeid"] == row["typeid_1"]
        assert sum(float(row[f"probability_{n}"]) for n in (1, 2, 3)) == pytest.approx(1, abs=1e-5)


def test_evaluation_leaves_a_calibration_that_belongs_to_the_model(trained, data, tmp_path):
    shutil.copytree(trained, tmp_path / "w")
    words = ("--evaluate", data / "valid", "--report", tmp_path / "report")
    done = run_script("predict.py", "--weights", tmp_path / "w", *words)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "report" / "metrics.json").read_text())
    fitted = Predictor(tmp_path / "w").calibration
    assert fitted.temperature == numbers["temperature"]
    assert fitted.same_threshold == numbers["pairs"]["threshold"]
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / "report" / name) as picture:
            assert picture.width > 400
    with (tmp_path / "report" / "per_class.csv").open(newline="") as file:
        assert [row["photos"] for row in csv.DictReader(file)] == ["2", "2", "2"]
    for other in ({"num_views": 2}, {"head": "first"}):  # it was not fitted on these
        assert Predictor(tmp_path / "w", **other).calibration == Calibration()
    shutil.copy(trained / "heads-best.keras", tmp_path / "w" / "model.keras")
    assert Predictor(tmp_path / "w").calibration.photos == 0  # of another model


def test_views_are_the_photo_its_mirror_and_crops_of_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    views = read_views(tmp_path / "a.png", 56, MAX_VIEWS)  # 56 is 7/8 of 64
    assert views.shape == (12, 56, 56, 3)
    np.testing.assert_array_equal(views[0], read_photo(tmp_path / "a.png", 56))
    np.testing.assert_array_equal(views[1::2], views[::2, :, ::-1])
    np.testing.assert_array_equal(views[4], pixels[:56, :56])
    np.testing.assert_array_equal(views[10], pixels[8:, 8:])
    np.testing.assert_array_equal(read_views(tmp_path / "a.png", 56, 3), views[:3])


def test_views_are_averaged(trained, predictor, test_folder, tmp_path):
    paths = find_photos(test_folder)
    (tmp_path / "mirrored").mkdir()
    for path in paths:
        with Image.open(path) as image:
            mirrored = image.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            mirrored.save(tmp_path / "mirrored" / os.path.basename(path + ".png"))
    one = predictor.predict(paths).probabilities
    other = predictor.predict(find_photos(tmp_path / "mirrored")).probabilities
    both = Predictor(trained, num_views=2).predict(paths).probabilities
    np.testing.assert_allclose(both, (one + other) / 2, atol=5e-3)


def test_models_are_averaged_by_typeid_and_not_by_column(trained, predictor, test_folder):
    class Turned(Predictor):
        """The same model, its classes in another order."""

        def predict(self, *words, **more):
            found = super().predict(*words, **more)
            return dataclasses.replace(found, probabilities=found.probabilities[:, ::-1])

    turned = Turned(trained)
    turned.typeids = turned.typeids[::-1]
    paths = find_photos(test_folder)
    alone = predictor.predict(paths).probabilities
    together = predict_together([predictor, turned], paths).probabilities
    np.testing.assert_allclose(together, alone, atol=1e-6)
    turned.typeids = ["2", "10", "another"]
    with pytest.raises(UserError, match=r"know different classes.*'another'"):
        predict.check_models([predictor, turned], argparse.Namespace(head=None))


def test_the_mean_of_the_heads_is_the_mean_of_the_heads(trained, predictor, test_folder):
    paths = find_photos(test_folder)
    first, second = (
        Predictor(trained, head=head).predict(paths).probabilities for head in ("first", "second")
    )
    assert np.abs(first - second).max() > 1e-3
    mean = predictor.predict(paths).probabilities
    np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-5)


def test_the_calibration_of_more_photos_is_kept_and_its_lack_is_said(trained, data, tmp_path):
    weights, few = shutil.copytree(trained, tmp_path / "w"), tmp_path / "few"
    for typeid in ("2", "10"):
        path = next((data / "valid" / typeid).iterdir())
        (few / typeid).mkdir(parents=True)
        shutil.copy(path, few / typeid)
    words = ("--test", few, "--out", tmp_path / "p.txt", "--csv", tmp_path / "p.csv")
    note = "note: not calibrated yet"
    assert note in run_script("predict.py", "--weights", weights, *words).stdout
    run_script("predict.py", "--weights", weights, "--evaluate", data / "valid")
    before = (weights / "calibration.json").read_bytes()
    done = run_script("predict.py", "--weights", weights, "--evaluate", few)
    assert "calibration not stored: that of" in done.stdout.splitlines()[-1]
    assert (weights / "calibration.json").read_bytes() == before
    assert note not in run_script("predict.py", "--weights", weights, *words).stdout
    done = run_script("predict.py", "--weights", weights, *words, "--tta", "2")
    assert "note: probabilities are as the model gives them" in done.stdout
    (weights / "calibration.json").unlink()  # nor is there one to be misled by
    done = run_script("predict.py", "--weights", weights, *words, "--tta", "2")
    assert "note: probabilities are as the model gives them" in done.stdout


def test_a_model_of_a_training_that_has_not_ended_is_called_so(trained, data, tmp_path):
    weights = shutil.copytree(trained, tmp_path / "w")
    (weights / "checkpoint.npz").write_bytes(b"of the next stage")
    words = ("--test", data / "valid", "--out", tmp_path / "p.txt")
    done = run_script("predict.py", "--weights", weights, *words)
    assert done.returncode == 0, done.stderr
    assert f"note: {weights}: the training has not ended" in done.stdout
    assert "have no say" not in done.stderr


def test_class_centres_speak_where_the_training_or_somebody_asks_them(trained, data, tmp_path):
    paths = find_photos(data / "valid")
    heads = Predictor(trained)
    asked = Predictor(trained, head="all")
    assert (heads.head, heads.is_plain, asked.is_plain) == ("mean", True, False)
    found = heads.predict(paths)
    unit = heads.unit(found.features)
    expected = []
    for row, own in zip(unit, found.probabilities, strict=True):
        powers = [math.exp(30 * float(row @ centre)) for centre in heads.similarities[0].centres]
        expected.append([(p + q / sum(powers)) / 2 for p, q in zip(own, powers, strict=True)])
    together = asked.predict(paths).probabilities
    np.testing.assert_allclose(together, expected, atol=1e-4)
    assert np.abs(together - found.probabilities).max() > 0.01
    copied = shutil.copytree(trained, tmp_path / "votes")
    write_similarity(copied, dataclasses.replace(heads.similarities[0], votes=True))
    usual = Predictor(copied)
    assert (usual.head, usual.is_plain) == ("all", True)
    np.testing.assert_array_equal(usual.predict(paths).probabilities, together)
    assert not Predictor(copied, head="mean").is_plain
    (copied / "similarity.npz").unlink()
    assert Predictor(copied).head == "mean"
    # It is missed only where it has had a say.
    assert not Predictor(copied).lacks_centres
    done = run_script("predict.py", *paths[:1], "--weights", copied, "--head", "all")
    assert_one_line_error(done, "--head all", "has no similarity.npz of its model")


def test_damaged_settings_do_not_stop_a_model_that_needs_none(
    trained, predictor, test_folder, tmp_path
):
    weights = shutil.copytree(trained, tmp_path / "w")
    (weights / "settings.json").write_text('{"flags": ')
    paths = find_photos(test_folder)
    np.testing.assert_array_equal(
        Predictor(weights, batch_size=2).predict(paths).probabilities,
        predictor.predict(paths).probabilities,
    )


def test_where_each_length_would_be_compiled_all_batches_have_one(
    predictor, test_folder, monkeypatch
):
    paths = find_photos(test_folder)[:3]
    expected = predictor.predict(paths)
    monkeypatch.setattr("pairs.network.parts.uses_xla", lambda: True)
    lengths, ask = [], predictor.ask

    def noted(images, **more):
        lengths.append(len(images))
        return ask(images, **more)

    monkeypatch.setattr(predictor, "ask", noted)
    found = predictor.predict(paths)
    assert lengths == [2, 2]
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.features, expected.features, atol=1e-5)
    del lengths[:]
    predictor.predict(paths[:1])  # one photo takes no longer than before
    assert lengths == [1]


def test_a_single_photo_is_not_traced_and_has_the_same_answer(trained, test_folder, monkeypatch):
    paths = find_photos(test_folder)[:3]
    traced = Predictor(trained, batch_size=2).predict(paths)
    predictor = Predictor(trained, batch_size=4)

    def trace(_):
        raise AssertionError("traced")

    monkeypatch.setattr(predictor.photo_model, "predict_on_batch", trace)
    found = predictor.predict(paths[:1])
    assert found.probabilities.dtype == found.features.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, traced.probabilities[:1], atol=1e-6)
    np.testing.assert_allclose(found.features, traced.features[:1], atol=1e-5)
    with pytest.raises(AssertionError, match="traced"):  # of all layers of two: too much memory
        predictor.predict(paths[:2])


def test_with_two_models_an_unreadable_photo_is_reported_once(trained, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"<html>")
    make_photo(tmp_path / "photos" / "fine.jpg", (9, 9, 9), seed=0)
    models = ("--weights", trained, "--weights", shutil.copytree(trained, tmp_path / "w"))
    photos = ("--test", tmp_path / "photos", "--out", tmp_path / "p.txt")
    done = run_script("predict.py", *models, *photos)
    assert done.returncode == 0
    assert done.stderr.count("broken.jpg") == 1


def test_names_that_fit_no_class_are_said(trained, test_folder, tmp_path):
    (tmp_path / "names.txt").write_text("10\tMastiff\n0002\tAlabai\n")  # 0002 is class 2
    photo = find_photos(test_folder)[0]
    words = ("predict.py", photo, "--weights", trained, "--names", tmp_path / "names.txt")
    assert "names.txt: no name for 2 of 3 classes, e.g. '2'" in run_script(*words).stdout
    (tmp_path / "names.txt").write_text("10\tMastiff\n2\tAlabai\npug\tPug\n")
    assert "no name for" not in run_script(*words).stdout
    spaced = {"2": "Saint\u00a0Bernard", "10": "柴犬\u3000黒", "pug": "می\u200cگل"}
    (tmp_path / "names.txt").write_text("".join(f"{k}\t{v}\n" for k, v in spaced.items()))
    assert predict.read_names(tmp_path / "names.txt") == spaced
    (tmp_path / "names.txt").write_text("10\tM\x1b[2Kastiff\n2\tAla\x1b[31mbai\npug\tP\x1b[2Kug\n")
    shown = run_script(*words).stdout
    assert "\x1b" not in shown
    assert "\\x1b[2K" in shown or "\\x1b[31m" in shown


def test_many_views_of_large_photos_do_not_wait_in_memory(trained, test_folder, monkeypatch):
    ahead = []

    def noted(read, items, workers, count):
        ahead.append(count)
        return map(read, items)

    monkeypatch.setattr("pairs.evaluation.predictor.read_ahead", noted)
    for views in (1, 12):
        Predictor(trained, num_views=views).predict(find_photos(test_folder)[:1])
    assert ahead[0] == 64
    assert ahead[1] * 12 <= 64


def test_running_out_of_memory_names_the_batch_size(predictor, test_folder, monkeypatch):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3 GiB")

    monkeypatch.setattr(predictor, "forward", full)
    with pytest.raises(UserError, match="out of memory with 2 photos at once: use a smaller"):
        predictor.predict(find_photos(test_folder))


def test_what_lies_beside_the_photos_to_judge_is_said(trained, data, tmp_path):
    folder = shutil.copytree(data / "valid", tmp_path / "valid")
    (folder / "2" / "a.heic").write_bytes(b"")
    shutil.copy(next((folder / "2").glob("*.jpg")), folder / "loose.jpg")
    weights = shutil.copytree(trained, tmp_path / "w")
    done = run_script("predict.py", "--weights", weights, "--evaluate", folder)
    assert f"1 .heic; e.g. {folder}/2/a.heic" in done.stdout
    assert f"not in a class folder; e.g. {folder}/loose.jpg" in done.stdout


def test_a_calibration_is_not_stored_where_it_would_mislead(trained, data, tmp_path):
    shutil.copytree(trained, tmp_path / "w")
    for words, reason in (
        (("--evaluate", data / "train"), "was trained on"),
        (("--evaluate", data / "valid", "--head", "first"), "without --tta and --head"),
    ):
        done = run_script("predict.py", "--weights", tmp_path / "w", *words)
        assert done.returncode == 0, done.stderr
        assert reason in done.stdout.splitlines()[-1]
        assert not (tmp_path / "w" / "calibration.json").exists()


def test_the_error_of_training_photos_is_called_too_low_on_the_page_too(trained, data, tmp_path):
    words = ("--weights", trained, "--evaluate", data / "train", "--report", tmp_path / "r")
    done = run_script("predict.py", *words)
    assert done.returncode == 0, done.stderr
    count = len(list((data / "train").rglob("*.jpg")))
    warning = f"{count} of these {count} photos were trained on: the error is too low"
    assert done.stdout.index(f"warning: {warning}") < done.stdout.index("worst classes")
    assert "no photo was wrong" not in done.stdout
    assert f'role="note">{warning}' in (tmp_path / "r" / "index.html").read_text()
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["photos_trained_on"] == count


def test_training_photos_are_known_by_their_bytes_wherever_they_lie(trained, data, tmp_path):
    """A relative `--data`, another directory, a copy: the folder's name tells nothing."""
    shutil.copytree(trained, tmp_path / "w")
    settings = json.loads((trained / "settings.json").read_text())
    settings["flags"]["data"] = "data"
    (tmp_path / "w" / "settings.json").write_text(json.dumps(settings))
    shutil.copytree(data / "valid", tmp_path / "photos")
    photo = next((data / "train" / "10").iterdir())
    shutil.copy(photo, tmp_path / "photos" / "10" / "of_another_name.jpg")
    flags = ("--weights", "w", "--evaluate", "photos")
    done = run_script("predict.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of these 7 photos are photos that the model" in done.stdout.splitlines()[-1]
    assert not (tmp_path / "w" / "calibration.json").exists()


@pytest.mark.parametrize(
    "facts",
    [
        "[1, 2]",
        '{"model": "MODEL", "same_known": [0, 1, 0], "temperature": "hot"}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "temperature": [1]}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "temperature": 0}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "temperature": NaN}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "same_threshold": "x"}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "same_threshold": 7}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "photos": "many"}',
        '{"model": "MODEL", "same_known": [0, 1, 0], "unknown": 1}',
    ],
)
def test_a_damaged_calibration_is_said_and_not_used(trained, facts, tmp_path, capsys):
    for name in ("model.keras", "similarity.npz", "photos.json"):
        (tmp_path / name).symlink_to(trained / name)
    whole = '{"model": "MODEL", "same_known": [0, 1, 0], "temperature": 0.5}'
    facts, whole = (text.replace("MODEL", models_digest(trained)) for text in (facts, whole))
    (tmp_path / "calibration.json").write_text(whole)
    assert Predictor(tmp_path).calibration == Calibration(temperature=0.5)
    (tmp_path / "calibration.json").write_text(facts)
    assert Predictor(tmp_path).calibration == Calibration()
    assert "calibration.json: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("PHOTO --csv a.csv", "--csv: needs a folder"),
        ("PHOTO --out a.txt", "--out: needs a folder"),
        ("--evaluate FOLDER --out a.txt", "--out: needs a folder"),
        ("PHOTO --evaluate FOLDER", "cannot be combined"),
        ("--evaluate FOLDER --test FOLDER", "cannot be combined"),
        ("FOLDER --test OTHER", "one folder is predicted"),
        ("FOLDER --csv same.txt --out ./same.txt", "two files are needed"),
        ("FOLDER --out /dev/null", "/dev/null: not a regular file; choose another name"),
        ("FOLDER --out weights", "weights: a folder; a file is written"),
        ("FOLDER --out weights/model.keras", "--out weights/model.keras: a file of the training"),
        ("FOLDER --csv weights/fold-1/settings.json", "a file of the training"),
        ("FOLDER --features weights/similarity.npz", "a file of the training"),
        ("FOLDER --report r", "needs --evaluate"),
        ("--evaluate FOLDER --report TABLE", "--report table.csv: a file; a folder is written"),
        ("--evaluate FOLDER --report FOLDER", "among the photos; choose another folder"),
        ("--evaluate FOLDER --report INSIDE", "among the photos; choose another folder"),
        ("--evaluate FOLDER --report SIDE", "among the photos; choose another folder"),
        ("FOLDER FOLDER", "FOLDER: a folder; give one folder, or photos"),
        ("PHOTO PHOTO --same --tta 2", "--same: was calibrated without --tta; leave it out"),
        ("FOLDER --names names.txt", "with --csv names are written"),
        ("FOLDER --evaluate=", "--evaluate: an empty name"),
        ("EMPTY", "error: photos: an empty name"),
        ("FOLDER --out 1.jpg", "that is the name of a photo"),
        ("PHOTO PHOTO --same --head first", "--same: needs a single --weights, and no --head"),
        ("PHOTO PHOTO --same --weights OTHER", "--same: needs a single --weights"),
        ("PHOTO PHOTO --same --names TABLE", "--names: answers about pairs of photos name no"),
        ("PHOTO PHOTO --same --out a.csv", "--out: needs a folder"),
        ("PHOTO PHOTO --same --pairs TABLE --out a.csv", "--same and --pairs cannot be combined"),
        ("--pairs TABLE", "--pairs: --out FILE is needed, a CSV to write"),
        ("--pairs TABLE --out TABLE", "two files are needed"),
        ("--pairs nowhere.csv --out a.csv", "--pairs nowhere.csv: no such file"),
        ("--pairs FOLDER --out a.csv", "a folder; a CSV of pairs is needed"),
        ("--pairs TABLE --out a.csv PHOTO", "cannot be combined"),
        ("--pairs TABLE --out a.csv --test FOLDER", "--pairs and FOLDER cannot be combined"),
        ("--pairs TABLE --out a.csv --csv b.csv", "--csv: needs a folder"),
        ("--pairs TABLE --out a.csv --features b.npz", "--features: needs a folder"),
        (
            "--pairs TABLE --out a.csv --head second",
            "--pairs: needs a single --weights, and no --head",
        ),
        ("--pairs TABLE --out a.csv --names TABLE", "--names: answers about pairs"),
        ("--pairs TABLE --out nowhere/a.csv", "the folder nowhere does not exist"),
        ("--query FOLDER --out a.csv", "--query and --gallery go together"),
        ("--gallery FOLDER --out a.csv", "--query and --gallery go together"),
        ("--query FOLDER --gallery FOLDER", "--query: --out FILE is needed"),
        ("--query FOLDER --gallery PHOTO --out a.csv", "20,1.jpg: a file; a folder is needed"),
        ("--query nowhere --gallery FOLDER --out a.csv", "--query nowhere: no such folder"),
        ("--test WEIGHTS", "holds a training; a folder of photos is needed"),
        ("WEIGHTS", "holds a training; a folder of photos is needed"),
        (
            "--query FOLDER --gallery FOLDER --out a.csv --pairs TABLE",
            "--pairs and --query cannot",
        ),
        ("--query FOLDER --gallery FOLDER --out a.csv --evaluate FOLDER", "cannot be combined"),
        (
            "--query FOLDER --gallery FOLDER --out a.csv --weights OTHER",
            "--query: needs a single --weights",
        ),
        ("--new-classes", "--new-classes: goes with --same, --pairs or --query"),
        ("FOLDER --new-classes", "--new-classes: goes with"),
        ("PHOTO --new-classes", "--new-classes: goes with"),
        ("--evaluate FOLDER --new-classes", "--new-classes: goes with"),
        ("PHOTO --features a.npz", "--features: needs a folder"),
        ("--evaluate FOLDER --features a.npz", "--features: needs a folder"),
        (
            "FOLDER --features a.npz --head first",
            "--features: needs a single --weights, and no --head",
        ),
        ("FOLDER --features a.npz --weights OTHER", "--features: needs a single --weights"),
        ("FOLDER --features a.npz --out ./a.npz", "two files are needed"),
        ("FOLDER --features a.npz --csv ./a.npz", "two files are needed"),
        ("FOLDER --features=", "--features: an empty name"),
        ("FOLDER --features a.csv", "--features a.csv: a name that ends in .npz is needed"),
        ("FOLDER --weights OTHER --weights ./OTHER", "OTHER: given twice"),
        ("FOLDER --csv TABLE --names TABLE", "two files are needed"),
        ("--export a.tflite PHOTO", "--export and PHOTO cannot be combined"),
        ("--export a.tflite FOLDER", "--export and FOLDER cannot be combined"),
        ("--export a.tflite --evaluate FOLDER", "--evaluate and --export cannot be combined"),
        ("--export a.tflite --csv b.csv", "--csv: needs a folder"),
        ("--export a.tflite --weights OTHER", "--export: needs a single --weights"),
        ("--export a.tflite --out b", "--export takes --weights alone, not --out"),
        ("--export a.tflite --names TABLE", "--export takes --weights alone, not --names"),
        ("--export a.tflite --tta 2 --head first", "alone, not --head or --tta"),
        ("--export a.tflite --batch-size 8", "--export takes --weights alone, not --batch-size"),
        ("--export nowhere/a.tflite", "the folder nowhere does not exist"),
        ("--export nowhere/a/", "the folder nowhere does not exist"),
        ("--export TABLE", "--export table.csv: .csv is no format; .onnx, .tflite, or a name"),
        ("--export m.ONNX", ".ONNX is no format"),
        ("--export weights", "--export weights: is there already"),
        (
            "FOLDER --weights TABLE",
            "table.csv: a file; its folder is wanted: --weights .",
        ),
    ],
)
def test_what_would_be_ignored_or_overwritten_is_refused(
    flags, words, test_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights" / "fold-1").mkdir(parents=True)
    (tmp_path / "weights" / "model.keras").write_bytes(b"never read")
    (tmp_path / "weights" / "settings.json").write_text("{}")
    places = {"PHOTO": test_folder / "20,1.jpg", "FOLDER": test_folder, "TABLE": "table.csv"}
    places |= {
        "WEIGHTS": tmp_path / "weights",
        "EMPTY": "",
        "INSIDE": test_folder / "report",
        "SIDE": tmp_path / "weights/train/r",
    }
    for side in ("train", "valid"):
        (tmp_path / "weights" / side).mkdir()
    (tmp_path / "table.csv").write_text("of somebody")
    flags = [str(places.get(word, word)) for word in flags.split()]
    with pytest.raises(SystemExit) as ended:
        parse_args([*flags, "--weights", "weights"])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    for name in ("PHOTO", "FOLDER"):
        words = words.replace(name, str(places[name]))
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "weights"]


def test_no_file_that_a_training_keeps_may_be_written_over():
    kept = [name for name in RUN_FILES if pathlib.Path(name).suffix not in PHOTO_SUFFIXES]
    assert len(kept) > 10
    assert all(flags.is_of_training(f"w/{name}", ["w"]) for name in kept)
    assert not any(flags.is_of_training(f"other/{name}", ["w"]) for name in kept)
    assert not flags.is_of_training("w/predict.txt", ["w"])


def test_a_refusal_is_one_line_of_the_command(trained, test_folder):
    done = run_script("predict.py", test_folder, "--new-classes", "--weights", trained)
    assert_one_line_error(done, "--new-classes: goes with --same, --pairs or --query")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "out"),
    [
        ("PHOTO PHOTO --same --new-classes", None),
        ("--pairs TABLE --out a.csv --new-classes", "a.csv"),
        ("--query FOLDER --gallery FOLDER --out a.csv", "a.csv"),
        ("FOLDER --features a.npz --out a.txt --csv a.csv --names TABLE", "a.txt"),
        ("FOLDER --features a.npz", "predict.txt"),
        ("--export a.tflite", None),
        ("--export folder/", None),
    ],
)
def test_what_goes_together_is_taken(flags, out, trained, test_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("of somebody")
    places = {"PHOTO": test_folder / "20,1.jpg", "FOLDER": test_folder, "TABLE": "table.csv"}
    words = [str(places.get(word, word)) for word in flags.split()]
    args = parse_args([*words, "--weights", str(trained)])
    assert args.out == out
    assert args.test == (str(test_folder) if flags.startswith("FOLDER") else None)


def test_photos_that_cannot_be_read_are_an_error(trained, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    done = run_script("predict.py", broken, "--weights", trained)
    assert_one_line_error(done, "1 of 1 photos cannot be read")


def test_a_names_file_that_is_something_else_is_one_line(trained, test_folder, tmp_path):
    for content, words in (
        (b"10 Pug\n", "line 1: typeid, tab, name"),
        (b"10\tPug\n\n\tPug\n", "line 3: typeid, tab, name"),
        (b"10\tPug\n10\tPug\n10\tPoodle\n", "line 3: '10' is 'Poodle' here, and 'Pug' above"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ):
        (tmp_path / "names.txt").write_bytes(content)
        done = run_script(
            *("predict.py", test_folder, "--weights", trained),
            *("--names", tmp_path / "names.txt", "--out", tmp_path / "p.txt"),
            *("--csv", tmp_path / "p.csv"),
        )
        assert_one_line_error(done, words)


def test_user_errors_are_one_line(trained, tmp_path, test_folder):
    done = run_script("predict.py", "--weights", tmp_path, "--test", test_folder)
    assert_one_line_error(done, "no such model")
    done = run_script(
        *("predict.py", "--weights", trained, "--test", test_folder, "--out", tmp_path / "no" / "p")
    )
    assert_one_line_error(done, "does not exist; create it first")
    done = run_script("predict.py", "--weights", trained, "--test", tmp_path / "nowhere")
    assert_one_line_error(done, "no such folder")
    (tmp_path / "99").mkdir()
    make_photo(tmp_path / "99" / "99_1.jpg", (9, 9, 9), seed=1)
    done = run_script("predict.py", "--weights", trained, "--evaluate", tmp_path)
    assert_one_line_error(done, "not trained on", "'99'")
