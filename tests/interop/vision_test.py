"""Vision encoders and image processors against transformers' own, on tiny random checkpoints."""

import json

import jax
import numpy as np
import pytest

from jaxlab.interop import image_processor, vision
from jaxlab.models.vision import Vision

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.interop

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIGLIP = SIZES | {"intermediate_size": 80, "patch_size": 8}

# Name -> class, options of its config, and sizes (height, width) of images.
CASES = {
    "dinov2": ("Dinov2", {"image_size": 32, "patch_size": 8}, [(32, 32), (48, 24), (16, 64)]),
    "dinov2-swiglu": (
        "Dinov2",
        {"image_size": 32, "patch_size": 8, "use_swiglu_ffn": True, "qkv_bias": False},
        [(32, 32)],
    ),
    "dinov2-registers": (
        "Dinov2WithRegisters",
        {"image_size": 56, "patch_size": 8, "num_register_tokens": 3},
        [(56, 56), (32, 48), (64, 64)],
    ),
    "dinov3": (
        "DINOv3ViT",
        {"intermediate_size": 80, "patch_size": 8, "num_register_tokens": 4},
        [(32, 32), (48, 24)],
    ),
    "dinov3-gated": (
        "DINOv3ViT",
        {"intermediate_size": 80, "use_gated_mlp": True, "hidden_act": "silu", "key_bias": True},
        [(32, 64)],
    ),
    "siglip": ("SiglipVision", SIGLIP | {"image_size": 32}, [(32, 32), (48, 24)]),
    "siglip2": ("Siglip2Vision", SIGLIP | {"num_patches": 16}, [(32, 32), (16, 48), (48, 40)]),
    "vjepa2": (
        "VJEPA2",
        {
            "crop_size": 32,
            "patch_size": 8,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
        [(32, 32), (48, 24)],
    ),
    # A head of 20: thirds of 6, and two features that are not rotated.
    "vjepa2-rest": (
        "VJEPA2",
        {
            "crop_size": 32,
            "hidden_size": 40,
            "num_attention_heads": 2,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
        [(32, 32)],
    ),
}
PROCESSORS = {
    "Dinov2": {"image_processor_type": "BitImageProcessor"},
    "Dinov2WithRegisters": {"image_processor_type": "BitImageProcessor"},
    "DINOv3ViT": {"image_processor_type": "DINOv3ViTImageProcessorFast"},
    "SiglipVision": {"image_processor_type": "SiglipImageProcessor"},
    "Siglip2Vision": {"image_processor_type": "Siglip2ImageProcessor"},
    "VJEPA2": {"video_processor_type": "VJEPA2VideoProcessor"},
}


def randomise(model):
    """Parameters none of which is trivially zero or one; nothing is invisible."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            value.copy_(centre + 0.3 * torch.randn(value.shape, generator=generator))
    return model.eval()


def theirs(kind, model, images):
    """Their features [B, N, D] of images [B, H, W, 3], or clips [B, T, H, W, 3]."""
    if kind == "VJEPA2":
        clips = torch.from_numpy(images.transpose(0, 1, 4, 2, 3))
        return model(clips, skip_predictor=True).last_hidden_state
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
    if kind == "SiglipVision":
        return model(pixels, interpolate_pos_encoding=True).last_hidden_state
    if kind == "Siglip2Vision":
        module = transformers.models.siglip2.image_processing_pil_siglip2
        side = model.config.patch_size
        rows = [module.convert_image_to_patches(image.numpy(), side) for image in pixels]
        patches = torch.from_numpy(np.stack(rows))
        # Padding that is masked must not be seen.
        padded = torch.cat([patches, torch.full((len(rows), 2, patches.shape[-1]), 9.0)], 1)
        mask = torch.ones(padded.shape[:2], dtype=torch.int32)
        mask[:, -2:] = 0
        shapes = torch.tensor([[n // side for n in images.shape[1:3]]] * len(rows))
        found = model(padded, pixel_attention_mask=mask, spatial_shapes=shapes)
        return found.last_hidden_state[:, :-2]
    return model(pixels).last_hidden_state


@pytest.mark.parametrize("name", CASES)
def test_features_are_theirs(name, tmp_path):
    kind, options, sizes = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    model = randomise(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    found = vision.load(tmp_path)
    rng = np.random.default_rng(0)
    for height, width in sizes:
        lengths = (5, 1) if kind == "VJEPA2" else (None,)
        for frames in lengths:
            shape = (2, height, width, 3) if frames is None else (2, frames, height, width, 3)
            images = rng.normal(size=shape).astype(np.float32)
            with torch.no_grad():
                wanted = theirs(kind, model, images).numpy()
            ours = np.asarray(Vision(found.config).apply({"params": found.params}, images))
            assert ours.shape == wanted.shape
            error = np.linalg.norm(ours - wanted) / np.linalg.norm(wanted)
            print(f"{name} {height}x{width}: relative difference {error:.1e}")
            assert error < 1e-5, (height, width, frames)


def test_older_names_are_read(tmp_path):
    """Released directories have the names of transformers 4."""
    config = transformers.DINOv3ViTConfig(**SIZES, intermediate_size=80)
    model = randomise(transformers.DINOv3ViTModel(config))
    from safetensors.torch import save_file

    for folder, renamed in (("new", "model.layer."), ("old", "layer.")):
        place = tmp_path / folder
        place.mkdir()
        tensors = {
            name.replace("model.layer.", renamed): value.clone().contiguous()
            for name, value in model.state_dict().items()
        }
        save_file(tensors, place / "model.safetensors")
        config.save_pretrained(place)
        (place / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["DINOv3ViT"]))
    new, old = (vision.load(tmp_path / folder).params for folder in ("new", "old"))
    jax.tree.map(np.testing.assert_array_equal, new, old)


IMAGES = [(37, 53), (64, 40), (300, 260), (224, 224)]


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": 224}),
        ("BitImageProcessor", {"size": {"height": 60, "width": 50}, "do_center_crop": False}),
        ("SiglipImageProcessor", {"size": {"height": 96, "width": 96}}),
        ("Siglip2ImageProcessor", {"max_num_patches": 40, "patch_size": 8}),
    ],
)
def test_processors_are_theirs(kind, data, shape):
    image = np.random.default_rng(1).integers(256, size=(*shape, 3)).astype(np.uint8)
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        Siglip2ImageProcessorPil,
        convert_image_to_patches,
    )

    classes = {c.__name__: c for c in (BitImageProcessorPil, SiglipImageProcessorPil)}
    classes["Siglip2ImageProcessorPil"] = Siglip2ImageProcessorPil
    made = classes[f"{kind}Pil"](**data)
    wanted = made(image, return_tensors="np")
    written = {**made.to_dict(), **data}
    ours = image_processor.parse(json.loads(json.dumps(written)), kind, "file")(image)
    if kind == "Siglip2ImageProcessor":
        patches = convert_image_to_patches(ours.transpose(2, 0, 1), data["patch_size"])
        theirs_ = wanted["pixel_values"][0][: len(patches)]
        assert tuple(wanted["spatial_shapes"][0]) == tuple(n // 8 for n in ours.shape[:2])
        np.testing.assert_allclose(patches, theirs_, atol=2e-6)
        return
    np.testing.assert_allclose(ours.transpose(2, 0, 1), wanted["pixel_values"][0], atol=2e-6)


@pytest.mark.parametrize("shape", IMAGES)
def test_floats_are_resized_as_pytorch_does(shape):
    """DINOv3's processor has no form without torchvision, whose resize is this function."""
    image = np.random.default_rng(1).integers(256, size=(*shape, 3)).astype(np.uint8)
    ours = image_processor.parse({}, "DINOv3ViTImageProcessor", "file")(image)
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    x = torch.nn.functional.interpolate(
        x, (224, 224), mode="bilinear", antialias=True, align_corners=False
    )[0]
    mean, std = (torch.tensor(x)[:, None, None] for x in image_processor._IMAGENET)
    # Their centres of pixels, up to 300, are rounded to float32, and each of two weights with them.
    bound = 2 * 300 * 2**-24 / 0.224
    np.testing.assert_allclose(ours.transpose(2, 0, 1), (x - mean) / std, atol=bound)


@pytest.mark.parametrize("kind", ["DINOv3ViTImageProcessor", "VJEPA2VideoProcessor", "Bit"])
def test_processors_of_torchvision(kind):
    """Their backend on torchvision: floats to rounding, uint8 within one level of 255."""
    pytest.importorskip("torchvision", exc_type=ImportError)
    rng = np.random.default_rng(1)
    image = rng.integers(256, size=(130, 190, 3)).astype(np.uint8)
    if kind == "VJEPA2VideoProcessor":
        made = transformers.VJEPA2VideoProcessor(crop_size=64)
        wanted = made(list(image[None]), return_tensors="pt")["pixel_values_videos"][0, 0]
        data = made.to_dict()
    else:
        name = {"Bit": "BitImageProcessor"}.get(kind, kind)
        made = getattr(transformers, name)()
        wanted = made(image, return_tensors="pt")["pixel_values"][0]
        data = made.to_dict()
    ours = image_processor.parse(json.loads(json.dumps(data, default=int)), kind, "file")(image)
    level = 2 * 190 * 2**-24 if kind.startswith("DINOv3") else 1.001 / 255
    bound = level / min(image_processor._IMAGENET[1])
    np.testing.assert_allclose(ours.transpose(2, 0, 1), wanted, atol=bound)
