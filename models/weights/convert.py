"""Turn one quantised GGUF file into a folder that vLLM and transformers load: safetensors, tokenizer, chat template.

It runs as a process of its own (`python -m models.weights.convert FILE DIR`). The gigabytes that dequantising takes
are then given back for certain, and a process killed for its memory takes nothing else along.
"""

import argparse
import os
import sys
from pathlib import Path


def convert(gguf: Path, out: Path) -> None:
    """Write `gguf` into the empty folder `out` as bfloat16 safetensors with its tokenizer and chat template.

    Everything is read from the file itself; nothing is looked up elsewhere. Raises ValueError when the file holds no
    chat template (an instruct model without one would be served with the wrong prompt), and whatever transformers
    raises for an architecture or quantisation it cannot read.
    """
    # Loaded here because they take seconds and a gigabyte, and the parent process imports this module's neighbours.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf.name} holds no chat template; only instruct models can be served")
    tokenizer.save_pretrained(out)
    # A tokenizer read from GGUF lacks the normaliser of its class (NFC for Qwen2). The class adds it when it loads the
    # saved files, so without this second save tokenizer.json alone would give other ids than AutoTokenizer.
    AutoTokenizer.from_pretrained(out).save_pretrained(out)

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The tensors are dequantised by now. Both marks say otherwise, and save_pretrained refuses to save while they stay.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(out)
    _share_with_readers(out)


def _share_with_readers(folder: Path) -> None:
    """Give every file the mode a plain open() would: safetensors writes 0600, which a server's user cannot read."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def main() -> int:
    """Convert as the command line says; one line on stdout says what went wrong, stderr has the progress bars."""
    parser = argparse.ArgumentParser(prog="python -m models.weights.convert", description=__doc__)
    parser.add_argument("gguf", type=Path, help="the file to read")
    parser.add_argument("out", type=Path, help="an empty folder to write")
    args = parser.parse_args()
    try:
        convert(args.gguf, args.out)
    except Exception as error:  # whatever a foreign library raises becomes one line for the parent process
        sys.stdout.write(" ".join(f"{type(error).__name__}: {error}".split()) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
