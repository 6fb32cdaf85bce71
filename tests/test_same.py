"""Against SciPy's minimum of the same loss, and against models that the pairs were drawn from."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from pairs.evaluation import metrics, same
from pairs.evaluation.same import Pairs


def pairs_of(cosine, agreement, is_same, labels=None):
    """Pairs of made-up photos."""
    count = len(is_same)
    return Pairs(
        np.asarray(cosine, np.float64),
        np.asarray(agreement, np.float64),
        np.asarray(is_same, bool),
        np.zeros((count, 2), int) if labels is None else labels,
        np.arange(2 * count).reshape(count, 2),
    )


def random_pairs(count=400, seed=0):
    """Cosines and agreements that tell something, but not all."""
    rng = np.random.default_rng(seed)
    is_same = rng.random(count) < 0.2 + 0.2 * seed
    cosine = np.clip(rng.normal(0.2 + 0.4 * is_same, 0.3), -1, 1)
    agreement = rng.beta(0.3 + is_same, 0.8)
    return pairs_of(cosine, agreement, is_same)


def cross_entropy(probabilities, is_same):
    inside = np.clip(probabilities, 1e-300, 1)
    outside = np.clip(1 - probabilities, 1e-300, 1)
    return balanced(-np.where(is_same, np.log(inside), np.log(outside)), is_same)


def balanced(values, is_same):
    """The mean of both kinds' means."""
    return (values[is_same].mean() + values[~is_same].mean()) / 2


def minimum_by_scipy(pairs, with_agreement):
    """The least loss, and the probabilities there; the ridge is on columns of variance 1."""
    columns = [pairs.cosine]
    if with_agreement:
        inside = np.clip(pairs.agreement, 1e-6, 1 - 1e-6)
        columns.append(np.log(inside) - np.log(1 - inside))
    inputs = np.column_stack([*(column / column.std() for column in columns), pairs.cosine**0])

    def loss(weights):
        z = inputs @ weights
        # Platt's targets: of each kind one pair more is thought of, and one of the other kind.
        right = np.logaddexp(0, np.where(pairs.same, -z, z))
        wrong = np.logaddexp(0, np.where(pairs.same, z, -z))
        of_kind = np.where(pairs.same, pairs.same.sum(), (~pairs.same).sum())
        each = right + (wrong - right) / (of_kind + 2)
        return balanced(each, pairs.same) + 1e-4 * (weights**2).sum()

    found = minimize(loss, np.zeros(inputs.shape[1]), method="Nelder-Mead", tol=1e-10)
    return 1 / (1 + np.exp(-inputs @ found.x))


def ask(pairs, weights):
    """What a fit of either kind says of the pairs."""
    return same.probability(weights, pairs.cosine, pairs.agreement if len(weights) == 3 else None)


@pytest.mark.parametrize("with_agreement", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_the_minimum_that_scipy_finds(seed, with_agreement):
    pairs = random_pairs(seed=seed)
    weights = same.fit(pairs, with_agreement)
    assert len(weights) == 2 + with_agreement
    expected = minimum_by_scipy(pairs, with_agreement)
    np.testing.assert_allclose(ask(pairs, weights), expected, atol=1e-4)


def test_the_fit_finds_the_model_that_the_pairs_were_drawn_from():
    rng = np.random.default_rng(0)
    cosine, agreement = rng.uniform(-0.5, 1, 40_000), rng.beta(0.4, 0.4, 40_000)
    inside = np.clip(agreement, 1e-6, 1 - 1e-6)
    true = 1 / (1 + np.exp(-(4 * cosine + 0.7 * np.log(inside / (1 - inside)) - 1)))
    pairs = pairs_of(cosine, agreement, rng.random(40_000) < true)
    weights = same.fit(pairs, with_agreement=True)
    assert weights == pytest.approx((4, 0.7, as_if_equal(-1, pairs)), abs=0.12)
    # Of the cosine alone, whatever the agreement says.
    true = 1 / (1 + np.exp(-(6 * cosine - 4)))
    pairs = pairs_of(cosine, agreement, rng.random(40_000) < true)
    assert pairs.same.mean() < 0.3
    weights = same.fit(pairs, with_agreement=False)
    assert weights == pytest.approx((6, as_if_equal(-4, pairs)), abs=0.15)


def as_if_equal(bias, pairs):
    """The bias, were as many pairs of one class as of two: Bayes' theorem."""
    share = pairs.same.mean()
    return bias - np.log(share / (1 - share))


def test_of_pairs_that_are_told_apart_without_an_error_the_weights_are_finite():
    is_same = np.arange(200) % 2 == 0
    cosine = np.where(is_same, 0.9, 0.1)
    pairs = pairs_of(cosine, is_same.astype(float), is_same)
    for with_agreement in (False, True):
        weights = same.fit(pairs, with_agreement)
        assert np.abs(weights).max() < 1000
        found = ask(pairs, weights)
        assert found[is_same].min() > 0.95
        assert found[~is_same].max() < 0.05


def test_a_few_pairs_make_no_answer_a_certainty():
    """However well they are told apart: of ten of each kind that says little."""
    is_same = np.arange(20) % 2 == 0
    cosine = np.where(is_same, 0.6, 0.3) + np.linspace(-0.05, 0.05, 20)
    pairs = pairs_of(cosine, np.where(is_same, 0.99, 0.01), is_same)
    for with_agreement in (False, True):
        found = ask(pairs, same.fit(pairs, with_agreement))
        assert 0.8 < found[is_same].mean() < 0.95
        assert 0.05 < found[~is_same].mean() < 0.2


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_what_is_the_same_in_all_pairs_tells_nothing(share):
    """Every pair is as likely of one class as of two."""
    is_same = np.arange(1000) < 1000 * share
    for agreement in (np.full(1000, 0.3), np.zeros(1000), np.ones(1000)):
        for cosine in (0.0, 0.7, 1.0):
            pairs = pairs_of(np.full(1000, cosine), agreement, is_same)
            for with_agreement in (False, True):
                found = ask(pairs, same.fit(pairs, with_agreement))
                np.testing.assert_allclose(found, 0.5, atol=0.02)


# Counts, cosines, agreements and shares of pairs of one class. A Newton step that is always
# taken whole leads further and further away from the minimum of these.
ODD_PAIRS = [
    ([62, 2271, 193, 5, 11], [-1, 0, -0.16374, -0.16374, 0.9], [0.01, 0.5, 0.5, 0, 0.99], "1011+"),
    ([184, 6, 537, 3885], [0.9991, 0.999, 0, -0.0001], [0, 0.99, 0.99, 0.01], "1+01"),
]


def odd_pairs(counts, cosines, agreements, shares):
    kinds = {"0": 0.0, "1": 1.0, "+": 0.1}
    blocks = [
        np.arange(count) < kinds[share] * count for count, share in zip(counts, shares, strict=True)
    ]
    cosine, agreement = np.repeat(cosines, counts), np.repeat(agreements, counts)
    return pairs_of(cosine, agreement, np.concatenate(blocks))


@pytest.mark.parametrize("facts", ODD_PAIRS)
@pytest.mark.parametrize("with_agreement", [False, True])
def test_the_fit_is_no_worse_than_saying_always_the_same(facts, with_agreement):
    pairs = odd_pairs(*facts)
    found = ask(pairs, same.fit(pairs, with_agreement))
    assert cross_entropy(found, pairs.same) < np.log(2) + 0.01


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=20),
    st.floats(0, 1),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
)
def test_a_probability_is_one_whatever_the_weights(cosines, agreement, weights):
    cosine = np.array(cosines)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = same.probability(tuple(weights), cosine, np.full(len(cosine), agreement))
        alone = same.probability(tuple(weights[:2]), cosine)
    for values in (found, alone):
        assert values.shape == cosine.shape
        assert ((values >= 0) & (values <= 1)).all()


def test_of_an_unreadable_photo_there_is_no_probability():
    nan, one = np.array([np.nan, 0.5]), np.array([np.nan, 0.5])
    assert np.isnan(same.probability((1.0, 0.0), nan)).tolist() == [True, False]
    assert np.isnan(same.probability((1.0, 1.0, 0.0), nan, one)).tolist() == [True, False]


def test_an_agreement_is_how_likely_two_guesses_are_one_class():
    """By throwing dice."""
    rng = np.random.default_rng(0)
    guesses = rng.dirichlet(np.ones(4), size=6)
    pairs = np.array([[0, 3], [4, 1], [2, 2]])
    for agreement, (one, other) in zip(same.dot_products(guesses, pairs), pairs, strict=True):
        thrown = [rng.choice(4, size=200_000, p=guesses[photo]) for photo in (one, other)]
        assert agreement == pytest.approx((thrown[0] == thrown[1]).mean(), abs=0.01)


def test_many_pairs_take_no_more_memory_than_their_photos():
    """A hundred thousand pairs of features side by side are gigabytes."""
    rows = np.random.default_rng(0).normal(size=(50, 2048)).astype(np.float32)
    pairs = np.random.default_rng(1).integers(0, 50, size=(40_000, 2))
    tracemalloc.start()
    found = same.dot_products(rows, pairs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 160e6  # two blocks of 67 MB; all of them are 655 MB
    expected = (rows @ rows.T)[pairs[:, 0], pairs[:, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def made_up_photos(num_photos=60, seed=0):
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(num_photos, 6))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    return unit, rng.dirichlet(np.ones(4), size=num_photos), rng.integers(0, 4, size=num_photos)


def test_pairs_are_of_one_fold_half_and_half_and_each_is_there_once():
    unit, probabilities, labels = made_up_photos()
    folds = np.random.default_rng(1).integers(0, 4, size=60)
    for own in (folds, None):
        pairs = same.compare(unit, probabilities, labels, own)
        first, second = pairs.photos.T
        assert len(pairs.same) > 100
        assert pairs.same.sum() == (~pairs.same).sum()
        assert (first != second).all()
        assert len({frozenset(pair) for pair in pairs.photos.tolist()}) == len(first)
        if own is None:
            assert (folds[first] != folds[second]).any()
        else:
            assert (folds[first] == folds[second]).all()
            assert set(folds[first]) == {0, 1, 2, 3}
        assert (pairs.labels == labels[pairs.photos]).all()
        for index, (a, b) in enumerate(pairs.photos.tolist()):
            assert pairs.same[index] == (labels[a] == labels[b])
            assert pairs.cosine[index] == pytest.approx(sum(unit[a] * unit[b]), abs=1e-5)
            assert pairs.agreement[index] == pytest.approx(sum(probabilities[a] * probabilities[b]))


def test_folds_too_small_for_a_pair_are_left_out():
    unit, probabilities, labels = made_up_photos(5)
    pairs = same.compare(unit, probabilities, labels, np.arange(5))
    assert pairs.photos.shape == (0, 2)
    pairs = same.compare(unit, probabilities, np.array([0, 0, 1, 1, 2]), np.array([1, 1, 1, 1, 2]))
    assert set(pairs.photos.ravel().tolist()) == {0, 1, 2, 3}


def pairs_of_classes(seed=0, count=4000, turned=None):
    """Pairs of six classes; in those of one half, cosines may tell the opposite."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, size=(count, 2))
    again = rng.random(count) < 0.5
    labels[again, 1] = labels[again, 0]
    is_same = labels[:, 0] == labels[:, 1]
    cosine = np.where(is_same, 0.6, 0.2) + rng.normal(0, 0.2, size=count)
    if turned is not None:
        cosine = np.where((labels % 2 == turned).all(axis=1), -cosine, cosine)
    return pairs_of(cosine, np.full(count, 0.5), is_same, labels)


def test_left_out_classes_are_answered_by_a_fit_that_has_not_seen_them():
    """With one half turned round, each half is answered by what is wrong for it."""
    pairs = pairs_of_classes()
    answers, is_same = same.answer_for_left_out_classes(pairs)
    assert metrics.roc_auc(answers, is_same) > 0.85
    within = (pairs.labels % 2)[:, 0] == (pairs.labels % 2)[:, 1]
    assert len(answers) == within.sum()
    assert is_same.sum() == pairs.same[within].sum()
    for turned in (0, 1):
        answers, is_same = same.answer_for_left_out_classes(pairs_of_classes(turned=turned))
        assert metrics.roc_auc(answers, is_same) < 0.25


def test_where_a_half_has_nothing_to_learn_from_nothing_is_answered():
    pairs = pairs_of_classes(count=50)
    odd = pairs.take((pairs.labels % 2 == 1).all(axis=1))
    for some in (odd, pairs.take(pairs.same), pairs.take(np.zeros(50, bool))):
        answers, is_same = same.answer_for_left_out_classes(some)
        assert len(answers) == len(is_same) == 0
