"""Raw photos in class folders: sorted as the same photos named `typeid_hash.jpg`."""

import os
import shutil

import pytest
from conftest import assert_one_line_error, make_photo, make_raw, run_script

import img2keras
from pairs.errors import UserError
from pairs.photos.raw import read_raw


def in_class_folders(flat, raw):
    """Copies photos named `typeid_hash.jpg` to `raw/typeid/hash.jpg`."""
    for path in flat.iterdir():
        typeid, _, name = path.name.partition("_")
        (raw / typeid).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, raw / typeid / name)
    return raw


def files(folder):
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def flat(tmp_path):
    return make_raw(tmp_path / "flat")


@pytest.fixture
def raw(flat, tmp_path):
    return in_class_folders(flat, tmp_path / "raw")


@pytest.mark.parametrize("seed", [0, 1])
def test_class_folders_are_sorted_as_the_same_photos_in_one_folder(flat, raw, tmp_path, seed):
    before = files(raw)
    for source in (flat, raw):
        img2keras.sort_photos(source, tmp_path / f"of-{source.name}", 0.3, seed)
    assert files(tmp_path / "of-raw") == files(tmp_path / "of-flat")
    assert len(files(tmp_path / "of-raw")) == 24
    assert files(raw) == before


def test_the_folder_above_the_photos_is_refused(flat, tmp_path):
    """Its folders would be two classes, the photos to predict one of them."""
    data = tmp_path / "data"
    for name in ("raw", "test"):
        shutil.copytree(flat, data / name)
    with pytest.raises(UserError, match=r"holds raw and test, which are no classes.*data/raw"):
        img2keras.sort_photos(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for number in range(3):  # a class beside a class named raw
        (data / "pug").mkdir(exist_ok=True)
        make_photo(data / "pug" / f"{number}.jpg", (9, 9, 9), seed=900 + number)
    img2keras.sort_photos(data, tmp_path / "out")


def test_a_typeid_may_hold_an_underscore_where_it_is_a_folder(raw, tmp_path):
    (raw / "pug").rename(raw / "golden_retriever")
    (raw / "10").rename(raw / "golden_poodle")
    img2keras.sort_photos(raw, tmp_path / "out")
    placed = {tuple(path.split("/")[1:]) for path in files(tmp_path / "out")}
    assert {typeid for typeid, _ in placed} == {"2", "golden_retriever", "golden_poodle"}
    assert all(name.startswith(f"{typeid}_") for typeid, name in placed)


def test_names_that_begin_with_their_typeid_stay(flat, tmp_path):
    raw = tmp_path / "raw"
    for path in flat.iterdir():
        (raw / path.name.partition("_")[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, raw / path.name.partition("_")[0])
    img2keras.sort_photos(raw, tmp_path / "out")
    placed = {path.rpartition("/")[2] for path in files(tmp_path / "out")}
    assert placed == {path.name for path in flat.iterdir()}


def test_again_with_another_seed_photos_move_and_are_not_doubled(raw, tmp_path):
    out = tmp_path / "out"
    img2keras.sort_photos(raw, out)
    before = files(out)
    assert img2keras.sort_photos(raw, out).num_written == 0
    moved = img2keras.sort_photos(raw, out, seed=1)
    assert moved.num_removed == moved.num_written > 0
    assert sorted(files(out).values()) == sorted(before.values())
    img2keras.sort_photos(raw, out, link=True)
    assert files(out) == before


@pytest.mark.parametrize("spelled", ["2_1,0.jpg", "2/1,0.jpg"])
def test_a_relabelled_photo_does_not_meet_one_of_the_same_number(raw, tmp_path, spelled):
    # Class folders often number their photos alike.
    number = "1,0.jpg"
    shutil.copy(raw / "pug" / "0,2.jpg", raw / "pug" / number)
    pug = (raw / "pug" / number).read_bytes()
    file = tmp_path / "corrections.csv"
    file.write_text(f'image,decision,typeid\n"{spelled}",relabel,pug\n')
    result = img2keras.sort_photos(raw, tmp_path / "out", corrections=[file])
    assert result.relabelled == [("2/1,0.jpg", "2", "pug")]
    by_place = {path.partition("/")[2]: found for path, found in files(tmp_path / "out").items()}
    assert by_place["pug/2_1,0.jpg"] == (raw / "2" / number).read_bytes()
    assert by_place["pug/pug_1,0.jpg"] == pug
    assert "2/2_1,0.jpg" not in by_place


def test_what_is_no_photo_in_a_class_folder_is_listed(raw, tmp_path):
    photo = (raw / "2" / "0,0.jpg").read_bytes()
    bad = {
        "2/notes.txt": "not named as a photo",
        "2/.hidden.jpg": "a hidden file",
        "pug/torn.jpg": "",
        "cover.jpg": "no '_' in the name",
    }
    for name in bad:
        (raw / name).write_bytes(photo[:200] if "torn" in name else photo)
    folders = {
        "2/more": "a folder in a class folder",
        "empty": "a folder without a photo in it",
        ".cache": "a hidden folder",
        "a\nb": "holds the unprintable",
    }
    for name in folders:
        (raw / name).mkdir()
        if name not in ("2/more", "empty"):
            (raw / name / "1.jpg").write_bytes(photo)
    (raw / "loop").symlink_to("loop")
    os.mkfifo(raw / "2" / "pipe.jpg")
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("skipped")]
    for name, reason in {**bad, **folders, "2/pipe.jpg": "regular", "loop": "nowhere"}.items():
        assert any(repr(name) in line and reason in line for line in lines), name
    assert len(lines) == len(bad) + len(folders) + 2
    assert "3 classes, 24 photos: 24 written" in done.stdout


def test_a_class_folder_that_is_a_link_is_followed(raw, tmp_path):
    (raw / "pug").rename(tmp_path / "elsewhere")
    (raw / "pug").symlink_to(tmp_path / "elsewhere")
    assert set(read_raw(raw)[0]) == {"2", "10", "pug"}


def test_beside_photos_that_have_their_typeid_folders_are_none(flat, tmp_path):
    shutil.copytree(flat, flat / "backup")
    classes, skipped = read_raw(flat)
    assert set(classes) == {"2", "10", "pug"}
    assert skipped == [("backup", "a folder beside photos named typeid_hash.jpg")]


def test_two_photos_that_would_have_one_name_are_refused(raw, tmp_path):
    shutil.copytree(raw / "2", raw / "pug_2")
    shutil.copy(raw / "2" / "0,0.jpg", raw / "pug" / "2_0,0.jpg")
    with pytest.raises(UserError, match=r"'pug/2_0,0.jpg' and 'pug_2/0,0.jpg' would both be"):
        read_raw(raw)


def test_a_name_too_long_with_its_typeid_is_skipped_and_all_others_are_sorted(raw, tmp_path):
    names = ("a" * 246 + ".jpg", "a" * 247 + ".jpg")  # with pug_ 254 and 255 bytes
    too_long = "a" * 248 + ".jpg"
    for name, source in zip((*names, too_long), sorted((raw / "pug").iterdir()), strict=False):
        source.rename(raw / "pug" / name)
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert f"skipped: 'pug/{too_long}': too long a name" in done.stdout
    assert "23 photos: 23 written" in done.stdout


def test_a_few_photos_with_a_typeid_do_not_hide_all_class_folders(raw, flat, tmp_path):
    for path in sorted(flat.iterdir())[:2]:
        shutil.copy(path, raw / path.name.replace("_", "_stray"))
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert_one_line_error(done, "24 photos in class folders, and beside them 2 named", "Move the")
    assert not (tmp_path / "out").exists()
