"""A linear model trained and evaluated on two devices: for lm_test.py.

Prints the lengths of the sequences for which the rule was traced, and over which mesh axes it had
been divided by then.
"""

import pathlib
import sys

import jax

from configs import mqar_fg2
from jaxlab import train
from jaxlab.nn import delta

rule = delta.gated_delta_from_logits
seen = set()


def watched(query, *arrays, **options):
    seen.add((query.shape[1], tuple(jax.sharding.get_abstract_mesh().manual_axes)))
    return rule(query, *arrays, **options)


def main(directory):
    jax.config.update("jax_num_cpu_devices", 2)
    delta.gated_delta_from_logits = watched
    train.train(mqar_fg2.get_config("tiny").stages.fg2_plus.to_dict(), directory)
    print(sorted(seen))


main(pathlib.Path(sys.argv[1]))
