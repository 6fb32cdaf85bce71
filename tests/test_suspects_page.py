"""The page to decide on labels to check, in a real browser, and what it downloads."""

import csv
import html
import html.parser
import io
import json
import os
import re
import shlex
import types

import numpy as np
import pytest
from conftest import COLOURS, add_script, make_photo, make_raw, run_script

from pairs.evaluation.suspects import find_suspects, write_suspects
from pairs.evaluation.suspects_page import describe_group, sorting_in_words, write_suspects_page
from pairs.files import unguard_cell
from pairs.photos.corrections import read_corrections
from pairs.photos.find import find_class_photos
from pairs.photos.read import Photos

HOSTILE = "<script>document.title='run'</script>"


def ask(root, raw, typeids, chosen, groups=(), names=None):
    """Writes a page about some photos of a raw folder, each taken for the next class.

    Returns:
        namespace: `raw`, `photos` (all of `raw`, sorted by name), `suspects`,
        `page` (the file), `images` (the suspects' file names, in order).
    """
    paths = sorted(raw.iterdir(), key=lambda path: os.fsencode(path.name))
    labels = np.array([typeids.index(path.name.split("_")[0]) for path in paths], np.int32)
    photos = Photos([str(path) for path in paths], labels, typeids)
    guesses = labels.copy()
    guesses[chosen] = (labels[chosen] + 1) % len(typeids)
    probabilities = (
        0.05 + np.linspace(0.7, 0.6, len(paths))[:, None] * np.eye(len(typeids))[guesses]
    )
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    features = np.random.default_rng(0).normal(size=(len(paths), 4))
    folds = np.arange(len(paths)) % 2
    suspects = find_suspects(photos, probabilities, features, folds, groups)
    write_suspects(suspects, photos, root / "suspects.csv")
    write_suspects_page(suspects, photos, names or {}, root, groups)
    return types.SimpleNamespace(
        raw=raw,
        photos=photos,
        suspects=suspects,
        page=root / "suspects.html",
        images=[paths[suspect.index].name for suspect in suspects],
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A page of eight suspects: six doubted photos, and a pair under two labels."""
    root = tmp_path_factory.mktemp("asked")
    raw = make_raw(root / "raw")
    typeids = list(COLOURS)
    asked = ask(root, raw, typeids, [1, 3, 9, 11, 17, 19], [[0, 8], [4, 5]], {"pug": "Mops"})
    assert len(asked.suspects) == 8
    return asked


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page of photos and classes with names that would do harm."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "raw").mkdir()
    typeids = ["2", "-10", "西藏獒"]
    endings = [
        *("<img src=x onerror=alert(1)>", ";=1+1", 'a"b,c', "line\nbreak", "line\rbreak"),
        *("\u202egpj.exe", "\u2028line", "\udce9", "獒 'x'", "plain"),
    ]
    names = [f"{typeids[i % 3]}_{ending}.png" for i, ending in enumerate(endings)]
    for seed, name in enumerate(names):
        make_photo(os.path.join(root / "raw", name), COLOURS["2"], seed)
    return ask(root, root / "raw", typeids, list(range(len(names))), (), {"2": HOSTILE})


def data_of(page):
    """What a page holds."""
    text = page.read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


def press(keys):
    """The script that presses keys, one after the other."""
    return "".join(
        f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(key)}}}));"
        for key in keys
    )


def click(place, choice):
    """The script that clicks a button of a suspect."""
    return f"document.querySelectorAll('.suspect')[{place}].querySelector('.{choice}').click();"


def title_of(dom):
    return re.search(r"<title>(.*?)</title>", dom)[1]


TELL = (
    "document.title = [...document.querySelectorAll('.suspect')].map((card) => "
    "(card.querySelector('[aria-pressed=true]') || {dataset: {choice: '-'}}).dataset.choice)"
    ".join(' ') + ' | ' + document.getElementById('progress').textContent;"
)
SAVE = "document.getElementById('download').click();"


def rows_of(path):
    """A downloaded table without its header; the guard of its cells is taken off."""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    for delimiter in ",;\t":  # where a spreadsheet may split
        cells = [cell for row in csv.reader(io.StringIO(text), delimiter=delimiter) for cell in row]
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["image", "decision", "typeid"]
    return [[unguard_cell(cell) for cell in row] for row in rows]


@pytest.mark.slow
def test_the_page_shows_every_suspect_beside_photos_of_both_classes(asked, browse):
    dom = browse(asked.page)
    assert title_of(dom) == "8 labels to check"
    assert dom.count('<article class="suspect"') == 8
    assert "0 of 8 decided" in dom
    assert dom.count("near-duplicates under another label") >= 2
    shown = [float(number) for number in re.findall(r"([\d.]+) %</span>", dom)]
    for place, (suspect, image) in enumerate(zip(asked.suspects, asked.images, strict=True)):
        assert image in dom
        own, other = shown[2 * place : 2 * place + 2]
        assert own == pytest.approx(100 * suspect.own_probability, abs=0.06)
        assert other == pytest.approx(100 * suspect.probability, abs=0.06)
    assert "Mops (pug)" in dom
    assert dom.count('<div class="group">') == 2
    assert dom.index("2 photos, 2 classes") < dom.index("2 photos, 1 class<")
    assert "python img2keras.py --raw data/raw --out data --corrections corrections.csv" in dom


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("my <photos>/valid/2/a.jpg", "--raw 'my <photos>/raw' --out 'my <photos>'"),
        ("data/train/2/a.jpg", "--raw data/raw --out data"),
        ("elsewhere/2/a.jpg", "--raw data/raw --out data"),
    ],
)
def test_the_command_sorts_the_folder_whose_photos_were_judged(path, words):
    shown = sorting_in_words(Photos([path], np.zeros(1, np.int32), ["2", "10"]))
    command = html.unescape(shown["command"])
    assert command == f"python img2keras.py {words} --corrections corrections.csv"
    assert "How these photos were sorted is not known" in shown["about"]


def test_the_command_repeats_the_flags_of_the_last_sorting(tmp_path):
    raw, out = make_raw(tmp_path / "my raw"), tmp_path / "data"
    first = tmp_path / "corrections.csv"
    first.write_text('image,decision,typeid\n"2_0,0.jpg",remove,\n')
    flags = ("--valid-fraction", "0.3", "--seed", "5", "--link", "--corrections", first)
    done = run_script("img2keras.py", "--raw", raw, "--out", out, *flags)
    assert done.returncode == 0
    paths = sorted(map(str, (out / "valid").rglob("*.jpg")))
    photos = Photos(paths, np.zeros(len(paths), int), ["2"])
    shown = sorting_in_words(photos)
    command = shlex.split(html.unescape(shown["command"]))
    # In the place of the first round's file, it would undo what that decided.
    assert shown["file"] == "corrections-2.csv"
    assert command[-4:] == ["--corrections", str(first), "--corrections", "corrections-2.csv"]
    again = run_script(*command[1:-2])
    assert "0 written" in again.stdout
    assert "note:" not in again.stdout
    # The project moves: what lay beside the sorted folder moved with it.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (raw, out, first):
        path.rename(moved / path.name)
    paths = [path.replace(str(tmp_path), str(moved)) for path in paths]
    in_words = sorting_in_words(Photos(paths, photos.labels, ["2"]))
    command = shlex.split(html.unescape(in_words["command"]))
    again = run_script(*command[1:-2])
    assert "0 written" in again.stdout
    assert "note:" not in again.stdout
    for path in (raw, out, first):
        (moved / path.name).rename(path)
    paths = [path.replace(str(moved), str(tmp_path)) for path in paths]
    assert "removed" not in again.stdout
    other = run_script("img2keras.py", "--raw", raw, "--out", out)
    assert "note: --valid-fraction was 0.3 when this folder was sorted before" in other.stdout
    assert f"note: this folder was sorted with --corrections {first} before" in other.stdout
    for damaged in ("[", "[]", '{"seed": 5}', '{"raw": 5, "corrections": 1, "seed": 5}'):
        (out / "sorting.json").write_text(damaged)
        assert "--seed" not in sorting_in_words(photos)["command"]
    assert run_script("img2keras.py", "--raw", raw, "--out", out).returncode == 0


def test_what_the_page_shows_are_the_photos_that_were_found(asked):
    data, photos = data_of(asked.page), asked.photos
    for shown, suspect in zip(data["suspects"], asked.suspects, strict=True):
        assert shown["name"] == os.path.basename(photos.paths[suspect.index])
        assert shown["label"] == photos.labels[suspect.index]
        for key in ("near_suggested", "near_own", "duplicates"):
            for index in shown[key]:
                photo = data["photos"][str(index)]
                assert photo["name"] == os.path.basename(photos.paths[index])
                assert photo["label"] == photos.labels[index]
            assert tuple(shown[key]) == getattr(suspect, key)


def test_photos_that_classes_number_alike_are_named_with_their_class(tmp_path, monkeypatch):
    """In folders that were brought sorted: `img2keras.py` gives each photo a name of its own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sorting.json").write_text('{"raw": "raw", "corrections": []}')
    monkeypatch.chdir(tmp_path)  # which sorts other photos
    for typeid in ("46", "83"):
        (tmp_path / "raw" / typeid).mkdir(parents=True)
        for number in range(3):
            make_photo(tmp_path / "raw" / typeid / f"{number}.jpg", (9, 9, 9), number + int(typeid))
    photos = find_class_photos(tmp_path / "raw")
    suspects = find_suspects(
        photos,
        np.eye(2)[[1, 0, 0, 0, 1, 1]] * 0.8 + 0.1,
        np.zeros((6, 1)),
        np.zeros(6, int),
    )
    write_suspects_page(suspects, photos, {}, tmp_path)
    images = [shown["image_name"] for shown in data_of(tmp_path / "suspects.html")["suspects"]]
    assert sorted(images) == ["46/0.jpg", "83/0.jpg"]
    (tmp_path / "c.csv").write_text(f"image,decision,typeid\n{images[0]},remove,\n")
    names = {"46/0.jpg", "46/1.jpg", "83/0.jpg"}
    decided = read_corrections([tmp_path / "c.csv"], names, {"46", "83"})
    assert decided == {images[0]: None}


@pytest.mark.slow
def test_a_click_chooses_and_the_same_again_chooses_nothing(asked, browse):
    script = click(0, "keep") + click(1, "relabel") + click(2, "remove") + click(3, "keep")
    script += click(3, "keep") + click(2, "keep")
    dom = browse(asked.page, script + TELL)
    assert title_of(dom) == "keep relabel keep - - - - - | 3 of 8 decided"


@pytest.mark.slow
def test_keys_choose_and_move_on(asked, browse):
    keys = ["j", "2", "3", "k", "3"]  # 1: relabel; 2: remove; 2: undecided again, and stays
    keys += ["1", "3", "k", "k"]  # 2: keep; 3: remove
    keys += ["ArrowLeft", "ArrowLeft", "ArrowLeft", "1", "ArrowRight", "ArrowLeft", "2"]  # 0, 1
    keys += ["j"] * 20 + ["3"]
    dom = browse(asked.page, press(keys) + TELL)
    assert title_of(dom) == "keep - keep remove - - - remove | 4 of 8 decided"


@pytest.mark.slow
def test_with_control_or_alt_a_key_belongs_to_the_browser(asked, browse):
    script = (
        "for (const key of ['1', '2', '3']) for (const modifier of ['ctrlKey', 'altKey', "
        "'metaKey']) document.dispatchEvent(new KeyboardEvent('keydown', "
        "{key, [modifier]: true}));"
    )
    assert title_of(browse(asked.page, script + TELL)).endswith("| 0 of 8 decided")


@pytest.mark.slow
def test_every_control_takes_the_focus_and_shows_it(asked, browse):
    script = (
        "const all = [...document.querySelectorAll('a, button, [tabindex=\"0\"]')];"
        "document.title = all.length + ' ' + all.filter((control) => { control.focus();"
        "return document.activeElement === control && control.tabIndex === 0 && "
        "getComputedStyle(control).outlineStyle === 'solid'; }).length;"
    )
    count, focused = title_of(browse(asked.page, script)).split()
    assert int(count) == 2 + 1 + 1 + 8 * 3
    assert focused == count


def before_and_after_reload(before, after):
    """The script that runs `before`, reloads the page, and runs `after`."""
    return (
        "if (!sessionStorage.getItem('again')) { sessionStorage.setItem('again', 'yes');"
        f"{before} location.reload(); }} else {{ {after} }}"
    )


@pytest.mark.slow
def test_a_reload_loses_nothing(asked, download):
    script = before_and_after_reload(click(1, "relabel") + click(4, "remove"), SAVE)
    rows = rows_of(download(asked.page, script, "corrections.csv"))
    assert [(image, decision) for image, decision, _ in rows] == [
        (asked.images[1], "relabel"),
        (asked.images[4], "remove"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        *[(text, []) for text in ("not JSON", "{}", "7", "null")],
        *[('["keep"]', [(0, "keep")]), ('["x", 5, "remove"]', [(2, "remove")])],
    ],
)
def test_what_is_stored_damaged_does_no_harm(asked, download, stored, kept):
    key = f"labels-to-check:{data_of(asked.page)['key']}"
    store = f"localStorage.setItem({json.dumps(key)}, {json.dumps(stored)});"
    script = before_and_after_reload(store, click(7, "keep") + SAVE)
    rows = rows_of(download(asked.page, script, "corrections.csv"))
    expected = [(asked.images[place], decision) for place, decision in [*kept, (7, "keep")]]
    assert [(image, decision) for image, decision, _ in rows] == expected


@pytest.mark.slow
def test_without_storage_the_page_still_counts_and_says_so(asked, browse):
    broken = "Storage.prototype.setItem = () => { throw new Error('full'); };"
    dom = browse(asked.page, broken + click(0, "keep") + TELL)
    assert title_of(dom).endswith("| 1 of 8 decided")
    assert "forgets the decisions on a reload" in dom


def test_other_suspects_have_another_place_in_the_storage(asked, tmp_path):
    write_suspects_page(asked.suspects[::-1], asked.photos, {}, tmp_path)
    assert data_of(tmp_path / "suspects.html")["key"] != data_of(asked.page)["key"]
    write_suspects_page(asked.suspects, asked.photos, {"2": "another name"}, tmp_path)
    assert data_of(tmp_path / "suspects.html")["key"] == data_of(asked.page)["key"]


@pytest.mark.slow
def test_the_download_is_what_was_chosen(asked, download):
    script = click(0, "keep") + click(2, "relabel") + click(3, "remove") + SAVE
    rows = rows_of(download(asked.page, script, "corrections.csv"))
    typeids, labels = asked.photos.typeids, asked.photos.labels
    own = [typeids[labels[suspect.index]] for suspect in asked.suspects]
    assert rows == [
        [asked.images[0], "keep", own[0]],
        [asked.images[2], "relabel", typeids[asked.suspects[2].suggested]],
        [asked.images[3], "remove", own[3]],
    ]
    assert rows[1][2] != own[2]


@pytest.mark.slow
def test_nothing_is_downloaded_before_anything_is_decided(asked, browse):
    watch = "HTMLAnchorElement.prototype.click = () => { document.title = 'downloaded'; };"
    dom = browse(asked.page, watch + SAVE)
    assert title_of(dom) != "downloaded"
    assert "Nothing is decided yet" in dom
    assert title_of(browse(asked.page, watch + click(0, "keep") + SAVE)) == "downloaded"


@pytest.mark.slow
def test_hostile_names_are_shown_and_not_run(hostile, browse):
    dom = browse(hostile.page)
    assert title_of(dom) == "10 labels to check"
    assert "<img src=x" not in dom
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in dom
    assert "&lt;script&gt;document.title='run'&lt;/script&gt; (2)" in dom
    assert "\u202e" not in dom
    assert dom.count("not UTF-8 text") == 1 + dom.count('"The name of this file is not UTF-8 text')
    assert dom.count('class="choices"') == 9
    assert "0 of 9 decided" in dom


@pytest.mark.slow
def test_hostile_names_come_back_from_the_download_as_they_were(hostile, download):
    choose_all = "document.querySelectorAll('.relabel').forEach((button) => button.click());"
    # A key chooses nothing where there are no buttons.
    choose_all += press(["k"] * 10 + ["j", "j"] * 5)
    rows = rows_of(download(hostile.page, choose_all + SAVE, "corrections.csv"))
    typeids = hostile.photos.typeids
    assert rows == [
        [image, "relabel", typeids[suspect.suggested]]
        for image, suspect in zip(hostile.images, hostile.suspects, strict=True)
        if "\udce9" not in image
    ]


@pytest.mark.slow
def test_a_key_decides_nothing_that_the_download_could_not_name(hostile, browse):
    place = next(i for i, image in enumerate(hostile.images) if "\udce9" in image)
    dom = browse(hostile.page, press(["j"] * place + ["1", "2", "3"]) + TELL)
    assert title_of(dom).endswith("| 0 of 9 decided")


def test_the_page_asks_for_nothing_from_the_network(asked):
    links = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: links.extend(
        value for name, value in attributes if name in ("src", "href")
    )
    text = asked.page.read_text(encoding="utf-8")
    parser.feed(text)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "default-src 'none'" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asked", "hostile"])
def test_on_a_phone_nothing_is_wider_and_a_thumb_finds_the_buttons(name, request, browse, tmp_path):
    """In a frame: a window of Chromium's is at least 500 pixels wide."""
    inside = add_script(
        request.getfixturevalue(name).page,
        "parent.postMessage([document.documentElement.scrollWidth, innerWidth, "
        "Math.min(...[...document.querySelectorAll('button')].map((button) => "
        "button.getBoundingClientRect().height))].join(' '), '*');",
        tmp_path / "inside.html",
    )
    (tmp_path / "phone.html").write_text(
        "<!doctype html><title>none</title><body><script>"
        "addEventListener('message', (event) => { document.title = event.data; });</script>"
        f'<iframe src="{inside}" style="width: 390px; height: 844px; border: 0"></iframe></body>'
    )
    widest, width, lowest = map(float, title_of(browse(tmp_path / "phone.html")).split())
    assert width == 390
    assert widest <= width
    assert lowest >= 44


@pytest.mark.slow
def test_on_a_desk_nothing_is_wider_than_the_screen(hostile, browse):
    tell = "document.title = document.documentElement.scrollWidth - innerWidth;"
    assert int(title_of(browse(hostile.page, tell))) <= 0


def test_the_first_150_and_60_groups_are_shown_and_the_rest_is_counted(tmp_path):
    photos = Photos([f"gone/2_{i}.jpg" for i in range(400)], np.arange(400) % 2, ["2", "10"])
    probabilities = np.eye(2)[1 - photos.labels]
    groups = [[i, i + 2] for i in range(0, 280, 4)] + [[*range(300, 316, 2), 317]]
    found = find_suspects(photos, probabilities, np.zeros((400, 2)), np.zeros(400), groups)
    write_suspects_page(found, photos, {}, tmp_path, groups)
    text, data = (tmp_path / "suspects.html").read_text(), data_of(tmp_path / "suspects.html")
    assert "The first 150 of 400 are here; all are in suspects.csv" in text
    assert len(data["suspects"]) == 150
    assert "71, of which 1 are under several classes" in text
    assert len(data["groups"]) == 60
    # The one of two classes comes first, and both are among the few that it shows.
    assert data["groups"][0]["size"] == 9
    shown = {photos.labels[index] for index in data["groups"][0]["members"]}
    assert shown == {0, 1}
    assert len(data["groups"][0]["members"]) == 6


@pytest.mark.slow
def test_a_photo_that_vanished_is_said_to_be_lost_and_no_other_shown_for_it(tmp_path, browse):
    raw = make_raw(tmp_path / "raw", photos_per_class=2)
    asked = ask(tmp_path, raw, list(COLOURS), [0])
    (raw / asked.images[0]).unlink()
    write_suspects_page(asked.suspects, asked.photos, {}, tmp_path)
    dom = browse(asked.page)
    assert dom.count('<div class="lost">') == 1
    assert asked.images[0] in dom


@pytest.mark.slow
def test_no_suspects_are_a_page_too(tmp_path, browse):
    asked = ask(tmp_path, make_raw(tmp_path / "raw", photos_per_class=2), list(COLOURS), [])
    dom = browse(asked.page, press(["j", "k", "1"]) + SAVE)
    assert title_of(dom) == "0 labels to check"
    assert "No label looks wrong." in dom
    assert "None among these photos." in dom
    assert (tmp_path / "suspects.csv").read_text() == "image,typeid,suggested,score\n"


@pytest.mark.slow
def test_the_page_stays_below_five_megabytes(tmp_path, shared):
    """Real photos: drawn ones would compress in another way."""
    paths = sorted((shared / "dogs24" / "raw").iterdir())
    rng = np.random.default_rng(0)
    photos = Photos(
        [str(path) for path in paths], rng.integers(0, 24, len(paths)), list(map(str, range(24)))
    )
    probabilities = rng.dirichlet(np.ones(24), len(paths))
    groups = rng.permutation(len(paths))[:360].reshape(60, 6).tolist()
    features = rng.normal(size=(len(paths), 4))
    found = find_suspects(photos, probabilities, features, np.zeros(len(paths)), groups)
    write_suspects_page(found, photos, {}, tmp_path, groups)
    assert len(data_of(tmp_path / "suspects.html")["suspects"]) == 150
    assert (tmp_path / "suspects.html").stat().st_size < 5e6


@pytest.mark.slow
def test_from_click_and_key_to_the_sorted_folder_and_back(asked, download, tmp_path):
    script = click(0, "relabel") + press(["j", "3", "1"]) + SAVE  # the second out, the third kept
    corrections = download(asked.page, script, "corrections.csv")

    def sort(*flags):
        done = run_script("img2keras.py", "--raw", asked.raw, "--out", tmp_path / "data", *flags)
        assert done.returncode == 0, done.stderr
        sides = [tmp_path / "data" / side for side in ("train", "valid")]
        return {path.name: path.parts[-3:-1] for side in sides for path in side.glob("*/*")}

    before = sort()
    after = sort("--corrections", corrections)
    typeids, (moved, left_out) = asked.photos.typeids, asked.images[:2]
    side, _ = before[moved]
    assert after[moved] == (side, typeids[asked.suspects[0].suggested])
    assert left_out in before
    assert left_out not in after
    assert before.keys() - after.keys() == {left_out}
    assert all(after[name] == before[name] for name in after if name != moved)
    assert sort() == before


def test_of_a_large_group_a_few_of_each_class_are_shown(tmp_path):
    """As of a site whose missing pictures all are one picture."""
    labels = np.array([0] * 5000 + [1, 2, 1])
    shown = describe_group(range(len(labels)), labels)
    assert shown == {"size": 5003, "classes": 3, "members": [0, 5000, 5001, 1, 5002, 2]}
