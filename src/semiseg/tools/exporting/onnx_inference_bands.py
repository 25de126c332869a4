"""Segment an image with model.onnx: python inference.py PHOTO MASK.png (needs onnxruntime, numpy and pillow).

TIFF files also need tifffile if the network reads certain bands or more than 8 bits.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

source, target = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
config = json.loads(Path(__file__).with_name("config.json").read_text(encoding="utf-8"))
resized = lambda band, size: np.array(Image.fromarray(band).resize(size, Image.Resampling.BILINEAR))  # noqa: E731
bands, white = config.get("bands"), config.get("white")
if (bands or white) and source.lower().endswith((".tif", ".tiff")):
    import tifffile

    page = tifffile.TiffFile(source).pages.first
    values = np.moveaxis(page.asarray(), 0, -1) if page.axes == "SYX" else page.asarray()
    missing = (
        ~np.isfinite(values) | np.isin(values, (-9999, -32767, -32768)) | (np.abs(values.astype(np.float32)) > 1e30)
    )
    missing |= values == page.nodata if 42113 in page.tags else False
    values = np.atleast_3d(np.where(missing, 0, values))
else:
    with open(source, "rb") as file:
        if white and file.read(26)[24:] in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):
            sys.exit("Pillow reads only 8 of the 16 bits of a color PNG. Save it as TIFF.")
    image = ImageOps.exif_transpose(Image.open(source))
    if image.mode[0] not in "IF" and not bands:
        image = image.convert("RGB")
    values = np.atleast_3d(np.asarray(image))
if values.dtype != np.uint8:  # without a white value: 65535, 1.0, or the maximum
    full = white or max(65535.0 if values.dtype.kind in "iu" else 1.0, float(values.max()))
    values = values.astype(np.float32).clip(0, full) * (255 / full)
    values = (np.rint(values) if white else values).astype(np.uint8)
values = values[..., [band - 1 for band in bands] if bands else [0, 1, 2] if values.shape[2] > 2 else [0, 0, 0]]
height, width = values.shape[:2]
size = width, height
width, height = (max(1, round(side * config["image_scale"])) for side in size)
scaled = np.moveaxis(values.astype(np.float32) / 255, -1, 0)
images = np.stack([resized(np.ascontiguousarray(band), (width, height)) for band in scaled])
multiple, least = config["size_multiple"], config["least_side"]
right, below = (-(-max(side, least) // multiple) * multiple - side for side in (width, height))
images = np.pad(images, ((0, 0), (0, below), (0, right)), mode="edge")[None]  # float32 (1, channels, H, W) in [0, 1]
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {"images": images})[0][0, :, :height, :width]
logits = np.stack([resized(np.ascontiguousarray(channel), size) for channel in logits])
mask = Image.fromarray(logits.argmax(axis=0).astype(np.uint8))
mask.putpalette([value for color in config["palette"] for value in color])
mask.save(target)
