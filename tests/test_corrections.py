import csv
import io
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error, make_photo, make_raw, run_script
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import img2keras
from pairs.demo.breeds import draw_breeds
from pairs.errors import UserError
from pairs.files import guard_cell
from pairs.photos.corrections import read_corrections
from pairs.photos.place import SORTING

HEADER = "image,decision,typeid\n"
NAMES = {"2_a.jpg", "10_b.jpg", "pug_c.jpg", "notes.txt"}
TYPEIDS = {"2", "10", "pug"}


def tree(folder):
    """Every file and folder below a folder, files with their bytes; not the flags of a sorting."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != SORTING
    }


def write(path, *lines, header=HEADER):
    """Writes a file of corrections as it would be downloaded."""
    path.write_text(header + "".join(f"{line}\n" for line in lines))
    return path


def read(tmp_path, content):
    """What a file of this content says; bytes, or text in UTF-8."""
    path = tmp_path / "corrections.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_corrections([path], NAMES, TYPEIDS)


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw")


def of_side(out, side, typeid):
    """The photos of a class on one side, by name."""
    return sorted(path.name for path in (out / side / typeid).glob("*.jpg"))


def test_a_photo_to_remove_that_is_gone_already_is_a_note(tmp_path, capsys):
    known = sorted(NAMES)[0]
    content = f"image,decision,typeid\ngone_1.jpg,Remove ,2\n{known},remove,\n"
    assert read(tmp_path, content) == {known: None}
    assert "1 photos to remove are not in --raw" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"1 of its 2 images are not in --raw"):
        read(tmp_path, f"image,decision,typeid\ngone_1.jpg,keep,2\n{known},remove,\n")
    with pytest.raises(UserError, match=r"1 of its 1 images are not in --raw"):  # of other photos
        read(tmp_path, "image,decision,typeid\ngone_1.jpg,remove,2\n")


@pytest.mark.parametrize("link", [False, True])
def test_with_the_file_photos_move_and_without_it_all_is_as_it_was(raw, tmp_path, link):
    out = tmp_path / "out"
    img2keras.sort_photos(raw, out, link=link)
    plain, raw_before = tree(out), tree(raw)
    moved, gone = of_side(out, "train", "2")[:2]
    judged = of_side(out, "valid", "10")[0]
    file = write(
        tmp_path / "c.csv", f'"{moved}",relabel,pug', f'"{gone}",remove,2', f'"{judged}",relabel,2'
    )
    corrected = None
    for _ in range(2):
        flags = ("--raw", raw, "--out", out, "--corrections", file, *["--link"][: int(link)])
        done = run_script("img2keras.py", *flags)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert f"relabelled: '{moved}': '2' -> 'pug'" in lines
        assert f"relabelled: '{judged}': '10' -> '2'" in lines
        assert f"left out: '{gone}'" in lines
        assert "0 skipped, 2 relabelled, 1 left out" in lines[-1]
        assert ("3 old places removed" in lines[-1]) == (corrected is None)
        places = {str(path) for path, content in tree(out).items() if content is not None}
        expected = {str(path) for path, content in plain.items() if content is not None}
        expected -= {f"train/2/{moved}", f"train/2/{gone}", f"valid/10/{judged}"}
        assert places == expected | {f"train/pug/{moved}", f"valid/2/{judged}"}
        for name, typeid in ((moved, "train/pug"), (judged, "valid/2")):
            assert (out / typeid / name).samefile(raw / name) == link
        assert corrected in (None, tree(out))
        corrected = tree(out)
        assert img2keras.sort_photos(raw, out, link=link).num_removed == 2
        assert tree(out) == plain
        img2keras.sort_photos(raw, out, link=link, corrections=[file])
        assert tree(out) == corrected
    assert tree(raw) == raw_before


def test_a_class_may_lose_its_validation_photo_and_gets_it_back(raw, tmp_path):
    out = tmp_path / "out"
    img2keras.sort_photos(raw, out)
    plain = tree(out)
    (judged,) = of_side(out, "valid", "10")
    file = write(tmp_path / "c.csv", f'"{judged}",remove,')
    img2keras.sort_photos(raw, out, corrections=[file])
    assert not (out / "valid" / "10").exists()
    img2keras.sort_photos(raw, out)
    assert tree(out) == plain


def test_later_files_win(raw, tmp_path):
    first = write(tmp_path / "1.csv", '"2_1,0.jpg",relabel,10', '"2_2,0.jpg",remove,')
    last = write(tmp_path / "2.csv", '"2_1,0.jpg",relabel,pug', '"2_2,0.jpg",keep,')
    result = img2keras.sort_photos(raw, tmp_path / "out", corrections=[first, last])
    assert result.relabelled == [("2_1,0.jpg", "2", "pug")]
    assert result.left_out == []
    # A photo that was judged where the first file had put it, and is right there.
    kept = write(tmp_path / "3.csv", '"2_1,0.jpg",keep,10')
    result = img2keras.sort_photos(raw, tmp_path / "out", corrections=[first, kept])
    assert result.relabelled == [("2_1,0.jpg", "2", "10")]
    assert result.left_out == ["2_2,0.jpg"]


def test_no_other_photo_changes_its_side(raw, tmp_path):
    plain = img2keras.sort_photos(raw, tmp_path / "plain", valid_fraction=0.3).places
    names = sorted(plain)[::3]
    lines = [f'"{name}",{"remove" if i % 2 else "relabel"},pug' for i, name in enumerate(names[:5])]
    file = write(tmp_path / "c.csv", *lines)
    places = img2keras.sort_photos(
        raw, tmp_path / "out", valid_fraction=0.3, corrections=[file]
    ).places
    assert len(places) == 24 - 2
    for name, place in places.items():
        assert place.parts[0] == plain[name].parts[0]
        assert place == plain[name] or name in names


# Runs img2keras.py and kills it, as a power cut would, at some call of a function of os.
KILLED = """
import os, runpy, signal, sys
name, calls = sys.argv[1], int(sys.argv[2])
function, left = getattr(os, name), [calls]
def killed(*args, **kwargs):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return function(*args, **kwargs)
setattr(os, name, killed)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("name", "calls"), [("replace", 2), ("rmdir", 0), ("rmdir", 1)])
def test_a_sorting_killed_in_the_middle_is_mended_by_the_same_command(raw, tmp_path, name, calls):
    out, expected = tmp_path / "out", tmp_path / "expected"
    img2keras.sort_photos(raw, out)
    plain = tree(out)
    names = of_side(out, "train", "2")[:4]
    file = write(tmp_path / "c.csv", *[f'"{name}",relabel,pug' for name in names])
    img2keras.sort_photos(raw, expected, corrections=[file])
    script = [ROOT / "img2keras.py", "--raw", raw, "--out", out, "--corrections", file]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, name, str(calls), *map(str, script)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert tree(out) not in (plain, tree(expected))
    for name in names:  # in one folder or in two, never in none
        assert [path.read_bytes() for path in out.rglob(name)]
    img2keras.sort_photos(raw, out, corrections=[file])
    assert tree(out) == tree(expected)
    img2keras.sort_photos(raw, out)
    assert tree(out) == plain


def test_what_is_killed_leaves_no_photo_without_a_place(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    img2keras.sort_photos(raw, out)
    plain = tree(out)
    names = of_side(out, "train", "2")[:4]
    file = write(tmp_path / "c.csv", *[f'"{name}",relabel,pug' for name in names])
    place_photo, calls = img2keras.place_photo, []

    def place_some(*args):
        calls.append(args)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return place_photo(*args)

    monkeypatch.setattr(img2keras, "place_photo", place_some)
    with pytest.raises(KeyboardInterrupt):
        img2keras.sort_photos(raw, out, corrections=[file])
    assert tree(out).keys() >= plain.keys()


def test_a_photo_that_was_changed_is_never_removed(raw, tmp_path):
    out = tmp_path / "out"
    file = write(tmp_path / "c.csv", '"2_1,0.jpg",relabel,pug', '"2_2,0.jpg",remove,')
    img2keras.sort_photos(raw, out, corrections=[file])
    place = next(out.rglob("2_1,0.jpg"))
    place.write_bytes(b"mine")
    before = tree(out)
    for corrections in ([], [file]):
        with pytest.raises(UserError, match=r"no copies of|differs from"):
            img2keras.sort_photos(raw, out, corrections=corrections)
        assert tree(out) == before


def test_what_other_programs_placed_is_still_in_the_way(raw, tmp_path):
    out = tmp_path / "out"
    img2keras.sort_photos(raw, out)
    for foreign in ("train/2/deep/2_1,0.jpg", "train/2_1,0.jpg", "train/2/2_x.jpg"):
        (out / foreign).parent.mkdir(exist_ok=True)
        shutil.copy(raw / "2_1,0.jpg", out / foreign)
        before = tree(out)
        with pytest.raises(UserError, match="no copies of"):
            img2keras.sort_photos(raw, out)
        assert tree(out) == before
        (out / foreign).unlink()
    assert img2keras.sort_photos(raw, out).num_removed == 0


def test_the_only_file_of_a_photo_is_never_removed(raw, tmp_path):
    """Raw photos that are links into the folder that is sorted into."""
    out = tmp_path / "out"
    file = write(tmp_path / "c.csv", '"2_1,0.jpg",relabel,pug')
    img2keras.sort_photos(raw, out, corrections=[file])
    place = next(out.rglob("2_1,0.jpg"))
    (raw / "2_1,0.jpg").unlink()
    (raw / "2_1,0.jpg").symlink_to(place)
    with pytest.raises(UserError, match="no copies of"):
        img2keras.sort_photos(raw, out)
    assert (raw / "2_1,0.jpg").read_bytes()


def test_a_folder_under_two_names_is_not_emptied(raw, tmp_path):
    """As disks list it that compose letters, or ignore case."""
    out = tmp_path / "out"
    file = write(tmp_path / "c.csv", '"2_1,0.jpg",relabel,pug')
    img2keras.sort_photos(raw, out, corrections=[file])
    place = next(out.rglob("2_1,0.jpg"))
    side = place.parent.parent
    (side / "pug").rename(side / "PUG")
    (side / "pug").symlink_to(side / "PUG")
    img2keras.sort_photos(raw, out, corrections=[file])
    assert place.read_bytes() == (raw / "2_1,0.jpg").read_bytes()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["x.jpg,keep,", '"2_1,0.jpg",keep,2'], ["1 of its 2 images", "'x.jpg'", "other photos"]),
        (['"2_1,0.jpg",relabel,99'], ["line 2", "'99'", "no such class"]),
        (['"2_1,0.jpg",delete,'], ["line 2", "'delete'", "keep, relabel or remove"]),
        (['"2_1,0.jpg",relabel,'], ["line 2", "the typeid is missing"]),
        (['"2_1,0.jpg",keep,2', '"2_1,0.jpg",remove,2'], ["line 3", "another decision"]),
        (["2_1,0.jpg,keep,2"], ["line 2", "4 cells", "quotes"]),
        (['"2_1,0.jpg"x,keep,2'], ["line 2", "no table of text"]),
    ],
)
def test_a_file_that_says_something_wrong_is_one_line_and_nothing_is_written(
    raw, tmp_path, lines, words
):
    file = write(tmp_path / "c.csv", *lines)
    flags = ("--raw", raw, "--out", tmp_path / "out", "--corrections", file)
    assert_one_line_error(run_script("img2keras.py", *flags), f"--corrections {file}", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "nothing is there"),
        (b"\n\n", "nothing is there"),
        (b"\xef\xbb\xbf", "nothing is there"),
        (b"image,decision\na,keep\n", "'image,decision' is there"),
        (HEADER.encode() + b"\xff\xfe.jpg,keep,\n", "not UTF-8 text"),
        (HEADER.encode("utf-16"), "not UTF-8 text"),
        (HEADER.encode() + b"2_a\0.jpg,keep,\n", "not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8 text"),
        (b"PK\x03\x04 image,decision,typeid", "a first line"),
        (HEADER.encode() + b'"2_a.jpg,keep,\n', "no table of text"),
        (HEADER.encode() + b"2" * 200_000 + b",keep,\n", "no table of text"),
        (b"<html>\n<body>\n", "'<html>' is there"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content, words):
    with pytest.raises(UserError, match=words) as refused:
        read(tmp_path, content)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 400


def test_no_file_or_a_folder_is_one_line(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read_corrections([path], NAMES, TYPEIDS)


@pytest.mark.parametrize(
    "content",
    [
        "image,decision,typeid\n2_a.jpg,relabel,pug\n10_b.jpg,remove,10\npug_c.jpg,keep,\n",
        "\ufeffimage;decision;typeid\r\n2_a.jpg;relabel;pug\r\n10_b.jpg;remove;\r\npug_c.jpg;keep;pug\r\n",
        "image\tdecision\ttypeid\n2_a.jpg\trelabel\tpug\n10_b.jpg\tremove\n\npug_c.jpg\tKeep\t\n",
        '\n" Image ","DECISION",Typeid,,\n"2_a.jpg","relabel","pug",,\n,,,,\n'
        "10_b.jpg,remove\npug_c.jpg, keep , pug ",
        "note,typeid,decision,image\nx,pug,relabel,2_a.jpg\ny,,remove,10_b.jpg\n,pug,keep,pug_c.jpg\n",
        "image,decision,typeid\r2_a.jpg,relabel,pug\r2_a.jpg,relabel,pug\r10_b.jpg,remove,\rpug_c.jpg,keep,\r",
    ],
)
def test_what_a_spreadsheet_makes_of_a_file_is_read(tmp_path, content):
    expected = {"2_a.jpg": "pug", "10_b.jpg": None, "pug_c.jpg": "pug"}
    assert read(tmp_path, content) == expected


def test_an_image_that_the_sorting_skips_is_no_error(raw, tmp_path):
    (raw / "2_broken.jpg").write_bytes(b"<html>")
    (raw / "notes.txt").write_bytes(b"")
    file = write(tmp_path / "c.csv", "2_broken.jpg,relabel,pug", "notes.txt,remove,")
    result = img2keras.sort_photos(raw, tmp_path / "out", corrections=[file])
    assert len(result.places) == 24
    assert (result.relabelled, result.left_out) == ([], [])
    reasons = dict(result.skipped)
    assert reasons["2_broken.jpg"].endswith(
        "; its correction to 'pug' does nothing, give it that typeid in --raw"
    )
    assert "correction" not in reasons["notes.txt"]


def test_a_typing_error_that_made_a_class_of_one_photo_is_corrected(raw, tmp_path):
    (raw / "2_3,0.jpg").rename(raw / "22_3,0.jpg")
    make_photo(raw / "33_1.jpg", (9, 9, 9), seed=7)
    file = write(tmp_path / "c.csv", '"22_3,0.jpg",relabel,2', "33_1.jpg,relabel,33")
    result = img2keras.sort_photos(raw, tmp_path / "out", corrections=[file])
    assert str(result.places["22_3,0.jpg"]) == "train/2/22_3,0.jpg"
    assert (tmp_path / "out" / "train" / "2" / "22_3,0.jpg").is_file()
    assert result.relabelled == [("22_3,0.jpg", "22", "2")]
    assert [name for name, _ in result.skipped] == ["33_1.jpg"]
    assert img2keras.sort_photos(raw, tmp_path / "out", corrections=[file]).num_written == 0
    # And back: its class has one photo again.
    again = img2keras.sort_photos(raw, tmp_path / "out")
    assert again.num_removed == 1
    assert not (tmp_path / "out" / "train" / "2" / "22_3,0.jpg").exists()


def test_a_class_that_loses_its_last_training_photo_is_one_line(raw, tmp_path):
    names = [path.name for path in raw.glob("2_*")]
    file = write(tmp_path / "c.csv", *[f'"{name}",relabel,10' for name in names])
    flags = ("--raw", raw, "--out", tmp_path / "out", "--corrections", file)
    done = run_script("img2keras.py", *flags)
    assert_one_line_error(done, "class '2' is left without a training photo")
    assert not list((tmp_path / "out").glob("*"))


def test_a_class_that_is_skipped_takes_no_photos(raw, tmp_path):
    make_photo(raw / "solo_1.jpg", (9, 9, 9), seed=900)
    file = write(tmp_path / "c.csv", '"2_1,0.jpg",relabel,solo')
    with pytest.raises(UserError, match="'solo', but that class is skipped"):
        img2keras.sort_photos(raw, tmp_path / "out", corrections=[file])


def test_corrections_that_leave_nothing_for_validation_are_one_line(raw, tmp_path):
    places = img2keras.sort_photos(raw, tmp_path / "plain").places
    valid = [name for name, place in places.items() if place.parts[0] == "valid"]
    file = write(tmp_path / "c.csv", *[f'"{name}",remove,' for name in valid])
    with pytest.raises(UserError, match="no photo is left for validation"):
        img2keras.sort_photos(raw, tmp_path / "out", corrections=[file])


def test_long_lists_are_cut_and_counted(tmp_path):
    raw = make_raw(tmp_path / "raw", photos_per_class=30)
    names = sorted(path.name for path in raw.glob("2_*"))
    file = write(tmp_path / "c.csv", *[f'"{name}",relabel,pug' for name in names[:25]])
    flags = ("--raw", raw, "--out", tmp_path / "out", "--corrections", file)
    done = run_script("img2keras.py", *flags)
    lines = [line for line in done.stdout.splitlines() if line.startswith("relabelled: ")]
    assert len(lines) == 21
    assert lines[-1] == "relabelled: and 5 more"
    assert done.stdout.splitlines()[-1].endswith("25 relabelled")


HOSTILE = (
    *("-rf_1.jpg", "=cmd_1.jpg", "+1_1.jpg", "@x_1.jpg", "'=x_1.jpg", "'a_1.jpg", "2_a;b,c.jpg"),
    *('2_"quoted".jpg', "2_a\tb.jpg", "2_a\nleft out: b.jpg", "2_\u202egnp.jpg", "西藏 獒_ü.jpg"),
    *("2_ .jpg", "2_<script>.jpg", "2_a\rb.jpg", "2_\u2028.jpg"),
)


def test_hostile_names_are_corrected_and_forge_no_line(raw, tmp_path):
    for seed, name in enumerate(HOSTILE):
        make_photo(tmp_path / "photo.jpg", (90, 160, 90), seed=500 + seed)
        shutil.copy(tmp_path / "photo.jpg", raw / name)
        typeid = name.partition("_")[0]
        if typeid != "2":  # so that the class is left with some photos
            for number in range(3):
                make_photo(raw / f"{typeid}_more{number}.jpg", (9, 90, 9), 600 + 9 * seed + number)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["image", "decision", "typeid"])
    for name in HOSTILE:
        writer.writerow([guard_cell(name), "relabel", guard_cell("-rf" if name[0] == "2" else "2")])
    file = tmp_path / "c.csv"
    file.write_text(out.getvalue(), newline="")
    flags = ("--raw", raw, "--out", tmp_path / "out", "--corrections", file)
    done = run_script("img2keras.py", *flags)
    assert done.returncode == 0, done.stderr
    assert all(line.isprintable() for line in done.stdout.splitlines())
    moved = [line for line in done.stdout.splitlines() if line.startswith("relabelled: ")]
    assert len(moved) == len(HOSTILE)
    assert "left out: " not in [line[:10] for line in done.stdout.splitlines()]
    for name in HOSTILE:
        (place,) = (path for path in (tmp_path / "out").rglob("*.jpg") if path.name == name)
        assert place.parent.name == ("-rf" if name[0] == "2" else "2")


@given(
    names=st.lists(
        st.text(
            st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"),
            min_size=1,
            max_size=9,
        )
        .map(lambda text: f"2_{text}")
        .filter(lambda text: text == text.strip()),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_name_is_read_back(tmp_path_factory, names, delimiter, quoting):
    path = tmp_path_factory.mktemp("names") / "c.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerow(["image", "decision", "typeid"])
        writer.writerows([guard_cell(name), "relabel", guard_cell("-1")] for name in names)
    assert read_corrections([path], set(names), {"-1", "2"}) == dict.fromkeys(names, "-1")


def test_leading_zeros_that_a_spreadsheet_drops_are_found_again(tmp_path):
    path = write(tmp_path / "c.csv", "2_a.jpg,relabel,7", "10_b.jpg,relabel,10", "pug_c.jpg,keep,0")
    found = read_corrections([path], NAMES, {"0007", "10", "010", "0"})
    assert found == {"2_a.jpg": "0007", "10_b.jpg": "10", "pug_c.jpg": "0"}
    path = write(tmp_path / "c.csv", "2_a.jpg,relabel,0")
    assert read_corrections([path], NAMES, {"00", "10"}) == {"2_a.jpg": "00"}
    path = write(tmp_path / "c.csv", "2_a.jpg,relabel,7")
    with pytest.raises(UserError, match="given the typeid '7', but --raw has no such class"):
        read_corrections([path], NAMES, {"0007", "007"})


def test_an_apostrophe_of_a_names_own_is_told_from_a_guard(tmp_path):
    names = {"=2_a.jpg", "'=2_a.jpg", "''=2_a.jpg"}
    for name in sorted(names):
        path = write(tmp_path / "c.csv", f"{guard_cell(name)},relabel,pug")
        assert read_corrections([path], names, {"pug"}) == {name: "pug"}


def test_near_duplicates_that_corrections_put_under_two_typeids_are_for_training(raw, tmp_path):
    shutil.rmtree(raw)
    draw_breeds(raw, 8, seed=0)
    for path in list(raw.iterdir()):
        again = path.with_name(f"{path.stem}_again.jpg")
        Image.open(path).save(again, quality=60)
    first = img2keras.sort_photos(raw, tmp_path / "out", valid_fraction=0.4)
    in_valid = [name for name, place in first.places.items() if place.parts[0] == "valid"]
    again = sorted(name for name in in_valid if name.endswith("_again.jpg"))
    moved, others = again[0], again[1:]
    typeid = next(place.parts[1] for place in first.places.values() if place.name == others[-1])
    assert typeid != moved.partition("_")[0]
    file = write(tmp_path / "c.csv", f'"{moved}",relabel,{typeid}')
    now = img2keras.sort_photos(raw, tmp_path / "out", valid_fraction=0.4, corrections=[file])
    moved_too = moved.replace("_again", "")
    assert {now.places[name].parts[0] for name in (moved, moved_too)} == {"train"}
    assert now.places[moved].parts[1] == typeid
    stayed = [name for name in in_valid if name not in (moved, moved_too)]
    assert {now.places[name].parts[0] for name in stayed} == {"valid"}
