"""What models say about photos: arrays, and their mean."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says about photos. Rows of unreadable photos are NaN.

    Attributes:
        paths: of the photos.
        probabilities: float32 array, shape `(photos, classes)`; rows sum to 1.
        features: float32 array, shape `(photos, features)`: the trunk's pooled feature;
            of several models side by side.
        folds: int array, shape `(photos,)`: the fold whose model predicted it alone
            (its features, too), because it has not seen the photo; 0: all models, none
            of which has. None: nothing was predicted by fold.
        num_trainings: whose predictions are averaged here.
        likeness: float32 array, shape `(photos,)`: the cosine to the nearest class
            centre, see `similarity.Similarity`; None: nothing is known of it.
    """

    paths: list[str]
    probabilities: np.ndarray
    features: np.ndarray
    folds: np.ndarray | None = None
    num_trainings: int = 1
    likeness: np.ndarray | None = None

    def readable(self) -> np.ndarray:
        """bool array, shape `(photos,)`."""
        return ~np.isnan(self.probabilities).any(axis=1)

    def num_unreadable(self) -> int:
        """How many photos could not be read."""
        return len(self.paths) - int(self.readable().sum())

    def take(self, indices: np.ndarray) -> "Predictions":
        """Those of some photos."""
        paths = [self.paths[index] for index in indices]
        folds = None if self.folds is None else self.folds[indices]
        likeness = None if self.likeness is None else self.likeness[indices]
        return dataclasses.replace(
            self,
            paths=paths,
            probabilities=self.probabilities[indices],
            features=self.features[indices],
            folds=folds,
            likeness=likeness,
        )


def average(all_predictions: list[Predictions], typeids: list[list[str]]) -> Predictions:
    """Averages what several models say about the same photos.

    Args:
        all_predictions: of the same paths.
        typeids: for each model, what its columns stand for, the same classes in
            any order; the result has the columns of the first.

    Returns:
        the mean of the class probabilities; all else is the first model's.
    """
    first = typeids[0]
    if len(all_predictions) == 1:
        return all_predictions[0]
    probabilities = []
    for predictions, own in zip(all_predictions, typeids, strict=True):
        column = {typeid: number for number, typeid in enumerate(own)}
        # The same classes may be in another order.
        probabilities.append(predictions.probabilities[:, [column[typeid] for typeid in first]])
    return dataclasses.replace(
        all_predictions[0],
        probabilities=np.mean(probabilities, axis=0),
        num_trainings=len(all_predictions),
    )
