"""Pairs, searches and features, asked of a small training by the command itself."""

import collections
import csv
import dataclasses
import os
import shutil

import numpy as np
import pytest
from conftest import COLOURS, assert_one_line_error, make_photo, run_script

import predict
from pairs.errors import UserError
from pairs.evaluation import answers, matches
from pairs.evaluation.calibration import Calibration, write_calibration
from pairs.evaluation.predictor import Predictor

pytestmark = pytest.mark.slow
BEFORE = ("similarity.npz", "calibration.json")  # what earlier versions did not write


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of three colours; names hold commas, semicolons and spaces. Two are unreadable."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for seed, (name, typeid) in enumerate(
        {
            **{"a,1.jpg": "2", "b;2.jpg": "2", "c.jpg": "10", "more/d.jpg": "pug"},
            **{"e f.png": "10", "more/ü.jpg": "pug"},
        }.items()
    ):
        make_photo(folder / name, COLOURS[typeid], seed=700 + seed)
    (folder / "broken.jpg").write_bytes(b"<html>")
    (folder / "more" / "empty.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Class folders of twelve photos in all, one of them unreadable."""
    folder = tmp_path_factory.mktemp("gallery")
    for label, typeid in enumerate(("2", "10", "pug")):
        (folder / typeid).mkdir()
        for number in range(4):
            path = folder / typeid / f"{number}.jpg"
            make_photo(path, COLOURS[typeid], seed=500 + 10 * label + number)
    (folder / "pug" / "3.jpg").write_bytes(b"<html>")
    return folder


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained, batch_size=4, workers=2)


@pytest.fixture
def copied(trained, tmp_path):
    """A weights folder to write to."""
    return shutil.copytree(trained, tmp_path / "w")


@pytest.fixture
def read_photos(monkeypatch):
    """The photos that were read from here on, each as often as it was."""
    read, paths = Predictor.read_or_none, []

    def read_or_none(self, path, quiet):
        paths.append(path)
        return read(self, path, quiet)

    monkeypatch.setattr(Predictor, "read_or_none", read_or_none)
    return paths


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def answer(predictor, content, folder, new_classes=False):
    """The answers to a table of this content that lies in this folder."""
    table, out = folder / "pairs.csv", folder / "answers.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    answers.answer_pairs(predictor, str(table), str(out), new_classes)
    return read_csv(out)


def said(rows):
    return [row["probability"] for row in rows]


def test_many_pairs_are_answered_in_the_order_of_the_table(trained, photos, tmp_path):
    """By the command; the answer to each pair is that of `--same`."""
    names = ["c.jpg", "e f.png", "c.jpg", "more/d.jpg", "more/d.jpg", "c.jpg"]
    lines = [f"{a},{b}\n" for a, b in zip(names[::2], names[1::2], strict=True)]
    (photos / "pairs.csv").write_text("first,second\n" + "".join(lines))
    out = tmp_path / "answers.csv"
    words = ("--pairs", photos / "pairs.csv", "--out", out)
    done = run_script("predict.py", *words, "--weights", trained)
    assert done.returncode == 0, done.stderr
    assert f"{out}: 3 pairs of 3 photos; not calibrated yet: see --evaluate" in done.stdout
    assert out.read_text().splitlines()[0] == "first,second,probability"
    rows = read_csv(out)
    assert [cell for row in rows for cell in (row["first"], row["second"])] == names
    assert rows[1]["probability"] == rows[2]["probability"] != rows[0]["probability"]
    done = run_script(
        *("predict.py", photos / "c.jpg", photos / "e f.png"), "--same", "--weights", trained
    )
    assert done.stdout.startswith("same "), done.stderr
    assert float(done.stdout.split()[1].rstrip(",")) == pytest.approx(
        float(rows[0]["probability"]), abs=1e-4
    )


@pytest.mark.parametrize(
    "content",
    [
        "c.jpg,e f.png\nmore/d.jpg,c.jpg\n",
        "first,second\nc.jpg,e f.png\nmore/d.jpg,c.jpg",
        "First ; SECOND\r\nc.jpg;e f.png\r\n\r\nmore/d.jpg;c.jpg\r\n",
        "\ufefffirst,second\nc.jpg,e f.png\n,\nmore/d.jpg,c.jpg\n",
        "\n\nc.jpg\te f.png\nmore/d.jpg\tc.jpg\n",
        '"first";"second"\n"c.jpg";"e f.png"\n"more/d.jpg";"c.jpg"\n',
        "c.jpg , e f.png\n more/d.jpg,c.jpg \n",
        "PHOTOS/c.jpg,e f.png\nmore/d.jpg,PHOTOS/c.jpg\n",
    ],
)
def test_a_table_is_read_as_people_and_spreadsheets_write_it(content, photos):
    table = photos / "pairs.csv"
    table.write_text(content.replace("PHOTOS", str(photos)), encoding="utf-8")
    found = [pair[2:] for pair in answers.read_pairs(str(table))]
    expected = [("c.jpg", "e f.png"), ("more/d.jpg", "c.jpg")]
    assert found == [tuple(str(photos / name) for name in pair) for pair in expected]


@pytest.mark.parametrize(
    "content",
    [
        'first,second\n"a,1.jpg",b;2.jpg\n',
        '"a,1.jpg",b;2.jpg\n',
        'first;second\na,1.jpg;"b;2.jpg"\n',
        'a,1.jpg;"b;2.jpg"\n',
        '"a,1.jpg";"b;2.jpg"\n',
        'first;second\n"a,1.jpg";"b;2.jpg"\n',
        "a,1.jpg\tb;2.jpg\n",
        '"a,1.jpg", "b;2.jpg"\n',
        'first, second\n"a,1.jpg", "b;2.jpg"\n',
    ],
)
def test_names_may_hold_commas_and_semicolons(content, photos):
    (photos / "pairs.csv").write_text(content)
    ((first, second, *_),) = answers.read_pairs(str(photos / "pairs.csv"))
    assert (first, second) == ("a,1.jpg", "b;2.jpg")


def test_of_a_table_that_begins_with_a_missing_photo_that_one_is_named(photos):
    (photos / "pairs.csv").write_text("a,1.jpg;gone.jpg\n")
    with pytest.raises(UserError, match=r"line 1: 'gone.jpg': no such photo"):
        answers.read_pairs(str(photos / "pairs.csv"))


def test_a_guarded_name_is_not_guarded_again(photos, tmp_path):
    shutil.copy(photos / "c.jpg", tmp_path / "=c.jpg")
    shutil.copy(photos / "c.jpg", tmp_path / "'-d.jpg")
    (tmp_path / "pairs.csv").write_text("'=c.jpg,'-d.jpg\n=c.jpg,''-d.jpg\n")
    for first, second, *_ in answers.read_pairs(str(tmp_path / "pairs.csv")):
        assert (first, second) == ("=c.jpg", "'-d.jpg")


def test_paths_are_as_seen_from_here_or_from_the_tables_folder(photos, tmp_path, monkeypatch):
    """Those of here come first."""
    (photos / "pairs.csv").write_text("c.jpg,more/d.jpg\n")
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "e f.png", tmp_path / "c.jpg")
    ((*_, first, second),) = answers.read_pairs(os.path.relpath(photos / "pairs.csv"))
    assert os.path.samefile(first, tmp_path / "c.jpg")
    assert os.path.samefile(second, photos / "more" / "d.jpg")


def test_there_and_back_is_the_same_and_with_itself_a_photo_is_one(predictor, photos, capsys):
    content = "c.jpg,more/d.jpg\nmore/d.jpg,c.jpg\nc.jpg,c.jpg\n"
    for new_classes in (False, True):
        there, back, itself = map(float, said(answer(predictor, content, photos, new_classes)))
        assert there == back
        assert 0 < there < 1
        assert there < itself <= 1
    pairs = np.array([[0, 0], [0, 1], [1, 0]])
    paths = [str(photos / "c.jpg"), str(photos / "more" / "d.jpg")]
    cosine, _ = answers.compare(predictor, paths, pairs, False)
    assert cosine[0] == pytest.approx(1, abs=1e-5)
    assert cosine[1] == cosine[2] < 0.9999


def test_a_probability_is_that_of_the_calibration(copied, photos):
    """Of new classes by the cosine alone; written out with a sigmoid."""
    write_calibration(copied, Calibration(same_known=(2, 0.5, 1), same_new=(3, -1), photos=9))
    predictor = Predictor(copied)
    names = ["a,1.jpg", "b;2.jpg", "c.jpg", "more/d.jpg", "e f.png"]
    pairs = np.array([[a, b] for a in range(5) for b in range(a)])
    paths = [str(photos / name) for name in names]
    p = predictor.predict(paths).probabilities.astype(float)
    agreement = np.clip([sum(p[a] * p[b]) for a, b in pairs], 1e-6, 1 - 1e-6)
    cosine, known = answers.compare(predictor, paths, pairs, False)
    same_cosine, new = answers.compare(predictor, paths, pairs, True)
    np.testing.assert_array_equal(cosine, same_cosine)
    odds = np.exp(2 * cosine + 0.5 * np.log(agreement / (1 - agreement)) + 1)
    np.testing.assert_allclose(known, odds / (1 + odds), atol=1e-4)
    np.testing.assert_allclose(new, 1 / (1 + np.exp(1 - 3 * cosine)), atol=1e-5)
    # Not calibrated, the first is the agreement, and the second rises with the cosine.
    (copied / "calibration.json").unlink()
    predictor = Predictor(copied)
    _, known = answers.compare(predictor, paths, pairs, False)
    np.testing.assert_allclose(known, agreement, atol=1e-5)
    _, new = answers.compare(predictor, paths, pairs, True)
    assert (np.diff(new[np.argsort(cosine)]) >= 0).all()
    assert np.ptp(new) > 0.1


def test_a_photo_that_cannot_be_read_has_no_probability(predictor, photos, capsys):
    content = "c.jpg,broken.jpg\nc.jpg,e f.png\nmore/empty.jpg,broken.jpg\n"
    rows = answer(predictor, content, photos)
    assert [bool(cell) for cell in said(rows)] == [False, True, False]
    printed = capsys.readouterr()
    assert "3 pairs of 4 photos, 2 of them without an answer: not readable" in printed.out
    assert printed.err.count("not a readable photo") == 2
    alone = answer(predictor, "c.jpg,e f.png\n", photos)
    assert float(said(alone)[0]) == pytest.approx(float(said(rows)[1]), abs=1e-5)


def test_each_photo_of_the_pairs_passes_the_network_once(predictor, photos, read_photos):
    names = ["c.jpg", "e f.png", "more/d.jpg", "broken.jpg"]
    content = "".join(f"{a},{b}\n" for a in names for b in names)
    assert len(answer(predictor, content, photos)) == 16
    assert collections.Counter(read_photos) == {str(photos / name): 1 for name in names}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("c.jpg,nowhere.jpg\n", "line 1: 'nowhere.jpg': no such photo"),
        ("first,second\nc.jpg,c.jpg\nc.jpg,\n", "line 3: '': no such photo"),
        ("c.jpg,more\n", "line 1: 'more': no such photo"),
        ("first,second\nc.jpg,c.jpg,c.jpg\n", "line 2: 3 cells, two paths are expected"),
        ("c.jpg\n", "line 1: 1 cells, two paths are expected"),
        ('"c.jpg","c.jpg",1\n', "line 1: 3 cells, two paths are expected"),
        ("first,second\na,1.jpg,c.jpg\n", "holds a comma must stand in quotes"),
        ("", "no pairs there"),
        ("first,second\n\n", "no pairs there"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8 text"),
        (b"c.jpg,c\0.jpg\n", "not UTF-8 text"),
        ('c.jpg,"e f.png\n', "no table of text"),
        ('c.jpg;e f.png\nc.jpg;"e f".png\n', "line 2: no table of text"),
    ],
)
def test_a_table_that_is_something_else_is_one_line(content, words, predictor, photos, capsys):
    (photos / "answers.csv").unlink(missing_ok=True)
    with pytest.raises(UserError) as raised:
        answer(predictor, content, photos)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"--pairs {photos / 'pairs.csv'}")
    assert len(str(raised.value).splitlines()) == 1
    assert not (photos / "answers.csv").exists()


def test_a_table_that_is_wrong_ends_the_command_with_one_line(trained, photos, tmp_path):
    (photos / "pairs.csv").write_text("c.jpg,nowhere.jpg\n")
    out = tmp_path / "answers.csv"
    out.write_text("of an earlier run")
    words = ("--pairs", photos / "pairs.csv", "--out", out)
    done = run_script("predict.py", *words, "--weights", trained)
    assert_one_line_error(done, "--pairs", "line 1: 'nowhere.jpg': no such photo")
    assert out.read_text() == "of an earlier run"


def find(predictor, query, gallery, folder, new_classes=False):
    """The rows of a search, by query."""
    out = folder / "matches.csv"
    matches.write_matches(predictor, str(query), str(gallery), str(out), new_classes)
    rows = collections.defaultdict(list)
    for row in read_csv(out):
        rows[row["query"]].append(row)
    return rows


def features_of(trained, folder, out):
    """What `--features` writes of a folder of photos."""
    words = ("--out", out.with_suffix(".txt"), "--features", out)
    done = run_script("predict.py", folder, "--weights", trained, *words)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)


def test_features_are_what_similarities_are_computed_from(trained, gallery, tmp_path):
    """The command's search, found again from the command's features."""
    arrays = features_of(trained, gallery, tmp_path / "features.npz")
    paths = {str(path) for path in gallery.glob("*/*.jpg")}
    assert set(arrays) == {"image", "feature", "probabilities", "typeids"}
    assert set(arrays["image"].tolist()) == paths
    assert arrays["typeids"].tolist() == ["2", "10", "pug"]
    assert arrays["feature"].dtype == arrays["probabilities"].dtype == np.float32
    assert arrays["feature"].shape == (12, 24)
    broken = arrays["image"] == str(gallery / "pug" / "3.jpg")
    assert broken.sum() == 1
    for name in ("feature", "probabilities"):
        assert (np.isnan(arrays[name]).any(axis=1) == broken).all()
        assert np.isnan(arrays[name][broken]).all()
    lengths = np.linalg.norm(arrays["feature"][~broken], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    np.testing.assert_allclose(arrays["probabilities"][~broken].sum(axis=1), 1, atol=1e-5)

    out = tmp_path / "matches.csv"
    words = ("--query", gallery / "10", "--gallery", gallery, "--out", out)
    done = run_script("predict.py", *words, "--weights", trained)
    assert done.returncode == 0, done.stderr
    assert "the most similar of 12 photos, for each of 4; 1 cannot be read" in done.stdout
    assert out.read_text().splitlines()[0] == "query,rank,match,similarity,probability"
    rows = read_csv(out)
    feature = dict(zip(arrays["image"].tolist(), arrays["feature"].astype(float), strict=True))
    asked = sorted(map(str, (gallery / "10").iterdir()))
    readable = [path for path in feature if not np.isnan(feature[path]).any()]
    assert list(dict.fromkeys(row["query"] for row in rows)) == asked
    for query in asked:
        own = [row for row in rows if row["query"] == query]
        others = [path for path in readable if path != query]
        expected = {path: feature[path] @ feature[query] for path in others}
        assert [int(row["rank"]) for row in own] == list(range(1, 11))
        assert {row["match"] for row in own} == set(others)
        for row in own:
            assert float(row["similarity"]) == pytest.approx(expected[row["match"]], abs=1e-4)
        similarities = [float(row["similarity"]) for row in own]
        assert similarities == sorted(similarities, reverse=True)


def test_at_most_ten_are_found_and_they_are_the_most_similar(predictor, gallery, tmp_path):
    folder = shutil.copytree(gallery, tmp_path / "gallery")
    for number in range(4):
        make_photo(folder / f"{number}.jpg", (250, 250, 250), seed=number)
    unit = predictor.unit(
        predictor.predict(paths := sorted(map(str, folder.rglob("*.jpg")))).features
    )
    unit[np.isnan(unit)] = 0
    for query, rows in find(predictor, folder / "2", folder, tmp_path).items():
        assert len(rows) == 10
        cosines = unit @ unit[paths.index(query)]
        rest = {
            path: cosine
            for path, cosine in zip(paths, cosines, strict=True)
            if path not in (query, str(folder / "pug" / "3.jpg"))
        }
        last = float(rows[-1]["similarity"])
        for row in rows:
            del rest[row["match"]]
        assert len(rest) == 4
        assert max(rest.values()) <= last + 1e-5


def test_a_querys_own_file_is_left_out_under_any_name(predictor, gallery, tmp_path):
    linked = tmp_path / "linked"
    linked.symlink_to(gallery)
    names = [path.name for path in (gallery / "2").iterdir()]
    for query in (gallery / "2", linked / "2"):
        rows = find(predictor, query, gallery / "2", tmp_path)
        assert set(rows) == {str(query / name) for name in names}
        for path, found in rows.items():
            assert len(found) == 3
            assert not any(os.path.samefile(path, row["match"]) for row in found)
    # A link in the gallery itself, before and after the file.
    folder = shutil.copytree(gallery / "2", tmp_path / "2")
    for name in ("00.jpg", "zz.jpg"):
        (folder / name).symlink_to(folder / "1.jpg")
    rows = find(predictor, folder, folder, tmp_path)
    assert len(rows) == 6
    for path, found in rows.items():
        assert len(found) == 3
        assert not any(os.path.samefile(path, row["match"]) for row in found)


def test_a_hard_link_is_the_same_file(predictor, gallery, tmp_path):
    """`img2keras.py --link` makes them."""
    (tmp_path / "asked").mkdir()
    os.link(gallery / "2" / "1.jpg", tmp_path / "asked" / "linked.jpg")
    (found,) = find(predictor, tmp_path / "asked", gallery, tmp_path).values()
    assert len(found) == 10
    assert str(gallery / "2" / "1.jpg") not in [row["match"] for row in found]


def test_a_copy_is_another_file_and_is_found_first(predictor, gallery, tmp_path):
    folder = tmp_path / "query"
    folder.mkdir()
    shutil.copy(gallery / "10" / "2.jpg", folder / "copy.jpg")
    (rows,) = find(predictor, folder, gallery, tmp_path).values()
    assert rows[0]["match"] == str(gallery / "10" / "2.jpg")
    assert len(rows) == 10  # of the eleven that can be read
    assert float(rows[0]["similarity"]) == pytest.approx(1, abs=1e-5)


def test_each_photo_of_a_search_passes_the_network_once(
    predictor, gallery, photos, tmp_path, read_photos
):
    find(predictor, gallery / "10", gallery, tmp_path)
    assert collections.Counter(read_photos) == {str(path): 1 for path in gallery.glob("*/*.jpg")}
    read_photos.clear()
    find(predictor, photos, gallery, tmp_path)
    assert len(read_photos) == len(set(read_photos)) == 12 + 8


def test_how_good_a_search_is_is_said_where_folders_tell_who_is_who(
    predictor, gallery, photos, tmp_path, capsys
):
    """Counted from the written matches."""
    rows = find(predictor, gallery, gallery, tmp_path)
    printed = capsys.readouterr().out.splitlines()[-1]
    firsts = [
        min(int(row["rank"]) for row in found if folder_of(row["match"]) == folder_of(query))
        for query, found in rows.items()
    ]
    for count in (1, 5, 10):
        share = np.mean([first <= count for first in firsts])
        assert f"recall@{count} {share:.4f}" in printed
    precisions = []
    for query, found in rows.items():
        right = [folder_of(row["match"]) == folder_of(query) for row in found]
        precisions.append(np.mean([np.mean(right[: i + 1]) for i in np.flatnonzero(right)]))
    assert f"mean average precision {np.mean(precisions):.4f}" in printed
    assert "(11 queries)" in printed
    # Names of a camera name nobody.
    flat = tmp_path / "camera"
    flat.mkdir()
    for number, path in enumerate(sorted(gallery.glob("*/*.jpg"))):
        shutil.copy(path, flat / f"IMG_{number:04}.jpg")
    find(predictor, flat, flat, tmp_path)
    assert "recall" not in capsys.readouterr().out
    # Names that tell nothing.
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(photos / "c.jpg", flat)
    find(predictor, flat, flat.parent / "flat", tmp_path)
    find(predictor, flat, gallery, tmp_path)
    assert "recall" not in capsys.readouterr().out


def folder_of(path):
    return os.path.basename(os.path.dirname(path))


def test_probabilities_of_matches_are_those_of_pairs(predictor, gallery, tmp_path):
    table = tmp_path / "pairs.csv"
    for new_classes in (False, True):
        rows = find(predictor, gallery / "2", gallery, tmp_path, new_classes)
        found = [row for own in rows.values() for row in own]
        table.write_text("".join(f"{row['query']},{row['match']}\n" for row in found))
        answers.answer_pairs(predictor, str(table), str(tmp_path / "a.csv"), new_classes)
        expected = [float(cell) for cell in said(read_csv(tmp_path / "a.csv"))]
        assert [float(row["probability"]) for row in found] == pytest.approx(expected, abs=1e-4)


def test_new_classes_change_probabilities_and_no_similarity(predictor, gallery, tmp_path):
    known = find(predictor, gallery / "2", gallery, tmp_path)
    new = find(predictor, gallery / "2", gallery, tmp_path, new_classes=True)
    assert list(known) == list(new)
    for one, other in zip(known.values(), new.values(), strict=True):
        for name in ("match", "similarity", "rank"):
            assert [row[name] for row in one] == [row[name] for row in other]
        assert all(a != b for a, b in zip(said(one), said(other), strict=True))


def test_photos_of_a_search_that_cannot_be_read_are_counted(
    predictor, gallery, photos, tmp_path, capsys
):
    rows = find(predictor, photos, gallery, tmp_path)
    assert (
        "the most similar of 12 photos, for each of 8; 3 cannot be read" in capsys.readouterr().out
    )
    assert len(rows) == 6
    matched = {row["match"] for found in rows.values() for row in found}
    assert str(gallery / "pug" / "3.jpg") not in matched
    assert not {str(photos / "broken.jpg"), str(photos / "more" / "empty.jpg")} & set(rows)


def test_a_folder_without_a_readable_photo_is_one_line(predictor, trained, gallery, tmp_path):
    broken, empty = tmp_path / "broken", tmp_path / "empty"
    broken.mkdir()
    empty.mkdir()
    for number in range(3):
        (broken / f"{number}.jpg").write_bytes(b"<html>")
    for query, folder in ((gallery, broken), (broken, gallery)):
        with pytest.raises(UserError, match=r"broken: no photo there can be read"):
            find(predictor, query, folder, tmp_path)
    with pytest.raises(UserError, match=r"empty: no photos in it"):
        find(predictor, gallery, empty, tmp_path)
    assert not (tmp_path / "matches.csv").exists()
    words = ("--query", gallery, "--gallery", broken, "--out", tmp_path / "matches.csv")
    done = run_script("predict.py", *words, "--weights", trained)
    assert_one_line_error(done, "broken: no photo there can be read")
    assert not (tmp_path / "matches.csv").exists()


def test_a_training_of_an_earlier_version_still_answers(copied, photos, gallery, tmp_path, capsys):
    """By the plain cosine, as NumPy has it."""
    for name in BEFORE:
        (copied / name).unlink(missing_ok=True)
    paths = [str(photos / "c.jpg"), str(photos / "more" / "d.jpg")]
    before = Predictor(copied)
    one, other = before.predict(paths).features.astype(float)
    plain = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    cosine, probability = answers.compare(before, paths, np.array([[0, 1]]), True)
    assert cosine == pytest.approx(plain, abs=1e-5)
    assert 0 < probability < 1
    assert before.predict(paths).likeness is None
    rows = find(before, gallery / "2", gallery, tmp_path)
    assert [len(found) for found in rows.values()] == [10] * 4
    words = ("predict.py", *paths, "--same", "--weights", copied)
    done = run_script(*words)
    assert done.returncode == 0, done.stderr
    assert f"cosine {plain:.4f}" in done.stdout
    assert "not calibrated yet: see --evaluate" in done.stdout
    (photos / "pairs.csv").write_text("c.jpg,e f.png\n")
    words = ("--pairs", photos / "pairs.csv", "--out", tmp_path / "a.csv")
    done = run_script("predict.py", *words, "--weights", copied)
    assert done.returncode == 0, done.stderr
    assert len(read_csv(tmp_path / "a.csv")) == 1


def test_a_space_of_another_model_is_said_and_the_plain_cosine_used(
    copied, trained, photos, capsys
):
    shutil.copy(trained / "heads-best.keras", copied / "model.keras")
    predictor = Predictor(copied)
    paths = [str(photos / "c.jpg"), str(photos / "more" / "d.jpg")]
    answers.print_same(predictor, paths, False)
    printed = capsys.readouterr()
    assert printed.err.count("of another model, not used") == 1
    one, other = predictor.predict(paths).features.astype(float)
    plain = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert f"cosine {plain:.4f}" in printed.out


def test_the_space_is_of_the_training_photos(trained, data, predictor):
    """What lies beside the model, against one fitted on the photos themselves, read anew."""
    from pairs.network.similarity import SimilarityFit

    (found,) = predictor.similarities
    paths = sorted((data / "train").glob("*/*.jpg"))
    features = predictor.predict(list(map(str, paths))).features
    fitted = SimilarityFit(features.shape[1], 3)
    fitted.add(features, np.array([predictor.typeids.index(path.parent.name) for path in paths]))
    anew = fitted.result("")
    asked = predictor.predict(sorted(map(str, (data / "valid").glob("*/*.jpg")))).features
    cosines = [space.unit(asked) @ space.unit(asked).T for space in (found, anew)]
    np.testing.assert_allclose(*cosines, atol=2e-3)
    np.testing.assert_allclose(found.class_cosines(asked), anew.class_cosines(asked), atol=2e-3)


def test_the_verdict_on_two_photos_is_that_of_the_threshold(copied, photos, capsys):
    paths = [str(photos / "c.jpg"), str(photos / "more" / "d.jpg")]
    for weights in ((0.0, 0.0, 0.4), (0.0, 0.0, -0.4)):  # 0.5987 and 0.4013
        for threshold in (0.5, 0.7, 0.3):
            fitted = Calibration(
                same_known=weights, same_new=weights[1:], same_threshold=threshold, photos=99
            )
            write_calibration(copied, fitted)
            predictor = Predictor(copied)
            probability = 1 / (1 + np.exp(-weights[2]))
            for new_classes, judged_by in ((False, threshold), (True, 0.5)):
                answers.print_same(predictor, paths, new_classes)
                printed = capsys.readouterr().out
                assert printed.startswith(f"same {probability:.4f}, cosine ")
                verdict = "the same class" if probability >= judged_by else "two classes"
                assert f": {verdict} (threshold {judged_by:.4f})" in printed
    write_calibration(copied, dataclasses.replace(fitted, photos=17))
    answers.print_same(Predictor(copied), paths, False)
    assert capsys.readouterr().out.endswith("; calibrated on 17 photos only)\n")
    # Nobody knows what is a high probability before photos have been judged.
    (copied / "calibration.json").unlink()
    answers.print_same(Predictor(copied), paths, False)
    printed = capsys.readouterr().out
    assert printed.startswith("same ")
    assert printed.endswith("(not calibrated yet: see --evaluate)\n")


def test_two_photos_of_which_one_is_unreadable_are_an_error(predictor, photos, capsys):
    with pytest.raises(UserError, match="both photos must be readable"):
        answers.print_same(predictor, [str(photos / "c.jpg"), str(photos / "broken.jpg")], False)


@pytest.mark.parametrize(("none_below", "expected"), [(1.0, True), (0.0, False)])
def test_a_photo_of_no_class_is_called_so_to_people_and_never_in_a_submission(
    none_below, expected, copied, photos, tmp_path
):
    write_calibration(copied, Calibration(none_below=none_below, photos=50))
    words = ("--out", tmp_path / "p.txt", "--csv", tmp_path / "p.csv")
    done = run_script("predict.py", photos, "--weights", copied, *words)
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "p.csv")
    assert list(rows[0])[:4] == ["image_id", "typeid", "name", "none_of_these"]
    assert len(rows) == 8
    for row in rows:
        readable = row["image_id"] not in ("broken", "empty")
        assert row["none_of_these"] == ("none" if expected and readable else "")
        assert row["typeid"] in COLOURS
    submission = (tmp_path / "p.txt").read_text(encoding="utf-8")
    assert [line.split("\t")[0] for line in submission.splitlines()] == [
        row["typeid"] for row in rows
    ]
    assert "none" not in submission
    done = run_script("predict.py", photos / "c.jpg", photos / "e f.png", "--weights", copied)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    words = ": none of the classes; what is nearest:" if expected else ""
    assert lines == [f"{photos / 'c.jpg'}{words}", f"{photos / 'e f.png'}{words}"]


def test_none_is_said_of_the_photos_that_are_least_like_a_class(copied, photos, capsys):
    """Between two photos, as many as are below."""
    predictor = Predictor(copied)
    paths = [str(photos / name) for name in ("a,1.jpg", "b;2.jpg", "c.jpg", "e f.png")]
    found = predictor.predict(paths)
    scores = found.probabilities.max(axis=1) * found.likeness
    low, high = sorted(scores)[1:3]
    calibration = Calibration(none_below=float((low + high) / 2), photos=50)
    predict.print_guesses(predictor, found, calibration, {})
    lines = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    for path, line, score in zip(paths, lines, scores, strict=True):
        assert line.startswith(path)
        assert ("none of the classes" in line) == (score <= low)


def test_a_likeness_is_the_cosine_to_the_nearest_class(predictor, photos, data):
    """Photos of the training are like their class; the centre is the mean of its photos."""
    paths = [str(photos / name) for name in ("a,1.jpg", "c.jpg", "broken.jpg", "more/d.jpg")]
    found = predictor.predict(paths)
    assert np.isnan(found.likeness).tolist() == [False, False, True, False]
    means = []
    for typeid in predictor.typeids:
        own = sorted(map(str, (data / "train" / typeid).glob("*.jpg")))
        means.append(predictor.predict(own).features.mean(axis=0))
    cosines = predictor.unit(found.features) @ predictor.unit(np.stack(means)).T
    np.testing.assert_allclose(found.likeness, cosines.max(axis=1), atol=2e-3)


def test_without_features_kept_the_rest_is_the_same(predictor, photos):
    paths = [str(photos / name) for name in ("a,1.jpg", "broken.jpg", "c.jpg")]
    whole, small = predictor.predict(paths), predictor.predict(paths, keep_features=False)
    assert small.features.shape == (3, 0)
    np.testing.assert_allclose(small.likeness, whole.likeness, atol=1e-6)
    np.testing.assert_allclose(small.probabilities, whole.probabilities, atol=1e-6)
    one = dataclasses.replace(whole, likeness=None).take(np.array([2]))
    assert one.likeness is None
    assert whole.take(np.array([2])).likeness == whole.likeness[2]
