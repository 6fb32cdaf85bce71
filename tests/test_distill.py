import csv

import keras
import numpy as np
import pytest
from conftest import SIZE, assert_one_line_error, run_script

from trunk import build_trunk

IMAGE_SIZE = 75  # the smallest that InceptionV3 takes


@pytest.mark.slow
def test_the_student_comes_nearer_to_the_teacher_and_train_py_takes_its_weights(data, tmp_path):
    keras.utils.set_random_seed(0)
    teacher, out = tmp_path / "teacher.weights.h5", tmp_path / "student.weights.h5"
    build_trunk("inceptionv3", IMAGE_SIZE, "none", "no folder").save_weights(teacher)
    flags = f"--data {data / 'train'} --teacher {teacher} --out {out} --epochs 3 --batch-size 9"
    done = run_script("benchmarks/distill.py", *flags.split(), "--image-size", IMAGE_SIZE)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "student.weights.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["difference_loss"]) < float(rows[0]["difference_loss"])
    student = build_trunk("xception", SIZE, str(out), "no folder")
    assert np.isfinite(student(np.zeros((1, SIZE, SIZE, 3), np.float32))).all()
    assert not list(tmp_path.glob(".tmp*"))


def test_a_teacher_that_is_not_there_is_one_line(tmp_path):
    flags = f"--data {tmp_path} --teacher {tmp_path / 'no'} --out {tmp_path / 'x.weights.h5'}"
    assert_one_line_error(run_script("benchmarks/distill.py", *flags.split()), "no such file")
    wrong = run_script("benchmarks/distill.py", "--teacher", "x", "--out", tmp_path / "x.h5")
    assert_one_line_error(wrong, ".weights.h5 is needed")
