"""Export trained networks as safetensors, torch.export or ONNX, each in a directory with a model card."""

from semiseg.tools.exporting.export_config import Description, read_export
from semiseg.tools.exporting.write_export import FORMATS, write_export

__all__ = ["FORMATS", "Description", "read_export", "write_export"]
