"""Launching Triton kernels through jax-triton, and why it cannot be done where it cannot.

jax-triton and Triton are imported when a kernel is launched: neither is needed to import this
package, and jax-triton fails to import where jax has no GPU.
"""

import concurrent.futures
import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxlab_kernels.dispatch import Refusal

Spec = tuple[tuple[int, ...], str]


class Launch(Protocol):
    """Runs kernel(*arguments, *outputs, **meta) on a grid of one axis."""

    def __call__(
        self, kernel: Any, grid: int, arguments: Sequence[Any], outputs: Sequence[Spec], **meta: Any
    ) -> list[Any]:
        """Returns new arrays of the shapes and dtypes of `outputs`.

        Args:
            kernel: a function of the triton_* modules.
            grid: number of programs.
            arguments: arrays and whole numbers, in the kernel's order.
            outputs: (shape, dtype's name) of the arrays that the kernel writes, in its order.
            **meta: the kernel's compile-time arguments; num_warps and num_stages.
        """


def gpu_launch(check_version: Callable[[str, int], None] | None = None) -> Launch:
    """Returns `jax_launch` where it can run.

    Args:
        check_version: called with Triton's version and the chip's compute capability (such as 90);
            raises `Refusal` for a compiler that is known to miscompile the kernels in question.

    Raises:
        Refusal: kernels cannot be launched here; the message says what is missing.
    """
    platform = jax.default_backend()
    if platform != "gpu":
        raise Refusal(f"needs an NVIDIA GPU; jax runs on {platform}")
    device = jax.devices()[0]
    if "rocm" in device.client.platform_version.lower():
        raise Refusal("needs an NVIDIA GPU; jax runs on ROCm")
    for name in ("triton", "jax_triton"):
        package = name.replace("_", "-")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Refusal(f"needs {package} (pip install {package}): {error}") from None
        except Exception as error:  # a release that does not fit jax fails in any way it likes
            raise Refusal(f"{package} fails at import: {_told(error)}") from error
    major, minor = device.compute_capability.split(".")
    if check_version is not None:
        version = importlib.import_module("triton").__version__
        check_version(version, 10 * int(major) + int(minor))
    fault = _launch_fault()
    if fault is not None:
        raise Refusal(f"jax-triton compiles no kernel here: {fault}")
    return jax_launch


@functools.cache
def _launch_fault() -> str | None:
    """Returns why the smallest kernel does not compile here, or None where it does.

    They fit one another in some releases only, and the others fail when a program is lowered:
    too late to choose another implementation.
    """

    def compiles() -> None:
        from jaxlab_kernels.common import triton_probe

        def copy(x):
            spec = (x.shape, "float32")
            return jax_launch(triton_probe.copy, 1, (x,), [spec], num_warps=1, num_stages=1)

        jax.jit(copy).lower(jax.ShapeDtypeStruct((1,), jnp.float32)).compile()

    try:
        # In a thread of its own, where no trace and no mesh of the caller's is at work.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(compiles).result()
    except Exception as error:
        return _told(error)
    return None


def _told(error: Exception) -> str:
    """Returns the error as one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def jax_launch(
    kernel: Any,
    grid: int,
    arguments: Sequence[Any],
    outputs: Sequence[Spec],
    *,
    compute_capability: int | None = None,
    **meta: Any,
) -> list[jax.Array]:
    """See `launches.Launch`; compute_capability (such as 90) allows lowering without a GPU."""
    import jax_triton

    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs]
    # jax-triton 0.4 renamed the argument.
    renamed = "out_type" in inspect.signature(jax_triton.triton_call).parameters
    meta["out_type" if renamed else "out_shape"] = results
    if compute_capability is not None:
        meta["compute_capability"] = compute_capability
    return jax_triton.triton_call(*arguments, kernel=kernel, grid=(grid,), **meta)
