import os
import shutil

import numpy as np
import pytest
from conftest import COLOURS, assert_one_line_error, make_photo, run_script

import predict

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
    return predict.Predictor(trained, batch_size=2, workers=2)


def test_the_submission_has_a_line_a_photo_sorted_by_file_name(predictor, test_folder, tmp_path):
    count, _ = predict.write_submission(predictor, test_folder, tmp_path / "predict.txt")
    lines = (tmp_path / "predict.txt").read_text(encoding="utf-8").splitlines()
    assert count == 3
    assert [line.split("\t")[1] for line in lines] == ["10,7.5", "20,1", "30 ü"]
    assert {line.split("\t")[0] for line in lines} <= set(COLOURS)


def test_every_photo_has_a_line_and_the_unreadable_ones_the_most_frequent_class(
    trained, test_folder, tmp_path
):
    shutil.copytree(test_folder, tmp_path / "test")
    (tmp_path / "test" / "21,2.jpg").write_bytes(b"<html>")
    os.mkfifo(tmp_path / "test" / "22,3.jpg")
    flags = ("--weights", trained, "--test", tmp_path / "test", "--out", tmp_path / "predict.txt")
    done = run_script("predict.py", *flags)
    assert done.returncode == 0, done.stderr
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
    predict.write_submission(predictor, tmp_path / "test", tmp_path / "predict.txt")
    written = (tmp_path / "predict.txt").read_bytes()
    assert b"\t\xff\xfe\n" in written  # bytes that are no text stay what they are
    lines = written.decode("utf-8", "surrogateescape").splitlines()
    assert len(lines) == 4
    assert all(line.count("\t") == 1 for line in lines)


def test_a_photo_is_predicted_alike_in_any_batch(predictor, test_folder, trained):
    paths = predict.find_photos(test_folder)
    together = predictor.probabilities(paths)
    alone = predict.Predictor(trained, batch_size=32, workers=1).probabilities(paths[1:2])
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


def test_evaluation_agrees_with_the_submission(predictor, trained, data, tmp_path):
    """Counted from the written file, by folder names."""
    measured = predict.measure(predictor, data / "valid")
    predict.write_submission(predictor, data / "valid", tmp_path / "predict.txt")
    lines = (tmp_path / "predict.txt").read_text().splitlines()
    wrong = sum(line.split("\t")[0] != line.split("\t")[1].split("_")[0] for line in lines)
    assert measured["photos"] == len(lines) == 6
    assert measured["error"] == pytest.approx(wrong / 6)
    assert measured["top5_error"] == 0  # three classes


def test_the_commands_print_what_they_promise(trained, data, test_folder, tmp_path):
    done = run_script("predict.py", "--weights", trained, "--evaluate", data / "valid")
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].split()
    assert words[:1] + words[2:4] == ["error", "top-5", "error"]
    assert len(words[1].rstrip(",").split(".")[1]) == 4
    done = run_script(
        "predict.py", "--weights", trained, "--test", test_folder, "--out", tmp_path / "p.txt"
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "p.txt").read_text().splitlines()) == 3


def test_folder_order_cannot_shift_a_label(predictor, trained, data, tmp_path):
    """Only '10' and 'pug' are there: as text and as numbers '10' comes first."""
    for typeid in ("10", "pug"):
        shutil.copytree(data / "valid" / typeid, tmp_path / typeid)
    some = predict.measure(predictor, tmp_path)
    paths = [str(path) for path in sorted(tmp_path.rglob("*.jpg"))]
    guesses = predictor.probabilities(paths).argmax(axis=1)
    right = [
        path.split("/")[-2] == predictor.typeids[g] for path, g in zip(paths, guesses, strict=True)
    ]
    assert some["error"] == pytest.approx(1 - np.mean(right))


def test_user_errors_are_one_line(trained, tmp_path, test_folder):
    done = run_script("predict.py", "--weights", tmp_path, "--test", test_folder)
    assert_one_line_error(done, "no such model")
    done = run_script(
        *("predict.py", "--weights", trained, "--test", test_folder, "--out", tmp_path / "no" / "p")
    )
    assert_one_line_error(done, "not a file in a folder that is there")
    done = run_script("predict.py", "--weights", trained, "--test", tmp_path / "nowhere")
    assert_one_line_error(done, "no such folder")
    (tmp_path / "99").mkdir()
    make_photo(tmp_path / "99" / "99_1.jpg", (9, 9, 9), seed=1)
    done = run_script("predict.py", "--weights", trained, "--evaluate", tmp_path)
    assert_one_line_error(done, "not trained on", "'99'")
