"""Write a run's model as a HuggingFace directory. The third door.

    python -m jaxlab.export --workdir=DIR --out=DIR [--step=N] [--dtype=bfloat16] [--family=kda] \\
        [--overwrite]

Where the torch extra is installed, the logits of the written directory are compared with ours on
fixed prompts, and the difference is put beside the weights as parity.json.
"""

import logging
from typing import Any

from absl import flags

from jaxlab import doors
from jaxlab.exporting import ParityError, can_compare, export
from jaxlab.interop.families import DELTA_FAMILIES
from jaxlab.runtime.preemption import exit_on_sigterm
from jaxlab.runtime.workdir import directory

flags.declare_key_flag("workdir")
OUT = flags.DEFINE_string("out", None, "The HuggingFace directory to write.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint to take; the newest good one by default.")
DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the written tensors; the params' own by default."
)
FAMILY = flags.DEFINE_enum(
    "family",
    None,
    list(DELTA_FAMILIES),
    "Layout of a model with gated-delta layers: our own (fg2_gdn), or flash-linear-attention's. By "
    "default that of the directory from which the run started, or our own.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --out whatever it holds, but for a run.")
CHECK = flags.DEFINE_bool(
    "check", None, "Compare logits with PyTorch; by default where torch and transformers are."
)

logger = logging.getLogger("jaxlab.export")


def main(argv: list[str]) -> None:
    """Export the run of the command line."""
    del argv
    exit_on_sigterm()
    check = CHECK.value
    if check is None:
        check = can_compare()
        if not check:
            logger.info("not compared with PyTorch: pip install 'jaxlab[torch]' to do so")
    # The flags take no other values than those of export.
    dtype: Any = DTYPE.value
    family: Any = FAMILY.value
    with doors.reading_input():
        workdir, out = doors.workdir(), directory(OUT.value, "--out")
        try:
            export(workdir, out, STEP.value, dtype, check, family, OVERWRITE.value)
        except ParityError as error:
            doors.failed(error)
    logger.info("wrote %s", out)


def start() -> None:
    """Run the program of the command line: `python -m jaxlab.export`."""
    doors.run(main, required=["workdir", "out"])


if __name__ == "__main__":
    start()
