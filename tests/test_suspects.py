"""Labels to check: who is a suspect, in what order, beside which photos; suspects.csv."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairs.evaluation.metrics import apply_temperature
from pairs.evaluation.suspects import (
    find_mislabelled_duplicates,
    find_suspects,
    label_scores,
    write_suspects,
)
from pairs.photos.read import Photos


def made_up(seed, num_photos=60, num_classes=4):
    """Photos that need not exist, with probabilities, features, folds and groups."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_photos).astype(np.int32)
    # Tenths, so that there are ties.
    probabilities = rng.integers(0, 10, (num_photos, num_classes)) + 2 * np.eye(num_classes)[labels]
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    features = rng.integers(0, 3, (num_photos, 5)).astype(np.float32)
    folds = rng.integers(0, 3, num_photos)
    drawn = rng.permutation(num_photos)[:9].tolist()
    photos = Photos(
        [f"photos/{labels[i]}_{i}.jpg" for i in range(num_photos)], labels, ["2", "10", "pug", "x"]
    )
    return photos, probabilities, features, folds, [drawn[:2], drawn[2:5], drawn[5:9]]


def slow_neighbours(photos, features, folds, index, label):
    """The nearest photos, one by one."""
    found = []
    for other in range(len(photos)):
        if other != index and photos.labels[other] == label and folds[other] == folds[index]:
            distance = sum((features[other, k] - features[index, k]) ** 2 for k in range(5))
            found.append((distance, other))
    return tuple(other for _, other in sorted(found)[:3])


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_suspects_are_those_that_a_slow_search_finds(seed):
    photos, probabilities, features, folds, groups = made_up(seed)
    found = find_suspects(photos, probabilities, features, folds, groups)
    by_index = {suspect.index: suspect for suspect in found}
    assert len(by_index) == len(found)
    for index, label in enumerate(photos.labels):
        row = probabilities[index].tolist()
        guess = row.index(max(row))
        others = [i for group in groups if index in group for i in group]
        others = [i for i in others if photos.labels[i] != label]
        assert (index in by_index) == (guess != label or bool(others))
        if index not in by_index:
            continue
        suspect = by_index[index]
        if guess != label:
            assert suspect.suggested == guess
        else:
            assert suspect.suggested in {photos.labels[i] for i in others}
            assert suspect.probability == max(row[photos.labels[i]] for i in others)
        assert suspect.duplicates == tuple(others)
        assert suspect.own_probability == row[label]
        assert suspect.probability == row[suspect.suggested]
        others = [value for i, value in enumerate(row) if i != label]
        assert 10**suspect.score == pytest.approx(max(others) / row[label], rel=1e-5)
        for which, near in (
            (suspect.suggested, suspect.near_suggested),
            (label, suspect.near_own),
        ):
            assert near == slow_neighbours(photos, features, folds, index, which)


def test_of_a_large_group_a_few_duplicates_of_many_labels_are_named():
    """A placeholder that a site shows in place of thousands of photos."""
    labels = np.arange(20_000) % 2_000
    found = find_mislabelled_duplicates(labels, [range(20_000)])
    assert len(found) == 20_000
    for index in (0, 7, 19_999):
        assert len(found[index]) == 6
        assert len({labels[index], *labels[list(found[index])]}) == 7


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_the_worst_come_first_and_each_is_doubted_by_the_model_or_by_a_duplicate(seed):
    photos, probabilities, features, folds, groups = made_up(seed)
    found = find_suspects(photos, probabilities, features, folds, groups)
    scores = [suspect.score for suspect in found]
    assert scores == sorted(scores, reverse=True)
    assert all(suspect.score >= 0 or suspect.duplicates for suspect in found)
    mixed = [group for group in groups if len({photos.labels[i] for i in group}) > 1]
    listed = {suspect.index for suspect in found}
    assert {index for group in mixed for index in group} <= listed


def test_a_score_is_how_many_times_more_probable_another_class_is_in_powers_of_ten():
    rows = [[1, 0, 0], [0.4, 0.4, 0.2], [0, 1, 0], [0.009, 0.9, 0.091], [0.25, 0.5, 0.25]]
    scores = label_scores(np.array(rows), np.zeros(5, np.int32))
    np.testing.assert_allclose(scores, [-12, 0, 12, 2, np.log10(2)], atol=1e-9)


def test_the_ranking_in_use_is_one_that_the_experiment_judges():
    from experiments.rankings import RANKINGS

    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(4), 200), rng.integers(0, 4, 200)
    order = np.argsort(-label_scores(probabilities, labels), kind="stable").tolist()
    assert any(
        order == np.argsort(-score(probabilities, labels), kind="stable").tolist()
        for score in RANKINGS.values()
    )


def test_a_photo_without_probabilities_is_neither_suspect_nor_neighbour():
    photos, probabilities, features, folds, groups = made_up(seed=1)
    unread = find_suspects(photos, probabilities, features, folds, groups)[0].index
    probabilities[unread] = np.nan
    features[unread] = np.nan
    found = find_suspects(photos, probabilities, features, folds, groups)
    assert found
    for suspect in found:
        assert unread not in {suspect.index, *suspect.near_suggested, *suspect.near_own}


def test_probabilities_that_are_shown_do_not_rank():
    photos = Photos(list("abc"), np.zeros(3, np.int32), ["2", "10"])
    probabilities = np.array([[1e-5, 1 - 1e-5], [1e-9, 1 - 1e-9], [1e-7, 1 - 1e-7]])
    features, folds = np.zeros((3, 3)), np.zeros(3, int)
    shown = apply_temperature(probabilities, 0.2)  # all the same, but for what is lost
    found = find_suspects(photos, probabilities, features, folds, calibrated=shown)
    assert [suspect.index for suspect in found] == [1, 2, 0]
    assert {suspect.probability for suspect in found} == {1}


def test_fewer_photos_in_a_fold_are_fewer_neighbours():
    photos = Photos(list("abcd"), np.array([0, 0, 1, 1], np.int32), ["2", "10"])
    probabilities = np.array([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    features, folds = np.zeros((4, 3)), np.array([0, 1, 0, 1])
    (suspect,) = find_suspects(photos, probabilities, features, folds)
    assert (suspect.near_suggested, suspect.near_own) == ((2,), ())


def test_the_table_names_photos_as_the_raw_folder_does(tmp_path):
    names = ["=1,2.jpg", 'a"b\r\nc.jpg', "西_\udce9.jpg"]
    photos = Photos(
        [str(tmp_path / "train" / name) for name in names],
        np.array([0, 1, 1], np.int32),
        ["-2", "西藏獒"],
    )
    probabilities = np.array([[0.1, 0.9], [0.7, 0.3], [0.6, 0.4]])
    found = find_suspects(photos, probabilities, np.zeros((3, 2)), np.zeros(3, int))
    write_suspects(found, photos, tmp_path / "suspects.csv")
    with (tmp_path / "suspects.csv").open(newline="", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["image", "typeid", "suggested", "score"],
        ["'=1,2.jpg", "'-2", "西藏獒", "0.9542"],
        [names[1], "西藏獒", "'-2", "0.368"],
        [names[2], "西藏獒", "'-2", "0.1761"],
    ]


def test_only_suspects_that_the_page_shows_have_neighbours(monkeypatch):
    photos, probabilities, features, folds, groups = made_up(1)
    all_of_them = find_suspects(photos, probabilities, features, folds, groups)
    monkeypatch.setattr("pairs.evaluation.suspects.MOST_SUSPECTS", 3)
    found = find_suspects(photos, probabilities, features, folds, groups)
    assert found[:3] == all_of_them[:3]
    assert [suspect.index for suspect in found] == [suspect.index for suspect in all_of_them]
    assert not any(suspect.near_own or suspect.near_suggested for suspect in found[3:])
