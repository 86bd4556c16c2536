import pytest

from driver.hardware.backend import BackendError
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.open import open_backend, read_boot_id


def test_fake_profile_by_name(tmp_path):
    backend = open_backend("fake:t4x1", tmp_path)

    assert isinstance(backend, FakeBackend)
    assert [gpu.name for gpu in backend.inventory().gpus] == ["gpu-0"]


@pytest.mark.parametrize("devices", ["fake:", "fake", "amd", ""])
def test_anything_else_is_an_error_that_says_what_is_accepted(tmp_path, devices):
    with pytest.raises(BackendError, match="'nvml', 'fake:<profile>' or 'fake:<path to a YAML file>' is expected"):
        open_backend(devices, tmp_path)


def test_boot_id_is_read_from_the_kernel(tmp_path):
    (tmp_path / "boot_id").write_text("5f0b\n")

    assert read_boot_id(tmp_path / "boot_id") == "5f0b"
    assert read_boot_id(tmp_path / "none") == ""
