"""Write generated problems, as rows or as a dataset of tensorflow-datasets.

    python -m jaxlab.evals.general365 --out=rows.jsonl --seeds=180 --difficulty=2
    python -m jaxlab.evals.general365 --out=DIR --format=tfds --seeds=180

The rows are those of `generate.generate`, the dataset is described in `dataset`.
"""

import argparse

from jaxlab.evals.general365 import generate


def main() -> None:
    """Write a file of rows, or a dataset."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxlab.evals.general365",
        description="Generate problems in General365's schema.",
    )
    parser.add_argument("--out", required=True, help="the .jsonl file, or the folder, to write")
    parser.add_argument("--format", choices=("jsonl", "tfds"), default="jsonl")
    parser.add_argument("--seeds", type=int, default=180, help="seed problems; four rows of each")
    parser.add_argument("--difficulty", type=int, default=2, help=f"from 1 to {generate.HARDEST}")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    arguments = parser.parse_args()
    out, sizes = arguments.out, (arguments.seeds, arguments.difficulty, arguments.seed)
    try:
        if arguments.format == "tfds":
            from jaxlab.evals.general365 import dataset

            rows, out = dataset.write(out, *sizes)
        else:
            rows = generate.write(out, *sizes)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"wrote {rows} rows to {out}")


if __name__ == "__main__":
    main()
