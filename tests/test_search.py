"""Against a search and a judgement written out in loops, and against counting by hand."""

import math
import os
import tracemalloc

import numpy as np
import pytest
from conftest import run_script

from pairs.evaluation import metrics, search
from pairs.evaluation.matches import take_rows

TINY_BLOCKS = {"QUERY_BLOCK": 3, "GALLERY_BLOCK": 4, "MOST_AT_ONCE": 50}
IDENTITIES = ["-1", "0000", "0001", "0002", "pug", None]


def coarse_features(num_photos, rng, unreadable=0.1):
    """Rows of length 1 with very many equal similarities, all of them without rounding."""
    features = np.zeros((num_photos, 8), np.float32)
    for row in features:
        row[rng.choice(8, size=4, replace=False)] = rng.choice([-0.5, 0.5], size=4)
    features[rng.random(num_photos) < unreadable] = np.nan
    return features


def fine_features(num_photos, rng):
    """Rows of length 1, hardly two similarities of which are equal."""
    features = rng.normal(size=(num_photos, 8))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def cosine(one, other):
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True))


def by_similarity(gallery, query):
    """Indices of the readable photos, the most similar to a readable query first."""
    found = [(-cosine(photo, query), index) for index, photo in enumerate(gallery)]
    return [index for negative, index in sorted(f for f in found if not math.isnan(f[0]))]


def random_names(num_photos, rng):
    """Identities and cameras, some of them unknown."""
    identities = [IDENTITIES[i] for i in rng.integers(0, len(IDENTITIES), size=num_photos)]
    cameras = [[1, 2, 3, None][i] for i in rng.integers(0, 4, size=num_photos)]
    return identities, cameras


def random_task(seed, make_features=coarse_features):
    """The arguments of `judge_ranking`: 40 photos, 25 queries, 6 of which are among the photos."""
    rng = np.random.default_rng(seed)
    gallery, queries = make_features(40, rng), make_features(25, rng)
    identities, cameras = zip(random_names(40, rng), random_names(25, rng), strict=True)
    paths = [f"gallery/{i}.jpg" for i in range(40)], [f"query/{i}.jpg" for i in range(25)]
    for query, photo in enumerate(rng.choice(40, size=6, replace=False)):
        queries[query] = gallery[photo]
        for names in (identities, cameras, paths):
            names[1][query] = names[0][photo]
    return gallery, queries, *identities, *cameras, *paths


def judge_ranking(gallery, queries, ids, query_ids, cams, query_cams, paths=(), query_paths=()):
    """`search.judge_ranking` of a task."""
    return search.judge_ranking(
        search.Side(gallery, ids, cams, paths),
        search.Side(queries, query_ids, query_cams, query_paths),
    )


def judge_in_loops(gallery, queries, ids, query_ids, cams, query_cams, paths=(), query_paths=()):
    """Recalls and mean average precision, query by query and photo by photo."""
    firsts, precisions = [], []
    for number, query in enumerate(queries):
        if query_ids[number] in ("-1", "0000", None):
            continue
        place, right_ones, total = 0, 0, 0.0
        first = None
        for index in by_similarity(gallery, query):
            same = ids[index] == query_ids[number]
            if ids[index] == "-1":
                continue
            if same and cams[index] is not None and cams[index] == query_cams[number]:
                continue
            if paths and os.path.realpath(paths[index]) == os.path.realpath(query_paths[number]):
                continue
            place += 1
            if same:
                right_ones += 1
                total += right_ones / place
                first = first or place
        if right_ones:
            firsts.append(first)
            precisions.append(total / right_ones)
    recalls = {k: sum(f <= k for f in firsts) / len(firsts) for k in (1, 5, 10)}
    return len(firsts), recalls, sum(precisions) / len(precisions)


def assert_judged(ranking, expected):
    num_queries, recalls, precision = expected
    assert ranking.num_queries == num_queries
    assert {k: share.value for k, share in ranking.recalls.items()} == pytest.approx(recalls)
    assert ranking.mean_average_precision.value == pytest.approx(precision)


def axes(*numbers):
    """Photos of which those with one number have similarity 1, all others 0."""
    return np.eye(4, dtype=np.float32)[list(numbers)]


def on_a_line(*similarities):
    """Photos with these similarities to the query `[[1, 0]]`."""
    cosines = np.array(similarities, np.float32)
    return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


def judge_one(similarities, identities, identity="a", cameras=None, camera=None):
    """`judge_ranking` of one query."""
    cameras = cameras or [None] * len(identities)
    query = np.array([[1, 0]], np.float32)
    photos = on_a_line(*similarities)
    return judge_ranking(photos, query, identities, [identity], cameras, [camera])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 7, 50])
def test_the_nearest_are_those_of_a_search_in_loops(seed, count):
    rng = np.random.default_rng(seed)
    gallery, queries = coarse_features(30, rng), coarse_features(20, rng)
    indices, similarities = search.find_nearest(gallery, queries, count)
    assert indices.shape == similarities.shape == (20, min(count, 30))
    assert (indices.dtype, similarities.dtype) == (np.int64, np.float32)
    for query, row, cosines in zip(queries, indices, similarities, strict=True):
        expected = by_similarity(gallery, query)[:count]
        assert row.tolist() == expected + [-1] * (len(row) - len(expected))
        assert cosines[: len(expected)].tolist() == [cosine(gallery[i], query) for i in expected]
        assert np.isnan(cosines[len(expected) :]).all()


def test_fine_features_are_found_in_order_of_their_cosines():
    rng = np.random.default_rng(0)
    gallery, queries = fine_features(300, rng), fine_features(40, rng)
    indices, similarities = search.find_nearest(gallery, queries, 10)
    assert indices.tolist() == [by_similarity(gallery, query)[:10] for query in queries]
    exact = (gallery[indices].astype(np.float64) * queries[:, None]).sum(axis=2)
    np.testing.assert_allclose(similarities, exact, atol=1e-6)


def test_equals_are_found_by_index_however_many_there_are():
    gallery = axes(*([0] * 100 + [1] + [0] * 100))
    indices, similarities = search.find_nearest(gallery, axes(0, 1), 150)
    assert indices[0].tolist() == [*range(100), *range(101, 151)]
    assert indices[1].tolist() == [100, *range(100), *range(101, 150)]
    assert similarities[1].tolist() == [1.0] + [0.0] * 149


def test_unreadable_photos_are_not_found_and_find_nothing():
    gallery = axes(0, 1, 0)
    gallery[0] = np.nan
    queries = axes(0, 2)
    queries[1] = np.nan
    indices, similarities = search.find_nearest(gallery, queries, 3)
    assert indices.tolist() == [[2, 1, -1], [-1, -1, -1]]
    np.testing.assert_array_equal(similarities, [[1, 0, np.nan], [np.nan] * 3])
    indices, similarities = search.find_nearest(gallery[:0], queries, 3)
    assert indices.shape == similarities.shape == (2, 0)


def test_a_memory_map_is_searched_as_an_array_is(tmp_path):
    rng = np.random.default_rng(3)
    features = fine_features(50, rng)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = search.find_nearest(features, features[:9], 4)
    for one, other in zip(search.find_nearest(mapped, mapped[:9], 4), expected, strict=True):
        assert type(one) is np.ndarray
        np.testing.assert_array_equal(one, other)
    names = [str(i % 5) for i in range(50)]
    task = names, names[:9], [None] * 50, [None] * 9
    judged = judge_ranking(mapped, mapped[:9], *task)
    assert judged == judge_ranking(features, features[:9], *task)


@pytest.mark.parametrize("seed", range(4))
def test_blocks_change_nothing(seed, monkeypatch):
    task = random_task(seed)
    nearest = search.find_nearest(*task[:2], 6)
    ranking = judge_ranking(*task)
    for name, value in TINY_BLOCKS.items():
        monkeypatch.setattr(search, name, value)
    for one, other in zip(search.find_nearest(*task[:2], 6), nearest, strict=True):
        np.testing.assert_array_equal(one, other)
    assert judge_ranking(*task) == ranking


def test_memory_does_not_grow_with_the_table_of_similarities():
    rng = np.random.default_rng(1)
    gallery, queries = fine_features(100_000, rng), fine_features(600, rng)
    names = [str(number % 1000) for number in range(100_000)]
    task = names, names[:600], [None] * 100_000, [None] * 600
    tracemalloc.start()
    search.find_nearest(gallery, queries, 10)
    nearest = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    judge_ranking(gallery, queries, *task)
    judged = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All similarities are 240 MB.
    assert nearest < 50e6
    assert judged < 100e6


def test_identities_are_folders_or_the_first_part_of_a_name():
    names = [
        *("pug/1.jpg", "pug_2/more/3_4.jpg", "0002_c1s1_000451_03.jpg"),
        *("64_204334697,1136899827.jpg", "-1_c3s2_1_00.jpg", "alone.jpg", "_c1s1_1.jpg", " _1.jpg"),
    ]
    expected = ["pug", "pug_2", "0002", "64", "-1", None, None, None]
    for root in ("/photos/a_b", "photos/a_b/", "./photos"):
        paths = [os.path.join(root, name) for name in names]
        assert search.read_identities(paths, root) == expected
    with pytest.raises(ValueError, match=r"elsewhere/1\.jpg"):
        search.read_identities(["elsewhere/1.jpg"], "photos")


def test_cameras_are_read_from_names_alone():
    paths = ["a_c9s9_/0002_c1s1_000451_03.jpg", "x/-1_c12s3_1_00.jpg", "a_c9s9_/64_2,1.jpg"]
    assert search.read_cameras([*paths, "c1s1_1.jpg", "1_c1_f2.jpg"]) == [1, 12, None, None, None]


def test_average_precision_by_hand():
    # Right, wrong, right, wrong, wrong, right.
    ranking = judge_one([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], list("axaxya"))
    assert ranking.mean_average_precision.value == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert ranking.num_queries == 1
    assert [share.value for share in ranking.recalls.values()] == [1, 1, 1]
    # Right ones at 7 and 8, in an order of the gallery that is not that of the ranking.
    similarities = [0.2, 0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    ranking = judge_one(similarities, ["a", "a", *"xxyyzz"])
    assert ranking.mean_average_precision.value == pytest.approx((1 / 7 + 2 / 8) / 2)
    assert {k: share.value for k, share in ranking.recalls.items()} == {1: 0, 5: 0, 10: 1}


def test_recall_counts_the_first_photos_and_no_more():
    for place, expected in ((1, [1, 1, 1]), (2, [0, 1, 1]), (5, [0, 1, 1]), (6, [0, 0, 1])):
        identities = ["x"] * 12
        identities[place - 1] = "a"
        ranking = judge_one(np.linspace(0.9, 0.1, 12), identities)
        assert [share.value for share in ranking.recalls.values()] == expected
    for place, found in ((10, 1), (11, 0)):
        identities = ["x"] * 12
        identities[place - 1] = "a"
        assert judge_one(np.linspace(0.9, 0.1, 12), identities).recalls[10].value == found


def test_photos_by_the_querys_own_camera_are_left_out():
    right_by_another = judge_one([0.9, 0.8, 0.7], list("axa"), cameras=[1, 1, 2], camera=1)
    assert right_by_another.mean_average_precision.value == pytest.approx(1 / 2)
    assert judge_one([0.9, 0.8], list("ax"), cameras=[1, 2], camera=1) is None
    # An unknown camera is nobody's own.
    for cameras, camera in (([None, 2], 1), ([1, 2], None), ([None, None], None)):
        ranking = judge_one([0.9, 0.8], list("ax"), cameras=cameras, camera=camera)
        assert ranking.mean_average_precision.value == 1


def test_junk_is_neither_right_nor_wrong_and_distractors_are_wrong():
    ranking = judge_one([0.9, 0.8, 0.7], ["-1", "-1", "a"])
    assert ranking.mean_average_precision.value == 1
    for wrong in ("0000", None):
        ranking = judge_one([0.9, 0.8, 0.7], [wrong, "-1", "a"])
        assert ranking.mean_average_precision.value == pytest.approx(1 / 2)
    for nobody in ("-1", "0000", None):
        assert judge_one([0.9, 0.8], [nobody, nobody], identity=nobody) is None


def test_the_querys_own_file_is_left_out_under_any_name(tmp_path):
    (tmp_path / "a_1.jpg").write_bytes(b"a photo")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a_1.jpg")
    task = axes(0, 1, 0), axes(0), ["a", "x", "a"], ["a"], [None] * 3, [None]
    paths = [str(tmp_path / name) for name in ("a_1.jpg", "x_1.jpg", "a_2.jpg")]
    for own in (paths[0], str(tmp_path / "link.jpg")):
        # The other right photo is equal, and comes first.
        assert judge_ranking(*task, paths, [own]).mean_average_precision.value == 1
        alone = (task[0][:2], task[1], task[2][:2], task[3], task[4][:2], task[5])
        assert judge_ranking(*alone) is not None
        assert judge_ranking(*alone, paths[:2], [own]) is None


def test_equals_are_ranked_by_index_however_many_there_are():
    ranking = judge_one([0.5] * 100, ["x"] * 60 + ["a"] + ["x"] * 39)
    assert ranking.mean_average_precision.value == pytest.approx(1 / 61)
    ranking = judge_one([0.5] * 100, ["x"] * 9 + ["a"] + ["x"] * 90)
    assert (ranking.recalls[5].value, ranking.recalls[10].value) == (0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_rankings_are_judged_as_in_loops(seed):
    task = random_task(seed)
    assert_judged(judge_ranking(*task), judge_in_loops(*task))
    assert_judged(judge_ranking(*task[:6]), judge_in_loops(*task[:6]))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_gallery_changes_nothing_but_indices(seed):
    task = random_task(seed, fine_features)
    gallery, queries, names, query_names, cameras, query_cameras, paths, query_paths = task
    order = np.random.default_rng(seed).permutation(len(gallery))
    moved = [[values[i] for i in order] for values in (names, cameras, paths)]
    indices, similarities = search.find_nearest(gallery, queries, 8)
    others, same = search.find_nearest(gallery[order], queries, 8)
    assert order[others].tolist() == indices.tolist()
    np.testing.assert_allclose(same, similarities, atol=1e-6)
    ranking = judge_ranking(
        *(gallery[order], queries, moved[0], query_names, moved[1], query_cameras),
        *(moved[2], query_paths),
    )
    assert ranking == judge_ranking(*task)


def test_standard_errors_are_those_of_shares_and_means():
    ranking = judge_ranking(*random_task(0, fine_features)[:6])
    count = ranking.num_queries
    for share in ranking.recalls.values():
        expected = metrics.share(np.arange(count) < round(count * share.value))
        assert (share.value, share.standard_error) == pytest.approx(
            (expected.value, expected.standard_error)
        )
    # Two queries with average precisions of 1 and 1/2.
    task = axes(0, 1, 1), axes(0, 1), ["a", "x", "b"], ["a", "b"], [None] * 3, [None] * 2
    precision = judge_ranking(*task).mean_average_precision
    assert (precision.value, precision.standard_error) == pytest.approx((3 / 4, 1 / 4 / 2**0.5))


def test_without_identities_nothing_is_judged():
    task = axes(0, 1), axes(0)
    assert judge_ranking(*task, [None] * 2, [None], [None] * 2, [None]) is None
    assert judge_ranking(*task, ["a", "b"], ["c"], [None] * 2, [None]) is None
    nothing = np.empty((0, 4), np.float32)
    assert judge_ranking(nothing, nothing, [], [], [], []) is None
    assert judge_ranking(nothing, task[1], [], ["a"], [], [None]) is None
    unreadable = np.full((1, 4), np.nan, np.float32)
    assert judge_ranking(task[0], unreadable, ["a", "b"], ["a"], [1, 1], [2]) is None


def test_rows_that_follow_each_other_are_not_copied():
    unit = np.arange(12.0).reshape(6, 2)
    for rows, is_view in (([0, 1, 2, 3, 4, 5], True), ([4, 5], True), ([1, 0], False)):
        taken = take_rows(unit, np.array(rows))
        assert np.array_equal(taken, unit[rows])
        assert np.shares_memory(taken, unit) == is_view


def test_the_benchmark_finds_the_same_photos_both_ways():
    done = run_script("benchmarks.search_speed", "--gallery", 500, "--queries", 5, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert "100.00% of the photos found are the same" in done.stdout


def test_a_search_in_files_named_as_market_1501_leaves_out_the_own_camera():
    def side(similarities, names, folder):
        angles = np.arccos(similarities)
        features = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
        return search.read_side(features, [f"{folder}/{name}" for name in names], folder)

    names = ["0002_c1s1_1_00.jpg", "0003_c2s1_1_00.jpg", "0002_c2s1_1_00.jpg"]
    gallery = side([0.9, 0.8, 0.7], names, "g")
    query = side([1.0], ["0002_c1s1_9_00.jpg"], "q")
    found = search.judge_ranking(gallery, query)
    assert found.recalls[1].value == 0  # 1, if the camera were unknown
    assert found.mean_average_precision.value == pytest.approx(1 / 2)
