"""Text generation: prefill, then one jitted loop of decoding and sampling."""

from jaxlab.sampling.config import SamplingConfig
from jaxlab.sampling.decode import Completions, generate
from jaxlab.sampling.sample import Draw, sample

__all__ = ["Completions", "Draw", "SamplingConfig", "generate", "sample"]
