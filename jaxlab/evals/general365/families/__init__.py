"""Families of problems for the eight categories, two for each."""

from jaxlab.evals.general365.families import (
    chance,
    constraints,
    enumeration,
    implicit,
    recursion,
    semantics,
    space_time,
    strategy,
)

FAMILIES = (
    *constraints.FAMILIES,
    *enumeration.FAMILIES,
    *space_time.FAMILIES,
    *recursion.FAMILIES,
    *semantics.FAMILIES,
    *implicit.FAMILIES,
    *strategy.FAMILIES,
    *chance.FAMILIES,
)
