"""Classes left out of a training, and what is measured on them."""

import json
import re

import pytest
from conftest import FLAGS, assert_one_line_error, make_photo, run_script

pytestmark = pytest.mark.slow
SYSTEM = "xception-paired"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    (folder / "raw").mkdir()
    for label in range(6):
        for number in range(8):
            colour = 40 * label, 200 - 30 * label, 90
            photo = folder / "raw" / f"{label}_{number}.jpg"
            make_photo(photo, colour, seed=100 * label + number)
    flags = ["--leave-out", "1", "--systems", SYSTEM, "--epochs", "1", "0", "0"]
    small = re.sub(r"--epochs( \d+)+", "", FLAGS).split()
    done = run_script(
        *("experiments.new_classes", "--raw", folder / "raw", "--out", folder / "out"),
        *(*flags, "--", *small),
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def names(folder):
    return {path.name for path in folder.rglob("*.jpg")}


def test_the_class_left_out_is_new_and_no_photo_is_on_two_sides(done):
    out = done[0] / "out" / "leave-1"
    sides = {side: names(out / side) for side in ("train", "valid", "test", "new")}
    assert {name.split("_")[0] for name in sides["new"]} == {"1", "5"}
    assert {name.split("_")[0] for name in sides["train"]} == {"0", "2", "3", "4"}
    assert sum(map(len, sides.values())) == len(set.union(*sides.values())) == 48
    assert len(sides["test"]) >= 8


def test_the_table_has_the_numbers_of_the_run(done):
    folder, printed = done
    (numbers,) = [json.loads(path.read_text()) for path in folder.rglob("numbers.json")]
    header, _, row = printed.splitlines()[-3:]
    cells = dict(zip(header.split("|")[3:-1], row.split("|")[3:-1], strict=True))
    found = {name.strip(): float(cell) for name, cell in cells.items()}
    assert found == {name: pytest.approx(value, abs=1e-4) for name, value in numbers.items()}
    assert all(0 <= value <= 1 for value in found.values())
    assert {"error", "answer, known", "similarity, new", "none: score"} <= set(found)


def test_a_table_of_other_settings_is_refused(done):
    out = done[0] / "out"
    words = ("--raw", done[0] / "raw", "--out", out, "--systems", SYSTEM, "--epochs", "2", "0", "0")
    done = run_script("experiments.new_classes", *words)
    assert_one_line_error(done, "holds a table of other runs: epochs was ['1', '0', '0'], is now")


def test_a_system_that_is_none_is_one_line(done):
    words = ("experiments.new_classes", "--systems", "resnet", "--out", done[0] / "none")
    assert_one_line_error(run_script(*words), "--rows resnet")
