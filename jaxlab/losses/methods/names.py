"""The methods by the name that a config gives in `loss.name`."""

import dataclasses
from typing import Annotated, get_args

from jaxlab import config
from jaxlab.losses.methods.aopd import Aopd
from jaxlab.losses.methods.cross_entropy import CrossEntropy
from jaxlab.losses.methods.gigpo import Gigpo
from jaxlab.losses.methods.gkd import FullReverseKl, Gkd
from jaxlab.losses.methods.grpo import Dapo, DrGrpo, Grpo, Gspo, Rloo
from jaxlab.losses.methods.kdrl import Kdrl
from jaxlab.losses.methods.opd import Opd
from jaxlab.losses.methods.opd_relatives import DiscountedOpd, Eopd, ExOpd, PowerOpd, VOpd
from jaxlab.losses.methods.scope import Scope, ScopeReleased

Methods = (
    Opd
    | Aopd
    | Gkd
    | FullReverseKl
    | CrossEntropy
    | Scope
    | ScopeReleased
    | DiscountedOpd
    | ExOpd
    | PowerOpd
    | VOpd
    | Eopd
    | Grpo
    | DrGrpo
    | Rloo
    | Dapo
    | Gspo
    | Gigpo
    | Kdrl
)

Loss = Annotated[Methods, config.by("name")]

METHODS = {cls.name: cls for cls in get_args(Methods)}


def table() -> list[str]:
    """A line for each method: its name, what it is, its source, and its options with defaults."""
    lines = []
    for name, cls in METHODS.items():
        about = (cls.__doc__ or "").strip().splitlines()[0]
        options = [
            f"{field.name}={getattr(cls(), field.name)!r}"
            for field in dataclasses.fields(cls)
            if field.name != "name"
        ]
        lines += [f"{name}: {about}", f"    source: {cls.source}", f"    {', '.join(options)}"]
    return lines
