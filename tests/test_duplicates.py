import io
import random

import numpy as np
import pytest
from conftest import COLOURS, make_photo, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pairs.demo.breeds import draw_breeds
from pairs.errors import UserError
from pairs.photos.check import inspect_photo
from pairs.photos.duplicates import decode, find_groups, perceptual_hash, spectra_of
from pairs.photos.find import find_photos
from pairs.photos.read import open_photo


def saved(image, quality):
    """What a JPEG of some quality leaves of an image."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out)


def cropped(image, left, top, right, bottom):
    """An image without shares of its sides."""
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop([round(side) for side in box])


COPIES = {
    "quality": lambda image: saved(image, 40),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "corner": lambda image: saved(cropped(image, 0.05, 0, 0, 0.05), 90),
    "around": lambda image: saved(cropped(image, 0.05, 0.05, 0.05, 0.05), 90),
    "mirrored": lambda image: saved(ImageOps.mirror(image), 40),
    "mirrored corner": lambda image: saved(ImageOps.mirror(cropped(image, 0, 0.05, 0.05, 0)), 40),
}


def group(hashes):
    """Groups photos that are, by their bytes, all different."""
    return find_groups([str(index) for index in range(len(hashes))], hashes)


def hashes_of(images):
    return [perceptual_hash(image) for image in images]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Drawn photos: twelve breeds, ten photos each."""
    folder = tmp_path_factory.mktemp("scenes")
    draw_breeds(folder, 10, seed=0)
    return [open_photo(path, 128) for path in find_photos(folder)]


def check_copies(images, kind):
    """Describes images and their copies; returns the groups and the share found."""
    count = len(images)
    groups = group(hashes_of(images) + hashes_of([COPIES[kind](image) for image in images]))
    found = sum({index, count + index} <= set(group) for group in groups for index in group)
    return groups, found / count


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_drawn_photos_are_found_and_nothing_else(scenes, kind):
    groups, found = check_copies(scenes, kind)
    assert found >= 0.95
    assert all(len({index % len(scenes) for index in group}) == 1 for group in groups)


@pytest.fixture(scope="module")
def photos(shared):
    """Of 1,000 dogs and 1,000 flowers, at 128 pixels."""
    rng = random.Random(0)
    folders = [shared / name / "raw" for name in ("dogs24", "flowers60")]
    return [
        open_photo(path, 128)
        for folder in folders
        for path in rng.sample(find_photos(folder), 1000)
    ]


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_real_photos_are_found(photos, kind):
    some = photos[::4]
    groups, found = check_copies(some, kind)
    assert found >= 0.95
    # Some photos of the dogs were near-duplicates before.
    wrong = sum(len({index % len(some) for index in group}) > 1 for group in groups)
    assert wrong <= 0.01 * len(some)


def test_of_real_photos_few_are_near_duplicates_of_others(photos):
    """By eye, all groups of these 2,000 photos show one picture."""
    groups = group(hashes_of(photos))
    assert 15 <= len(groups) <= 30
    assert max(map(len, groups)) <= 4
    # The flowers are alike, and hardly any is there twice.
    assert sum(index >= 1000 for group in groups for index in group) <= 10


def test_noisy_photos_of_one_colour_are_all_different(tmp_path):
    hashes, photo = [], tmp_path / "photo.jpg"
    for seed in range(100):
        make_photo(photo, list(COLOURS.values())[seed % 3], seed)
        hashes.append(inspect_photo(photo).perceptual_hash)
    assert group(hashes) == []


def test_flat_photos_are_only_grouped_by_their_bytes():
    flat = [Image.new("RGB", (64, 64), (level, 90, 200)) for level in (0, 120, 255)]
    slight = Image.fromarray(np.tile(np.arange(60, 64, dtype=np.uint8), (64, 16)))
    hashes = hashes_of([*flat, slight])
    assert hashes == [""] * 4
    assert find_groups(["a", "b", "a", "c"], hashes) == [[0, 2]]


def test_groups_are_ordered_and_join_copies_with_near_duplicates(scenes):
    first, second = scenes[:2]
    images = [second, first, scenes[2], saved(first, 40), second, ImageOps.mirror(second)]
    groups = find_groups(list("badcbe"), hashes_of(images))
    assert groups == [[0, 4, 5], [1, 3]]
    assert find_groups([], []) == []
    assert find_groups(["a"], [""]) == []


def test_a_crop_of_a_crop_of_a_photo_is_in_its_group(scenes):
    once = cropped(scenes[0], 0.05, 0.05, 0.05, 0.05)
    twice = cropped(once, 0.06, 0.06, 0.06, 0.06)
    hashes = hashes_of([scenes[0], once, twice])
    assert group(hashes) == [[0, 1, 2]]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_photos_does_not_change_the_groups(scenes, seed):
    images = [*scenes[:20], *(COPIES["around"](image) for image in scenes[:8]), scenes[0]]
    hashes, digests = hashes_of(images), [str(index) for index in range(len(images))]
    order = np.random.default_rng(seed).permutation(len(images))
    found = find_groups(digests, hashes)
    again = find_groups([digests[i] for i in order], [hashes[i] for i in order])
    assert {frozenset(map(int, order[group])) for group in again} == set(map(frozenset, found))
    assert again == sorted(map(sorted, again))


def test_groups_do_not_depend_on_how_many_are_compared_at_once(scenes, monkeypatch):
    hashes = hashes_of([*scenes, *(COPIES["corner"](image) for image in scenes)])
    expected = group(hashes)
    monkeypatch.setattr("pairs.photos.duplicates.MOST_AT_ONCE", 700)
    monkeypatch.setattr("pairs.photos.duplicates.CHUNK", 50)
    assert group(hashes) == expected


def test_mirroring_turns_signs_and_nothing_else(scenes):
    for image in scenes[:10]:
        plain, mirrored = spectra_of(decode(hashes_of([image, ImageOps.mirror(image)])))
        turned = mirrored * np.where(np.arange(14) % 2, -1, 1)
        assert np.abs(plain - turned).max() < 0.3 * np.abs(plain).max()
        assert np.corrcoef(plain.ravel(), turned.ravel())[0, 1] > 0.99
        assert np.corrcoef(plain.ravel(), mirrored.ravel())[0, 1] < 0.99


@pytest.mark.parametrize("size", [(8, 1000), (1000, 8), (8, 8), (9, 8), (5000, 20)])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_any_size_has_a_text_of_at_most_200_characters(size, mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "photo.png")
    shown = inspect_photo(tmp_path / "photo.png").perceptual_hash
    assert len(shown) in (0, 199)
    assert shown.isascii()
    assert find_groups(["a", "b"], [shown, shown]) == ([[0, 1]] if shown else [])


@pytest.mark.parametrize("text", ["x", "AAAA", "é" * 199, "=" * 199, "a" * 200])
def test_a_damaged_description_is_one_line(text, scenes):
    with pytest.raises(UserError, match="is no description of a photo") as refused:
        group([perceptual_hash(scenes[0]), text])
    assert len(str(refused.value).splitlines()) == 1


def test_the_benchmark_measures_what_is_found(tmp_path):
    draw_breeds(tmp_path / "photos", 2, seed=1)
    flags = ("--photos", tmp_path / "photos", "--count", 24, "--many", 300, "--workers", 2)
    done = run_script("benchmarks.near_duplicates", *flags, "--pairs", tmp_path / "pairs.png")
    assert done.returncode == 0, done.stderr
    assert "found: 100.00% of mirrored\n" in done.stdout
    assert "grouped among the photos themselves: 0 (0.00%)" in done.stdout
    assert (tmp_path / "pairs.png").stat().st_size > 0
