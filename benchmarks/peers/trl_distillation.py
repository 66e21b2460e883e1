"""One side of `benchmarks/training.py`: on-policy distillation steps by TRL's DistillationTrainer.

Runs in an environment that holds trl (1.16) and torch; imports nothing of jaxlab. Its own loop runs
one step for each request (`turns.Pipe`).
"""

import argparse
import contextlib
import json
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import torch
import transformers
import trl
import turns
from tokenizers import Tokenizer, models, pre_tokenizers


def model(sizes: dict) -> transformers.PreTrainedModel:
    """A random Qwen3 of the sizes that jaxlab's worker got."""
    config = transformers.Qwen3Config(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        head_dim=sizes["hidden_size"] // sizes["num_heads"],
        tie_word_embeddings=False,
        max_position_embeddings=sizes["max_position"],
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return transformers.Qwen3ForCausalLM(config).float()


def tokenizer(vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """One word per id: "0 1 2" is [0, 1, 2]."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocab_size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="0", eos_token="1", padding_side="left"
    )


class Stepper(transformers.TrainerCallback):
    """Waits for a request before a step and answers it after the step."""

    def __init__(self, pipe: turns.Pipe):
        """Answer through this pipe."""
        self.pipe, self.requests = pipe, pipe.requests()
        self.clock, self.row = contextlib.ExitStack(), {}

    def on_step_begin(self, args, state, control, **kwargs):
        """Wait, then start the clock."""
        if next(self.requests, None) is None:
            os._exit(0)
        self.row = self.clock.enter_context(turns.measured())

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock and answer."""
        self.clock.close()
        self.pipe.answer(self.row)


def main() -> None:
    """Build the trainer from the JSON on the command line and serve steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", help="JSON: student, teacher, prompts, samples, prompt, new_tokens")
    work = json.loads(parser.parse_args().work)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    vocab_size, rows = work["student"]["vocab_size"], work["prompts"] * work["samples"]
    prompts = [
        " ".join(map(str, rng.integers(2, vocab_size, work["prompt"])))
        for _ in range(work["prompts"])
    ]
    # TRL answers each row once, so a prompt that is to be answered n times stands there n times.
    data = datasets.Dataset.from_dict(
        {"prompt": [prompt for prompt in prompts for _ in range(work["samples"])]}
    )
    with tempfile.TemporaryDirectory() as directory:
        args = trl.DistillationConfig(
            output_dir=directory,
            use_cpu=True,
            bf16=False,
            # On by default; it would make TRL's update slower and is not needed at this size.
            gradient_checkpointing=False,
            per_device_train_batch_size=rows,
            max_steps=10_000,
            max_completion_length=work["new_tokens"],
            temperature=1.0,
            beta=1.0,
            learning_rate=1e-4,
            shuffle_dataset=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = trl.DistillationTrainer(
            model=model(work["student"]),
            teacher_model=model(work["teacher"]),
            args=args,
            train_dataset=data,
            processing_class=tokenizer(vocab_size),
        )
        versions = {"trl": trl.__version__, "torch": torch.__version__}
        pipe = turns.Pipe(versions | {"transformers": transformers.__version__})
        trainer.add_callback(Stepper(pipe))
        trainer.train()


if __name__ == "__main__":
    main()
