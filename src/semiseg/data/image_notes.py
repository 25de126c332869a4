"""Notes on images of several pages."""

from __future__ import annotations

from collections.abc import Iterable

from semiseg.data.dataset import SegmentationDataset, read_ahead
from semiseg.data.files.image_header import UNREADABLE, page_count

PAGED = (".tif", ".tiff", ".gif", ".png", ".webp", ".avif")


def several_pages(dataset: SegmentationDataset, ids: Iterable[str]) -> dict[str, int]:
    """Return the number of pages of each image file that has more than one, by id."""

    def pages(id: str) -> tuple[str, int]:
        path = dataset.image_path(id)
        try:
            return id, page_count(path) if path is not None and path.suffix.lower() in PAGED else 1
        except UNREADABLE:  # reported when the image is read
            return id, 1

    return {id: count for id, count in read_ahead(pages, ids, workers=None, ahead=64) if count > 1}


def image_notes(dataset: SegmentationDataset, ids: Iterable[str]) -> list[str]:
    """Return a note for training on the images ``ids`` of several pages, if there are any."""
    if paged := several_pages(dataset, ids):
        id, count = next(iter(paged.items()))
        path = dataset.image_path(id)
        return [
            f"warning: {len(paged)} labeled images have several pages, of which the first is used, such as "
            f"{path.name if path else id} ({count} pages)"
        ]
    return []
