"""Image processors of HuggingFace directories: resize, crop, scale and normalise. numpy, Pillow.

uint8 images are resized by Pillow, as transformers' processors do without torchvision; with it they
round otherwise, by one of 255 levels at most. DINOv3's resizes floats.
"""

import dataclasses
import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxlab import json_file
from jaxlab.json_file import BOOL, NULL, OBJECT, POSITIVE, SIZE, CheckpointFormatError
from jaxlab.nn import resize

FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_KEYS = {
    "size": OBJECT | SIZE,
    "crop_size": OBJECT | SIZE | NULL,
    "image_mean": json_file.list_of(json_file.number(-1e6)),
    "image_std": json_file.list_of(POSITIVE),
    "rescale_factor": POSITIVE,
    "resample": json_file.COUNT,
    "patch_size": SIZE,
    "max_num_patches": SIZE,
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), BOOL | NULL),
}
_KERNELS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclasses.dataclass(frozen=True)
class Processor:
    """What is done to an image.

    Attributes:
        mean: of each channel, of pixels in [0, 1].
        std: of each channel.
        size: height and width to resize to; None: by `edge`, by `patches`, or not at all.
        edge: shorter side to resize to.
        patches: most patches of side `patch` that the resized image has; its shape is kept.
        patch: see there.
        crop: height and width of the crop from the middle, or None.
        kernel: of resizing.
        scale: factor of the pixels.
        floats: whether pixels are scaled before they are resized.
    """

    mean: tuple[float, ...] = _HALF[0]
    std: tuple[float, ...] = _HALF[1]
    size: tuple[int, int] | None = None
    edge: int | None = None
    patches: int | None = None
    patch: int = 16
    crop: tuple[int, int] | None = None
    kernel: Literal["bilinear", "bicubic"] = "bicubic"
    scale: float = 1 / 255
    floats: bool = False

    def square(self, side: int) -> "Processor":
        """The processor that resizes to a square, bicubic and without a crop, as LARY's release."""
        return dataclasses.replace(
            self, size=(side, side), edge=None, patches=None, crop=None, kernel="bicubic"
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """float32[h, w, 3] of uint8[H, W, 3].

        Raises:
            ModuleNotFoundError: Pillow is missing.
        """
        target = self._target(*image.shape[:2])
        if self.floats:
            x = image.astype(np.float32) * np.float32(self.scale)
            x = _resized_floats(x, target, self.kernel)
            x = _cropped(x, self.crop)
        else:
            x = _cropped(_resized(image, target, self.kernel), self.crop)
            x = x.astype(np.float32) * np.float32(self.scale)
        return (x - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        if self.patches is not None:
            return _for_patches(height, width, self.patch, self.patches)
        if self.edge is None:
            return height, width
        short, long = sorted((height, width))
        longer = int(self.edge * long / short)
        return (longer, self.edge) if width <= height else (self.edge, longer)


_DEFAULTS = {
    "BitImageProcessor": Processor(
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        edge=224,
        crop=(224, 224),
    ),
    "DINOv3ViTImageProcessor": Processor(
        *_IMAGENET, size=(224, 224), kernel="bilinear", floats=True
    ),
    "SiglipImageProcessor": Processor(size=(224, 224)),
    "Siglip2ImageProcessor": Processor(patches=256, kernel="bilinear"),
    "VJEPA2VideoProcessor": Processor(*_IMAGENET, edge=292, crop=(256, 256), kernel="bilinear"),
}


def read(path: Path, default: str) -> Processor:
    """The processor of a directory.

    Args:
        path: of the directory.
        default: name of the processor where the directory's file names none.

    Raises:
        CheckpointFormatError: there is no file, or it asks for what there is no part for.
    """
    for name in FILES:
        if not (path / name).is_file():
            continue
        data = json_file.read(path / name)
        # transformers 5 nests the processors of a model in one file.
        for part in ("video_processor", "image_processor"):
            if isinstance(data.get(part), dict):
                data = data[part]
                break
        else:
            if name == "processor_config.json":
                continue
        return parse(data, default, str(path / name))
    raise CheckpointFormatError(
        f"{path}: no {FILES[-1]}, which says how images are resized and normalised; copy it from "
        "where the model is from"
    )


def parse(data: Mapping[str, Any], default: str, where: str) -> Processor:
    """The processor that a file describes.

    Raises:
        CheckpointFormatError: it asks for what there is no part for.
    """
    json_file.check(data, _KEYS, where)
    keys = ("image_processor_type", "video_processor_type")
    name = next((data[key] for key in keys if key in data), default)
    name = name.removesuffix("Fast").removesuffix("Pil")
    if name not in _DEFAULTS:
        raise CheckpointFormatError(
            f"{where}: {name} is not supported; supported: {', '.join(_DEFAULTS)}"
        )
    base = _DEFAULTS[name]
    number = data.get("resample", {"bilinear": 2, "bicubic": 3}[base.kernel])
    if number not in _KERNELS:
        raise CheckpointFormatError(
            f"{where}: resample {number} is not supported; supported: 2 (bilinear), 3 (bicubic)"
        )
    changes: dict[str, Any] = {"kernel": _KERNELS[number]}
    if "size" in data and base.patches is None:
        changes |= _size(data["size"], where)
    if base.patches is not None:
        changes["patches"] = data.get("max_num_patches", base.patches)
        changes["patch"] = data.get("patch_size", base.patch)
    if data.get("crop_size") is not None:
        changes["crop"] = _sides(data["crop_size"], where)
    if name == "VJEPA2VideoProcessor":
        # The class computes the edge from the crop, whatever the file says.
        crop = changes.get("crop", base.crop)
        changes |= {"size": None, "edge": int((crop or (256,))[0] * 256 / 224)}
    if not _on(data, "do_center_crop", base.crop is not None):
        changes["crop"] = None
    if not _on(data, "do_resize", True):
        changes |= {"size": None, "edge": None, "patches": None}
    if "image_mean" in data:
        changes["mean"] = tuple(data["image_mean"])
    if "image_std" in data:
        changes["std"] = tuple(data["image_std"])
    if not _on(data, "do_normalize", True):
        changes |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    changes["scale"] = data.get("rescale_factor", 1 / 255)
    if not _on(data, "do_rescale", True):
        changes["scale"] = 1.0
    found = dataclasses.replace(base, **changes)
    if len(found.mean) != 3 or len(found.std) != 3:
        raise CheckpointFormatError(f"{where}: image_mean and image_std must be of 3 channels")
    return found


def _on(data: Mapping[str, Any], key: str, default: bool) -> bool:
    value = data.get(key)
    return default if value is None else bool(value)


def _size(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict) and set(value) == {"shortest_edge"}:
        json_file.check(value, {"shortest_edge": SIZE}, f"{where}: size")
        return {"edge": value["shortest_edge"], "size": None}
    return {"size": _sides(value, where), "edge": None}


def _sides(value: Any, where: str) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    sides = {key: side for key, side in value.items() if side is not None}
    if sides.keys() != {"height", "width"} or not all(map(SIZE.accepts, sides.values())):
        raise CheckpointFormatError(
            f"{where}: {json_file.show(value)} is not supported; supported: height and width, or "
            "shortest_edge"
        )
    return sides["height"], sides["width"]


def _resized(image: np.ndarray, target: tuple[int, int], kernel: str) -> np.ndarray:
    if image.shape[:2] == target:
        return image
    try:
        pillow = importlib.import_module("PIL.Image")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Pillow is missing: pip install 'jaxlab[lary]'") from None
    number = {name: number for number, name in _KERNELS.items()}[kernel]
    return np.asarray(pillow.fromarray(image).resize(target[::-1], number))


def _resized_floats(image: np.ndarray, target: tuple[int, int], kernel: str) -> np.ndarray:
    if image.shape[:2] == target:
        return image
    name: resize.Kernel = "bilinear_antialias" if kernel == "bilinear" else "bicubic_antialias"
    rows, columns = (
        resize.weights(before, after, name).astype(np.float32)
        for before, after in zip(image.shape, target, strict=False)
    )
    return np.einsum("ah,hwc,bw->abc", rows, image, columns, optimize=True)


def _cropped(image: np.ndarray, crop: tuple[int, int] | None) -> np.ndarray:
    """The middle of an image; zeros around it where it is smaller, as transformers pads."""
    if crop is None:
        return image
    short = [max(wanted - has, 0) for wanted, has in zip(crop, image.shape, strict=False)]
    if any(short):
        image = np.pad(image, [*((n // 2, (n + 1) // 2) for n in short), (0, 0)])
    top, left = (int((has - wanted) / 2.0) for wanted, has in zip(crop, image.shape, strict=False))
    return image[top : top + crop[0], left : left + crop[1]]


def _for_patches(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The largest size of about the image's shape with so many patches (SigLIP 2's own search)."""

    def scaled(factor: float) -> Sequence[int]:
        return [max(patch, math.ceil(side * factor / patch) * patch) for side in (height, width)]

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = scaled(middle)
        if (rows // patch) * (columns // patch) <= most:
            low = middle
        else:
            high = middle
    rows, columns = scaled(low)
    return int(rows), int(columns)
