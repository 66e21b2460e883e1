"""Kimi Delta Attention as flash-linear-attention writes it: no code travels along."""

from jaxlab.interop.families import flat
from jaxlab.interop.families.fg2_gdn import table

KDA = flat.family("kda", table)
