"""Files that hold no encoder, another one, or a damaged one: each is refused in one sentence."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from published import VIT
from reference_originals import HEADS
from safetensors.numpy import save as safetensors_save

from sslshift.models.reference import load_reference


def without(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def with_tensor(name, tensor):
    return lambda tensors: tensors | {name: tensor}


@pytest.mark.parametrize(
    ("original", "change", "message"),
    [
        (VIT, without("norm.bias", "blocks.1.mlp.fc2.weight"), r"missing: blocks\.1\.mlp\.fc2\.weight, norm\.bias\)"),
        (VIT, without("cls_token"), r"ViT under the names of timm, .*missing: cls_token"),
        (VIT, with_tensor("norm_pre.weight", np.ones(24)), r"extra: norm_pre\.weight\)"),
        (VIT, with_tensor("dist_token", np.ones((1, 1, 24))), "extra: dist_token"),
        (VIT, with_tensor("pos_embed", np.ones((1, 51, 24))), r"pos_embed \(1 x 51 x 24 in place of 1 x 50 x 24\)"),
        (VIT, with_tensor("blocks.0.mlp.fc1.weight", np.ones((80, 24))), r"fc1\.weight \(80 x 24 in place of 96 x 24\)"),
        (VIT, with_tensor("blocks.900000000.norm1.weight", np.ones(24)), "missing: blocks.2.*extra: blocks.900000000"),
        (VIT, with_tensor("patch_embed.proj.weight", np.ones((24, 3, 4, 5))), r"patch_embed\.proj\.weight of shape"),
        (VIT, with_tensor("patch_embed.proj.weight", np.ones((24, 1, 4, 4))), "24 x 1 x 4 x 4 in place of 24 x 3 x 4 x 4"),
        (VIT, with_tensor("pos_embed", np.ones(3)), "do not fit a ViT"),
        (VIT, with_tensor("norm.bias", np.full(24, np.nan)), r"norm\.bias holds values that are not finite"),
        (VIT, with_tensor("norm.bias", np.ones(24, np.int64)), r"norm\.bias holds int64"),
        ("dinov2/plain", with_tensor("blocks.0.mlp.w12.weight", np.ones((96, 24))), r"DINOv2.*extra: blocks\.0\.mlp\.w12"),
        ("transformers/dinov2", without("encoder.layer.1.layer_scale2.lambda1"), r"missing: encoder\.layer\.1\.layer_scale2"),
        ("transformers/vit", without("encoder.layer.0.attention.attention.key.bias"), "missing: .*key.bias"),
        ("torchvision/basic", without("layer2.0.downsample.1.running_var"), r"missing: layer2\.0\.downsample\.1\.running_var"),
        ("torchvision/basic", with_tensor("layer1.0.se.fc1.weight", np.ones((4, 64))), r"extra: layer1\.0\.se\.fc1\.weight"),
        (
            "torchvision/basic",
            with_tensor("conv1.weight", np.ones((64, 3, 3, 3))),
            r"64 x 3 x 3 x 3 in place of 64 x 3 x 7 x 7",
        ),
        (
            "torchvision/basic",
            with_tensor("conv1.weight", np.array(1.0)),
            r"conv1\.weight \(a number in place of 64 x 3 x 7 x 7",
        ),
        ("torchvision/basic", without("layer1.0.conv1.weight"), r"ResNet.*missing: layer1\.0\.conv1\.weight"),
        (
            VIT,
            lambda tensors: {"features.0.weight": np.ones(3)},
            r"\(features\.0\.weight, 1 in all\) belong to no known architecture",
        ),
        (VIT, lambda tensors: {}, r"its tensors \(none, 0 in all\)"),
    ],
)
def test_wrong_architectures_are_refused_with_the_tensors_that_do_not_fit(original, change, message, tensors, write):
    file = write(change(tensors(original)[0]))
    with pytest.raises(ValueError, match=message) as raised:
        load_reference(file, heads=HEADS)
    assert len(str(raised.value).splitlines()) == 1
    assert str(file) in str(raised.value)


def npz_with(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def npy_of(dtype, shape):
    return (
        b"\x93NUMPY\x01\x00\x80\x00"
        + f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(127).encode()
        + b"\n"
    )


def pickled_npz():
    buffer = io.BytesIO()
    np.savez(buffer, cls_token=np.array([{"a": 1}], object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", b"", r"is a pickle, which could run any code .* torch\.load.*weights_only=True.* x\.pth x\.safetensors$"),
        ("x.ckpt", b"", "is a pickle"),
        ("x.h5", b"", r"Expected a \.safetensors or \.npz file of weights"),
        ("x.safetensors", b"", r"x\.safetensors is empty: fetch or copy it again"),
        ("x.safetensors", safetensors_save({"a": np.ones(9, np.float32)})[:-8], r"is incomplete, it has \d+ of \d+ bytes"),
        ("x.safetensors", safetensors_save({"a": np.ones(9, np.float32)})[:40], r"is incomplete, it has 40 of \d+ bytes"),
        ("x.safetensors", pickle.dumps({"a": 1}), r"is a pickle, .* x\.safetensors x-converted\.safetensors$"),
        ("x.npz", npz_with("archive/data.pkl", b""), r"is a pickle, .* x\.npz x\.safetensors$"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        ("x.safetensors", b"<!doctype html><title>Sign in</title>", "is a web page, not weights"),
        ("x.safetensors", b"\xff" * 100, "cannot be read as tensors"),
        ("x.npz", b"no zip", "cannot be read as tensors"),
        ("x.npz", npz_with("a.npy", b"no array"), "cannot be read as tensors"),
        ("x.npz", npz_with("a.npy", npy_of("<f4", (1 << 40,))), "cannot be read as tensors"),
        ("x.npz", npz_with("a.npy", npy_of("<f4", (-1,)) + bytes(6)), "cannot be read as tensors"),
        ("x.npz", npz_with("a.npy", b"\x93NUMPY\x03\x00" + bytes(64)), "version"),
        ("x.npz", pickled_npz(), "holds Python objects"),
        ("x.npz", npz_with("a.npy", npy_of("<f4", (4,)) + bytes(16))[:-30], "is incomplete: fetch"),
    ],
)
def test_other_and_damaged_files_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_reference(tmp_path / name)


def test_missing_and_huge_files_are_refused(tmp_path, monkeypatch, tensors, write):
    with pytest.raises(ValueError, match=r"There is no file .*; python -m tools.fetch_encoder"):
        load_reference(tmp_path / "x.safetensors")
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(ValueError, match="There is no file"):
        load_reference(tmp_path / "x.npz")
    huge = tmp_path / "huge.safetensors"
    with huge.open("wb") as opened:
        opened.truncate(9 << 30)
    with pytest.raises(ValueError, match=r"9\.0 GiB, more than any supported encoder"):
        load_reference(huge)
    huge.unlink()
    # Zeros pack a thousandfold; what an archive says it unpacks to is looked at first.
    bomb = npz_with("a.npy", npy_of("<f4", (1 << 20,)) + bytes(4 << 20))
    (tmp_path / "bomb.npz").write_bytes(bomb)
    monkeypatch.setattr("sslshift.models.reference.files.LARGEST_FILE", 2 << 20)
    with pytest.raises(ValueError, match="its arrays are larger than those of any supported encoder"):
        load_reference(tmp_path / "bomb.npz")
    monkeypatch.setattr("sslshift.models.reference.files.LARGEST_FILE", 8 << 30)
    many = {f"blocks.{i}.x": np.float32([0]) for i in range(20_001)}
    with pytest.raises(ValueError, match="20,001 tensors are more than any supported encoder has"):
        load_reference(write(many))
