"""The trainer on a tiny random model: it learns, goes on from its checkpoint, and its adapter is a LoRA on the base."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from models.tier1.config import TrainingConfig, TrainingInvalid, load_training
from models.tier1.data import Example
from models.tier1.evaluate import answer
from models.tier1.mixed_precision import CastDown
from models.tier1.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
WORDS = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>", "user", "assistant", "say", "\n", *"abcdefghij"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of 20 words and two layers."""
    folder = tmp_path_factory.mktemp("base")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<|im_end|>", unk_token="<unk>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def examples(dpo: bool = False) -> list[Example]:
    letters = "abcdefghij"
    answers = {"chosen": "a a", "rejected": "b b"} if dpo else {"completion": "a a"}
    return [
        Example.model_validate(
            {
                "id": str(i),
                "category": "say",
                "messages": [{"role": "user", "content": f"say {letters[i % 10]} {letters[i // 10]}"}],
                **answers,
            }
        )
        for i in range(40)
    ]


def config(base: Path, **changed: object) -> TrainingConfig:
    fields = {"base": str(base), "learning_rate": 0.01, "max_steps": 12, "save_every_steps": 6, "eval_ratio": 0.1}
    return TrainingConfig.model_validate({**fields, "threads": 1, **changed})


def test_sft_lowers_the_loss_and_writes_an_adapter_that_answers(base: Path, tmp_path: Path) -> None:
    summary = train(config(base, max_steps=30), examples(), tmp_path)
    assert summary["train_loss_last"] < summary["train_loss_first"] - 0.2  # nats; embeddings stay random
    assert summary["eval_loss"] < summary["eval_loss_first"]  # the first is the base's own
    assert (tmp_path / "adapter_model.safetensors").stat().st_size > 0
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 16
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.bin"))  # no pickles beside the adapter
    from peft import PeftModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), str(tmp_path))
    asked = [
        {"id": "1", "messages": [{"role": "user", "content": "say c d"}], "max_tokens": 4},
        {"id": "2", "messages": [{"role": "user", "content": "say a"}], "max_tokens": 1},
    ]
    assert answer(model.eval(), tokenizer, asked, batch_size=2) == ["aa", "a"]  # its decoder puts no spaces back


def test_bfloat16_products_train_float32_weights_and_the_adapter_fits_the_base(base: Path, tmp_path: Path) -> None:
    summary = train(config(base, max_steps=30, lora={"dtype": "bfloat16", "r": 4}), examples(), tmp_path)
    assert summary["train_loss_last"] < summary["train_loss_first"] - 0.2
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118 - no mapping
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "loss.png", "training.json"}


def test_steps_smaller_than_a_bfloat16_add_up() -> None:
    """A weight of 1 that loses .001 a step: in bfloat16 the next number below is .0039 away."""
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.__class__ = CastDown
    with torch.no_grad():
        layer.weight.fill_(1.0)
    steps = torch.optim.SGD(layer.parameters(), lr=0.001)
    for _ in range(100):
        steps.zero_grad()
        layer(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        steps.step()
    assert layer.weight.item() == pytest.approx(0.9, abs=0.001)


def test_interrupted_training_goes_on_from_its_checkpoint(base: Path, tmp_path: Path) -> None:
    train(config(base, max_steps=6), examples(), tmp_path)
    summary = train(config(base, max_steps=12), examples(), tmp_path)
    assert summary["steps"] == 12
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [row["step"] for row in history if "loss" in row] == [5, 10]  # one curve, not two
    assert [row["step"] for row in history if "eval_loss" in row] == [0, 6, 12]


def test_time_limit_ends_with_a_checkpoint(base: Path, tmp_path: Path) -> None:
    summary = train(config(base, max_steps=12, max_minutes=1e-6), examples(), tmp_path)
    assert summary["steps"] == 1
    assert (tmp_path / "checkpoints" / "checkpoint-1").is_dir()


def test_dpo_prefers_the_chosen_answer(base: Path, tmp_path: Path) -> None:
    summary = train(config(base, method="dpo", max_steps=10), examples(dpo=True), tmp_path)
    assert summary["train_loss_last"] < 0.69  # ln 2: no preference
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_method_without_its_answers_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"example \d+ has no 'chosen', which dpo needs"):
        train(config(base, method="dpo"), examples(), tmp_path)


@pytest.mark.parametrize("name", ["lora-cpu.yaml", "lora-7b.yaml"])
def test_configuration_that_is_shipped_is_valid(name: str) -> None:
    assert load_training(ROOT / "deploy" / "training" / name).method == "sft"


def test_wrong_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("base: x\nlearning_rat: 1\nepochs: -1\n")
    with pytest.raises(TrainingInvalid, match=r"(?s)epochs:.*learning_rat:"):
        load_training(file)
