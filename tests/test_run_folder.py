import dataclasses
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from pairs.devices.cluster import ALONE
from pairs.errors import UserError
from pairs.files import check_can_be_made, read_json
from pairs.photos import check
from pairs.photos.check import Facts
from pairs.training import run_folder
from pairs.training.log import RunLog
from pairs.training.recipe import STAGES_2017, TUNED
from pairs.training.settings import constants_of, make_settings

CONSTANTS = {"dropout": 0.5, "augmentation": {"rotation_range": 45}}


def settings(found, typeids=("a", "b"), stages=STAGES_2017, constants=None, **flags):
    flags = {"trunk": "xception", "recipe": "seed", "loss": "paired", "seed": 0, **flags}
    flags = {"batch_size": 32, "workers": 2, **flags}
    made = make_settings(flags, stages, ALONE, list(typeids), found)
    return {**made, "constants": constants or CONSTANTS}


@pytest.fixture
def found():
    return {
        "train": {f"a/{n}.jpg": Facts(1, 2, 3, f"digest {n}") for n in range(4)},
        "valid": {"b/9.jpg": Facts(1, 2, 3, "digest 9")},
    }


@pytest.fixture
def begun(tmp_path, found):
    """A folder with a run in it."""
    check.write_check(tmp_path, found)
    run_folder.write_settings(tmp_path, settings(found))
    return tmp_path


def go_on(folder, found, **changes):
    known = check.read_check(folder)
    return run_folder.holds_run(folder, settings(found, **changes), known, found)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("new", "new/deeper", "."):
        check_can_be_made("--tensorboard", str(tmp_path / name))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"--tensorboard .*file/board: cannot be written"):
        check_can_be_made("--tensorboard", str(tmp_path / "file" / "board"))
    (tmp_path / "link").symlink_to(tmp_path / "not mounted")
    for name in ("link", "link/board"):
        with pytest.raises(UserError, match=r"link.*: cannot be written"):
            check_can_be_made("--tensorboard", str(tmp_path / name))


def test_the_same_run_goes_on_and_an_empty_folder_begins(begun, found, tmp_path_factory):
    assert go_on(begun, found)
    assert go_on(begun, found, workers=16)  # changes no result
    assert not go_on(tmp_path_factory.mktemp("new"), found)


def test_another_recipe_is_refused_with_each_difference(begun, found):
    stages = (STAGES_2017[0], dataclasses.replace(STAGES_2017[1], epochs=20))
    with pytest.raises(UserError) as refused:
        go_on(begun, found, stages=stages, batch_size=16)
    message = str(refused.value)
    assert "--batch-size was 32, is now 16" in message
    assert "epochs of stage blocks was 30, is now 20" in message
    assert "stage plain is skipped" in message
    assert "--seed" not in message
    constants = {**CONSTANTS, "augmentation": {"rotation_range": 20}}
    with pytest.raises(UserError, match=r"augmentation was {'rotation_range': 45}, is now"):
        go_on(begun, found, constants=constants)
    with pytest.raises(UserError, match="variant was None, is now crop"):
        go_on(begun, found, constants={**CONSTANTS, "variant": "crop"})
    fewer = dict(list(CONSTANTS.items())[1:])
    with pytest.raises(UserError, match="is now None"):
        go_on(begun, found, constants=fewer)
    assert "--restart" in message


def test_of_another_recipe_its_name_is_enough(begun, found):
    run_folder.write_settings(begun, settings(found, recipe="tuned", stages=TUNED, loss="paired"))
    with pytest.raises(UserError) as refused:
        go_on(begun, found, recipe="seed", loss="paired")
    assert "other settings: --recipe was tuned, is now seed. Undo" in str(refused.value)


def test_another_class_list_or_data_set_is_refused_with_the_photos(begun, found):
    with pytest.raises(UserError, match=r"classes 1 added \(e.g. 'c'\), 1 gone \(e.g. 'b'\)"):
        go_on(begun, found, typeids=("a", "c"))
    changed = dict(found["train"])
    del changed["a/0.jpg"]
    changed["a/1.jpg"] = Facts(1, 2, 3, "another digest")
    changed["a/2.jpg"] = Facts(1, 2, 3, None, "now broken")
    with pytest.raises(
        UserError,
        match=r"train photos 2 gone \(e.g. 'a/0.jpg'\), 1 changed \(e.g. 'a/1.jpg'\)",
    ):
        go_on(begun, {**found, "train": changed})


def test_photos_of_folds_may_change_sides(begun, found):
    moved = {side: dict(photos) for side, photos in found.items()}
    moved["valid"]["a/0.jpg"] = moved["train"].pop("a/0.jpg")
    with pytest.raises(UserError, match="train photos 1 gone"):
        go_on(begun, moved)
    run_folder.write_settings(begun, settings(found, folds=3))
    assert go_on(begun, moved, folds=3)
    moved["valid"]["a/0.jpg"] = Facts(1, 2, 3, "another digest")
    with pytest.raises(UserError, match="train photos 1 gone"):
        go_on(begun, moved, folds=3)


@pytest.mark.parametrize(
    "name",
    ["model.keras", "checkpoint.npz", "results.json", "heads-best.keras", "log.csv"],
)
def test_files_of_unknown_origin_are_not_overwritten(tmp_path, found, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UserError, match="not of a run that could resume"):
        go_on(tmp_path, found)


def test_restart_keeps_the_old_run_and_what_the_user_brought(begun, capsys):
    (begun / "log.csv").write_text("old")
    (begun / "xception.h5").write_text("brought")
    (begun / "README.md").write_text("read me")
    run_folder.set_aside(begun)
    assert capsys.readouterr().out == f"the run that was there: {begun / 'run-1'}\n"
    assert (begun / "run-1" / "log.csv").read_text() == "old"
    assert (begun / "xception.h5").exists()
    assert (begun / "README.md").exists()
    assert not (begun / "settings.json").exists()
    run_folder.set_aside(begun)  # nothing to move
    assert capsys.readouterr().out == ""
    assert not (begun / "run-2").exists()
    (begun / "checkpoint.npz").write_bytes(b"")
    for number in (2, 3):  # with settings and without: nothing is ever overwritten
        (begun / "log.csv").write_text(f"run {number}")
        run_folder.set_aside(begun)
    assert capsys.readouterr().out == (
        f"the run that was there: {begun / 'run-2'} (its training had not ended)\n"
        f"the run that was there: {begun / 'run-3'}\n"
    )
    assert (begun / "run-1" / "log.csv").read_text() == "old"
    for number in (2, 3):
        assert (begun / f"run-{number}" / "log.csv").read_text() == f"run {number}"


def test_what_never_began_is_no_run_to_keep(tmp_path, found):
    check.write_check(tmp_path, found)
    (tmp_path / "start.keras").write_bytes(b"not trained")
    run_folder.set_aside(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"photos.json", "start.keras"}


def test_a_second_training_in_a_folder_is_refused_while_the_first_lives(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from pairs.training import run_folder\n"
        "with run_folder.locked(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert first.stdout.readline() == b"locked\n"
    with (
        pytest.raises(UserError, match="another training writes there"),
        run_folder.locked(tmp_path),
    ):
        pass
    first.kill()  # -9: nobody cleans up
    first.wait()
    with run_folder.locked(tmp_path):
        pass


def test_a_run_of_an_older_version_is_one_line(begun, found):
    (begun / "settings.json").write_text('{"flags": {}, "stages": []}')
    with pytest.raises(UserError, match="another version of this project"):
        go_on(begun, found)


def test_a_run_from_before_there_was_a_flag_did_what_is_its_default(begun, found):
    assert go_on(begun, found, fit="squash", balance=False)
    with pytest.raises(UserError, match="--fit was squash, is now crop"):
        go_on(begun, found, fit="crop", balance=False)
    with pytest.raises(UserError, match="--balance was not given, is now given"):
        go_on(begun, found, fit="squash", balance=True)
    old = read_json(begun / "settings.json")
    for stage in old["stages"]:
        del stage["image_scale"], stage["schedule"]  # nor did stages have these
    run_folder.write_settings(begun, old)
    assert go_on(begun, found)
    heads, *others = STAGES_2017
    larger = [dataclasses.replace(heads, image_scale=2.0), *others]
    with pytest.raises(UserError, match=r"image_scale of stage heads was 1\.0, is now 2\.0\. Undo"):
        go_on(begun, found, stages=larger)


def test_a_damaged_settings_file_is_one_line(begun, found):
    (begun / "settings.json").write_text('{"flags": ')
    with pytest.raises(UserError, match=r"settings\.json: damaged"):
        go_on(begun, found)
    old = settings(found)
    for changed in ({"flags": 1}, {"stages": [{}]}, {"data": None}, {"versions": []}):
        (begun / "settings.json").write_text(json.dumps({**old, **changed}))
        with pytest.raises(UserError, match=r"settings\.json: damaged .*--restart"):
            go_on(begun, found)


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', '[{"error": 1}]'])
def test_results_of_another_kind_are_one_line(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json: not of a training of one model"):
        RunLog(tmp_path, list(STAGES_2017))


def test_a_training_of_its_own_in_the_folder_of_a_fold_is_not_taken_for_the_folds(tmp_path):
    run_folder.check_fold_folders(tmp_path, 3)
    (tmp_path / "fold-3").mkdir()
    run_folder.check_fold_folders(tmp_path, 3)
    (tmp_path / "fold-3" / "settings.json").touch()
    run_folder.check_fold_folders(tmp_path, 2)
    with pytest.raises(UserError, match="fold-3 holds a training of its own"):
        run_folder.check_fold_folders(tmp_path, 3)


def test_of_the_trunks_only_the_row_of_its_own_makes_another_run(tmp_path, found, monkeypatch):
    from pairs.network.trunks import TRUNKS

    check.write_check(tmp_path, found)
    for trunk, other in (("xception", "inceptionv3"), ("inceptionv3", "xception")):
        flags = {"trunk": trunk, "recipe": "seed", "loss": "softmax"}
        now = settings(found, constants=constants_of(flags), **flags)
        run_folder.write_settings(tmp_path, now)
        assert run_folder.holds_run(tmp_path, now, found, found)
        with monkeypatch.context() as patched:  # another row is no other run
            patched.setitem(TRUNKS, other, None)
            patched.setitem(TRUNKS, "new", None)
            assert constants_of(flags) == now["constants"]
        moved = dataclasses.replace(TRUNKS[trunk], blocks="after another")
        with monkeypatch.context() as patched:
            patched.setitem(TRUNKS, trunk, moved)
            now = settings(found, constants=constants_of(flags), **flags)
        with pytest.raises(UserError, match=r"unfreezing was .*, is now after another"):
            run_folder.holds_run(tmp_path, now, found, found)


def test_a_restart_that_was_cut_short_is_resumed_and_not_restarted(begun, found):
    """Whoever repeats a command, a queue of jobs for one, would lose what it has done."""
    run_folder.check_restart(begun, settings(found, restart=True))  # begun without
    run_folder.write_settings(begun, settings(found, restart=True))
    run_folder.check_restart(begun, settings(found, restart=True))  # no epoch yet
    (begun / "fold-2").mkdir()
    (begun / "fold-2" / "checkpoint.npz").write_bytes(b"")
    for changes in ({}, {"workers": 9}):
        with pytest.raises(UserError, match="Leave --restart out to resume it"):
            run_folder.check_restart(begun, settings(found, restart=True, **changes))
    (begun / "fold-2" / "checkpoint.npz").rename(begun / "fold-2" / "model.keras")  # between folds
    with pytest.raises(UserError, match="Leave --restart out to resume it"):
        run_folder.check_restart(begun, settings(found, restart=True))
    (begun / "results.json").write_text("{}")  # all folds are trained
    run_folder.check_restart(begun, settings(found, restart=True))
    (begun / "results.json").unlink()
    run_folder.check_restart(begun, settings(found, restart=True, seed=1))
    run_folder.check_restart(begun, settings(found, restart=True, stages=TUNED))
    (begun / "settings.json").write_text("{")
    run_folder.check_restart(begun, settings(found, restart=True))


def test_restart_makes_the_old_run_unusable_before_anything_else(begun, found, monkeypatch):
    """A kill in the middle must not leave a mixture that goes on."""
    (begun / "checkpoint.npz").write_bytes(b"old")
    (begun / "activations").mkdir()
    moved = []

    def power_cut(source, target):
        assert not moved
        moved.append(source.name)
        source.rename(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", power_cut)
        with pytest.raises(KeyboardInterrupt):
            run_folder.set_aside(begun)
    assert moved == ["settings.json"]
    (begun / "run-1").rename(begun / "aside")  # cut again, after the second file
    (begun / "settings.json").write_text("{}")
    calls = []

    def second_cut(source, target):
        source.rename(target)
        calls.append(source.name)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", second_cut)
        with pytest.raises(KeyboardInterrupt):
            run_folder.set_aside(begun)
    # Decisions of the old run are gone as soon as nothing can resume it.
    assert not (begun / "activations").exists()
    (begun / "run-1" / "checkpoint.npz").rename(begun / "checkpoint.npz")
    with pytest.raises(UserError, match="not of a run that could resume"):
        go_on(begun, found)
    run_folder.set_aside(begun)
    assert not (begun / "checkpoint.npz").exists()
    assert not go_on(begun, found)


def test_restart_leaves_no_activations_and_no_decision_about_them(begun):
    for name in (f"{'01' * 16}.off", f"{'23' * 16}/00000.npy"):
        path = begun / "activations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run_folder.set_aside(begun)
    assert not (begun / "activations").exists()
    (begun / "activations").mkdir()
    run_folder.set_aside(begun)  # of a run whose files are gone
    assert not (begun / "activations").exists()


@pytest.mark.parametrize("name", ["imagenet-best.keras", "my-last.keras", "xception.h5"])
def test_restart_moves_no_model_of_the_users(begun, name):
    (begun / name).write_bytes(b"mine")
    (begun / "heads-best.keras").write_bytes(b"the run's")
    run_folder.set_aside(begun)
    assert (begun / name).read_bytes() == b"mine"
    assert (begun / "run-1" / "heads-best.keras").exists()


# What may differ when a run goes on: it changes no result, or is compared as something else.
MAY_DIFFER = {
    *("data", "weights", "workers", "distribute", "tensorboard", "restart", "demo", "epochs")
}
OTHER_VALUES = {
    "trunk": "inceptionv3",
    "loss": "softmax",
    "pretrained": "none",
    "recipe": "tuned",
    "image_size": 200,
    "batch_size": 8,
    "seed": 1,
    "cache": "float16",
    "precision": "mixed_bfloat16",
    "jit": True,
    "folds": 5,
    "fit": "crop",
    "balance": True,
    "openvino": "float32",
}


def test_every_flag_that_changes_a_result_is_compared(begun, found):
    import train

    flags = vars(train.parse_args([]))
    assert set(OTHER_VALUES) | MAY_DIFFER == set(flags)
    run_folder.write_settings(begun, settings(found, **flags))
    assert go_on(begun, found, **flags)
    for name, value in OTHER_VALUES.items():
        was = flags[name] or ("0" if name == "seed" else "not given")
        is_now = "given" if value is True else value
        words = f"--{name.replace('_', '-')} was {was}, is now {is_now}"
        with pytest.raises(UserError, match=words):
            go_on(begun, found, **{**flags, name: value})
    for name in MAY_DIFFER:
        assert go_on(begun, found, **{**flags, name: "other"})


@pytest.mark.parametrize("cache", ["float32", "float16"])
def test_a_run_can_go_on_without_its_store_where_a_quota_leaves_no_room(
    begun, found, cache, capsys
):
    run_folder.write_settings(begun, settings(found, cache=cache))
    assert go_on(begun, found, cache="off")
    assert f"note: --cache was {cache}, is now off" in capsys.readouterr().out
    run_folder.write_settings(begun, settings(found, cache="off"))
    with pytest.raises(UserError, match="--cache was off"):
        go_on(begun, found, cache=cache)


def test_a_folder_without_a_check_knows_no_photos(tmp_path):
    assert check.read_check(tmp_path) == {"train": {}, "valid": {}}


def test_another_version_of_a_package_is_a_note_and_not_an_error(begun, found, capsys):
    assert go_on(begun, found)
    assert capsys.readouterr().out == ""
    old = read_json(begun / "settings.json")
    assert old["versions"]["keras"]
    now, old["versions"]["keras"] = old["versions"]["keras"], "0.1"
    run_folder.write_settings(begun, old)
    assert go_on(begun, found)
    note = f"note: keras was 0.1, is now {now}: results may differ in the last digits\n"
    assert capsys.readouterr().out == note


def test_every_difference_between_two_plans_is_named(begun, found):
    heads, _, plain = STAGES_2017
    with pytest.raises(UserError) as refused:
        go_on(begun, found, stages=(heads, dataclasses.replace(plain, name="last")))
    message = str(refused.value)
    for words in ("stage last was skipped", "stage blocks is skipped", "stage plain is skipped"):
        assert words in message
    assert message.count("; ") == 2
    assert f"--weights {begun} holds" in message


def test_the_same_classes_in_another_order_are_another_run(begun, found):
    with pytest.raises(UserError, match="classes in another order"):
        go_on(begun, found, typeids=("b", "a"))


def test_what_a_check_found_is_read_back_and_a_damaged_one_is_one_line(begun, found):
    assert check.read_check(begun) == found
    content = json.loads((begun / "photos.json").read_text())
    for photos in content.values():  # as versions without descriptions wrote it
        photos.update({name: facts[:5] for name, facts in photos.items()})
    (begun / "photos.json").write_text(json.dumps(content))
    assert check.read_check(begun) == found
    for content in ("[1]", '{"train": [1]}', '{"train": {"a/0.jpg": 5}}', "{"):
        (begun / "photos.json").write_text(content)
        with pytest.raises(UserError, match=r"photos\.json: damaged"):
            check.read_check(begun)
