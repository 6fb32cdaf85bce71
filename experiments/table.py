"""What `ablation.py` measured, as numbers with standard errors and as Markdown.

Both the test photos and the trainings (their seeds, their folds) are samples: other
photos, another seed, and the error is another. Both are in every standard error.

One table of several folds, from what `ablation.py` left for each:

    python -m experiments.table results-fold-1 results-fold-3
"""

import itertools
import math
import pathlib

import numpy as np
from scipy import stats

from pairs.command_line import Parser, run
from pairs.errors import UserError
from pairs.files import read_json

# Errors on the contest's test photos that the 2017 author reports; "paired" with
# and without the last pass.
ERRORS_2017 = {
    "inceptionv3-softmax": {"plain": 0.2502},
    "xception-softmax": {"plain": 0.2235},
    "xception-paired": {"blocks": 0.211, "plain": 0.2045},
}
SIGNIFICANT = 0.05


def mean_and_error(values):
    """Mean of a measurement, and its standard error, see `variances`."""
    return float(np.nanmean(values, axis=0).mean()), math.sqrt(add_up(*variances(values)))


def variances(values):
    """Variances of the mean of a measurement: over photos, over trainings, and noise.

    Photos and trainings are crossed random effects. The noise of single values is in
    the variance of both; it is what two trainings differ by from photo to photo.

    Args:
        values: float array, shape `(trainings, photos)`; NaN where a training was not
            judged on a photo, because it is of another fold.

    Returns:
        `(over_photos, over_trainings, noise)`, see `add_up`. With a single training
        only the photos count. Of trainings that share no photos nothing is known of the
        noise, and how hard their photos are is in both: too large rather than too small.
    """
    num_trainings, num_photos = values.shape
    over_photos = float(np.nanmean(values, axis=0).var(ddof=1) / num_photos)
    if num_trainings == 1:
        return over_photos, 0.0, 0.0
    over_trainings = float(np.nanmean(values, axis=1).var(ddof=1) / num_trainings)
    squares, freedom = 0.0, 0
    for one, other in itertools.combinations(values, 2):
        apart = (one - other)[~np.isnan(one - other)]
        if len(apart) > 1:
            squares += np.square(apart - apart.mean()).sum() / 2
            freedom += len(apart) - 1
    of_one = squares / freedom if freedom else 0.0
    of_trainings = of_one / (~np.isnan(values)).sum(axis=1)
    return over_photos, over_trainings, float(of_trainings.mean() / num_trainings)


def add_up(over_photos, over_trainings, noise):
    """The variance of the mean: noise counts once. Never below a part, if noise seems larger."""
    return max(over_photos + over_trainings - noise, over_photos, over_trainings)


def compare(ours, others):
    """Paired difference of two systems on the same photos with the same seeds.

    Args:
        ours, others: float arrays, shape `(trainings, photos)`: 1 where wrong, NaN
            where not judged.

    Returns:
        dict: `difference` (below zero: ours is better), `standard_error`, and `p`,
        the probability of so large a difference between equals (two-sided; a t
        distribution with Satterthwaite's degrees of freedom, because few trainings
        tell little about their spread). With a single one of each it speaks of
        these two trainings, not of others.
    """
    difference, error = mean_and_error(ours - others)
    if error == 0:
        p = 1.0 if difference == 0 else 0.0
    else:
        # The noise is of so many values that its degrees of freedom do not matter.
        over_photos, over_trainings, _ = variances(ours - others)
        freedom = error**4 / sum(
            variance**2 / (count - 1)
            for variance, count in zip((over_photos, over_trainings), ours.shape[::-1], strict=True)
            if variance
        )
        p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return {"difference": difference, "standard_error": error, "p": p}


def wrong(labels, *probabilities):
    """float array, shape `(photos,)`: 1 where the mean of some predictions is wrong."""
    guesses = np.mean(probabilities, axis=0).argmax(axis=1)
    return (guesses != labels).astype(float)


def read_run(folder):
    """What one run gets wrong.

    Returns:
        `(stages, options, names)`: dicts to float arrays, shape `(photos,)`. `stages`
        from a stage's name, in their order: by the mean of its heads. `options`
        of the last stage: "mirrored" (a photo and its mirror image, mean of the
        heads), and of a paired model "first" and "second" (single heads). `names` of
        the photos, `typeid/name`.
    """
    with np.load(folder / "test.npz") as arrays:
        found = dict(arrays)
    if "names" not in found:
        raise UserError(
            f"{folder / 'test.npz'}: of an earlier version; delete it and run ablation.py again"
        )
    labels, names = found.pop("labels"), found.pop("names").tolist()
    stages = list(dict.fromkeys(name.split()[0] for name in found))
    result = {}
    for stage in stages:
        heads = [found[f"{stage} {h}"] for h in ("first", "second") if f"{stage} {h}" in found]
        result[stage] = wrong(labels, *heads)
    mirrored = [value for name, value in found.items() if name.endswith("mirrored")]
    options = {"mirrored": wrong(labels, *heads, *mirrored)}
    if len(heads) > 1:
        options["first"], options["second"] = (wrong(labels, head) for head in heads)
    return result, options, names


def stack(of_row):
    """What the trainings of a row got wrong, by stage or option.

    Args:
        of_row: what `read_run` returned of each.

    Returns:
        dict to float arrays, shape `(trainings, photos)`, photos in the order of their
        names; NaN where a training was not judged on a photo.
    """
    all_names = sorted(set().union(*(names for _, _, names in of_row)))
    place = {name: index for index, name in enumerate(all_names)}
    stages, options, _ = of_row[0]
    stacked = {key: np.full((len(of_row), len(place)), np.nan) for key in (*stages, *options)}
    for training, (stages, options, names) in enumerate(of_row):
        columns = [place[name] for name in names]
        for key, values in {**stages, **options}.items():
            stacked[key][training, columns] = values
    return stacked


def collect(trainings, rows, against, failed):
    """Reads all runs of a table.

    Args:
        trainings: of each row: list of `(folder of ablation.py, seed)`.
        rows: names of the rows.
        against: the row to compare with; None: the softmax of the same trunk.
        failed: dict from a row that could not be trained to the reason.

    Returns:
        dict, as results.json holds it.
    """
    folders = {
        row: [out / "runs" / f"{row}-seed{seed}" for out, seed in trainings]
        for row in rows
        if row not in failed
    }
    runs = {row: [read_run(folder) for folder in of_row] for row, of_row in folders.items()}
    stacked = {row: stack(of_row) for row, of_row in runs.items()}
    results = []
    for row in rows:
        if row in failed:
            results.append({"row": row, "failed": failed[row]})
            continue
        stages, options, _ = runs[row][0]
        values = stacked[row]
        last = list(stages)[-1]
        other = against or f"{row.partition('-')[0]}-softmax"
        result = {
            "row": row,
            "seconds": [read_json(folder / "seconds.json") for folder in folders[row]],
            "errors": {name: np.nanmean(values[name], axis=1).tolist() for name in values},
            "stages": {name: mean_and_error(values[name]) for name in stages},
            "predictions": {name: compare(values[name], values[last]) for name in options},
            "errors of 2017": ERRORS_2017.get(row, {}),
        }
        if len(stages) > 1:
            result["last stage"] = compare(values[last], values[list(stages)[-2]])
        if other in stacked and other != row:
            last_of_other = list(runs[other][0][0])[-1]
            result["against"] = {
                "row": other,
                **compare(values[last], stacked[other][last_of_other]),
            }
        results.append(result)
    counts = [values[name].shape[1] for values in stacked.values() for name in values]
    return {"photos": max(counts, default=0), "seeds": len(trainings), "rows": results}


def markdown(results):
    """The tables, human-readable: errors, and what other ways to predict would change."""
    done = [row for row in results["rows"] if "failed" not in row]
    stages = list(dict.fromkeys(stage for row in done for stage in row["stages"]))
    lines = [
        f"{results['photos']} test photos, {results['seeds']} trainings of each system; "
        f"± standard error; p < {SIGNIFICANT} in bold",
        "",
        "| system | "
        + " | ".join(f"after {stage}" for stage in stages)
        + " | last stage | against | difference | minutes | 2017 |",
        "|---" * (len(stages) + 6) + "|",
    ]
    for row in results["rows"]:
        if "failed" in row:
            lines.append(f"| {row['row']} | {row['failed']} |" + " |" * (len(stages) + 4))
            continue
        cells = [shown(*row["stages"][stage]) if stage in row["stages"] else "" for stage in stages]
        other = row.get("against")
        cells += [
            difference(row.get("last stage")),
            other["row"] if other else "",
            difference(other),
            f"{np.mean(row['seconds']) / 60:.1f}",
            ", ".join(map(str, row["errors of 2017"].values())),
        ]
        lines.append(f"| {row['row']} | " + " | ".join(cells) + " |")
    options = list(dict.fromkeys(name for row in done for name in row["predictions"]))
    lines += [
        "",
        "Predicting with the last stage otherwise than by the mean of the heads, change of error:",
        "",
        "| system | " + " | ".join(options) + " |",
        "|---" * (len(options) + 1) + "|",
    ]
    for row in done:
        cells = [difference(row["predictions"].get(name)) for name in options]
        lines.append(f"| {row['row']} | " + " | ".join(cells) + " |")
    lines += ["", "Commands:", ""]
    lines += [f"- {row['row']}: `{row['command']}`" for row in results["rows"]]
    return "\n".join(lines) + "\n"


def shown(mean, error):
    """A mean with its standard error."""
    return f"{mean:.4f} ± {error:.4f}"


def check_against(against, rows):
    """Raises a UserError if the row to compare with is none of those in the table."""
    if against and against not in rows:
        raise UserError(f"--against {against}: not a row of this table ({', '.join(rows)})")


def difference(compared):
    """A paired difference, human-readable; "" if there is none."""
    if compared is None:
        return ""
    text = f"{compared['difference']:+.4f} ± {compared['standard_error']:.4f}"
    return f"**{text}**" if compared["p"] < SIGNIFICANT else text


def parse_args(argv=None):
    parser = Parser(description="One table of what ablation.py left in several folders.")
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="OUT", help="its --out")
    parser.add_argument("--against", metavar="ROW", help="as of ablation.py")
    return parser.parse_args(argv)


def main():
    args = parse_args()
    tables = {folder: read_json(folder / "results.json") for folder in args.folders}
    for folder, found in tables.items():
        if not found:
            raise UserError(f"{folder}: no results.json; is it an --out of experiments.ablation?")
    trainings = [(out, seed) for out, found in tables.items() for seed in range(found["seeds"])]
    commands = {row["row"]: row["command"] for found in tables.values() for row in found["rows"]}
    done = [{row["row"] for row in found["rows"] if "stages" in row} for found in tables.values()]
    rows = [row for row in commands if all(row in of_folder for of_folder in done)]
    if not rows:
        raise UserError(f"{', '.join(map(str, tables))}: no row is done in all of them")
    check_against(args.against, rows)
    results = collect(trainings, rows, args.against, {})
    for row in results["rows"]:
        row["command"] = commands[row["row"]]
    print(markdown(results))


if __name__ == "__main__":
    run(main)
