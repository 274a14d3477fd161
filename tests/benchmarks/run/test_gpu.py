"""The GPU run says what is missing, and picks the profile that was worked out for the card."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.load.dummy_weights import SHAPE_7B
from benchmarks.run import gpu
from benchmarks.run.card import gpus
from benchmarks.run.ceiling import shape_weights


@pytest.mark.parametrize(
    ("memory_gib", "profile"),
    [(139.8, "gpu-141g"), (79.6, "gpu-80g"), (44.9, "gpu-24g"), (22.0, "gpu-24g"), (15.0, None)],
)
def test_largest_profile_that_fits_the_card(memory_gib: float, profile: str | None) -> None:
    found = gpu.profile_for(memory_gib)
    assert (None if found is None else found.stem) == profile
    assert all(path.exists() for _, path in gpu.PROFILES)


def test_everything_that_is_missing_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpus", list)
    monkeypatch.setattr(gpu, "torch_build", lambda: "torch is built without CUDA")
    monkeypatch.setattr(gpu, "vllm_build", lambda: None)
    assert main(["gpu", "--check"]) == 2
    shown = capsys.readouterr().out
    assert "nvidia-smi reports none" in shown
    assert "torch is built without CUDA" in shown


def test_a_card_too_small_for_every_profile_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"name": "small", "memory.total": "8192 MiB", "driver_version": "1"}
    monkeypatch.setattr(gpu, "gpus", lambda: [card])
    monkeypatch.setattr(gpu, "torch_build", lambda: None)
    monkeypatch.setattr(gpu, "vllm_build", lambda: None)
    assert main(["gpu", "--check"]) == 2
    assert "no profile for a card of 8 GiB" in capsys.readouterr().out
    assert main(["gpu", "--check", "--profile", str(Path("deploy/profiles/gpu-24g.yaml"))]) == 0


def test_the_7b_shape_has_as_many_weights_as_it_is_called_after() -> None:
    """The model card has 7.62e9; the input embedding, 152,064 x 3,584 of them, is looked up and not computed."""
    assert shape_weights(SHAPE_7B).computed == pytest.approx(7.62e9 - 152_064 * 3_584, rel=0.005)


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU here")
def test_a_machine_with_a_card_lacks_nothing() -> None:
    assert gpu.missing(gpus()) == []
