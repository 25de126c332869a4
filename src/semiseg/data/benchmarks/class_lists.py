"""The classes of the benchmarks that published checkpoints were trained on, by their number of outputs."""

from __future__ import annotations

from semiseg.data.benchmarks import cityscapes, voc
from semiseg.data.dataset import Color, default_palette

ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel,
pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt,
canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball,
food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood,
sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator,
glass, clock, flag
"""
"""The first name of each class in ``objectInfo150.txt``, in the order of the mask values 1 to 150."""

COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking
meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
"""The things of COCO in the order of their category ids; class 0 is the background, as in UniMatch."""


def classes_of_benchmark(outputs: int) -> tuple[str, tuple[str, ...], tuple[Color, ...]] | None:
    """Return the name, classes and palette of the benchmark with this number of classes, or None if there is none."""
    names = {
        len(voc.CLASSES): ("VOC 2012", voc.CLASSES),
        len(cityscapes.EVALUATED): ("Cityscapes", tuple(name for _, name, _ in cityscapes.EVALUATED)),
        150: ("ADE20K", _split(ADE20K)),
        81: ("COCO", ("background", *_split(COCO))),
    }
    if outputs not in names:
        return None
    name, classes = names[outputs]
    colors = tuple(color for _, _, color in cityscapes.EVALUATED)
    return name, classes, colors if name == "Cityscapes" else default_palette(outputs)


def _split(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))
