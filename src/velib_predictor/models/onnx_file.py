"""A torch network as an ONNX file, which needs no torch where it serves."""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxscript  # noqa: F401 - torch asks for it when a network is written: too late to learn that it is missing
import torch
from torch import Tensor, nn


def as_onnx(network: nn.Module, example: Sequence[Tensor], names: Sequence[str]) -> bytes:
    """The network as an ONNX file that takes any number of rows; `names` of its inputs, in its order."""
    rows = torch.export.Dim("rows", min=2)
    for chatty in ("torch.onnx", "onnxscript", "onnx_ir"):  # of every node, and that torchvision is missing
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("torch.__trace").propagate = False  # thousands of records, whatever level is asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.cpu().eval(), tuple(example), input_names=list(names), output_names=["parameters"], dynamo=True,
            verbose=False, dynamic_shapes=(tuple({0: rows} for _ in example),),
        )  # fmt: skip
    assert program is not None  # noqa: S101 - for the type checker
    _forget_origin(program.model.graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        program.save(file, external_data=False)
        return file.read_bytes()


def _forget_origin(graph: Any) -> None:
    """Take out what the exporter notes of each node: the source's lines and paths, larger than a small network."""
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
