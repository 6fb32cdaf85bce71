import collections
import csv

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, make_raw, run_script

from pairs.errors import UserError
from pairs.files import write_csv


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def made_up(num_photos=600, num_classes=5, share=0.1, seed=0):
    """Probabilities of a good model, labels a share of which is wrong, and which they are."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, num_photos)
    logits = rng.normal(0, 1, (num_photos, num_classes)) + 3 * np.eye(num_classes)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    is_wrong = rng.random(num_photos) < share
    moved = (true + rng.integers(1, num_classes, num_photos)) % num_classes
    return probabilities, np.where(is_wrong, moved, true), is_wrong


def write_predictions(path, images, labels, probabilities, typeids):
    rows = [
        [image, typeids[label], 0, *row]
        for image, label, row in zip(images, labels, probabilities.tolist(), strict=True)
    ]
    write_csv(path, ["image", "typeid", "fold", *(f"p_{typeid}" for typeid in typeids)], rows)


def test_every_candidate_finds_most_wrong_labels_and_hardly_a_right_one_before():
    from experiments.rankings import RANKINGS

    probabilities, labels, is_wrong = made_up()
    assert len(RANKINGS) >= 5
    for name, score in RANKINGS.items():
        scores = score(probabilities, labels)
        assert scores.shape == (600,)
        order = np.argsort(-scores, kind="stable")
        assert is_wrong[order[: is_wrong.sum()]].mean() > 0.75, name


def test_candidates_are_the_formulas_in_numbers():
    from experiments import rankings

    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.4, 0.5]])
    labels = np.array([0, 0, 1])
    close = np.testing.assert_allclose
    close(rankings.self_confidence(probabilities, labels), [0.3, 0.7, 0.6])
    close(rankings.normalised_margin(probabilities, labels), [-0.5, 0.3, 0.1])
    close(rankings.RANKINGS["log ratio"](probabilities, labels), np.log10([2 / 7, 2, 5 / 4]))
    # Usual are 0.5 for class 0 and 0.4 for class 1; class 2 has no photos: 1.
    close(rankings.class_thresholds(probabilities, labels), [0.5, 0.4, 1])
    close(rankings.adjusted_confidence(probabilities, labels), [0.8, 1.2, 1.0])
    close(rankings.adjusted_margin(probabilities, labels), [-0.4, 0.4, -0.4])


def test_the_confident_joint_counts_as_the_paper_does():
    from experiments import rankings

    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.6, 0.4]]
    )
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    # Usual are 0.625 for class 0 and 0.6 for class 1.
    joint, counted = rankings.count_confident(probabilities, labels)
    assert counted.tolist() == [0, 0, 0, 1, 1, 1, -1]
    # The last photo counts nowhere; the rows are scaled to the photos of their label.
    np.testing.assert_allclose(joint, [[3, 1], [0, 3]])
    for score in (rankings.off_diagonal, rankings.prune_by_noise_rate):
        assert score(probabilities, labels).argmax() == 3
        assert (score(probabilities, labels) > 1).sum() == 1


def test_a_photo_counts_as_the_class_that_is_usually_so_probable():
    """Not as its first guess, if that class is usually surer."""
    from experiments import rankings

    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.6, 0.4]])
    _, counted = rankings.count_confident(probabilities, np.array([0, 0, 1, 1]))
    assert counted.tolist() == [0, 0, 1, -1]


def test_planting_copies_every_photo_and_names_a_share_wrongly(tmp_path):
    from experiments import label_noise

    raw = make_raw(tmp_path / "raw")
    rows = label_noise.plant(raw, tmp_path / "out", 0.25, seed=0)
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "raw").rglob("*.jpg")}
    assert collections.Counter(before.values()) == collections.Counter(after.values())
    assert len(rows) == 6
    for image, typeid, true in rows:
        assert typeid != true
        assert image.startswith(f"{typeid}_{true}_")
        assert after[image] == before[image.removeprefix(f"{typeid}_")]
    assert len(before.keys() & after.keys()) == 18
    with (tmp_path / "out" / "planted.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["image", "typeid", "true"], *rows]
    with pytest.raises(UserError, match="there already"):
        label_noise.plant(raw, tmp_path / "out", 0.25, seed=0)
    assert label_noise.plant(raw, tmp_path / "same", 0.25, seed=0) == rows
    assert label_noise.plant(raw, tmp_path / "other", 0.25, seed=1) != rows


def test_a_planted_name_that_is_taken_becomes_another(tmp_path):
    from experiments import label_noise

    raw = make_raw(tmp_path / "raw", photos_per_class=1)
    for path in list(raw.iterdir()):
        for typeid in ("2", "10", "pug"):
            (raw / f"{typeid}_{path.name}").write_bytes(b"another")
    before = sum(1 for _ in raw.iterdir())
    rows = label_noise.plant(raw, tmp_path / "out", 0.5, seed=0)
    assert sum(1 for _ in (tmp_path / "out" / "raw").rglob("*.jpg")) == before
    assert len({image for image, _, _ in rows}) == len(rows)


def test_similar_labels_are_those_most_often_confused(tmp_path):
    from experiments import label_noise

    typeids = ["2", "10", "pug"]
    means = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.0, 0.4, 0.6]])
    means[1, 2] += 0.05
    write_predictions(tmp_path / "oof.csv", "abc", range(3), means, typeids)
    partners = label_noise.similar_classes(tmp_path / "oof.csv")
    assert partners == {"2": "pug", "10": "pug", "pug": "10"}
    raw = make_raw(tmp_path / "photos")
    rows = label_noise.plant(raw, tmp_path / "out", 0.5, seed=0, partners=partners)
    assert {(true, typeid) for _, typeid, true in rows} <= set(partners.items())
    with pytest.raises(UserError, match="no class of --raw to confuse"):
        label_noise.plant(raw, tmp_path / "no", 0.5, seed=0, partners={"2": "10"})


def test_judging_counts_the_planted_ones_among_the_first():
    from experiments import label_noise

    # By every candidate: photo 0 first, then 1, 2, 3, ...
    own = np.linspace(0.05, 0.95, 10)
    probabilities = np.stack([own, 1 - own], axis=1)
    images = [f"0_{number}.jpg" for number in range(10)]
    planted = {images[0]: "0", images[3]: "0"}
    labels = np.zeros(10, int)
    result = label_noise.judge(planted, images, labels, probabilities)
    for name in ("self-confidence", "normalised margin", "log ratio"):
        assert result[name]["precision"] == result[name]["recall"] == 0.5
        assert result[name]["recall_twice"] == 1
        assert result[name]["average_precision"] == (1 / 1 + 2 / 4) / 2
        assert result[name]["worst"] == ("0", 1, 2)
    planted = {images[0]: "1", images[1]: "0", images[2]: "0"}
    labels[0] = 1  # of which the model is sure
    result = label_noise.judge(planted, images, labels, probabilities)
    assert result["self-confidence"]["worst"] == ("1", 0, 1)
    assert result["self-confidence"]["recall"] == 2 / 3


def test_the_steps_meet_through_files(tmp_path):
    raw = make_raw(tmp_path / "raw")
    command = ("experiments.label_noise", "plant", "--raw", raw, "--out", tmp_path, "--share", 0.2)
    assert_one_line_error(run_script(*command), "there already")
    command = (*command[:4], "--out", tmp_path / "out", "--share", 0.2)
    done = run_script(*command)
    assert "5 wrong labels" in done.stdout, done.stderr
    planted = {
        row["image"]: row for row in csv.DictReader((tmp_path / "out" / "planted.csv").open())
    }
    typeids = ["2", "10", "pug"]
    images = sorted(path.name for path in (tmp_path / "out" / "raw").rglob("*.jpg"))
    given = [typeids.index(image.split("_")[0]) for image in images]
    true = [
        typeids.index(planted[image]["true"]) if image in planted else label
        for image, label in zip(images, given, strict=True)
    ]
    probabilities = 0.05 + 0.85 * np.eye(3)[true]
    write_predictions(tmp_path / "oof.csv", images, given, probabilities, typeids)
    judge = ("experiments.label_noise", "judge", "--planted", tmp_path / "out" / "planted.csv")
    done = run_script(*judge, "--predictions", tmp_path / "oof.csv")
    assert "5 of 24 labels are planted" in done.stdout, done.stderr
    assert "5 photos, 5 of them planted" in done.stdout
    assert done.stdout.count(" 1.0000 ") >= 20
    write_predictions(tmp_path / "oof.csv", images, true, probabilities, typeids)
    done = run_script(*judge, "--predictions", tmp_path / "oof.csv")
    assert_one_line_error(done, "not of the same photos")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\n", "columns image, typeid, fold"),
        ("image,typeid,fold,p_a,p_b\n", "no rows"),
        ("image,typeid,fold,p_a,p_b\nx,a,0,1\n", "row 2: 4 cells"),
        ("image,typeid,fold,p_a,p_b\nx,c,0,1,0\n", "a class without a column"),
        ("image,typeid,fold,p_a,p_b\nx,a,0,1,no\n", "no number"),
        ("image,typeid,fold,p_a,p_b\nx,a,0,1,nan\n", "probabilities"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, text, words):
    from experiments import label_noise

    (tmp_path / "oof.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        label_noise.read_predictions(tmp_path / "oof.csv")


def test_names_come_back_as_they_were_written(tmp_path):
    from experiments import label_noise

    names = ["=1+1_a,b.jpg", 'a"b\nc.jpg', "\u2028_\udce9.jpg", "'quoted.jpg"]
    write_predictions(tmp_path / "oof.csv", names, [0] * 4, np.full((4, 2), 0.5), ["-a", "b"])
    images, labels, _, typeids = label_noise.read_predictions(tmp_path / "oof.csv")
    assert images == names
    assert labels.tolist() == [0] * 4
    assert typeids == ["-a", "b"]


def test_similar_needs_the_predictions_and_random_none():
    done = run_script("experiments.label_noise", "plant", "--kind", "similar")
    assert_one_line_error(done, "--pairs-from")
    assert_one_line_error(run_script("experiments.label_noise", "plant", "--share", 0), "--share")
