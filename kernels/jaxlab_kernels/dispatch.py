"""Which implementation of an operation runs.

An operation keeps a dict literal from name to implementation, and one from platform to the names
to try, best first. An implementation says that it cannot take a call by raising `Refusal` with the
reason, at trace time. Any other error, a plain NotImplementedError of JAX's included, is a fault
and ends the call: there is no silent fall-back.
"""

import contextlib
import contextvars
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

Implementations = Mapping[str, Callable[..., Any]]

logger = logging.getLogger(__name__)


class Refusal(NotImplementedError):
    """An implementation does not take a call; the message is the reason, in one line."""


_absent = contextvars.ContextVar[str | None]("absent", default=None)


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """What is traced inside is for a platform of this name, which need not be there.

    jax.jit keeps what it has traced: one process traces a function for one platform.
    """
    token = _absent.set(name)
    try:
        yield
    finally:
        _absent.reset(token)


def platform() -> str:
    """Returns where new arrays are put: "cpu", "gpu", "tpu" or another platform of JAX.

    Inside of `compiling_for` it is that platform.
    """
    absent = _absent.get()
    if absent is not None:
        return absent
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return jax.devices(device)[0].platform if isinstance(device, str) else device.platform


def refuse_divided_mesh() -> None:
    """Raises `Refusal` where XLA would have to divide a kernel over an ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if any(mesh.shape[name] > 1 for name in {*mesh.auto_axes, *mesh.explicit_axes}):
        raise Refusal(
            f"XLA cannot divide a kernel over the mesh {dict(mesh.shape)}; call in jax.shard_map"
        )


def check_name(operation: str, implementations: Implementations, name: str | None) -> None:
    """Raises a ValueError unless there is an implementation of that name, or none is named."""
    if name is not None and name not in implementations:
        raise ValueError(
            f"{operation}: implementation={name!r} is not one of {', '.join(implementations)}"
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

    The first time that an implementation takes an operation's call on a platform, the log says so,
    with the reasons of those that were preferred to it and refused.

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
        Refusal: the named one, or every one for this platform, refuses the call; the message holds
            each one's reason.
    """
    where = platform()
    if implementation is None:
        names = preferences.get(where, preferences["cpu"])
    else:
        check_name(operation, implementations, implementation)
        names = (implementation,)
    reasons = []
    for name in names:
        try:
            result = implementations[name](*args, **options)
        except Refusal as reason:
            reasons.append(f"{name}: {reason}")
        else:
            _log_once(operation, name, where, "; ".join(reasons))
            return result
    raise Refusal(f"{operation}: nothing takes this call; {'; '.join(reasons)}")


@functools.cache
def _log_once(operation: str, name: str, where: str, refused: str) -> None:
    because = f" ({refused})" if refused else ""
    logger.info("%s runs as %s on %s%s", operation, name, where, because)
