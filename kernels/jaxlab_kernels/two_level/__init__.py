"""Two-level sparse decoding: bounds choose blocks, few-bit keys choose their tokens."""

from jaxlab_kernels.two_level.api import decode as decode
from jaxlab_kernels.two_level.api import select_blocks as select_blocks
from jaxlab_kernels.two_level.api import select_tokens as select_tokens
from jaxlab_kernels.two_level.config import IndexConfig as IndexConfig
from jaxlab_kernels.two_level.index import Index as Index
from jaxlab_kernels.two_level.index import append_index as append_index
from jaxlab_kernels.two_level.index import build_index as build_index
from jaxlab_kernels.two_level.index import extend_index as extend_index
from jaxlab_kernels.two_level.index import truncate_index as truncate_index
from jaxlab_kernels.two_level.stats import Stats as Stats
