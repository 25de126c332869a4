"""Reads the images and masks of the training stream, optionally at reduced size or from a cache."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from semiseg.data.dataset import Decoded, SegmentationDataset, check_size
from semiseg.data.stream.decoded_cache import DecodedCache


class ImageReader:
    """Reads the images of a data set.

    Args:
        dataset: The data.
        factor: Images are decoded at ``1 / factor`` of their size: 1, 2, 4 or 8.
        cache: The cache of decoded images, if any.
    """

    def __init__(self, dataset: SegmentationDataset, factor: int = 1, cache: DecodedCache | None = None) -> None:
        self.dataset, self.factor, self.cache = dataset, factor, cache

    def image(self, id: str) -> Decoded:
        """Read an image. Raises UserError if it cannot be read."""
        path = self.dataset.image_path(id)
        if self.cache is None or path is None:
            return self.dataset.read_decoded(id, self.factor)
        read = partial(self.dataset.read_decoded, id, self.factor)
        return self.cache.read(path, self.factor, read, self.dataset.pixel_format)

    def sample(self, id: str) -> tuple[Decoded, Tensor]:
        """Read an image and its mask, uint8 ``(H, W)``. Raises UserError if their sizes differ."""
        image, mask = self.image(id), self.dataset.read_mask(id)
        check_size(self.dataset, id, image.size, mask)
        return image, mask
