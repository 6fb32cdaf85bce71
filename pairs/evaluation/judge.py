"""What `predict.py --evaluate` does: judges models on photos that they have not seen.

Class folders come in; numbers are printed, tables, pictures and pages are written,
and the calibration is stored, unless the models know these photos.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from pairs.errors import UserError
from pairs.evaluation import unseen
from pairs.evaluation.calibration import FEW_PHOTOS, Calibration, write_calibration
from pairs.evaluation.evaluate import Evaluation, evaluate, print_evaluation, write_files
from pairs.evaluation.predictor import Predictor
from pairs.network.weights_folder import CALIBRATION


def judge(
    predictors: Sequence[Predictor],
    folder: str,
    names: dict[str, str],
    report: str | None,
    workers: int,
) -> None:
    """Prints how good the models are on photos of known class; stores the calibration.

    Args:
        predictors: with the same classes; the first one's head judges pairs.
        folder: with the photos, see `unseen.find_photos_to_judge`.
        names: human-readable, by typeid; may lack some.
        report: folder to write tables, pictures and pages to; None: nothing is written there.
        workers: threads that read files.

    Raises:
        UserError: no photos there, or none can be read.
    """
    predictor = predictors[0]
    photos = unseen.find_photos_to_judge(folder, predictors)
    if unjudged := photos.missing_classes():
        print(f"note: classes without a photo to judge on: {len(unjudged)}, e.g. {unjudged[0]!r}")
    digests = unseen.find_digests(photos.paths, workers)
    folds = [unseen.find_folds(each, digests) for each in predictors]
    num_trained_on = [unseen.count_trained_on(each, digests) for each in predictors]
    predictions = unseen.predict_together(predictors, photos.paths, digests=digests, folds=folds)
    evaluation = evaluate(predictor, photos, predictions)
    why_not = why_not_fair(predictors, num_trained_on, len(photos))
    known = [count for count in num_trained_on if count is not None]
    evaluation.numbers["photos_trained_on"] = max(known, default=None)
    print_evaluation(evaluation, names)
    if why_not:
        print(f"calibration not stored, labels not checked: {why_not}")
    elif not predictor.is_plain:
        print("calibration not stored: it is of predictions without --tta and --head")
    else:
        fitted = evaluation.calibration
        if evaluation.predictions.folds is not None:  # of each model alone
            fitted = fitted.of_mean()
        print(store_calibration(predictor, fitted))
    if report:  # last: whatever goes wrong there, the rest is done
        pages = pathlib.Path(report)
        pages.mkdir(parents=True, exist_ok=True)
        digest_of = dict(zip(photos.paths, digests, strict=True))
        write_pages(evaluation, predictor, names, pages, None if why_not else digest_of)
        print(f"the report: {pages / 'index.html'}")


def why_not_fair(
    predictors: Sequence[Predictor], num_trained_on: Sequence[int | None], num_photos: int
) -> str | None:
    """Why a model's word about these photos is no judgement of their labels, or None.

    Args:
        predictors: who judged them.
        num_trained_on: of each of them, `unseen.count_trained_on`.
        num_photos: that were judged.
    """
    for predictor, count in zip(predictors, num_trained_on, strict=True):
        if count:
            return (
                f"{count} of these {num_photos} photos are photos that the model in "
                f"{predictor.weights} was trained on; the error is too low"
            )
        if count is None:
            return f"nothing says what the model in {predictor.weights} was trained on"
    return "it is of several models" if len(predictors) > 1 else None


def write_pages(
    evaluation: Evaluation,
    predictor: Predictor,
    names: dict[str, str],
    folder: pathlib.Path,
    digest_of: dict[str, str | None] | None,
) -> None:
    """Writes tables, pictures and pages of an evaluation.

    Args:
        evaluation, predictor, names: what is written.
        folder: exists.
        digest_of: of each path, if the photos were judged by models that have not
            seen them: labels can be doubted then. None: the models may know the
            photos by heart, wrong labels included.
    """
    from pairs.evaluation.report import write_report
    from pairs.evaluation.suspects import find_suspects, labels_to_check, write_suspects
    from pairs.evaluation.suspects_page import write_suspects_page

    write_files(evaluation, names, folder)
    num_suspects = None
    for name in ("suspects.csv", "suspects.html"):  # of an earlier evaluation
        (folder / name).unlink(missing_ok=True)
    if digest_of is not None:
        photos, predictions = evaluation.photos, evaluation.predictions
        folds = predictions.folds
        groups = unseen.find_near_duplicates(predictor, [digest_of[path] for path in photos.paths])
        suspects = find_suspects(
            photos,
            predictions.probabilities,
            predictions.features,
            np.zeros(len(photos), int) if folds is None else folds,
            groups,
            evaluation.calibrated,
        )
        write_suspects(suspects, photos, folder / "suspects.csv")
        write_suspects_page(suspects, photos, names, folder, groups)
        num_suspects = len(suspects)
        print(f"{labels_to_check(num_suspects)}: {folder / 'suspects.html'}")
    trained_on = None
    if evaluation.predictions.folds is None:
        trained_on = unseen.find_training_photos(predictor)
    write_report(evaluation, predictor, trained_on, names, folder, num_suspects)


def store_calibration(predictor: Predictor, calibration: Calibration) -> str:
    """Stores what an evaluation fitted; says what was done."""
    kept = predictor.calibration.photos
    if kept > calibration.photos:
        return (
            f"calibration not stored: that of {kept} photos is kept (delete "
            f"{predictor.weights / CALIBRATION} to replace it)"
        )
    try:
        write_calibration(predictor.weights, calibration)
    except UserError as error:  # somebody else's weights, maybe; what was asked for is done
        return f"calibration not stored: {error}"
    few = (
        "; so few fit it badly: train.py --folds has more"
        if calibration.photos < FEW_PHOTOS
        else ""
    )
    return f"calibration of {calibration.photos} photos stored in {predictor.weights}{few}"
