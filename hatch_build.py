"""Build hook: compiles protos/ into driver/wire/, for wheels and for editable installs alike."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileProtos(BuildHookInterface):  # type: ignore[type-arg]
    """Generated code is never committed: it always fits the protos and the grpcio-tools that built it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        protos = sorted(p.name for p in (root / "protos").glob("*.proto"))
        # The virtual prefix makes protoc emit `driver.wire.…` imports, so that the modules need no path tricks.
        status = protoc.main(
            [
                "protoc",
                f"-Idriver/wire={root / 'protos'}",
                f"-I{files('grpc_tools') / '_proto'}",
                f"--python_out={root}",
                f"--pyi_out={root}",
                f"--grpc_python_out={root}",
                *(f"driver/wire/{name}" for name in protos),
            ]
        )
        if status != 0:
            raise RuntimeError(f"protoc failed with status {status} on {', '.join(protos)}")
        build_data["artifacts"] += ["driver/wire/*_pb2.py", "driver/wire/*_pb2.pyi", "driver/wire/*_pb2_grpc.py"]
