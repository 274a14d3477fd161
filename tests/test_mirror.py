"""Tests mirror the source: a file has a test file of its own name, or a row here says which test covers it."""

import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The test that covers files without one of their name. Most are covered as parts of something larger: a whole request
# (journey), a command, a section, or a model and its neighbours. Patterns are those of fnmatch.
COVERED_BY = {
    # One request through the real HTTP app, the real cascade and the ledger
    "tests/journey/test_cascade.py": (
        "serving/app.py",
        "serving/cascade/answer.py",
        "serving/cascade/exchange.py",
        "serving/cascade/sections.py",
        "serving/gateway/answering.py",
        "serving/gateway/gateway.py",
        "serving/request/tiers.py",
    ),
    "tests/journey/test_gate_and_hold.py": ("serving/cascade/gated_draft.py",),
    "tests/journey/test_promotion.py": ("serving/cascade/releases.py",),
    "tests/journey/test_bad_input.py": (
        "serving/gateway/read_call.py",
        "serving/gateway/routes.py",
        "serving/gateway/config.py",
        "serving/access/admission.py",
    ),
    "tests/journey/test_headers.py": ("serving/gateway/health.py",),
    "tests/journey/test_budgets.py": (
        "serving/access/budgets.py",
        "serving/access/budget_thread.py",
        "serving/gateway/budget_routes.py",
    ),
    "tests/journey/test_dashboard.py": (
        "serving/gateway/dashboard_routes.py",
        "serving/report/__main__.py",
        "serving/report/html.py",
    ),
    "tests/journey/test_learning.py": ("serving/learning/*.py", "routing/learning/samples.py"),
    "tests/journey/test_flywheel_turn.py": ("benchmarks/flywheel/*.py",),
    "tests/journey/test_flywheel.py": (
        "models/flywheel/history.py",
        "models/flywheel/promote.py",
        "models/flywheel/register.py",
        "models/flywheel/rollback.py",
        "models/heads/train.py",
        "models/heads/score.py",
    ),
    # Wire formats
    "tests/serving/api/test_fields.py": (
        "serving/api/chat.py",
        "serving/api/chat_messages.py",
        "serving/api/completions.py",
        "serving/api/formats.py",
    ),
    "tests/serving/gateway/test_response.py": ("serving/api/http_json.py",),
    "tests/serving/hosted/test_client.py": (
        "serving/hosted/providers/openai_provider.py",
        "serving/hosted/providers/anthropic_provider.py",
        "serving/hosted/providers/provider.py",
    ),
    # Commands, each called as a user calls it
    "tests/serving/test_main.py": (
        "serving/__main__.py",
        "serving/commands/ask.py",
        "serving/commands/budget.py",
        "serving/commands/ledger.py",
        "serving/commands/new_key.py",
        "serving/commands/options.py",
        "serving/commands/reconcile.py",
        "serving/commands/report.py",
    ),
    "tests/serving/test_config.py": ("serving/commands/validate.py",),
    "tests/deploy/test_observability.py": ("serving/commands/grafana.py", "serving/telemetry/grafana.py"),
    "tests/serving/audit/test_send_sample.py": ("serving/commands/audit_log.py", "serving/audit/example_log.py"),
    "tests/serving/commands/test_audit.py": (
        "serving/audit/page.py",
        "serving/audit/plots.py",
        "serving/audit/report.py",
        "serving/audit/table.py",
        "serving/audit/forecast/artefact_share.py",
    ),
    "tests/serving/audit/formats/test_formats.py": ("serving/audit/formats/*.py",),
    "tests/serving/audit/traffic/test_accounts.py": (
        "serving/audit/traffic/arrivals.py",
        "serving/audit/traffic/survey.py",
    ),
    "tests/serving/audit/forecast/test_outlook.py": (
        "serving/audit/forecast/assumptions.py",
        "serving/audit/forecast/fleet.py",
        "serving/audit/traffic/price_list.py",
        "serving/audit/traffic/sample.py",
    ),
    # Records and their neighbours
    "tests/serving/request/test_trace.py": ("serving/request/call.py", "serving/request/frame.py"),
    "tests/serving/replicas/test_ray_router.py": ("serving/request/payloads.py", "serving/replicas/config.py"),
    "tests/serving/replicas/test_tracker.py": (
        "serving/replicas/load_news.py",
        "serving/replicas/replica.py",
        "serving/replicas/routed_prompt.py",
    ),
    "tests/serving/commands/test_serve.py": ("serving/engine/noop.py",),
    "tests/serving/ledger/test_store.py": ("serving/ledger/tables.py", "serving/ledger/migrations/*.py"),
    "tests/serving/ledger/test_rows.py": ("serving/ledger/lines.py",),
    "tests/serving/ledger/test_writer.py": ("serving/ledger/writer_thread.py",),
    "tests/serving/report/test_provider_usage.py": ("serving/report/reconciliation.py",),
    "tests/serving/report/test_read.py": ("serving/report/table.py",),
    # Decisions that are parts of larger ones
    "tests/routing/cost/test_attempt.py": ("routing/cost/shared_clock.py",),
    "tests/routing/gate/test_judge.py": ("routing/gate/config.py", "routing/gate/watch.py"),
    "tests/routing/heads/test_decide.py": ("routing/heads/evidence.py",),
    "tests/routing/learning/test_quality.py": ("routing/intervals.py",),
    "tests/routing/ladder/test_features.py": ("routing/text/categories.py", "routing/text/steering.py"),
    "tests/models/heads/test_fit.py": ("routing/heads/head.py", "routing/heads/manifest.py"),
    # Training
    "tests/models/test_main.py": ("models/__main__.py", "models/weights/listing.py"),
    "tests/models/heads/test_artefact.py": ("models/heads/train_panel.py",),
    "tests/models/flywheel/test_candidate.py": (
        "models/flywheel/refused.py",
        "models/flywheel/registry.py",
        "models/heads/pairs.py",
    ),
    "tests/models/flywheel/test_steps.py": ("models/flywheel/monitor.py",),
    "tests/models/flywheel/test_export.py": ("models/data/*.py",),
    "tests/models/tier1/test_train.py": (
        "models/tier1/config.py",
        "models/tier1/evaluate.py",
        "models/tier1/loss.py",
        "models/tier1/loss_plot.py",
        "models/tier1/mixed_precision.py",
    ),
    "tests/models/weights/test_fetch.py": ("models/errors.py", "models/weights/hub.py"),
    # Benchmarks: what needs engines is measured, not tested
    "tests/test_docs.py": ("benchmarks/__main__.py",),
    "tests/benchmarks/layers/test_measure.py": (
        "benchmarks/layers/command.py",
        "benchmarks/layers/plot.py",
        "benchmarks/layers/section.py",
        "benchmarks/layers/system_prompts.py",
        "benchmarks/load/child_stack.py",
    ),
    "tests/benchmarks/run/test_lab.py": ("benchmarks/load/dummy_weights.py", "benchmarks/load/tiny_model.py"),
    "tests/benchmarks/run/test_command.py": (
        "benchmarks/load/text_table.py",
        "benchmarks/run/plan.py",
        "benchmarks/run/plots.py",
        "benchmarks/run/section.py",
    ),
    "tests/benchmarks/quality/test_command.py": ("benchmarks/quality/baselines.py", "benchmarks/quality/plots.py"),
    "tests/benchmarks/replicas/test_replay.py": (
        "benchmarks/replicas/aims.py",
        "benchmarks/replicas/command.py",
        "benchmarks/replicas/policies.py",
        "benchmarks/replicas/trace.py",
    ),
    "tests/benchmarks/replicas/test_live.py": ("benchmarks/replicas/peer_routers.py", "benchmarks/load/process.py"),
    "tests/benchmarks/sections/test_bare_ray.py": (
        "benchmarks/sections/bare_ray_app.py",
        "benchmarks/sections/gateway.py",
    ),
    "tests/benchmarks/sections/test_peers.py": ("benchmarks/sections/ray_llm_app.py",),
    "tests/benchmarks/sections/test_engine.py": ("benchmarks/sections/workloads.py",),
    "tests/benchmarks/sections/test_scale.py": ("benchmarks/sections/scale_live.py",),
    "tests/benchmarks/tasks/test_report.py": (
        "benchmarks/tasks/asking.py",
        "benchmarks/tasks/command.py",
        "benchmarks/tasks/pairs.py",
        "benchmarks/tasks/plots.py",
        "benchmarks/tasks/strategies.py",
    ),
    "tests/benchmarks/tasks/test_suite.py": ("benchmarks/tasks/task.py", "benchmarks/tasks/families/*.py"),
}


def source_files() -> list[str]:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "routing", "serving", "models", "benchmarks"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [n for n in listed.stdout.splitlines() if n.endswith(".py") and not n.endswith("__init__.py")]


def has_its_own(name: str) -> bool:
    path = Path(name)
    return (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()


def test_every_source_file_has_a_test_of_its_name_or_a_row() -> None:
    patterns = [pattern for row in COVERED_BY.values() for pattern in row]
    assert [n for n in source_files() if not has_its_own(n) and not any(fnmatch(n, p) for p in patterns)] == []


@pytest.mark.parametrize("test", COVERED_BY)
def test_a_row_names_a_test_that_is_there_and_files_that_have_no_other(test: str) -> None:
    assert (ROOT / test).is_file()
    for pattern in COVERED_BY[test]:
        assert [n for n in source_files() if fnmatch(n, pattern) and not has_its_own(n)], f"nothing matches {pattern}"
