import pytest

from jaxlab.sampling import SamplingConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("num_samples", 0),
        ("top_k", 0),
        ("prompt_multiple", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("stop_ids", (3, -1)),
        ("cache_dtype", "int8"),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        SamplingConfig(**{"max_new_tokens": 4, field: value})


def test_stop_ids_of_any_sequence_make_a_hashable_config():
    config = SamplingConfig(max_new_tokens=4, stop_ids=[2, 7])
    assert config == SamplingConfig(max_new_tokens=4, stop_ids=(2, 7))
    assert hash(config) == hash(SamplingConfig(max_new_tokens=4, stop_ids=(2, 7)))


@pytest.mark.parametrize(
    ("multiple", "length", "width"),
    [
        (None, 1, 16),
        (None, 16, 16),
        (None, 17, 32),
        (None, 33, 64),
        (8, 1, 8),
        (8, 8, 8),
        (8, 9, 16),
        (1, 5, 5),
    ],
)
def test_prompt_width(multiple, length, width):
    config = SamplingConfig(max_new_tokens=1, prompt_multiple=multiple)
    assert config.prompt_width(length) == width
