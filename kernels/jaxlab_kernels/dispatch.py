"""Which implementation of an operation runs.

An operation keeps a dict literal from name to implementation, and one from platform to the names
to try, best first. An implementation says that it cannot take a call by raising
NotImplementedError with the reason, at trace time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Implementations = Mapping[str, Callable[..., Any]]


def platform() -> str:
    """What arrays are put on where nothing else is said: "cpu", "gpu", "tpu" or another."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return jax.devices(device)[0].platform if isinstance(device, str) else device.platform


def refuse_divided_mesh() -> None:
    """Raises NotImplementedError where XLA would have to divide a kernel over an ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if any(mesh.shape[name] > 1 for name in {*mesh.auto_axes, *mesh.explicit_axes}):
        raise NotImplementedError(
            f"XLA cannot divide a kernel over the mesh {dict(mesh.shape)}; call in jax.shard_map"
        )


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
        preferences: platform ("cpu", "gpu", "tpu") -> names in the order to try; other platforms
            have those of "cpu", where XLA alone is asked for.
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
        names = preferences.get(platform(), preferences["cpu"])
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
