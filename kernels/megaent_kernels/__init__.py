"""Triton kernels, one file an op: device functions and launchers, no autograd, no process groups.

A leaf: nothing here imports megaent, and nothing here knows a training method. Each kernel has its
contract and reference in ``megaent.ops`` under the same name.
"""
