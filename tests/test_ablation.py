import json
import pathlib
import shutil

import numpy as np
import pytest
from conftest import REAL_TRUNK, ROOT, assert_one_line_error, make_raw, run_script
from scipy import stats

from pairs.errors import UserError


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


# Which photos a training is judged on: all, or a fifth that all share and one of its fold.
BALANCED = np.ones((4, 80), bool)
FOLDS = np.array([np.isin(np.arange(80) // 16, (0, fold)) for fold in (1, 1, 2, 3, 3, 4, 4)])


@pytest.mark.parametrize("judged", [BALANCED, FOLDS], ids=["balanced", "folds"])
@pytest.mark.parametrize(
    ("hard", "luck", "noise"), [(0.3, 0.03, 0.2), (0.05, 0.02, 0.3), (0.0, 0.0, 0.3)]
)
def test_the_standard_error_is_the_spread_of_repeated_experiments(judged, hard, luck, noise):
    from experiments import table

    rng = np.random.default_rng(0)

    def experiment():
        of_photos, of_trainings = rng.normal(0, hard, 80), rng.normal(0, luck, (len(judged), 1))
        values = 0.2 + of_photos + of_trainings + rng.normal(0, noise, judged.shape)
        return table.mean_and_error(np.where(judged, values, np.nan))

    means, errors = np.transpose([experiment() for _ in range(1000)])
    # Where there is noise alone, both parts are guesses at it, and the larger one is taken.
    assert 0.93 < np.sqrt(np.mean(errors**2)) / np.std(means) < (1.2 if luck == 0 else 1.1)


def test_with_one_seed_the_comparison_is_the_paired_t_test():
    from experiments import table

    rng = np.random.default_rng(1)
    ours, others = (rng.random((2, 1, 400)) < [[[0.1]], [[0.2]]]).astype(float)
    compared = table.compare(ours, others)
    expected = stats.ttest_rel(ours[0], others[0])
    assert compared["difference"] == pytest.approx(ours.mean() - others.mean())
    assert compared["difference"] / compared["standard_error"] == pytest.approx(expected.statistic)
    assert compared["p"] == pytest.approx(expected.pvalue, rel=0.1)
    same = table.compare(ours, ours)
    assert same == {"difference": 0, "standard_error": 0, "p": 1}


@pytest.mark.parametrize(("num_photos", "luck"), [(300, 0.0), (300, 0.02), (4000, 0.01)])
def test_equals_differ_significantly_in_one_table_of_twenty(num_photos, luck):
    """Also where the luck of three seeds is most of the spread."""
    from experiments import table

    rng = np.random.default_rng(2)

    def system():
        error_rates = rng.normal(0.15, luck, size=(3, 1))
        return (rng.random((3, num_photos)) < error_rates).astype(float)

    found = [table.compare(system(), system())["p"] < 0.05 for _ in range(1000)]
    assert 0.005 < np.mean(found) < 0.075


def leave_run(folder, wrong):
    """What `ablation.py` leaves of a training: `wrong` says which photos, by name."""
    folder.mkdir(parents=True)
    right = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    predicted = right[[int(value) for value in wrong.values()]]
    arrays = {"labels": np.ones(len(wrong), np.int32), "names": list(wrong)}
    np.savez(folder / "test.npz", **arrays, **{"plain first": predicted})
    (folder / "seconds.json").write_text("60")


def test_two_folds_are_one_table_of_every_photo_once(tmp_path):
    # Photo b is judged by both trainings, a and c by one.
    found = {
        "one": ({"2/a.jpg": 1, "2/b.jpg": 1}, {"2/a.jpg": 0, "2/b.jpg": 0}),
        "two": ({"2/b.jpg": 0, "2/c.jpg": 1}, {"2/b.jpg": 0, "2/c.jpg": 1}),
    }
    rows = ("xception-softmax", "xception-paired")
    for name, of_rows in found.items():
        for row, wrong in zip(rows, of_rows, strict=True):
            leave_run(tmp_path / name / "runs" / f"{row}-seed0", wrong)
        listed = [{"row": row, "stages": {}, "command": "python train.py"} for row in rows]
        (tmp_path / name / "results.json").write_text(json.dumps({"seeds": 1, "rows": listed}))
    words = ("experiments.table", tmp_path / "one", tmp_path / "two")
    done = run_script(*words)
    assert done.returncode == 0, done.stderr
    assert "3 test photos, 2 trainings of each system" in done.stdout
    softmax, paired = [line.split("|") for line in done.stdout.splitlines() if "| xcep" in line][:2]
    # By hand: (1 + 0.5 + 1) / 3, photos 1/36, trainings (1, 0.5) 1/16.
    assert softmax[2].strip() == "0.8333 ± 0.3005"
    assert paired[2].strip() == "0.3333 ± 0.4167"
    # -1, -0.5, 0 by photo: 1/12; -1 and 0 by training: 1/4.
    assert paired[5].strip() == "-0.5000 ± 0.5774"
    assert_one_line_error(run_script(*words, tmp_path), "no results.json")


def test_folds_share_no_photo_and_the_untouched_one_is_nowhere_else(tmp_path):
    raw = make_raw(tmp_path / "raw", photos_per_class=12)
    shutil.copy(raw / "2_0,0.jpg", raw / "2_copy.jpg")
    shutil.copy(raw / "2_1,0.jpg", raw / "10_of_class_2.jpg")
    under_two_typeids = {"2_1,0.jpg", "10_of_class_2.jpg"}
    flags = ("--raw", raw, "--out", tmp_path / "folds", "--folds", 3)
    done = run_script("experiments.folds", *flags)
    assert done.returncode == 0, done.stderr
    names = {
        (fold.name, side): {path.name for path in (fold / side).glob("*/*")}
        for fold in (tmp_path / "folds").iterdir()
        for side in ("train", "valid", "test")
    }
    tests = [names[f"fold-{number}", "test"] for number in range(3)]
    assert set.union(*tests) == {path.name for path in raw.iterdir()} - under_two_typeids
    assert sum(map(len, tests)) == 36
    for number in range(3):
        sides = [names[f"fold-{number}", side] for side in ("train", "valid", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert under_two_typeids <= sides[0]
        if number:
            assert not set.union(*sides) & tests[0]
        else:
            assert set.union(*sides) == set.union(*tests) | under_two_typeids
        for photo in tests[number]:
            twin = {"2_0,0.jpg": "2_copy.jpg", "2_copy.jpg": "2_0,0.jpg"}.get(photo)
            assert twin is None or twin in tests[number]
    assert "untouched until the end" in done.stdout
    done = run_script("experiments.folds", *flags, "--seed", 1)
    assert_one_line_error(done, "folds: not empty; photos of two cuts would mix")


def test_too_few_photos_for_the_folds_are_one_line(tmp_path):
    raw = make_raw(tmp_path / "raw", photos_per_class=4)
    done = run_script("experiments.folds", "--raw", raw, "--out", tmp_path / "folds")
    assert_one_line_error(done, "too few for 5 folds")


def test_one_batch_in_four_holds_swapped_pairs():
    from experiments import variants

    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(16), 2)
    shares = []
    for _ in range(400):
        partner = variants.one_in_four(labels, rng)
        assert sorted(partner) == list(range(32))
        assert (partner != np.arange(32)).all()
        shares.append((labels == labels[partner]).mean())
    assert np.mean(np.equal(shares, 1)) == pytest.approx(0.25, abs=0.07)
    # Of 31 others, one is of the same class.
    assert np.mean([share for share in shares if share < 1]) == pytest.approx(1 / 31, abs=0.01)


def test_the_table_is_that_of_2017_and_other_trunks_can_be_asked_for():
    from experiments import ablation

    args = ablation.parse_args(["--test", "test"])
    assert sorted(args.rows) == [
        *("inceptionv3-paired", "inceptionv3-softmax", "xception-paired", "xception-softmax")
    ]
    assert ablation.split_row("convnexttiny-paired") == ("convnexttiny", "paired", "", "")


def test_the_variants_are_listed_and_another_name_is_one_line():
    from experiments import variants

    done = run_script("experiments.variants", "--help")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert listed == list(variants.VARIANTS)
    assert_one_line_error(run_script("experiments.variants", "nonsense"), "is no variant")


def test_every_variant_replaces_what_is_there():
    from experiments import variants
    from pairs.training import recipe

    fields = {field for field in recipe.STAGES_2017[0].__dataclass_fields__}
    names = {stage.name for stage in recipe.STAGES_2017}
    for variant in variants.VARIANTS.values():
        for place in variant.replaced:
            variants.find(place)
        for name, changed in variant.stages.items():
            assert name in {"all", *names}
            assert set(changed) <= fields


@pytest.mark.parametrize(
    "words",
    [
        *("not-larger", "plateau", "one-in-four --loss softmax", "pair-weight-0 --loss softmax"),
        "nearest --demo",
        "scale-0-1 --trunk convnexttiny",  # it scales bytes itself
        "pair-weight-0 --recipe tuned",  # which compares all pairs of a batch instead
    ],
)
def test_a_variant_that_changes_nothing_is_refused(words):
    from experiments import variants

    with pytest.raises(UserError, match="would change nothing"):
        variants.parse_args(words.split())


@pytest.mark.parametrize(
    "words",
    ["one-in-four", "not-larger --recipe tuned", "scale-0-1 --loss softmax", "pair-weight-0"],
)
def test_a_variant_that_changes_something_is_not(words):
    from experiments import variants

    assert variants.parse_args(words.split())[0] == words.split()[0]


def test_a_row_to_compare_with_that_is_not_there_is_refused_before_the_night(data, tmp_path):
    words = ("--data", data, "--test", data / "valid", "--out", tmp_path)
    done = run_script("experiments.ablation", *words, "--against", "xception-sofmax")
    assert_one_line_error(done, "--against xception-sofmax: not a row of this table")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_table_is_trained_and_the_same_command_goes_on(data, tmp_path):
    rows = ("xception-softmax", "xception-paired+one-in-four")
    shutil.copytree(data / "valid", tmp_path / "test")
    flags = f"--data {data} --test {tmp_path / 'test'} --seeds 1 --quick --out {tmp_path / 'out'}"
    flags += " --epochs 0 0 1"
    words = ("experiments.ablation", *flags.split(), "--rows", *rows)
    done = run_script(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["photos"], found["seeds"]) == (6, 1)
    softmax, paired = found["rows"]
    assert list(softmax["stages"]) == list(paired["stages"]) == ["plain"]
    assert paired["against"]["row"] == "xception-softmax"
    assert list(paired["predictions"]) == ["mirrored", "first", "second"]
    assert "-m experiments.variants one-in-four" in paired["command"]
    # A second opinion: predict.py on the same photos with the same model.
    run_folder = tmp_path / "out" / "runs" / "xception-softmax-seed0"
    judged = run_script("predict.py", "--weights", run_folder, "--evaluate", tmp_path / "test")
    assert f"error {softmax['stages']['plain'][0]:.4f}" in judged.stdout

    models = sorted((tmp_path / "out").glob("runs/*/model.keras"))
    before = [path.stat().st_mtime_ns for path in models]
    again = run_script(*words)
    assert "seed 0: python" not in again.stdout  # nothing was trained
    assert [path.stat().st_mtime_ns for path in models] == before
    table = pathlib.Path(tmp_path, "out", "table.md").read_text()
    assert table.count("\n| xception-") == 4
    other = run_script(*words, "--", "--batch-size", "8")
    assert_one_line_error(other, "holds a table of other runs")


def test_a_row_without_weights_says_so(data, tmp_path):
    flags = f"--data {data} --test {data / 'valid'} --seeds 1 --out {tmp_path} --rows"
    # A proxy that is not there: no network, also where there is one.
    more = {**REAL_TRUNK, "https_proxy": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    done = run_script("experiments.ablation", *flags.split(), "xception-softmax", **more)
    assert done.returncode == 0, done.stderr
    assert "| xception-softmax | train.py: error: no ImageNet weights for xception" in done.stdout
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["failed"]


@pytest.mark.parametrize(
    "row", ["resnet-softmax", "xception-paired+nonsense", "xception-paired+2017+crop"]
)
def test_a_row_that_is_none_is_one_line(row, data, tmp_path):
    flags = f"--data {data} --test {data / 'valid'} --out {tmp_path / 'out'} --rows {row}"
    done = run_script("experiments.ablation", *flags.split())
    assert_one_line_error(done, row, "TRUNK-LOSS+RECIPE+VARIANT")
