"""The machine learning backend of Label Studio: ``/health``, ``/setup`` and ``/predict``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from semiseg.data.files.image_files import decode
from semiseg.errors import UserError, printable
from semiseg.inference.bounded_predictor import BoundedPredictor
from semiseg.inference.files.image_source import MemoryImage
from semiseg.inference.formats.label_studio_results import brush_results
from semiseg.inference.formats.prediction_writer import PredictionWriter
from semiseg.tools.models.trained_model import Model
from semiseg.tools.serving.guard import Guard
from semiseg.tools.serving.label_studio_config import ConfigError, Control, find_control
from semiseg.tools.serving.label_studio_images import ImageSource
from semiseg.tools.serving.polygon_results import polygon_results

Result = dict[str, Any]


class LabelStudioBackend:
    """Predicts tasks of Label Studio with one model.

    Args:
        model: The model; its default network predicts.
        images: Finds the images of the tasks.
    """

    def __init__(self, model: Model, images: ImageSource) -> None:
        self.model, self.images = model, images
        self.version = f"{model.run.resolve().name if model.run else model.path.stem}-{model.network}-step{model.step}"
        bounded = BoundedPredictor(model.predictor, model.config.crop_size)
        self.writer = PredictionWriter(bounded, model.classes, model.palette, ["mask", "confidence"])
        self._lock = Lock()  # requests run in threads; one image at a time bounds memory
        self.config = ""  # of the last /setup, for requests without one

    def predict(self, tasks: Sequence[Mapping[str, Any]], config: str) -> list[Result]:
        """Return one prediction per task, without regions if its image cannot be read.

        Raises:
            ConfigError: The labeling interface does not match the classes.
        """
        control = find_control(config, self.model.classes)
        return [self._predict(task, control) for task in tasks]

    def _predict(self, task: Mapping[str, Any], control: Control) -> Result:
        prediction: Result = {"result": [], "score": 0.0, "model_version": self.version}
        try:
            reference = task.get("data", {}).get(control.key)
            if not isinstance(reference, str):
                raise UserError(f"task {task.get('id')} has no image {control.key!r}")
            mask, confidence = self._segment(self.images.open(reference), reference[:100])
        except UserError as error:
            print(f"skipped: {printable(str(error))}", file=sys.stderr, flush=True)
            return prediction
        make = brush_results if control.kind == "brushlabels" else polygon_results
        results = make(str(task.get("id", "")), mask, control.labels, (control.from_name, control.to_name))
        return prediction | {"result": results, "score": confidence}

    def _segment(self, source: Path | IO[bytes], name: str) -> tuple[NDArray[np.uint8], float]:
        """Return the mask ``(H, W)`` of an image, and its mean confidence in [0, 1]."""
        pixels = decode(source, name, format=self.writer.predictor.predictor.pixel_format).pixels
        with self._lock:
            mask, confidence = self.writer.arrays(MemoryImage(pixels, name)).values()
        return mask, float(confidence.mean()) / 255


def make_label_studio_app(backend: LabelStudioBackend, token: str | None = None) -> Guard:
    """Return the ASGI application.

    Args:
        backend: Predicts the tasks.
        token: See `Guard`. Label Studio sends it as the password of basic authentication.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    version = {"model_version": backend.version}

    @app.get("/")
    @app.get("/health")
    def health() -> Result:
        return {"status": "UP", "model_class": "semiseg"} | version

    @app.get("/versions")
    @app.post("/versions")
    def versions() -> Result:
        return {"versions": [backend.version]}

    @app.post("/setup", response_model=None)
    def setup(content: Result) -> Result | JSONResponse:
        config = str(content.get("schema") or content.get("label_config") or "")
        try:
            find_control(config, backend.model.classes)
        except ConfigError as error:
            return refuse(error)
        backend.config = config
        return version

    @app.post("/predict", response_model=None)
    def predict(content: Result) -> Result | JSONResponse:
        tasks = content.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            return JSONResponse({"error": "tasks must be a list of objects"}, 422)
        try:
            return {"results": backend.predict(tasks, str(content.get("label_config") or backend.config))} | version
        except ConfigError as error:
            return refuse(error)

    @app.post("/webhook")
    @app.post("/train")
    def ignore() -> Result:
        return {}

    return Guard(app, token, page="")


def refuse(error: ConfigError) -> JSONResponse:
    """Return the answer to a project that cannot be predicted, and print why: Label Studio refers to this output."""
    print(f"refused: {printable(str(error))}", file=sys.stderr, flush=True)
    return JSONResponse({"error": str(error)}, 422)
