"""Models have one fingerprint exactly where they are one."""

import shutil

from jaxlab.interop import fingerprint, hf, models
from jaxlab.interop.models import Model
from jaxlab.models.sizes import Sizes
from tests.interop.directories import random_params

CONFIG = Sizes(
    vocab_size=7, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1,
    qk_norm=True,
).decoder()  # fmt: skip


def _of(spec, seed=0):
    return fingerprint.fingerprint(spec, models.find(spec, "m", vocab_size=None, seed=seed), seed)


def test_of_a_directory(tmp_path):
    params = random_params(CONFIG)
    hf.save(tmp_path / "a", CONFIG, params)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    params["embed"]["embedding"] += 1
    hf.save(tmp_path / "c", CONFIG, params)
    a, b, c = (_of(Model(path=str(tmp_path / name))) for name in "abc")
    assert a == b
    assert a != c
    assert _of(Model(path=str(tmp_path / "a"), sizes={"dtype": "bfloat16"})) == a
    scaled = tmp_path / "b" / "config.json"
    scaled.write_text(scaled.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert _of(Model(path=str(tmp_path / "b"))) != a


def test_the_ends_the_middle_and_the_size_of_a_large_file_count(tmp_path):
    """A file larger than what is read of it: between its evenly spaced blocks nothing is seen."""
    file = tmp_path / "x.safetensors"
    content = bytearray(fingerprint.BLOCKS * fingerprint.BLOCK_BYTES * 2)
    file.write_bytes(content)
    whole = list(fingerprint._blocks(file))
    assert len(whole) == 1 + fingerprint.BLOCKS
    middle = (len(content) - fingerprint.BLOCK_BYTES) * 32 // (fingerprint.BLOCKS - 1)
    for place in (0, middle, len(content) - 1):
        content[place] = 1
        file.write_bytes(content)
        assert list(fingerprint._blocks(file)) != whole
        content[place] = 0
    file.write_bytes(content[:-1])
    assert list(fingerprint._blocks(file)) != whole


def test_of_a_model_from_scratch():
    sizes = {
        "vocab_size": 7,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_layers": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
    }
    assert _of(Model(sizes=sizes)) == _of(Model(sizes=sizes))
    assert _of(Model(sizes=sizes), seed=1) != _of(Model(sizes=sizes))
    assert _of(Model(sizes=sizes | {"hidden_size": 4})) != _of(Model(sizes=sizes))


def test_of_a_run(modsum_run):
    teacher, student = (Model(path=str(modsum_run / name)) for name in ("teacher", "student"))
    assert _of(teacher) == _of(teacher, seed=1) != _of(student)
