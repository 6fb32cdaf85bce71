import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import COLOURS, ROOT, assert_one_line_error, make_photo, make_raw, run_script
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import img2keras
from pairs.demo.breeds import draw_breeds
from pairs.errors import UserError
from pairs.photos import place, split
from pairs.photos import raw as raw_photos
from pairs.photos.find import find_class_photos


def tree(folder):
    """Every file below a folder with its bytes, inode and time of change."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sides(out):
    """Names of the photos on either side."""
    return [{path.name for path in (out / side).rglob("*.jpg")} for side in ("train", "valid")]


def test_every_photo_lands_once_in_the_folder_of_its_class(tmp_path):
    raw = make_raw(tmp_path / "raw")
    img2keras.sort_photos(raw, tmp_path / "out")
    train, valid = sides(tmp_path / "out")
    assert train.isdisjoint(valid)
    assert train | valid == {path.name for path in raw.iterdir()}
    for path in (tmp_path / "out").rglob("*.jpg"):
        assert path.parent.name == path.name.split("_")[0]
        assert path.read_bytes() == (raw / path.name).read_bytes()


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(2, 0.1, 1), (2, 0.9, 1), (70, 0.1, 7), (8, 0.99, 7)]
)
def test_each_class_has_its_share_and_at_least_one_photo_on_either_side(count, fraction, expected):
    names = [f"a_{number}.jpg" for number in range(count)]
    assert len(split.split_class("a", names, fraction, seed=0)) == expected


def test_of_pairs_alone_another_seed_chooses_another():
    groups = {f"{pair}_{number}": f"pair {pair}" for pair in range(5) for number in range(2)}
    chosen = {
        tuple(sorted(split.split_class("dog", list(groups), 0.1, seed, groups)))
        for seed in range(20)
    }
    assert chosen <= {(f"{pair}_0", f"{pair}_1") for pair in range(5)}
    assert len(chosen) > 2


def test_the_split_does_not_depend_on_directory_order_or_machine():
    names = [f"7_{number}.jpg" for number in range(10)]
    chosen = split.split_class("7", names, 0.3, seed=0)
    assert split.split_class("7", names[::-1], 0.3, seed=0) == chosen
    # Fixed when first written: any later change would mix up people's splits.
    assert chosen == {"7_0.jpg", "7_7.jpg", "7_9.jpg"}
    assert split.split_class("7", names, 0.3, seed=1) != chosen


def test_running_again_changes_nothing(tmp_path):
    raw = make_raw(tmp_path / "raw")
    img2keras.sort_photos(raw, tmp_path / "out")
    before = tree(tmp_path)
    assert img2keras.sort_photos(raw, tmp_path / "out").num_written == 0
    assert tree(tmp_path) == before


def test_sources_are_copied_and_linked_only_when_asked(tmp_path):
    raw = make_raw(tmp_path / "raw")
    before = tree(raw)
    img2keras.sort_photos(raw, tmp_path / "copies")
    img2keras.sort_photos(raw, tmp_path / "links", link=True)
    assert tree(raw) == before
    for name in ("2_0,0.jpg", "10_3,1.jpg"):
        source = (raw / name).stat().st_ino
        assert next((tmp_path / "links").rglob(name)).stat().st_ino == source
        assert next((tmp_path / "copies").rglob(name)).stat().st_ino != source


def test_a_link_to_a_photo_is_copied_and_linked_as_the_photo(tmp_path):
    store = make_raw(tmp_path / "store")
    (tmp_path / "raw").mkdir()
    for path in store.iterdir():
        (tmp_path / "raw" / path.name).symlink_to(os.path.relpath(path, tmp_path / "raw"))
    for number, link in enumerate((True, False)):
        for _ in range(2):
            img2keras.sort_photos(tmp_path / "raw", tmp_path / f"out{number}", link=link)
        for path in (tmp_path / f"out{number}").rglob("*.jpg"):
            assert not path.is_symlink()
            assert path.read_bytes() == (store / path.name).read_bytes()


def test_what_a_file_manager_leaves_does_not_block_a_second_run(tmp_path):
    raw = make_raw(tmp_path / "raw")
    img2keras.sort_photos(raw, tmp_path / "out")
    (tmp_path / "out" / "train" / "10" / "Thumbs.db").write_bytes(b"")
    assert img2keras.sort_photos(raw, tmp_path / "out").num_written == 0


def test_what_a_disk_station_leaves_does_not_block_a_second_run(tmp_path):
    raw = make_raw(tmp_path / "raw")
    img2keras.sort_photos(raw, tmp_path / "out")
    for left in ("train/2/@eaDir/2_1.jpg", "train/__MACOSX/2_1.jpg", "valid/.cache/2_1.jpg"):
        (tmp_path / "out" / left).parent.mkdir(parents=True)
        shutil.copy(raw / "2_1,0.jpg", tmp_path / "out" / left)
    assert img2keras.sort_photos(raw, tmp_path / "out").num_written == 0


def test_commas_spaces_and_unicode_in_names_are_kept(tmp_path):
    raw = make_raw(tmp_path / "raw")
    names = ["西藏 獒_1,2 (copy).jpg", "西藏 獒_ü_3.JPG"]
    for seed, name in enumerate(names):
        make_photo(raw / name, (9, 9, 9), seed)
    img2keras.sort_photos(raw, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").rglob("*") if path.parent.name == "西藏 獒"}
    assert found == set(names)


def test_what_is_skipped_is_named_with_its_reason(tmp_path):
    raw = make_raw(tmp_path / "raw")
    photo = (raw / "2_0,0.jpg").read_bytes()
    bad = {
        "nounderscore.jpg": "no '_'",
        "_1.jpg": "nothing before",
        "7_lonely.jpg": "no other photo of its class; one",
        "8_one.jpg": "no other photo of its class but copies of it; one",
        "8_two.jpg": "no other photo of its class but copies of it; one",
        "notes.txt": "not named as a photo",
        ".._1.jpg": "hidden",
        "a\\b_1.jpg": "cannot be a folder name",
        "a\nb_1.jpg": "holds the unprintable",
    }
    for name in bad:
        (raw / name).write_bytes(photo)
    (raw / "3_folder.jpg").mkdir()
    os.mkfifo(raw / "3_pipe.jpg")
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("skipped")]
    assert len(lines) == len(bad) + 2
    for name, reason in bad.items():
        assert any(repr(name) in line and reason in line for line in lines), name
    assert "24 photos: 24 written, 0 there already, 11 skipped" in done.stdout
    assert sum(len(side) for side in sides(tmp_path / "out")) == 24
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path: found for path, (found, *_) in tree(folder).items()}


def test_what_is_sorted_again_is_as_if_it_were_sorted_for_the_first_time(tmp_path):
    """More photos, and another seed and fraction, send photos to the other side."""
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    img2keras.sort_photos(raw, out)
    for number in range(8, 30):
        make_photo(raw / f"2_{number},0.jpg", COLOURS["2"], 1000 + number)
    for seed, fraction in ((0, 0.1), (0, 0.3), (1, 0.3)):
        num_removed = img2keras.sort_photos(raw, out, fraction, seed).num_removed
        fresh = tmp_path / f"fresh-{seed}-{fraction}"
        img2keras.sort_photos(raw, fresh, fraction, seed)
        assert contents(out) == contents(fresh)
    assert num_removed > 0
    done = run_script("img2keras.py", "--raw", raw, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "old places removed" in done.stdout


def test_photos_that_are_no_longer_raw_are_counted_and_kept(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    img2keras.sort_photos(raw, out)
    for name in ("2_0,0.jpg", "2_1,0.jpg"):
        (raw / name).unlink()
    before = tree(tmp_path)
    done = run_script("img2keras.py", "--raw", raw, "--out", out)
    assert_one_line_error(done, "2 photos in", "no copies of usable photos in --raw", "Remove")
    assert done.stdout.count("no copy of a photo in ") == 2
    assert tree(tmp_path) == before
    other = make_raw(tmp_path / "other", 4)
    done = run_script("img2keras.py", "--raw", other, "--out", out)
    assert_one_line_error(done, "no copies of usable photos in --raw")  # nothing says of which
    assert run_script("img2keras.py", "--raw", other, "--out", tmp_path / "new").returncode == 0
    shutil.rmtree(other)
    make_raw(other, 3)
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "new")
    assert_one_line_error(done, f"was sorted from {other}, and holds ", "Choose that --raw")


def test_a_different_photo_of_the_same_name_is_never_overwritten(tmp_path):
    raw = make_raw(tmp_path / "raw")
    img2keras.sort_photos(raw, tmp_path / "out")
    target = next((tmp_path / "out").rglob("2_0,0.jpg"))
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="differs from"):
        img2keras.sort_photos(raw, tmp_path / "out")
    assert target.read_bytes() == b"mine"


def test_missing_or_empty_raw_folder_is_one_line(tmp_path):
    done = run_script("img2keras.py", "--raw", tmp_path / "none", "--out", tmp_path)
    assert_one_line_error(done, "no such folder")
    done = run_script("img2keras.py", "--raw", tmp_path, "--out", tmp_path / "out")
    assert_one_line_error(done, "no class with two different photos")


def test_what_cannot_be_read_is_skipped_and_what_can_is_used(tmp_path):
    raw = make_raw(tmp_path / "raw")
    whole = (raw / "2_0,0.jpg").read_bytes()
    (raw / "2_cut.jpg").write_bytes(whole[: len(whole) // 2])
    (raw / "2_empty.jpg").write_bytes(b"")
    (raw / "2_page.jpg").write_bytes(b"<html>404 not found</html>")
    (raw / "2_nowhere.jpg").symlink_to(tmp_path / "nowhere")
    (raw / "2_circle.jpg").symlink_to(raw / "2_circle.jpg")
    broken = {"2_cut.jpg", "2_empty.jpg", "2_page.jpg", "2_nowhere.jpg", "2_circle.jpg"}
    result = img2keras.sort_photos(raw, tmp_path / "out")
    assert {name for name, _ in result.skipped} == broken
    assert len(result.places) == 24


def test_copies_of_one_photo_are_named_and_stay_on_one_side(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for number in range(6):
        shutil.copy(raw / "2_0,0.jpg", raw / f"2_copy{number}.jpg")
    shutil.copy(raw / "pug_1,2.jpg", raw / "10_stolen.jpg")
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    copies = next(line for line in done.stdout.splitlines() if line.startswith("copies of one"))
    assert copies.count(".jpg") == 7
    assert "two typeids, none for validation: '10_stolen.jpg', 'pug_1,2.jpg'" in done.stdout
    train, valid = sides(tmp_path / "out")
    same = {"2_0,0.jpg", *(f"2_copy{number}.jpg" for number in range(6))}
    assert same <= train or same <= valid
    assert {"10_stolen.jpg", "pug_1,2.jpg"} <= train


def test_a_copy_in_a_class_that_is_skipped_makes_a_photo_unfit_for_validation(tmp_path):
    raw = make_raw(tmp_path / "raw")
    img2keras.sort_photos(raw, tmp_path / "plain")
    valid = {name for name in sides(tmp_path / "plain")[1] if name.startswith("2_")}
    for name in valid:
        shutil.copy(raw / name, raw / f"typo{name[0]}_{name}")
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    train, now_valid = sides(tmp_path / "out")
    assert valid <= train
    assert any(name.startswith("2_") for name in now_valid)
    for name in valid:
        listed = f"one photo under two typeids, none for validation: '{name}', 'typo2_{name}'"
        assert listed in done.stdout
    assert "copies of one photo" not in done.stdout


def test_one_class_in_two_spellings_is_noticed(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for number, typeid in enumerate(["Caf\u00e9", "Cafe\u0301", "cafe"]):
        for photo in range(2):
            make_photo(raw / f"{typeid}_{photo}.jpg", (9, 9, 9), 700 + 2 * number + photo)
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (note,) = (line for line in done.stdout.splitlines() if line.startswith("note: the typeids"))
    assert r"'Cafe\u0301', 'Caf\xe9' differ in their spelling only" in note


def test_classes_may_be_named_as_the_sides_are(tmp_path):
    for number, typeid in enumerate(("train", "valid", "other")):
        for photo in range(3):
            (tmp_path / "raw").mkdir(exist_ok=True)
            make_photo(tmp_path / "raw" / f"{typeid}_{photo}.jpg", (9, 9, 9), 3 * number + photo)
    img2keras.sort_photos(tmp_path / "raw", tmp_path / "out")
    found = find_class_photos(tmp_path / "out" / "train")
    assert found.typeids == ["other", "train", "valid"]
    with pytest.raises(UserError, match=r"class folders are expected; is it .*out/train or"):
        find_class_photos(tmp_path / "out")


def resave(path, target, mirror=False):
    """Writes a near-duplicate of a photo."""
    with Image.open(path) as image:
        image = ImageOps.mirror(image) if mirror else image
        image.resize((120, 90)).save(target, quality=80)


def make_scenes(folder):
    """Drawn photos of twelve typeids, eight each."""
    draw_breeds(folder, 8, seed=0)
    return sorted(folder.glob("*.jpg"))


def test_near_duplicates_are_named_and_stay_on_one_side(tmp_path):
    scenes = make_scenes(tmp_path / "raw")
    dogs = [path for path in scenes if path.name.startswith("33_")]
    for number, dog in enumerate(dogs):
        resave(dog, dog.with_name(f"33_again{number}.jpg"), mirror=number % 2 == 1)
    shutil.copy(dogs[0], dogs[0].with_name("33_copy.jpg"))
    fair = next(path for path in scenes if path.name.startswith("88_"))
    resave(fair, fair.with_name("64_stolen.jpg"))
    chosen = set()
    for seed in range(3):
        out = tmp_path / f"out{seed}"
        flags = ("--raw", tmp_path / "raw", "--out", out, "--valid-fraction", 0.3, "--seed", seed)
        done = run_script("img2keras.py", *flags)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert sum(line.startswith("near-duplicates, kept on one side: ") for line in lines) == 8
        stolen = f"under two typeids, none for validation: '64_stolen.jpg', '{fair.name}'"
        assert lines.count(f"near-duplicates {stolen}") == 1
        copies = next(line for line in lines if line.startswith("copies of one photo, kept"))
        assert copies.endswith(f": '{dogs[0].name}', '33_copy.jpg'")
        train, valid = sides(out)
        for number, dog in enumerate(dogs):
            group = {dog.name, f"33_again{number}.jpg", *(["33_copy.jpg"] if not number else [])}
            assert group <= train or group <= valid
        assert {"64_stolen.jpg", fair.name} <= train
        assert any(name.startswith("33_") for name in valid)
        chosen.add(frozenset(valid))
    assert len(chosen) == 3


def test_a_class_of_near_duplicates_of_one_photo_is_for_training(tmp_path):
    scenes = make_scenes(tmp_path / "raw")
    make_raw(tmp_path / "raw")
    for number in range(2):
        resave(scenes[0], scenes[0].with_name(f"solo_{number}.jpg"), mirror=bool(number))
    scenes[0].unlink()
    img2keras.sort_photos(tmp_path / "raw", tmp_path / "out")
    train, valid = sides(tmp_path / "out")
    assert {"solo_0.jpg", "solo_1.jpg"} <= train
    assert len({name.split("_")[0] for name in valid}) == 13


def test_photos_that_are_all_alike_leave_nothing_to_validate_on(tmp_path):
    scenes = make_scenes(tmp_path / "raw")
    for number, path in enumerate(scenes):
        if number < 2:
            resave(path, path.with_name(f"a{number}_again.jpg"), mirror=True)
            shutil.copy(path, path.with_name(f"a{number}_same.jpg"))
        path.unlink()
    done = run_script("img2keras.py", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert_one_line_error(done, "no photo is left for validation", "Add photos that differ")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.jpg"))


def test_very_many_near_duplicates_are_not_all_listed(capsys):
    groups = [[("2", f"2_{number}.jpg"), ("2", f"2_{number}b.jpg")] for number in range(25)]
    groups.append([("2", "2_x.jpg"), ("3", "3_x.jpg")])
    img2keras.print_groups(groups, "near-duplicates", "near-duplicates")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("near-duplicates under two typeids, none for validation")
    assert len(lines) == 22
    assert lines[-1] == "near-duplicates, kept on one side: and 5 more"


def test_a_class_of_copies_of_one_photo_has_nothing_to_validate_on(tmp_path):
    raw = make_raw(tmp_path / "raw")
    make_photo(raw / "solo_1.jpg", (9, 9, 9), seed=0)
    shutil.copy(raw / "solo_1.jpg", raw / "solo_2.jpg")
    result = img2keras.sort_photos(raw, tmp_path / "out")
    assert [name for name, _ in result.skipped] == ["solo_1.jpg", "solo_2.jpg"]


def test_hostile_names_never_leave_the_folder(tmp_path):
    raw = make_raw(tmp_path / "raw")
    names = [
        *("-rf_1.jpg", "-rf_2.jpg", "Pug_1.jpg", "Pug_2.jpg", f"long_{'x' * 245}.jpg"),
        *("long_2.jpg", "...._1.jpg", "..\\_1.jpg", ".DS_Store", "Thumbs.db", "tab\t_1.jpg"),
        *(os.fsdecode(b"\xff\xfe_1.jpg"), "nul\x01_1.jpg", "a\nb_1.jpg", " _1.jpg", "2_a\tb.jpg"),
    ]
    for seed, name in enumerate(names):
        make_photo(tmp_path / "photo.jpg", (9, 99, 9), seed=1000 + seed)
        shutil.move(tmp_path / "photo.jpg", raw / name)
    done = run_script("img2keras.py", "--raw", raw, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    classes = {
        path.name for side in ("train", "valid") for path in (tmp_path / "out" / side).iterdir()
    }
    assert classes == {*COLOURS, "-rf", "Pug", "long"}
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}
    assert all(line.isprintable() for line in done.stdout.splitlines())


@given(
    names=st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=40, unique=True),
    copies=st.lists(st.integers(0, 9), min_size=40, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_any_split_keeps_copies_together_and_both_sides_filled(names, copies, fraction, seed):
    digests = dict(zip(names, map(str, copies), strict=False))
    valid = split.split_class("64", names, fraction, seed, digests)
    train = set(names) - valid
    assert valid == split.split_class("64", names[::-1], fraction, seed, digests)
    assert {digests[name] for name in valid}.isdisjoint(digests[name] for name in train)
    assert train
    assert bool(valid) == (len(set(digests.values())) > 1)
    sizes = [list(digests.values()).count(digest) for digest in set(digests.values())]
    if valid:  # as many as asked for, unless one photo has too many copies
        assert len(valid) <= max(1, round(fraction * len(names)), min(sizes))


@given(name=st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=60))
def test_no_name_makes_a_typeid_that_leads_out(name):
    name = f"{name}.jpg"
    if raw_photos.why_no_typeid(name) is None:
        typeid = name.partition("_")[0]
        folder = os.path.normpath(os.path.join("/out/train", typeid))
        assert os.path.dirname(folder) == "/out/train"
        assert len(typeid.splitlines()) == 1
        assert "\t" not in typeid


def test_typeids_are_ordered_by_value():
    typeids = sorted(["10", "2", "pug", "0", "133"], key=img2keras.typeid_order)
    assert typeids == ["0", "2", "10", "133", "pug"]


def test_dogs24_is_sorted_one_in_ten_of_each_breed(shared, tmp_path):
    result = img2keras.sort_photos(shared / "dogs24" / "raw", tmp_path)
    assert (len(result.places), result.skipped) == (1680, [])
    counts = [len(list(folder.iterdir())) for folder in (tmp_path / "valid").iterdir()]
    assert counts == [7] * 24


def test_a_photo_under_two_typeids_is_never_for_validation(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for number in range(6):
        shutil.copy(raw / f"2_{number},0.jpg", raw / f"10_copy{number}.jpg")
    for seed in range(5):
        result = img2keras.sort_photos(raw, tmp_path / str(seed), valid_fraction=0.3, seed=seed)
        in_two = {name for group in result.copies for _, name in group}
        assert len(in_two) == 12
        assert {result.places[name].parts[0] for name in in_two} == {"train"}


def test_a_changed_photo_of_the_same_size_and_time_is_not_taken_for_the_old_one(tmp_path):
    raw = make_raw(tmp_path / "raw")
    places = img2keras.sort_photos(raw, tmp_path / "out").places
    target = tmp_path / "out" / places["2_0,0.jpg"]
    before = target.stat()
    content = bytearray(target.read_bytes())
    content[-10] ^= 1
    target.write_bytes(content)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="differs from"):
        img2keras.sort_photos(raw, tmp_path / "out")


def test_typeids_that_the_disk_does_not_tell_apart_are_refused(tmp_path, monkeypatch):
    raw = make_raw(tmp_path / "raw")
    for number in range(3):
        make_photo(raw / f"Pug_{number}.jpg", (9, 9, 9), 500 + number)
    img2keras.sort_photos(raw, tmp_path / "out")  # this disk does
    assert {path.name for path in (tmp_path / "out" / "train").iterdir()} >= {"pug", "Pug"}
    assert place.tells_apart(tmp_path, "pug", "Pug")
    assert not place.tells_apart(tmp_path, "pug", "pug")
    monkeypatch.setattr(place, "tells_apart", lambda *_: False)
    with pytest.raises(UserError, match=r"typeids 'Pug' and 'pug' would share a place"):
        img2keras.sort_photos(raw, tmp_path / "other")
    assert not list((tmp_path / "other").glob("*/*/*"))


def test_the_plan_is_the_split_of_each_class_with_its_copies_together():
    """Twelve classes of ten photos, one of them in three copies."""
    classes = {str(label): [f"{label}_{number}.jpg" for number in range(12)] for label in range(12)}
    digests = {
        name: name if number < 9 else f"{typeid} copied"
        for typeid, names in classes.items()
        for number, name in enumerate(names)
    }
    copies_in_valid, choices = 0, set()
    for seed in range(4):
        places = split.plan_places(classes, digests, set(), valid_fraction=0.25, seed=seed)
        for typeid, names in classes.items():
            valid = {name for name in names if places[name].parts == ("valid", typeid, name)}
            assert {places[name].parts[0] for name in names} == {"train", "valid"}
            assert valid == split.split_class(typeid, names, 0.25, seed, digests)
            assert len(valid) == 3
            in_valid = [name in valid for name in names[9:]]
            assert all(in_valid) or not any(in_valid)
            copies_in_valid += all(in_valid)
            choices.add(frozenset(name.split("_")[1] for name in valid))
    assert copies_in_valid  # copies of one class are a fair question
    assert len(choices) > 24  # not the same places in every class


def test_of_two_photos_in_many_copies_the_one_in_fewer_is_for_validation():
    names = [f"a_{number}.jpg" for number in range(7)]
    digests = {name: "x" if number < 4 else "y" for number, name in enumerate(names)}
    for seed in range(4):
        assert split.split_class("a", names, 0.1, seed, digests) == set(names[4:])


def test_photos_are_not_sorted_into_their_own_folder(tmp_path):
    raw = make_raw(tmp_path / "raw")
    with pytest.raises(UserError, match="sort into another folder"):
        img2keras.sort_photos(raw, tmp_path / "raw" / ".." / "raw")


def test_photos_that_the_disk_does_not_tell_apart_are_refused(tmp_path, monkeypatch):
    raw = make_raw(tmp_path / "raw")
    for seed, name in enumerate(("pug_A.jpg", "pug_a.jpg")):
        make_photo(raw / name, (9, 9, 9), 500 + seed)
    monkeypatch.setattr(place, "tells_apart", lambda *_: False)
    with pytest.raises(UserError, match=r"photos 'pug_A.jpg' and 'pug_a.jpg' would share a place"):
        img2keras.sort_photos(raw, tmp_path / "out", valid_fraction=0.01)
    assert not list((tmp_path / "out").glob("*/*/*"))


def test_a_photo_that_a_training_would_take_is_not_overlooked(tmp_path):
    """A name without a typeid is none for the sorting; for a training every photo counts."""
    raw = make_raw(tmp_path / "raw")
    out = tmp_path / "out"
    img2keras.sort_photos(raw, out)
    shutil.copy(next((out / "valid").rglob("*.jpg")), out / "train" / "2" / "mine.jpg")
    with pytest.raises(UserError, match=r"1 photos in .* are no copies .*mine.jpg"):
        img2keras.sort_photos(raw, out)


def test_a_class_folder_on_another_disk_is_sorted_again_as_any(tmp_path):
    raw, out = make_raw(tmp_path / "raw"), tmp_path / "out"
    img2keras.sort_photos(raw, out)
    (out / "train" / "2").rename(tmp_path / "elsewhere")
    (out / "train" / "2").symlink_to(tmp_path / "elsewhere")
    for seed in range(1, 4):
        img2keras.sort_photos(raw, out, seed=seed)
        again = [
            {path.name for path in (out / side / "2").iterdir()} for side in ("train", "valid")
        ]
        assert again[0].isdisjoint(again[1])
        assert again[0] | again[1] == {path.name for path in raw.glob("2_*.jpg")}


def test_a_disk_that_takes_no_more_than_bytes_is_enough(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "utime", "setxattr"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    raw = make_raw(tmp_path / "raw")
    assert img2keras.sort_photos(raw, tmp_path / "out").num_written == len(list(raw.iterdir()))


def test_a_source_that_vanished_is_blamed_and_not_the_disk(tmp_path):
    gone = tmp_path / "2_gone.jpg"
    with pytest.raises(UserError, match=f"^{gone}: could not be read"):
        place.place_photo(gone, tmp_path / "out" / "2_gone.jpg", link=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs /proc")
def test_a_source_on_a_failing_disk_is_blamed_and_not_the_disk_that_is_written_to(tmp_path):
    broken = pathlib.Path("/proc/self/mem")  # opens; its first byte cannot be read
    target = tmp_path / "2_a.jpg"
    with pytest.raises(UserError, match=r"^/proc/self/mem: could not be read \(Input/output"):
        place.place_photo(broken, target, link=False)
    assert not list(tmp_path.iterdir())
    target.write_bytes(b"")
    with pytest.raises(UserError, match=r"/proc/self/mem and .* could not be compared"):
        place.has_same_bytes(broken, target)


def test_without_standard_output_the_work_is_done_all_the_same(tmp_path):
    raw = make_raw(tmp_path / "raw")
    words = f"{sys.executable} {ROOT / 'img2keras.py'} --raw {raw} --out {tmp_path / 'out'} >&-"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == len(list(raw.iterdir()))


def test_what_asks_the_outputs_of_a_service_gets_an_answer():
    # As Keras and tqdm do.
    code = "import sys; from pairs.command_line import run; run(lambda: print('1', file=sys.stderr)"
    code += " or sys.stdout.isatty() or sys.stdout.write('2') and sys.stderr.flush())"
    words = [*("bash", "-c", 'exec "$0" -c "$1" >&- 2>&-'), sys.executable, code]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 0


def test_an_error_about_flags_and_names_is_one_line_with_the_name_as_it_is(tmp_path):
    done = run_script("img2keras.py", "--raw", tmp_path, "--nothing", "a\nimg2keras.py: all fine")
    assert_one_line_error(done, "a img2keras.py: all fine")
    done = run_script("img2keras.py", "--raw", tmp_path / "two  spaces", "--out", tmp_path)
    assert_one_line_error(done, "two  spaces: no such folder")


def test_whoever_reads_only_the_first_lines_sees_no_error(tmp_path):
    raw = make_raw(tmp_path / "raw")
    words = [sys.executable, ROOT / "img2keras.py", "--raw", raw, "--out", tmp_path / "out"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == len(list(raw.iterdir()))
    # How they were sorted is known all the same to whoever sorts them again.
    assert json.loads((tmp_path / "out" / "sorting.json").read_text())["seed"] == 0


def test_no_name_moves_the_cursor_or_ends_a_command(tmp_path):
    """Standard output may be unable to show a name, and a terminal obeys what it should show."""
    raw = make_raw(tmp_path / "raw")
    make_photo(raw / "pug_\u85cf.jpg", (9, 9, 9), 500)
    (raw / "pug_\u85cf.txt").write_bytes(b"")
    words = [sys.executable, ROOT / "img2keras.py", "--raw", raw, "--out", tmp_path / "out"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "skipped: 'pug_\\u85cf.txt': not named as a photo" in done.stdout
    done = run_script("img2keras.py", "--raw", tmp_path / "\x1b[2J\u202e", "--out", tmp_path)
    assert_one_line_error(done, r"/\x1b[2J\u202e: no such folder")


@pytest.mark.parametrize("share", ["0", "1", "1.5", "nan"])
def test_a_share_of_none_or_all_is_refused(share, capsys):
    with pytest.raises(SystemExit) as ended:
        img2keras.parse_args(["--valid-fraction", share])
    assert ended.value.code == 2
    assert "a share between 0 and 1 is needed" in capsys.readouterr().err


def test_where_no_link_can_be_made_the_line_says_to_copy(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    make_photo(tmp_path / "2_a.jpg", COLOURS["2"], seed=0)
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UserError, match=r"cross-device link\); leave out --link to copy"):
        place.place_photo(tmp_path / "2_a.jpg", tmp_path / "out" / "2_a.jpg", link=True)
    assert not any((tmp_path / "out").iterdir())
