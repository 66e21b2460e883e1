"""The run of resume_config.py, moved from mesh to mesh: for resume_test.py."""

import functools
import pathlib
import sys

import jax

from configs import common
from jaxlab import train
from jaxlab.runtime import mesh
from jaxlab.trainers import distill
from tests.trainers import resume_config


def _run(workdir, devices, shape, rules, stop_after=None):
    distill.make_mesh = functools.partial(mesh.make_mesh, devices=jax.devices()[:devices])
    config = resume_config.get_config()
    config.mesh.shape = shape
    config.mesh.rules = rules
    config.train.stop_after = stop_after
    train.train(config.to_dict(), workdir)


def main(directory):
    jax.config.update("jax_num_cpu_devices", 8)
    _run(directory, 8, {"data": 4, "model": 2}, common.SHARDED, stop_after=5)
    _run(directory, 1, {"data": 1}, common.REPLICATED)


main(pathlib.Path(sys.argv[1]))
