"""Segment an image by model.onnx: python inference.py PHOTO MASK.png (onnxruntime, numpy and pillow, nothing else)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

source, target = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
here = Path(__file__).parent
config = json.loads((here / "config.json").read_text(encoding="utf-8"))
resized = lambda band, size: np.array(Image.fromarray(band).resize(size, Image.Resampling.BILINEAR))  # noqa: E731
image = ImageOps.exif_transpose(Image.open(source))
if image.mode.startswith("I"):  # 16 bits
    image = Image.fromarray((np.asarray(image, np.float32).clip(0, 65535) / 257).astype(np.uint8))
width, height = (max(1, round(side * config["image_scale"])) for side in image.size)
bands = np.stack([resized(np.array(band, np.float32) / 255, (width, height)) for band in image.convert("RGB").split()])
multiple, least = config["size_multiple"], config["least_side"]
right, below = (-(-max(side, least) // multiple) * multiple - side for side in (width, height))
images = np.pad(bands, ((0, 0), (0, below), (0, right)), mode="edge")[None]  # float32 (1, 3, H, W), RGB in [0, 1]
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {"images": images})[0][0, :, :height, :width]
logits = np.stack([resized(np.ascontiguousarray(channel), image.size) for channel in logits])
mask = Image.fromarray(logits.argmax(axis=0).astype(np.uint8))
mask.putpalette([value for color in config["palette"] for value in color])
mask.save(target)
