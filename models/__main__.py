"""The commands of models/: `python -m models COMMAND`.

A command is a line in COMMANDS and a module with `add_arguments(parser)` and `run(args) -> str`, where the string is
what goes to stdout. A module is imported only when its command is called, so one may import torch at its top.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Never

from models.errors import ModelsError
from serving.errors import StackError

COMMANDS = {
    # name: (module, what it does)
    "fetch": ("models.weights.fetch", "download, check and convert the weights of models in the catalog"),
    "train-router": ("models.heads.train", "learn from graded pairs which prompts tier 1 answers well enough"),
    "train-gate": ("models.heads.train", "learn from graded pairs which drafts are good"),
    "score": ("models.heads.score", "say what a trained artefact thinks of graded pairs"),
    "calibrate": ("models.heads.calibrate", "choose thresholds that keep a quality target, from labels not trained on"),
    "learning-curve": ("models.heads.learning_curve", "what the router is worth after so many labels of its own"),
    "train-tier1": ("models.tier1.train", "train a LoRA adapter of tier 1 on examples, SFT or DPO; resumable"),
    "answer": ("models.tier1.evaluate", "answer held-out prompts with tier 1, with or without an adapter"),
    "export": ("models.flywheel.export", "write training sets from the ledger's samples: router pairs, SFT or DPO"),
    "register": ("models.flywheel.register", "put what training wrote into the registry, hashed"),
    "promote": ("models.flywheel.promote", "make a candidate the canary when it is better on held-out labels"),
    "rollback": ("models.flywheel.rollback", "drop the canary, or go back to the version before"),
    "history": ("models.flywheel.history", "show every step and refusal of a registry"),
    "flywheel": ("models.flywheel.round", "one round or for ever: watch the release, learn, promote what is better"),
    "drift": ("models.flywheel.drift", "live signals of the ledger against those that thresholds were calibrated on"),
    "list": ("models.weights.listing", "show the models of the catalog and which are ready"),
}


def main(argv: Sequence[str]) -> int:
    """Run one command. 0: done; 1: it failed for a reason that was printed; 2: the command line is wrong."""
    parser = argparse.ArgumentParser(prog="python -m models", description="Weights, training and promotion.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, does) in COMMANDS.items():
        subparser = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        if argv and argv[0] == name:
            import_module(module).add_arguments(subparser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "filelock", "huggingface_hub"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        print(import_module(COMMANDS[args.command][0]).run(args))
    except (ModelsError, StackError) as error:  # StackError: a ledger or an artefact, read by the code that serves
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _stop(signum: int, frame: object) -> Never:
    """End as Ctrl-C does, so that child processes and half-made files go too."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
