"""A trained network in forms that others read: safetensors, torch.export, ONNX, each in a folder with a model card."""

from semiseg.exporting.description import Description, read_export
from semiseg.exporting.write import FORMATS, write_export

__all__ = ["FORMATS", "Description", "read_export", "write_export"]
