"""Array operations with reference, XLA, TPU and GPU implementations. Depends on jax alone."""

from jaxlab_kernels.attention import attention as attention
from jaxlab_kernels.attention import attention_step as attention_step
from jaxlab_kernels.delta_rule import delta_net as delta_net
from jaxlab_kernels.delta_rule import fg2 as fg2
from jaxlab_kernels.delta_rule import fg2_plus as fg2_plus
from jaxlab_kernels.delta_rule import gated_delta as gated_delta
from jaxlab_kernels.delta_rule import gated_delta_from_logits as gated_delta_from_logits
from jaxlab_kernels.delta_rule import gated_delta_step as gated_delta_step
from jaxlab_kernels.delta_rule import gdn as gdn
from jaxlab_kernels.delta_rule import kda as kda
