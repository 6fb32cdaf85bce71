import dataclasses
import os
import shutil

import numpy as np
import pytest
from conftest import COLOURS, make_photo

from pairs.errors import UserError
from pairs.photos import check
from pairs.photos.find import find_class_photos
from pairs.training import splits


@pytest.fixture
def folder(tmp_path):
    for typeid in ("a", "b"):
        (tmp_path / typeid).mkdir()
        for number in range(3):
            make_photo(tmp_path / typeid / f"{typeid}_{number}.jpg", COLOURS["2"], seed=number)
    return tmp_path


def check_folder(folder, known=()):
    return check.check_photos(find_class_photos(folder), folder, dict(known), workers=2)


def test_what_cannot_be_read_is_named_and_skipped(folder, capsys):
    (folder / "a" / "a_1.jpg").write_bytes(b"<html>")
    (folder / "b" / "b_x\nskipped: y.jpg").write_bytes(b"")
    os.mkfifo(folder / "b" / "b_pipe.jpg")
    usable, found = check_folder(folder)
    assert len(usable) == 5
    assert usable.labels.tolist() == [0, 0, 1, 1, 1]
    assert len(found) == 8
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped: ")]
    assert len(said) == 3
    assert "a_1.jpg: not a readable photo" in said[0]


def test_a_photo_that_did_not_change_is_not_read_again(folder, monkeypatch):
    _, found = check_folder(folder)
    make_photo(folder / "b" / "b_2.jpg", COLOURS["pug"], seed=9)
    read = []
    inspect = check.inspect_photo
    monkeypatch.setattr(
        check, "inspect_photo", lambda path, *facts: read.append(path) or inspect(path, *facts)
    )
    _, again = check_folder(folder, found)
    assert [os.path.basename(path) for path in read] == ["b_2.jpg"]
    assert again["b/b_2.jpg"].digest != found["b/b_2.jpg"].digest
    assert {name: facts for name, facts in again.items() if name != "b/b_2.jpg"} == {
        name: facts for name, facts in found.items() if name != "b/b_2.jpg"
    }


def test_a_photo_that_an_earlier_version_checked_is_read_again(folder, monkeypatch):
    _, found = check_folder(folder)
    assert len({facts.perceptual_hash for facts in found.values()}) == 3  # a and b have the same
    old = {name: dataclasses.replace(facts, perceptual_hash=None) for name, facts in found.items()}
    assert check_folder(folder, old)[1] == found
    monkeypatch.setattr(check, "inspect_photo", None)  # a flat photo is not read again
    flat = {name: dataclasses.replace(facts, perceptual_hash="") for name, facts in found.items()}
    assert check_folder(folder, flat)[1] == flat


def test_the_fingerprint_is_of_names_and_bytes_and_not_of_times(folder):
    before = check.fingerprint(check_folder(folder)[1])
    os.utime(folder / "a" / "a_0.jpg", (1, 1))
    assert check.fingerprint(check_folder(folder)[1]) == before
    os.rename(folder / "a" / "a_0.jpg", folder / "b" / "a_0.jpg")
    assert check.fingerprint(check_folder(folder)[1]) != before


def test_a_class_without_a_readable_photo_to_train_on_is_refused(folder):
    whole, _ = check_folder(folder)
    for path in (folder / "b").iterdir():
        path.write_bytes(b"broken")
    broken, _ = check_folder(folder)
    with pytest.raises(UserError, match="none of the train photos of class 'b'"):
        splits.check_sides_suffice(broken, whole)
    splits.check_sides_suffice(whole, broken)  # `print_counts` notes that nothing validates it


def test_copies_on_both_sides_are_warned_of(folder, capsys):
    _, found = check_folder(folder)
    check.warn_about_leakage(found, {"a/x.jpg": check.Facts(1, 2, 3, "other digest")})
    assert capsys.readouterr().out == ""
    check.warn_about_leakage(found, {"a/x.jpg": found["b/b_0.jpg"]})
    assert "1 validation photos are copies of training photos" in capsys.readouterr().out


def test_a_training_says_that_there_are_copies_on_both_sides(folder, capsys):
    photos, found = check_folder(folder)
    sides = {"train": found, "valid": {"a/x.jpg": found["b/b_0.jpg"]}}
    for side in sides:
        (folder / side).mkdir()
    splits.print_counts(str(folder), photos, photos, None, sides)
    assert "1 validation photos are copies of training photos" in capsys.readouterr().out


def test_another_photo_of_the_same_size_and_date_is_read_again(folder):
    """As `cp -p` and `rsync` leave it: only when its entry changed tells."""
    photo = folder / "a" / "a_0.jpg"
    _, found = check_folder(folder)
    before, content = os.stat(photo), bytearray(photo.read_bytes())
    content[-3] ^= 1
    photo.write_bytes(content)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    _, anew = check_folder(folder, found)
    assert anew["a/a_0.jpg"].digest != found["a/a_0.jpg"].digest


def test_labels_stay_with_their_photos(folder):
    (folder / "a" / "a_0.jpg").write_bytes(b"broken")
    usable, _ = check_folder(folder)
    expected = [path.split("/")[-2] for path in usable.paths]
    assert [usable.typeids[label] for label in usable.labels] == expected
    assert usable.labels.dtype == np.int32


def test_a_photo_of_the_same_size_but_other_times_is_read_again(folder):
    """Times alone tell: the size is the same."""
    photo = folder / "a" / "a_0.jpg"
    photo.write_bytes((folder / "b" / "b_1.jpg").read_bytes())
    _, found = check_folder(folder)
    content = bytearray(photo.read_bytes())
    content[-3] ^= 1  # in the pixels, behind all headers
    photo.write_bytes(content)
    os.utime(photo, ns=(0, 1))
    _, again = check_folder(folder, found)
    assert again["a/a_0.jpg"].size == found["a/a_0.jpg"].size
    assert again["a/a_0.jpg"].digest != found["a/a_0.jpg"].digest


def facts(**digests):
    return {
        f"{name[0]}/{name}.jpg": check.Facts(1, 2, 3, digest, None if digest else "broken")
        for name, digest in digests.items()
    }


def test_a_few_photos_may_vanish_but_nothing_else_may_change():
    known = facts(a1="x", a2="y", b1="z")
    assert check.vanished(known, known) == []
    assert check.vanished(known, facts(a1="x", b1="z")) == ["a/a2.jpg"]
    assert check.vanished(known, facts(a1="x", a2=None, b1="z")) == ["a/a2.jpg"]
    assert check.vanished(known, facts(a1="x", b1="other")) == []
    assert check.vanished(known, facts(a1="x", b1="z", b2="new")) == []
    assert check.vanished(known, facts(b1="z")) == []  # two of three: another data set
    assert check.vanished(known, facts(a1="x", a2="y")) == []  # nobody could replace it
    many = facts(**{f"a{number}": str(number) for number in range(300)})
    for count, allowed in ((3, 3), (4, 0)):
        fewer = dict(list(many.items())[count:])
        assert len(check.vanished(many, fewer)) == allowed


def test_what_could_not_be_read_when_a_run_began_stays_out_of_it(folder, capsys):
    """A network may have been down: else a run could not be resumed once it is up again."""
    away = [folder / "a" / "a_1.jpg", folder / "b" / "b_0.jpg"]
    for path in away:
        path.rename(path.with_suffix(".away"))
        path.symlink_to(folder / "nowhere")
    data = folder.parent / f"{folder.name}-data"
    data.mkdir()
    for side in ("train", "valid"):
        (data / side).symlink_to(folder)
    nothing = {"train": {}, "valid": {}}
    begun, known = check.check_sides(data, check.list_photos(data), nothing, 2)
    for path in away:
        path.unlink()
        path.with_suffix(".away").rename(path)
    sides, found = check.check_sides(data, check.list_photos(data), known, 2)
    assert [len(side) for side in sides] == [6, 6]
    sides, found = check.as_it_began(data, sides, known, found)
    assert found == known
    assert [side.paths for side in sides] == [side.paths for side in begun]
    note = "note: 2 train photos could not be read when the run began: 'a/a_1.jpg'"
    assert note in capsys.readouterr().out


def test_photos_that_changed_sides_have_not_vanished(folder, tmp_path, capsys):
    """Folds are cut from both sides together, and go on."""
    data = tmp_path / "data"
    for side, chosen in (("train", "*_[0-9].jpg"), ("valid", "*_0.jpg")):
        for path in folder.glob(f"*/{chosen}"):
            (data / side / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, data / side / path.parent.name / f"{side}-{path.name}")
    nothing = {"train": {}, "valid": {}}
    _, known = check.check_sides(data, check.list_photos(data), nothing, 2)
    os.rename(data / "train" / "a" / "train-a_1.jpg", data / "valid" / "a" / "train-a_1.jpg")
    sides, found = check.check_sides(data, check.list_photos(data), known, 2)
    assert check.vanished(known["train"], found["train"]) == ["a/train-a_1.jpg"]
    kept, kept_found = check.as_it_began(data, sides, known, found)
    assert kept_found == found
    assert [side.paths for side in kept] == [side.paths for side in sides]
    assert "vanished" not in capsys.readouterr().out


def test_the_photos_of_a_check_are_those_of_the_folder(folder):
    usable, found = check_folder(folder)
    again = check.photos_of(found, folder, usable.typeids)
    assert again.paths == usable.paths
    assert again.labels.tolist() == usable.labels.tolist()
    assert again.digests == usable.digests


def test_what_training_passes_over_and_cannot_judge_is_said(tmp_path, capsys):
    from pairs.training.splits import print_counts

    for name in ("train/a/1.jpg", "train/b/2.jpg", "train/b/3.heic", "valid/a/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    photos = find_class_photos(tmp_path / "train")
    valid = find_class_photos(tmp_path / "valid", photos.typeids)
    print_counts(str(tmp_path), photos, valid, None, {"train": {}, "valid": {}})
    skipped, unjudged, counts = capsys.readouterr().out.splitlines()
    assert skipped.startswith("note: 1 skipped, no ending of a photo")
    assert unjudged == "note: classes without a validation photo: 1, e.g. 'b'"
    assert counts == "2 classes, 2 photos to train, 1 to validate"
