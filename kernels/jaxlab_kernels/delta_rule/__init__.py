"""Gated delta rule: DeltaNet, GDN, KDA, FG2-GDN and FG2-GDN+ as one operation."""

from jaxlab_kernels.delta_rule.api import delta_net as delta_net
from jaxlab_kernels.delta_rule.api import fg2 as fg2
from jaxlab_kernels.delta_rule.api import fg2_plus as fg2_plus
from jaxlab_kernels.delta_rule.api import gated_delta as gated_delta
from jaxlab_kernels.delta_rule.api import gated_delta_from_logits as gated_delta_from_logits
from jaxlab_kernels.delta_rule.api import gdn as gdn
from jaxlab_kernels.delta_rule.api import kda as kda
from jaxlab_kernels.delta_rule.rule import Rule as Rule
from jaxlab_kernels.delta_rule.step import Ring as Ring
from jaxlab_kernels.delta_rule.step import gated_delta_step as gated_delta_step
from jaxlab_kernels.delta_rule.step import ring as ring
from jaxlab_kernels.delta_rule.step import ring_step as ring_step
from jaxlab_kernels.delta_rule.step import rollback as rollback
from jaxlab_kernels.delta_rule.step import settle as settle
