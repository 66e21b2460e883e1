"""Causal softmax attention, over whole sequences and of new tokens to a cache."""

from jaxlab_kernels.attention.api import attention as attention
from jaxlab_kernels.attention.step import attention_step as attention_step
