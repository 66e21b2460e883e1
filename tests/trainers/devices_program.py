"""The first steps of resume_config.py on eight devices: for resume_test.py."""

import pathlib
import sys

import jax

from configs import common
from jaxlab import train
from tests.trainers import resume_config


def main(directory):
    jax.config.update("jax_num_cpu_devices", 8)
    config = resume_config.get_config()
    config.mesh.shape = {"data": 4, "model": 2}
    config.mesh.rules = common.SHARDED
    config.train.stop_after = 5
    train.train(config.to_dict(), directory)


main(pathlib.Path(sys.argv[1]))
