"""The page of a report, in a real browser."""

import html.parser
import json
import os
import re
import shutil
import types

import numpy as np
import pytest
from conftest import COLOURS, make_photo
from PIL import Image

from pairs.evaluation import calibration, evaluate, metrics, mistakes, report, unseen
from pairs.evaluation.calibration import Calibration
from pairs.evaluation.heat_maps import find_heat_maps
from pairs.evaluation.predictions import Predictions
from pairs.evaluation.predictor import Predictor
from pairs.network.parts import class_map_model
from pairs.photos.find import find_class_photos
from pairs.photos.read import Photos

pytestmark = pytest.mark.slow
HOSTILE = "<script>document.title='run'</script>"


@pytest.fixture(scope="module")
def folder(trained, data, tmp_path_factory):
    """A report on photos one of which has a hostile name, with a hostile class name."""
    root = tmp_path_factory.mktemp("report")
    shutil.copytree(data / "valid", root / "valid")
    make_photo(root / "valid" / "2" / "2_<img src=x onerror=alert(1)>.jpg", COLOURS["pug"], seed=5)
    predictor = Predictor(trained)
    photos = find_class_photos(root / "valid", predictor.typeids)
    with pytest.MonkeyPatch.context() as patch:  # of seven photos 5 % are none
        patch.setattr(calibration, "REFUSED", 0.2)
        evaluation = evaluate.evaluate(predictor, photos, predictor.predict(photos.paths))
    names = {"2": HOSTILE, "10": "西藏獒"}
    evaluate.write_files(evaluation, names, root)
    trained_on = find_class_photos(data / "train")
    report.write_report(evaluation, predictor, trained_on, names, root, num_suspects=3)
    return root


def test_settings_that_somebody_else_has_written_are_no_settings(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "w")
    (tmp_path / "w" / "settings.json").write_text("[1]")
    predictor = Predictor(tmp_path / "w")
    assert (predictor.settings, predictor.flags) == ({}, {})
    assert "No settings.json" in report.settings_table(predictor.settings)


def shown_photos(dom):
    """Number of photos in the gallery of a page."""
    gallery = dom[dom.index('id="gallery"') : dom.index('id="more"')]
    return gallery.count("<figure>")


def test_the_page_opens_without_an_error_and_draws_everything(folder, browse):
    dom = browse(folder / "index.html")
    assert dom.count("<tbody><tr>") >= 1
    numbers = json.loads((folder / "metrics.json").read_text())
    assert f"{numbers['error']:.4f}" in dom
    assert shown_photos(dom) == round(numbers["error"] * numbers["photos"])
    assert dom.count('class="wide"') == 2


def test_of_very_many_classes_a_sentence_stands_in_place_of_the_matrix(folder, browse, tmp_path):
    page = (folder / "index.html").read_text()
    limit = f"data.classes.length > {report.MOST_IN_MATRIX}"
    assert page.count(limit) == 1
    (tmp_path / "index.html").write_text(page.replace(limit, "data.classes.length > 2"))
    dom = browse(tmp_path / "index.html")
    assert "Of 3 classes the matrix would be too large" in dom
    assert 'class="matrix"' not in dom
    assert shown_photos(dom)  # all else is as ever


def test_a_click_on_a_cell_shows_its_photos(folder, browse):
    dom = browse(
        folder / "index.html",
        "for (const cell of document.querySelectorAll('.matrix button')) { cell.click();"
        "const line = document.createElement('pre'); line.className = 'told';"
        "line.textContent = cell.textContent + ' ' "
        "+ document.querySelectorAll('#gallery figure').length; document.body.append(line); }",
    )
    told = re.findall(r'<pre class="told">(\d+) (\d+)</pre>', dom)
    assert told
    assert all(number == shown for number, shown in told)
    assert sum(int(number) for number, _ in told) == 7


def test_the_search_finds_a_class_and_the_keyboard_reaches_the_cells(folder, browse):
    dom = browse(
        folder / "index.html",
        "const box = document.getElementById('search'); box.value = '獒';"
        "box.dispatchEvent(new Event('input'));"
        "document.querySelector('.matrix button').focus();"
        "document.title = document.activeElement.className;",
    )
    assert "1 class with" in dom
    assert shown_photos(dom) >= 2
    assert "<title>cell</title>" in dom


def test_names_are_shown_and_not_run(folder, browse):
    dom = browse(folder / "index.html")
    assert "<title>run</title>" not in dom
    assert "&lt;script&gt;document.title='run'&lt;/script&gt; (2)" in dom
    assert "onerror=alert(1)&gt;.jpg" in dom
    assert "<img src=x" not in dom


def test_the_page_asks_for_nothing_from_the_network(folder):
    links = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: links.extend(
        value for name, value in attributes if name in ("src", "href")
    )
    parser.feed((folder / "index.html").read_text(encoding="utf-8"))
    assert links
    assert links.count("suspects.html") == 1  # the page beside it
    assert all(link.startswith(("data:", "#")) for link in links if link != "suspects.html")
    assert "default-src 'none'" in (folder / "index.html").read_text()


def test_the_page_leads_to_the_labels_to_check_if_there_are_any(folder):
    assert '<a href="suspects.html">3 labels to check</a>' in (folder / "index.html").read_text()
    assert report.suspects_link(1) == '<a href="suspects.html">1 label to check</a>'
    assert report.suspects_link(None) == ""


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_is_wider_than_the_screen(folder, browse, width):
    """500 is the narrowest window that Chromium opens without a phone emulated."""
    dom = browse(
        folder / "index.html",
        "document.title = document.documentElement.scrollWidth + ' of ' + innerWidth;",
        size=f"{width},900",
    )
    inside, window = re.search(r"<title>(\d+) of (\d+)</title>", dom).groups()
    assert int(inside) <= int(window)


def test_two_thousand_photos_fit_into_five_megabytes(tmp_path, shared):
    """Real photos: drawn ones would compress too well."""
    paths = [str(path) for path in sorted((shared / "dogs24" / "raw").iterdir())]
    paths = (paths * 2)[:2000]
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 100, size=2000)).astype(np.int32)
    photos = Photos(paths, labels, [str(number) for number in range(100)])
    probabilities = rng.random((2000, 100)) + 3 * np.eye(100)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confusions = metrics.count_confusions(probabilities, labels)
    numbers = {"photos": 2000, "error": 0.2}
    evaluation = evaluate.Evaluation(
        *(photos, Predictions(paths, probabilities, None), probabilities, confusions),
        *(metrics.judge_classes(confusions), Calibration(), numbers),
    )
    described = report.script_json({"photos": report.describe_photos(evaluation, workers=2)})
    assert len(described) < 4.2e6  # and 0.8 MB for the mistakes and everything else


def test_photos_that_came_after_the_training_are_no_training_photos(trained, data, tmp_path):
    copied = shutil.copytree(data, tmp_path / "data")
    weights = shutil.copytree(trained, tmp_path / "weights")
    settings = json.loads((weights / "settings.json").read_text())
    settings["flags"]["data"] = str(copied)
    (weights / "settings.json").write_text(json.dumps(settings))
    before = unseen.find_training_photos(Predictor(weights)).paths
    assert len(before) == len(list((data / "train").rglob("*.jpg")))
    for path in (copied / "valid" / "2").glob("*.jpg"):  # sorted with another seed
        path.rename(copied / "train" / "2" / path.name)
    found = unseen.find_training_photos(Predictor(weights))
    assert found.paths == before


def test_a_project_that_moved_as_a_whole_has_its_training_photos(
    trained, data, tmp_path, monkeypatch
):
    shutil.copytree(data, tmp_path / "moved" / "data")
    weights = shutil.copytree(trained, tmp_path / "moved" / "weights")
    settings = json.loads((weights / "settings.json").read_text())
    num_photos = len(list((data / "train").rglob("*.jpg")))
    for home, elsewhere in (("", "gone"), ("/home/of/somebody/", "gone"), ("", "moved")):
        named = {"data": f"{home}data", "weights": f"{home}weights"}
        settings["flags"] |= named
        (weights / "settings.json").write_text(json.dumps(settings))
        (tmp_path / elsewhere).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / elsewhere)
        found = unseen.find_training_photos(Predictor(weights))
        assert len(found) == num_photos, named
    # Weights that moved alone: the photos are where the command named them.
    alone = shutil.copytree(weights, tmp_path / "elsewhere" / "weights")
    assert len(unseen.find_training_photos(Predictor(alone))) == num_photos
    monkeypatch.chdir(tmp_path)
    assert unseen.find_training_photos(Predictor(alone)) is None


def test_classes_called_train_and_valid_are_judged_as_all_others(tmp_path):
    predictor = types.SimpleNamespace(typeids=["train", "valid"], models=[1], weights="w")
    for typeid in predictor.typeids:
        (tmp_path / "valid" / typeid).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "valid" / typeid / "1.png")
    found = unseen.find_photos_to_judge(str(tmp_path / "valid"), [predictor])
    assert found.labels.tolist() == [0, 1]


def test_a_photo_that_is_gone_is_grey_on_the_page_and_not_another(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for path in paths:
        Image.new("RGB", (90, 80), (200, 0, 0)).save(path)
    photos = Photos(paths, np.array([0, 0], np.int32), ["2"])
    os.remove(paths[0])
    gone, there = (np.asarray(mistakes.open_as_seen(photos, index, 20)) for index in (0, 1))
    assert gone.shape == there.shape == (20, 20, 3)
    assert (gone == 128).all()
    assert (there[..., 0] > 190).all()


def test_nearest_photos_are_sought_among_a_few_of_each_class_that_is_named():
    labels = np.repeat(np.array([0, 1, 2], np.int32), [3, 120, 7])
    photos = Photos([f"{number}.jpg" for number in range(130)], labels, ["a", "b", "c"])
    some = mistakes.some_of_each(photos, [0, 1])
    assert np.bincount(some.labels).tolist() == [3, mistakes.PHOTOS_OF_CLASS]
    assert len(set(some.paths)) == len(some)
    assert {"3.jpg", "122.jpg"} <= set(some.paths)  # from the first to the last


def test_a_heat_map_says_how_much_each_place_adds_to_the_logit(trained, data):
    predictor = Predictor(trained)
    photos = find_class_photos(data / "valid", predictor.typeids)
    heats = find_heat_maps(predictor, photos.paths[:2], photos.labels[:2])
    for heat in heats:
        assert heat.ndim == 2
        assert heat.min() >= 0
        assert heat.max() <= 1
    # The mean of the map over all places is the logit without its bias.
    image = np.asarray(Image.open(photos.paths[0]).resize((71, 71)))[None]
    maps = np.asarray(class_map_model(predictor.models[0]).predict_on_batch(image))[0]
    feature = np.asarray(predictor.photo_model.predict_on_batch(image)["feature"])[0]
    heads = [layer for layer in predictor.photo_model.layers if layer.name.startswith("ctg_out")]
    logits = np.mean([feature @ np.asarray(head.kernel) for head in heads], axis=0)
    np.testing.assert_allclose(maps.mean(axis=(0, 1)), logits, rtol=1e-3, atol=1e-4)


def test_a_button_shows_what_looks_like_none_of_the_classes(folder, browse):
    """A fifth of the photos that were judged: of seven, the most unlike one."""
    dom = browse(folder / "index.html", "document.getElementById('none').click();")
    assert "None of the classes, the most unlike first: 1 photo<" in dom
    assert shown_photos(dom) == 1
