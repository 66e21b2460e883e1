"""How attention layers cache while decoding, by name: options of sampling."""

from jaxlab.sampling.caches.dense import Dense as Dense
from jaxlab.sampling.caches.offload import Offload as Offload
from jaxlab.sampling.caches.options import Attention as Attention
from jaxlab.sampling.caches.options import DenseAttention as DenseAttention
from jaxlab.sampling.caches.options import OffloadAttention as OffloadAttention
from jaxlab.sampling.caches.options import TwoLevelAttention as TwoLevelAttention
from jaxlab.sampling.caches.two_level import TwoLevel as TwoLevel
