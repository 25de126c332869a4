"""The generated data set: reproducible, well-formed, with classes that differ in shape only."""

import time
from random import Random

import numpy as np
import pytest
import torch

from semiseg.data import Shapes, open_dataset
from semiseg.data import generated_shapes as module
from semiseg.errors import UserError


def test_at_least_six_classes_besides_background() -> None:
    dataset = Shapes()
    assert dataset.classes[0] == "background" and len(dataset.classes) == len(dataset.palette) >= 7
    assert len(set(dataset.classes)) == len(set(dataset.palette)) == len(dataset.classes)


def test_options_from_text() -> None:
    dataset = open_dataset("shapes:images=30, size=64,val=4,test=5,seed=9")
    assert isinstance(dataset, Shapes) and len(dataset) == 39
    assert [len(dataset.split(name) or ()) for name in ("train", "val", "test")] == [30, 4, 5]
    assert dataset[0].image.shape == (3, 64, 64) and dataset[0].mask is not None and dataset[0].mask.shape == (64, 64)
    assert len(open_dataset("shapes")) == len(open_dataset("shapes:")) == 620


@pytest.mark.parametrize("text", ["image=3", "images=x", "images", "size=12", "images=0", "val=-1", "size=99999"])
def test_invalid_options_fail_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="shapes") as caught:
        open_dataset(f"shapes:{text}")
    assert "\n" not in str(caught.value)


def test_image_is_function_of_seed_and_id() -> None:
    first, again = Shapes(images=5, val=2, test=2), Shapes(images=9, val=2, test=3)
    module._render.cache_clear()
    images = [first.read_image(id) for id in first.ids]
    module._render.cache_clear()
    assert all(torch.equal(image, again.read_image(id)) for image, id in zip(images, first.ids, strict=True))
    other = Shapes(images=5, val=2, test=2, seed=1)
    assert not any(torch.equal(image, other.read_image(id)) for image, id in zip(images, first.ids, strict=True))
    assert len({tuple(image.flatten().tolist()) for image in images}) == len(images)


def test_returned_images_are_copies() -> None:
    dataset = Shapes(images=1, val=1, test=1)
    before = dataset.read_image("train00000").clone()
    dataset.read_image("train00000").zero_()
    dataset.read_mask("train00000").zero_()
    assert torch.equal(dataset.read_image("train00000"), before) and dataset.read_mask("train00000").any()


def test_masks_hold_every_class_and_objects_overlap() -> None:
    dataset = Shapes(images=100)
    found, touching = torch.zeros(len(dataset.classes), dtype=torch.int64), 0
    for id in dataset.split("train") or ():
        mask = dataset.read_mask(id)
        assert mask.dtype == torch.uint8 and dataset.read_image(id).dtype == torch.uint8
        found += torch.bincount(mask.flatten(), minlength=len(dataset.classes))
        across = (mask[:, 1:] != mask[:, :-1]) & (mask[:, 1:] > 0) & (mask[:, :-1] > 0)
        touching += bool(across.any())
    share = found / found.sum()
    assert 0.4 < share[0] < 0.85, "background"
    assert share[1:].min() > 0.02 and share[1:].max() < 2.5 * share[1:].min()
    assert touching > 50, "in most images one object hides a part of another"


def test_rendering_takes_milliseconds() -> None:
    module._render.cache_clear()
    times = []
    for index in range(30):
        start = time.perf_counter()
        module._render(0, f"train{index:05d}", 96)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01  # about 0.002 on an idle machine; the minimum, because other processes may be running


# Color and texture do not predict the class.


def interior_features(dataset: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """Return features of 5 x 5 patches within one class: mean and deviation of each channel, and two gradients.

    Patches that cross an outline are left out, because they may show the shape.
    """
    features, classes = [], []
    for id in dataset.split("train") or ():
        image, mask = dataset.read_image(id).float().numpy() / 255, dataset.read_mask(id).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(mask, (5, 5))[::5, ::5]
        patches = np.lib.stride_tricks.sliding_window_view(image, (5, 5), axis=(1, 2))[:, ::5, ::5]
        inside = windows.min((2, 3)) == windows.max((2, 3))
        chosen = patches.transpose(1, 2, 0, 3, 4)[inside]
        steps = [abs(np.diff(chosen, axis=axis)).mean((1, 2, 3))[:, None] for axis in (2, 3)]
        features.append(np.concatenate([chosen.mean((2, 3)), chosen.std((2, 3)), *steps], axis=1))
        classes.append(windows[inside][:, 0, 0])
    return np.concatenate(features), np.concatenate(classes)


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, np.ndarray]:
    return interior_features(Shapes(images=300))


def test_mean_color_and_gradients_are_independent_of_class(patches: tuple[np.ndarray, np.ndarray]) -> None:
    features, classes = patches
    spread = features.std(0)
    for label in range(7):
        difference = abs(features[classes == label].mean(0) - features.mean(0)) / spread
        assert difference.max() < 0.35, (label, difference)  # four standard errors, with about 150 objects per class


def nearest_class_accuracy(features: np.ndarray, classes: np.ndarray) -> float:
    """Return the balanced accuracy of 5 nearest neighbors, trained on the first half of the patches (other images)."""
    half = len(features) // 2
    rng = np.random.default_rng(0)
    scaled = torch.from_numpy((features - features.mean(0)) / features.std(0))
    train = np.concatenate([rng.choice(np.flatnonzero(classes[:half] == k), 150) for k in range(7)])
    test = np.concatenate([half + rng.choice(np.flatnonzero(classes[half:] == k), 150) for k in range(7)])
    nearest = torch.cdist(scaled[test], scaled[train]).topk(5, largest=False).indices.numpy()
    votes = torch.nn.functional.one_hot(torch.from_numpy(classes[train][nearest]).long(), 7).sum(1)
    return float((votes.argmax(1).numpy() == classes[test]).mean())


def test_interior_patches_do_not_predict_class(patches: tuple[np.ndarray, np.ndarray]) -> None:
    features, classes = patches
    assert nearest_class_accuracy(features, classes) < 0.22  # chance is 0.143
    # The classifier does find a clue if there is one: red that grows with the class.
    marked = features.copy()
    marked[:, 0] += classes * features[:, 0].std()
    assert nearest_class_accuracy(marked, classes) > 0.3


def test_texture_does_not_depend_on_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one outline for all classes, permuted classes give another mask and the same image."""

    class Shifted(Random):
        def randrange(self, *bounds: int) -> int:
            value = super().randrange(*bounds)
            return (value + 1) % 6 if bounds == (6,) else value

    monkeypatch.setattr(module, "SHAPES", module.SHAPES[:1] * 6)
    render = module._render.__wrapped__  # without the cache
    for index in range(20):
        image, mask = render(0, f"train{index:05d}", 96)
        with monkeypatch.context() as shifted:
            shifted.setattr(module, "Random", Shifted)
            other_image, other_mask = render(0, f"train{index:05d}", 96)
        assert np.array_equal(image, other_image)
        assert np.array_equal(np.where(mask > 0, mask % 6 + 1, 0), other_mask) and mask.any()
