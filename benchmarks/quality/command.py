"""How good are router and gate on graded pairs? Ours through its own commands, beside every baseline.

    python -m benchmarks quality --train FILE... --test FILE [--gate] [--artefact DIR] [--plot DIR]

Pairs are split by question: a test file that is also trained on is cut in two, and training rows of any file that ask
a test question are left out.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.load.text_table import columns, decimals
from benchmarks.quality.baselines import BASELINES, Scored, agreement_with
from routing.heads.calibration import ERROR_RATE, bad_ratio_for, choose_threshold
from routing.intervals import bootstrap_interval
from routing.learning.labels import Pair, read_pairs, split_by_prompt, without_questions
from routing.learning.quality import QualityCurve, apgr, auroc, cpt, ece, ece_floor, frontier_ratio_for, quality_curve

Floats = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
LEARNING_CURVE = (0, 300, 1000, 3000)
OURS = "tierwise"
MEASURES = ("apgr", "cpt_50", "cpt_80", "f95", "f98", "f99", "auroc_bad_draft", "ece", "ece_floor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pairs, which split, which sections."""
    parser.add_argument(
        "--train", type=Path, nargs="+", required=True, metavar="FILE", help="graded pairs to learn from"
    )
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="graded pairs to measure on")
    parser.add_argument("--gate", action="store_true", help="also judge with the draft and the answers given")
    parser.add_argument("--artefact", type=Path, metavar="DIR", help="measure this one instead of training ours")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write quality-against-cost and reliability diagrams")
    parser.add_argument("--seed", type=int, default=0, help="of the first split")
    parser.add_argument("--splits", type=int, default=1, help="repeat over so many seeds and report the means")
    parser.add_argument(
        "--test-ratio", type=float, default=0.4, help="share of questions when --test is also trained on"
    )
    parser.add_argument(
        "--learning-curve", action="store_true", help="train on other sources and 0 to 3,000 own labels"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="label sets drawn to check the promise; 0: skip")
    parser.add_argument("--quality-target", type=float, default=0.98, help="share of frontier quality of that promise")


@dataclass(frozen=True)
class Split:
    """One way to part the data: training pairs by source, and the test."""

    seed: int
    sources: Mapping[str, Sequence[Pair]]
    test: Sequence[Pair]
    n_dropped: int

    @property
    def train(self) -> list[Pair]:
        """Pairs of every source."""
        return [pair for pairs in self.sources.values() for pair in pairs]


def run(args: argparse.Namespace) -> int:
    """Measure and print. Returns 0 when done."""
    files = {path.resolve(): load(path) for path in [*args.train, args.test]}
    name = source_name(args.test)
    rows: list[dict[str, object]] = []
    promise: list[dict[str, object]] = []
    n_splits = args.splits if args.test.resolve() in {p.resolve() for p in args.train} else 1
    print(f"quality of routers on {name}: {len(files[args.test.resolve()])} pairs, commit {commit()}")
    for seed in tqdm(range(args.seed, args.seed + n_splits), desc="splits", disable=n_splits == 1):
        split = part(args, files, seed)
        print(
            f"split seed {seed}: train {len(split.train)} pairs of {', '.join(split.sources)}; test {len(split.test)}; "
            f"left out of training because the test asks it: {split.n_dropped}"
        )
        scored = {router: make(split.train, split.test, seed) for router, make in BASELINES.items()}
        if args.gate:
            n_answers = min(len(pair.other_answers) for pair in split.test)
            for n in sorted({min(1, n_answers), n_answers} - {0}):
                scored[f"agreement of {n}"] = agreement_with(n)(split.train, split.test, seed)
        with tempfile.TemporaryDirectory() as folder:
            scored |= ours(args, split, Path(folder))
            if args.learning_curve:
                scored |= learning_curve(args, split, name, Path(folder))
        rows += [row(name, seed, router, s, split.test) for router, s in scored.items()]
        if args.resamples:
            for router in (r for r in (OURS, f"{OURS}+gate") if r in scored):
                promise += check_promise(router, scored[router], split.test, args)
        if args.plot:
            from benchmarks.quality.plots import plot  # noqa: PLC0415 - matplotlib is an extra

            plot(args.plot, f"{name}-seed{seed}", scored, split.test)
    rows = means(rows)
    show(rows, promise)
    print(json.dumps({"test": name, "seed": args.seed, "splits": n_splits, "rows": rows, "promise": promise}))
    return 0


def load(path: Path) -> list[Pair]:
    """The pairs of a file, plain or gzipped."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return read_pairs(lines)


def source_name(path: Path) -> str:
    """A file's name without its endings."""
    return path.name.split(".")[0]


def part(args: argparse.Namespace, files: Mapping[Path, Sequence[Pair]], seed: int) -> Split:
    """Test pairs, and training pairs without their questions."""
    test = list(files[args.test.resolve()])
    if args.test.resolve() in {path.resolve() for path in args.train}:
        _, test = split_by_prompt(test, args.test_ratio, seed)
    prompts = [pair.prompt for pair in test]
    sources = {source_name(path): without_questions(files[path.resolve()], prompts) for path in args.train}
    before = sum(len(files[path.resolve()]) for path in args.train)
    kept = {name: pairs for name, pairs in sources.items() if pairs}
    return Split(seed, kept, test, before - sum(map(len, kept.values())))


def ours(args: argparse.Namespace, split: Split, folder: Path) -> dict[str, Scored]:
    """`tierwise` from the prompt, `tierwise+gate` with draft and answers, trained and asked by our own commands."""
    artefact = args.artefact or folder / "artefact"
    test = save(folder / "test.jsonl", split.test)
    if not args.artefact:
        train("train-router", artefact, split.sources, split.seed, folder)
    scored = {OURS: ask(artefact, "router", test)}
    if not args.gate:
        return scored
    with_drafts = {n: p for n, p in split.sources.items() if all(pair.tier1_output is not None for pair in p)}
    if not args.artefact:
        train("train-gate", artefact, with_drafts, split.seed, folder)
    n_answers = min(len(pair.other_answers) for pair in split.test)
    for n in sorted({0, min(1, n_answers)} - {n_answers}):
        scored[f"{OURS}+gate, {n} answers"] = ask(artefact, "gate", test, n)
    scored[f"{OURS}+gate"] = ask(artefact, "gate", test, n_answers)
    return scored


def learning_curve(args: argparse.Namespace, split: Split, own: str, folder: Path) -> dict[str, Scored]:
    """Ours from other sources alone and with a few own labels, as a team that starts would have them."""
    others = {name: pairs for name, pairs in split.sources.items() if name != own}
    mine = split.sources.get(own, ())
    order = np.random.default_rng(split.seed).permutation(len(mine))
    scored = {}
    for n in (n for n in LEARNING_CURVE if n <= len(mine)):
        sources = others | ({own: [mine[i] for i in order[:n]]} if n else {})
        if sources:
            artefact = folder / f"curve{n}"
            train("train-router", artefact, sources, split.seed, folder)
            scored[f"{OURS}, {n} own labels"] = ask(artefact, "router", folder / "test.jsonl")
    return scored


def save(path: Path, pairs: Iterable[Pair]) -> Path:
    """Pairs as the commands read them."""
    path.write_text("".join(pair.model_dump_json() + "\n" for pair in pairs))
    return path


def train(command: str, out: Path, sources: Mapping[str, Sequence[Pair]], seed: int, folder: Path) -> None:
    """One of the training commands of `python -m models`."""
    files = [str(save(folder / f"{name}.jsonl", pairs)) for name, pairs in sources.items()]
    models(command, "--pairs", *files, "--out", str(out), "--seed", str(seed))


def ask(artefact: Path, kind: str, test: Path, n_answers: int | None = None) -> Scored:
    """`python -m models score` on the test pairs."""
    limit = [] if n_answers is None else ["--max-answers", str(n_answers)]
    lines = models("score", "--artefact", str(artefact), "--kind", kind, "--pairs", str(test), *limit).splitlines()
    said = [json.loads(line) for line in lines]
    return Scored(
        # Ordered by the expected gain; the probability is what is held to its word.
        p_tier1_ok=-np.array([s["gain"] for s in said]),
        p_draft_good=np.array([s["p_draft_good"] for s in said]),
        probability=np.array([s["p_tier1_ok"] for s in said]),
    )


def models(*arguments: str) -> str:
    """Standard output of `python -m models`. Its messages pass through. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def commit() -> str | None:
    """Short hash of the tree that was measured. None outside a checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def grades(pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    """Tier-1 and frontier quality, shape (n,) each."""
    return np.array([p.tier1_quality for p in pairs]), np.array([p.frontier_quality for p in pairs])


def curve_of(scored: Scored, test: Sequence[Pair]) -> QualityCurve:
    """Quality against the share of frontier calls."""
    return quality_curve(scored.p_tier1_ok, *grades(test))


def row(name: str, seed: int, router: str, scored: Scored, test: Sequence[Pair]) -> dict[str, object]:
    """One line of the table."""
    curve = curve_of(scored, test)
    bad = np.array([float(pair.bad_draft) for pair in test])
    ok = np.array([float(pair.tier1_ok) for pair in test])
    draft_good = scored.p_tier1_ok if scored.p_draft_good is None else scored.p_draft_good
    interval = bootstrap_interval(
        lambda s, t, f: apgr(quality_curve(s, t, f)), [scored.p_tier1_ok, *grades(test)], n_resamples=200, seed=seed
    )
    return {
        "test": name,
        "router": router,
        "apgr": interval.value,
        "cpt_50": cpt(curve, 0.5),
        "cpt_80": cpt(curve, 0.8),
        "f95": frontier_ratio_for(curve, 0.95),
        "f98": frontier_ratio_for(curve, 0.98),
        "f99": frontier_ratio_for(curve, 0.99),
        "auroc_bad_draft": auroc(-draft_good, bad),
        "ece": None if scored.probability is None else ece(scored.probability, ok),
        "ece_floor": None if scored.probability is None else ece_floor(scored.probability, seed=seed),
        "apgr_low": interval.low,
        "apgr_high": interval.high,
        "n": len(test),
    }


def means(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """One row a router: the mean of each number over the splits, None where any split lacks it."""
    merged = []
    for router in dict.fromkeys(r["router"] for r in rows):
        mine = [r for r in rows if r["router"] == router]
        first = dict(mine[0])
        for key in (k for k, value in first.items() if not isinstance(value, str | int)):
            values = [r[key] for r in mine]
            first[key] = None if None in values else float(np.mean([float(str(v)) for v in values]))
        merged.append(first)
    return merged


def check_promise(
    router: str, scored: Scored, test: Sequence[Pair], args: argparse.Namespace
) -> list[dict[str, object]]:
    """Draw label sets, choose a threshold from each, and see how often the bad drafts shown stay within the target.

    The test pairs of a category stand for all its traffic. A label set is as many drawn with replacement.
    """
    rng = np.random.default_rng(args.seed)
    names = sorted({pair.category for pair in test})
    report: list[dict[str, object]] = []
    assert scored.probability is not None
    for category in names:
        mine = np.array([pair.category == category for pair in test])
        p, bad = scored.probability[mine], np.array([float(not q.tier1_ok) for q in test])[mine]
        frontier = float(np.mean([q.frontier_quality for q in test if q.category == category]))
        target = bad_ratio_for(args.quality_target, frontier)
        kept, shown, lost, open_, missing = 0, [], [], 0, []
        for _ in range(args.resamples):
            drawn = rng.integers(0, p.size, p.size)
            found = choose_threshold(category, p[drawn], bad[drawn], target, ERROR_RATE / len(names))
            shows = p >= found.threshold if found.threshold is not None else np.zeros(p.size, dtype=bool)
            kept += float(np.mean(shows * bad)) <= target
            shown.append(float(np.mean(shows * bad)))
            lost.append(float(np.mean(~shows * (1 - bad))))
            open_ += found.threshold is not None
            missing.append(found.more_labels_needed)
        report.append(
            {
                "router": router,
                "category": category,
                "n_labels": int(p.size),
                "target_bad_shown": target,
                "kept_ratio": kept / args.resamples,
                "bad_shown": float(np.mean(shown)),
                "good_lost": float(np.mean(lost)),
                "opened_ratio": open_ / args.resamples,
                "more_labels_needed": int(np.median(missing)),
            }
        )
    return report


def show(rows: Sequence[Mapping[str, object]], promise: Sequence[Mapping[str, object]]) -> None:
    """Print one line a router, then one line a router and category of the promise."""
    cells = [
        [
            str(r["router"]),
            *(decimals(r[m]) for m in MEASURES),
            f"{decimals(r['apgr_low'])} to {decimals(r['apgr_high'])}",
        ]
        for r in rows
    ]
    print("\n" + columns(["router", *MEASURES, "apgr 95 %"], cells))
    if promise:
        names = (
            "n_labels",
            "target_bad_shown",
            "kept_ratio",
            "bad_shown",
            "good_lost",
            "opened_ratio",
            "more_labels_needed",
        )
        lines = [[f"{p['router']}, {p['category']}", *(decimals(p[n]) for n in names)] for p in promise]
        print("\n" + columns(["promise over resamples", *names], lines))
    print()
