"""Block-sparse attention for training: a router chooses which past blocks each query attends to."""

from jaxlab_kernels.block_sparse.api import Aux as Aux
from jaxlab_kernels.block_sparse.api import block_sparse as block_sparse
from jaxlab_kernels.block_sparse.routing import IDS as IDS
from jaxlab_kernels.block_sparse.step import block_sparse_step as block_sparse_step
