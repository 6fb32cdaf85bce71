import csv
import dataclasses

import pytest
from PIL import Image

from pairs.training import log as record
from pairs.training.recipe import STAGES_2017

PLAN = [dataclasses.replace(stage, epochs=10) for stage in STAGES_2017]


def row(stage, epoch, loss):
    return {
        "stage": stage,
        "epoch": epoch,
        "loss": loss,
        "ctg_out_1_accuracy": 0.5,
        "bin_out_accuracy": 0.5,
        "val_loss": loss,
        "val_ctg_out_1_accuracy": 0.5,
        "val_bin_out_accuracy": 0.5,
    }


def test_log_and_times_hold_every_epoch_to_the_last_digit(tmp_path):
    rows = [row("heads", 1, 0.1 + 0.2), row("heads", 2, 1 / 3)]
    record.RunLog(tmp_path, PLAN, rows, [12.5, 3.0])
    with (tmp_path / "log.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [float(line["loss"]) for line in found] == [0.1 + 0.2, 1 / 3]
    assert (tmp_path / "times.csv").read_text().splitlines() == [
        *("stage,epoch,seconds", "heads,1,12.5", "heads,2,3.0")
    ]
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.width > 1000


def test_curves_are_drawn_at_first_then_rarely_and_at_the_end_of_a_stage(tmp_path, monkeypatch):
    drawn, now = [], [100.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        record, "draw_curves", lambda rows, path: drawn.append(len(rows)) or path.touch()
    )
    log = record.RunLog(tmp_path, PLAN)
    for number, seconds in enumerate([2, 2, 8, 8, 8, 2], start=1):
        now[0] += seconds
        log.rows.append(row("heads", number, 1.0))
        log.seconds.append(seconds)
        log.write_epochs()
        assert len((tmp_path / "times.csv").read_text().splitlines()) == 1 + number
    assert drawn == [1, 5]
    log.add_result(PLAN[0], {"error": 0.5, "photos": 2})
    log.add_result(PLAN[1], {"error": 0.5, "photos": 2})
    assert drawn == [1, 5, 6]


def test_time_left_is_that_of_the_stage_and_of_the_run(tmp_path):
    rows = [row("heads", number, 1.0) for number in (1, 2, 3)]
    log = record.RunLog(tmp_path, PLAN, rows, [100.0, 60.0, 60.0])
    assert log.time_left() == (
        "stage heads: at most 7 min left, then 10 epochs of blocks, 10 epochs of plain"
    )
    # An earlier fold says how long those take.
    log = record.RunLog(tmp_path, PLAN, rows, [100.0, 60.0, 60.0], True, [1420.0], folds_left=2)
    assert log.time_left().endswith("10 epochs of plain; all folds: 67 min")
    last = [*rows, row("plain", 9, 1.0)]
    log = record.RunLog(tmp_path, PLAN, last, [100.0, 60.0, 60.0, 30.0])
    assert log.time_left() == "stage plain: at most 30 s left"
    log = record.RunLog(tmp_path, PLAN, [row("plain", 10, 1.0)], [30.0])
    assert log.time_left() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (7500, "2 h 05 min")]
)
def test_durations_are_for_people(seconds, words):
    assert record.duration(seconds) == words
