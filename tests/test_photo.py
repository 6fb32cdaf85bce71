import os
import pathlib
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from conftest import COLOURS, ROOT, make_photo
from PIL import ExifTags, Image, ImageOps

from pairs import files
from pairs.errors import UserError
from pairs.photos import read as photo
from pairs.photos.find import find_class_photos, find_photos, why_not_a_typeid
from pairs.photos.read import Photos, decode, read_ahead, read_photo
from pairs.photos.skipped import print_skipped


def test_a_photo_is_squashed_to_a_square_of_bytes(tmp_path):
    make_photo(tmp_path / "a.jpg", COLOURS["2"], seed=0, size=(90, 40))
    pixels = read_photo(tmp_path / "a.jpg", 50)
    assert (pixels.shape, pixels.dtype) == ((50, 50, 3), np.uint8)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), COLOURS["2"], atol=6)


@pytest.mark.parametrize(
    ("size", "expected"), [((90, 40), (50, 22)), ((40, 90), (22, 50)), ((900, 9), (50, 1))]
)
def test_a_photo_for_people_keeps_its_proportions(tmp_path, size, expected):
    make_photo(tmp_path / "a.jpg", COLOURS["2"], seed=0, size=size)
    image = photo.open_photo(tmp_path / "a.jpg", 50, fit=None)
    assert (image.size, image.mode) == (expected, "RGB")


def test_grey_palette_and_transparent_photos_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK", "I;16", "1"):
        path = tmp_path / f"{mode[0]}{len(mode)}.tif"
        Image.new(mode, (20, 20)).save(path)
        assert read_photo(path, 10).shape == (10, 10, 3)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))  # the left half, as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: what is left belongs on top
    image.save(tmp_path / "turned.jpg", exif=exif)
    pixels = read_photo(tmp_path / "turned.jpg", 32)
    assert pixels[:14].mean() > 240
    assert pixels[18:].mean() < 15


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_damaged_metadata_cost_no_photo(tmp_path, suffix):
    """Of pixels that can be read; what says which side is up is lost with the rest."""
    image = Image.linear_gradient("L").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / f"sound.{suffix}", exif=exif, quality=95)
    content = (tmp_path / f"sound.{suffix}").read_bytes()
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert content.count(block) == 1
    damaged = content.replace(block, b"not a TIFF file".ljust(len(block), b"x"))
    if suffix == "png":  # whose blocks have checksums
        start = damaged.index(b"eXIf")
        end = start + 4 + len(block)
        damaged = damaged[:end] + zlib.crc32(damaged[start:end]).to_bytes(4) + damaged[end + 4 :]
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(damaged)
    with pytest.raises(SyntaxError, match="not a TIFF file"), Image.open(path) as opened:
        ImageOps.exif_transpose(opened)
    assert np.abs(read_photo(path, 256).astype(int) - np.asarray(image)).max() < 9
    path.write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(UserError, match="not a readable photo"):
        read_photo(path, 256)


@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_every_orientation_is_that_of_pillow(tmp_path, turn, suffix):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, size=(16, 24, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
        found = np.asarray(decode(opened))
    np.testing.assert_array_equal(found, expected)


def test_a_large_jpeg_decoded_at_reduced_scale_loses_nothing(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, size=(12, 16, 3)).astype(np.uint8))
    noise = rng.normal(0, 6, size=(900, 1200, 3))
    pixels = np.asarray(smooth.resize((1200, 900), Image.Resampling.BICUBIC)) + noise
    large = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    large.save(tmp_path / "large.jpg", quality=92)
    with Image.open(tmp_path / "large.jpg") as image:
        full = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR)).astype(int)
    apart = np.abs(read_photo(tmp_path / "large.jpg", 128) - full)
    assert (apart <= 1).mean() > 0.99
    assert apart.max() <= 3


def test_a_file_that_is_no_photo_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    make_photo(path, (9, 9, 9), seed=0)
    for content, reason in (
        (b"", "an empty file"),
        (b"\n <html>404</html>", "a web page or other text"),
        (b"\xff\xd8\xff\xe0 cut off", "cut short"),
        (b"\x00\x01\x02", "cannot identify"),
        (path.read_bytes()[:-500], "cut short"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"broken\.jpg: not a readable photo \({reason}"):
            read_photo(path, 10)


def test_a_file_that_vanishes_while_it_is_looked_at_is_no_photo_either(tmp_path, monkeypatch):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"<html>404</html>")

    def gone(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "open", gone)
    with pytest.raises(UserError, match=r"broken\.jpg: not a readable photo \(cannot identify"):
        read_photo(path, 10)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (64, 1))).save(tmp_path / "deep.png")
    pixels = read_photo(tmp_path / "deep.png", 64)
    np.testing.assert_allclose(pixels[0, :, 0], ramp / 257, atol=2)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_photo_is_read_whatever_its_ending_says(tmp_path, kind):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ((200, 60, 50), "blue")]
    more = {"save_all": True, "append_images": frames[1:]} if kind == "GIF" else {}
    frames[0].save(tmp_path / "photo.jpg", format=kind, **more)
    pixels = read_photo(tmp_path / "photo.jpg", 10)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), (200, 60, 50), atol=6)


def test_a_pixel_that_counts_visitors_is_no_photo(tmp_path):
    for size in ((1, 1), (300, 7)):
        Image.new("RGB", size).save(tmp_path / "dot.png")
        with pytest.raises(UserError, match=rf"dot\.png: not a readable photo \({size[0]} x"):
            read_photo(tmp_path / "dot.png", 8)
    Image.new("RGB", (8, 300), (10, 20, 30)).save(tmp_path / "narrow.png")
    assert (read_photo(tmp_path / "narrow.png", 8) == (10, 20, 30)).all()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 9_000)])
def test_a_decompression_bomb_is_refused_without_decoding_it(tmp_path, size):
    bomb = Image.new("1", size)
    bomb.save(tmp_path / "bomb.png")
    # In a process of its own, whose memory at its highest can be asked for.
    code = (
        "import re, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pairs import command_line\nfrom pairs.photos import read as photo\n"
        "try: photo.read_photo(sys.argv[2], 64)\n"
        "except command_line.UserError as error: print(error)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    words = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "bomb.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    said, peak_kb = done.stdout.splitlines()
    assert "bomb.png: not a readable photo" in said
    assert "pixels" in said
    assert int(peak_kb) < 150_000


def test_a_program_in_disguise_is_not_run(tmp_path):
    """Pillow knows EPS, too, and would start Ghostscript for it."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/it_ran\n")
    ghostscript.chmod(0o755)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n showpage\n")
    code = f"from pairs.photos import read; read.read_photo({str(path)!r}, 10)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "not a readable photo" in done.stderr
    assert not (tmp_path / "it_ran").exists()


def test_pipes_folders_devices_and_broken_links_are_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    for path in tmp_path.iterdir():
        with pytest.raises(UserError, match=path.name):
            read_photo(path, 10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="could not be written"):
        files.write_text(folder / "a.txt", "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photo_without_permission_is_named(tmp_path):
    make_photo(tmp_path / "secret.jpg", COLOURS["2"], seed=0)
    (tmp_path / "secret.jpg").chmod(0)
    with pytest.raises(UserError, match="Permission"):
        read_photo(tmp_path / "secret.jpg", 10)


def test_a_photo_that_vanishes_is_named_once_and_a_neighbour_takes_its_place(tmp_path, capsys):
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (50 * number,) * 3).save(path)
    photos = Photos(paths, np.array([0, 1, 1, 1], np.int32), ["a", "b"])
    os.remove(paths[2])
    assert [photos.open(2, 8).getpixel((0, 0))[0] for _ in range(3)] == [150, 150, 150]
    os.remove(paths[3])
    assert photos.open(2, 8).getpixel((0, 0))[0] == 50
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [paths[2], paths[3]]
    photos.take([2, 1]).open(0, 8)  # nor a second time of a part of them
    assert not capsys.readouterr().err
    os.remove(paths[0])
    with pytest.raises(UserError, match="no photo of class 'a'"):
        photos.open(0, 8)


def test_photos_are_found_at_any_depth_and_sorted_by_file_name(tmp_path):
    (tmp_path / "z" / "y").mkdir(parents=True)
    for name in ("c.jpg", "z/a.PNG", "z/y/b.jpeg", "z/notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = [path.rsplit("/", 1)[1] for path in find_photos(tmp_path)]
    assert found == ["a.PNG", "b.jpeg", "c.jpg"]


def test_what_is_skipped_is_counted_once_and_by_kind(tmp_path, capsys):
    for name in ("a/1.jpg", "a/IMG_1.HEIC", "a/deep/2.heic", "b/3.jfif", "b/noext", "loose.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for hidden in (".DS_Store", "a/.hidden.heic", "empty/.DS_Store"):
        (tmp_path / hidden).write_bytes(b"")
    print_skipped(tmp_path, in_classes=True)
    endings, loose, empty = capsys.readouterr().out.splitlines()
    assert endings.startswith("note: 3 skipped, no ending of a photo (.bmp, ")
    assert endings.endswith(f": 2 .heic, 1 without; e.g. {tmp_path}/a/IMG_1.HEIC")
    assert loose == f"note: 1 skipped, not in a class folder; e.g. {tmp_path}/loose.png"
    assert empty == f"note: 1 skipped, class folders without photos; e.g. {tmp_path}/empty"
    # All that is neither named nor hidden is found.
    assert len(find_photos(tmp_path)) == 3
    print_skipped(tmp_path)
    assert capsys.readouterr().out.splitlines() == [endings]


def test_reading_ahead_keeps_order_and_stays_bounded():
    import threading
    import time

    running, most = [], []
    lock = threading.Lock()

    def read(item):
        with lock:
            running.append(item)
            most.append(len(running))
        time.sleep(0.001 * (item % 5))
        with lock:
            running.remove(item)
        return item

    assert list(read_ahead(read, range(200), workers=4)) == list(range(200))
    assert 1 < max(most) <= 4


def test_an_error_reaches_the_reader_of_its_item():
    results = read_ahead(lambda item: 1 // item, [2, 1, 0, 3], workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "0 class folders"),
        (["a/1.jpg"], "1 class folders, at least 2"),
        (["a/1.jpg", "b/notes.txt"], "b: no photos in it"),
        (["a/1.jpg", "b/1.jpg", "c\td/1.jpg"], "unprintable"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path, files, words):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(UserError, match=words):
        find_class_photos(tmp_path)


def test_a_validation_class_that_was_not_trained_on_is_named(tmp_path):
    for typeid in ("a", "b", "zebra"):
        (tmp_path / typeid).mkdir()
        (tmp_path / typeid / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 classes were not trained on, e\.g\. 'zebra'"):
        find_class_photos(tmp_path, ["a", "b"])
    assert find_class_photos(tmp_path, ["a", "b", "c", "zebra"]).labels.tolist() == [0, 1, 3]


# Persian with a zero-width non-joiner, Hindi with a joiner, Japanese with a wide space.
ANY_SCRIPT = [
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "क्\u200dष",
    "柴\u3000犬",
    "西藏獒",
    "Ælf 'n' \"q\" $^$",
]
REFUSED = ["a\nb", "a\x1b[31m", "a\u202eb", "a\u2066b", "a\u200fb", "a\u2028b", "a\x85", "\udcff"]


def test_typeids_may_be_of_any_script_but_forge_no_line():
    assert [why_not_a_typeid(typeid) for typeid in ANY_SCRIPT] == [None] * len(ANY_SCRIPT)
    for typeid in [*REFUSED, "", " ", ".x", "a/b", "a\\b", "__MACOSX", "@eaDir", 7, None]:
        assert why_not_a_typeid(typeid), typeid


def test_class_folders_of_any_script_are_found(tmp_path):
    for typeid in ANY_SCRIPT:
        (tmp_path / typeid).mkdir()
        (tmp_path / typeid / "1.jpg").write_bytes(b"")
    assert sorted(find_class_photos(tmp_path).typeids) == sorted(ANY_SCRIPT)


def test_folders_that_other_programs_leave_are_skipped(tmp_path):
    for place in (
        *("a/1.jpg", "b/2.jpg", "a/deeper/3.jpg"),
        *("a/.ipynb_checkpoints/1.jpg", "b/@eaDir/2.jpg/SYNOPHOTO.jpg", "a/._1.jpg"),
        *("__MACOSX/a/._1.jpg", "__MACOSX/1.jpg", "#recycle/1.jpg", ".git/1.jpg"),
        "was a class/.DS_Store",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    found = find_class_photos(tmp_path)
    assert found.typeids == ["a", "b"]
    assert [os.path.relpath(path, tmp_path) for path in found.paths] == [
        *("a/1.jpg", "a/deeper/3.jpg", "b/2.jpg")
    ]


def test_a_folder_one_too_high_or_too_low_is_named(tmp_path):
    for place in ("train/a/1.jpg", "train/b/1.jpg", "valid/a/2.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    with pytest.raises(UserError, match=r"class folders are expected; is it .*/train or .*/valid"):
        find_class_photos(tmp_path)
    with pytest.raises(UserError, match=r"/train: no folder valid in it; train and valid"):
        find_class_photos(tmp_path / "train" / "valid")


def test_links_to_folders_are_followed_and_each_folder_is_seen_once(tmp_path, capsys):
    """A part of the photos may lie on another disk."""
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg", "deep/c.heic"):
        (tmp_path / "elsewhere" / name).write_bytes(b"")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "part").symlink_to(tmp_path / "elsewhere")
    (photos / "part_again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(photos)  # a loop
    assert find_photos(photos) == [f"{photos}/part/a.jpg", f"{photos}/part/deep/b.jpg"]
    print_skipped(photos)
    assert f"1 .heic; e.g. {photos}/part/deep/c.heic\n" in capsys.readouterr().out


def test_no_ending_forges_a_line(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"")
    for name in ("x.\x1b[31m\nforged", "x." + "long" * 40, os.fsdecode(b"x.\xfcber")):
        (tmp_path / name).write_bytes(b"")
    print_skipped(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert "1 other" in line


@pytest.mark.parametrize(("progressive", "at_once"), [(False, 2), (True, 1)])
def test_of_large_progressive_photos_one_is_decoded_at_a_time(
    tmp_path, monkeypatch, progressive, at_once
):
    """Of a baseline JPEG a small part is kept, of a progressive one all of it."""
    path = tmp_path / "large.jpg"
    Image.new("L", (5000, 4001)).save(path, progressive=progressive)
    both, most, inside = threading.Barrier(2), [], []

    def decode(image):
        inside.append(image)
        most.append(len(inside))
        if at_once == 2:
            both.wait(timeout=20)
        else:
            time.sleep(0.3)
        inside.pop()
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(photo, "decode", decode)
    threads = [threading.Thread(target=read_photo, args=(path, 8)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == at_once


@pytest.mark.parametrize("orientation", [1, 6])  # a turned image has lost its format
@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_measurement_of_32_bits_is_not_a_black_photo(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new(mode, (8, 8), 1).save(tmp_path / "depth.tif", exif=exif)
    with pytest.raises(UserError, match=r"depth.tif: not a readable photo \(32 bits"):
        read_photo(tmp_path / "depth.tif", 8)
