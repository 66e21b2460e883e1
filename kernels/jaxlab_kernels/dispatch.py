"""Which implementation of an operation runs.

An operation keeps a dict literal from name to implementation, and one from platform to the names
to try, best first. An implementation says that it cannot take a call by raising
NotImplementedError with the reason, at trace time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Implementations = Mapping[str, Callable[..., Any]]


def call(
    operation: str,
    implementations: Implementations,
    preferences: Mapping[str, Sequence[str]],
    implementation: str | None,
    *args: Any,
    **options: Any,
) -> Any:
    """Calls the named implementation, or the platform's first that takes the call.

    Args:
        operation: the operation's name, for messages.
        implementations: by name.
        preferences: platform ("cpu", "gpu", "tpu") -> names in the order to try.
        implementation: a name to force, or None.
        *args: handed to the implementation.
        **options: handed to the implementation.

    Returns:
        What the implementation returns.

    Raises:
        ValueError: there is no implementation of that name.
        NotImplementedError: the named one, or every one for this platform, refuses the call; the
            message holds each one's reason.
    """
    if implementation is None:
        names = preferences[jax.default_backend()]
    elif implementation in implementations:
        names = (implementation,)
    else:
        raise ValueError(
            f"{operation}: implementation={implementation!r} is not one of "
            f"{', '.join(implementations)}"
        )
    reasons = []
    for name in names:
        try:
            return implementations[name](*args, **options)
        except NotImplementedError as reason:
            reasons.append(f"{name}: {reason}")
    raise NotImplementedError(f"{operation}: nothing takes this call; {'; '.join(reasons)}")
