"""Segment an image with model.onnx: python inference.py PHOTO MASK.png (needs onnxruntime, numpy and pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

source, target = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
config = json.loads(Path(__file__).with_name("config.json").read_text(encoding="utf-8"))
resized = lambda band, size: np.array(Image.fromarray(band).resize(size, Image.Resampling.BILINEAR))  # noqa: E731
image = ImageOps.exif_transpose(Image.open(source))
if image.mode[0] in "IF":  # 16 bits or more: white is 65535, 1.0, or the maximum
    full = max(1.0 if image.mode == "F" else 65535.0, float(np.asarray(image).max()))
    image = Image.fromarray((np.asarray(image, np.float32).clip(0, full) * (255 / full)).astype(np.uint8))
width, height = (max(1, round(side * config["image_scale"])) for side in image.size)
bands = np.stack([resized(np.array(band, np.float32) / 255, (width, height)) for band in image.convert("RGB").split()])
multiple, least = config["size_multiple"], config["least_side"]
right, below = (-(-max(side, least) // multiple) * multiple - side for side in (width, height))
images = np.pad(bands, ((0, 0), (0, below), (0, right)), mode="edge")[None]  # float32 (1, 3, H, W), RGB in [0, 1]
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {"images": images})[0][0, :, :height, :width]
logits = np.stack([resized(np.ascontiguousarray(channel), image.size) for channel in logits])
mask = Image.fromarray(logits.argmax(axis=0).astype(np.uint8))
mask.putpalette([value for color in config["palette"] for value in color])
mask.save(target)
