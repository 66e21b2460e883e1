"""Load balance of training by run-time sparsity: SparseBalance (arXiv 2604.13847). No jax."""

from jaxlab.balance.batching import pack as pack
from jaxlab.balance.budget import BudgetTuner as BudgetTuner
from jaxlab.balance.latency import LatencyTable as LatencyTable
