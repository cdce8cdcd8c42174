"""Lets torchvision be imported beside a torch without CUDA. Loaded by every interpreter of .venv-sglang.

The published torchvision is compiled against the CUDA build of torch, so its library of operators does not
load beside the CPU build; importing it then fails, because it gives two operators of that library a shape
function. SGLang imports torchvision for pictures alone. The two operators are declared here, without any
implementation: whoever calls one is told by torch that there is none.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DeclareBeforeTorchvision(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        # Kept by the class: a library that is collected takes its declarations with it.
        type(self).library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            self.library.define(name + _SCHEMA)
        return importlib.util.find_spec(fullname)


sys.meta_path.insert(0, _DeclareBeforeTorchvision())
