"""What the stack adds is against bare Ray of its shape in the same round."""

from benchmarks.run.spread import over_rounds
from benchmarks.sections.bare_ray import added, table
from benchmarks.sections.gateway import bare_ray_targets, round_numbers


def figures(e2e_s: float, ttft_s: float, rps: float) -> dict[str, float | None]:
    names = round_numbers([], [], [], 1.0)
    return {**names, "e2e_p50_s": e2e_s, "e2e_p99_s": e2e_s, "ttft_p50_s": ttft_s, "throughput_rps": rps}


def test_added_time_is_of_one_round_and_nothing_measured_is_none() -> None:
    one, two = added([figures(0.015, 0.02, 40.0), round_numbers([], [], [], 1.0)], [figures(0.012, 0.021, 50.0)] * 2)
    assert one["single_added_s"] is not None
    assert round(one["single_added_s"], 9) == 0.003
    assert round(one["ttft_added_s"] or 0, 9) == -0.001
    assert one["throughput_ratio"] == 0.8
    assert set(two.values()) == {None}


def test_every_bare_ray_target_is_followed_by_the_way_of_its_shape() -> None:
    names = list(bare_ray_targets())
    assert all(name.startswith("floor") for name in names[::2])
    assert all(name.startswith("tierwise") for name in names[1::2])


def test_table_has_both_halves() -> None:
    bare, ours = [figures(0.012, 0.02, 50.0)], [figures(0.015, 0.02, 40.0)]
    rows = [
        {"row": "floor, 1 handle call", "failed": 0, **over_rounds(bare)},
        {"row": "tierwise, model=tier1", "failed": 0, **over_rounds(ours)},
        {"row": "tierwise, model=tier1 over floor, 1 handle call", **over_rounds(added(ours, bare))},
    ]
    shown = table({"rows": rows, "gateway_memory_bytes": None})
    assert "3.0 (3.0-3.0)" in shown
    assert "resident: - MiB" in shown
