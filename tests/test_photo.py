import numpy as np
import pytest
from conftest import COLOURS, make_photo
from PIL import Image

from command_line import UserError
from photo import find_photos, read_ahead, read_photo


def test_a_photo_is_squashed_to_a_square_of_bytes(tmp_path):
    make_photo(tmp_path / "a.jpg", COLOURS["2"], seed=0, size=(90, 40))
    pixels = read_photo(tmp_path / "a.jpg", 50)
    assert (pixels.shape, pixels.dtype) == ((50, 50, 3), np.uint8)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), COLOURS["2"], atol=6)


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


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xd8\xff\xe0 cut off"])
def test_a_file_that_is_no_photo_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.jpg: not a readable photo"):
        read_photo(path, 10)


def test_photos_are_found_at_any_depth_and_sorted_by_file_name(tmp_path):
    (tmp_path / "z" / "y").mkdir(parents=True)
    for name in ("c.jpg", "z/a.PNG", "z/y/b.jpeg", "z/notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = [path.rsplit("/", 1)[1] for path in find_photos(tmp_path)]
    assert found == ["a.PNG", "b.jpeg", "c.jpg"]


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
