"""The tokenizer of a HuggingFace directory, without transformers.

Text to ids and back is done by the `tokenizers` library from tokenizer.json. Around it stand the
special tokens, the ids that stop generation, and the chat template, all read from and written to
the files that transformers' AutoTokenizer uses.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxlab import json_file
from jaxlab.json_file import TEXT, CheckpointFormatError, Kind
from jaxlab.text import chat_template as chat
from jaxlab.text import tokenizer_files as files

# A tokenizer that never pads still needs some id for the cells that no mask lets through.
_NO_PAD_ID = 0


class Tokenizer:
    """Text <-> ids.

    Attributes:
        special_tokens: {"eos_token": "<|endoftext|>", ...}, those the files name.
        eos_ids: every id that ends a generation, the tokenizer's own first; then those that
            generation_config.json and config.json add. May be empty.
        bos_id: None where the files name none.
        pad_id: always defined; the first of `eos_ids` where the files name no padding. Tell
            padding by lengths and masks, never by this id.
        vocab_size: one more than the largest id.
        chat_template: Jinja source, or None.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any] | None = None,
        *,
        generation_config: dict[str, Any] | None = None,
        model_config: dict[str, Any] | None = None,
        name: str = "tokenizer",
        template_files: Mapping[str, str] | None = None,
    ):
        """Wraps a `tokenizers.Tokenizer`; `load` and `train_bpe` are the usual ways to get one.

        Args:
            backend: its padding and truncation are switched off.
            config: as in tokenizer_config.json.
            generation_config: as in generation_config.json.
            model_config: as in config.json.
            name: where it came from, for errors; as are the next.
            template_files: by name of a chat template.

        Raises:
            CheckpointFormatError: a value of another type than its key has, or a special token that
                the vocabulary does not hold.
        """
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.name = name
        self._config = dict(config or {})
        self._generation_config = dict(generation_config or {})
        self._template_files = dict(template_files or {})
        json_file.check(self._config, files.CONFIG, f"{name}/tokenizer_config.json")
        self._templates = chat.named_templates(self._config.pop("chat_template", None))
        self.special_tokens = {
            key: files.content(self._config[key])
            for key in files.SPECIAL_TOKENS
            if self._config.get(key)
        }
        ids = backend.get_vocab(with_added_tokens=True).values()
        if not ids:
            raise CheckpointFormatError(f"{name}/tokenizer.json: model.vocab is empty")
        self.vocab_size = max(ids) + 1
        eos = self._special_id("eos_token")
        found = [] if eos is None else [eos]
        found += self._ids(
            "generation_config.json", self._generation_config, files.GENERATION_CONFIG
        )
        found += self._ids("config.json", model_config or {}, files.MODEL_CONFIG)
        inner = (model_config or {}).get("text_config") or {}
        found += self._ids("config.json: text_config", inner, files.EOS)
        self.eos_ids = tuple(dict.fromkeys(found))
        self.bos_id = self._special_id("bos_token")
        pads = (
            self._special_id("pad_token"),
            self._generation_config.get("pad_token_id"),
            *self.eos_ids,
            _NO_PAD_ID,
        )
        self.pad_id: int = next(i for i in pads if i is not None)

    @property
    def eos_id(self) -> int:
        """The id that ends a training target: the first of `eos_ids`.

        Raises:
            ValueError: the files name none.
        """
        if not self.eos_ids:
            raise ValueError(
                f"{self.name}: no end-of-sequence token; name one as eos_token in "
                "tokenizer_config.json or as eos_token_id in generation_config.json"
            )
        return self.eos_ids[0]

    @property
    def chat_template(self) -> str | None:
        """The default chat template, or None."""
        return self._templates.get("default")

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """The ids that tokenizer.json's post-processor puts in front of a text: BOS, or none."""
        if not self.backend.num_special_tokens_to_add(False):
            return ()
        for word in self.backend.get_vocab(with_added_tokens=True):
            encoding = self.backend.encode(word, add_special_tokens=True)
            # 1 on what the post-processor has put there.
            before = list(itertools.takewhile(bool, encoding.special_tokens_mask))
            if len(before) < len(encoding.ids):
                return tuple(encoding.ids[: len(before)])
        return ()

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of `text`. Special tokens written out in `text` become their ids.

        Args:
            text: to encode.
            add_special_tokens: put there what the post-processor does, at the beginning and at the
                end. What a model is to continue is `encode_prompt`'s.

        Raises:
            ValueError: the text has half of a surrogate pair, or the tokenizer has no token for it.
        """
        with self._encoding(text):
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = False
    ) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        with self._encoding(*texts):
            encodings = self.backend.encode_batch(
                list(texts), add_special_tokens=add_special_tokens
            )
        return [encoding.ids for encoding in encodings]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that a model reads from its beginning, with `prefix` in front exactly once.

        A text that begins with it already, as chat templates write it, gets no second one. Training
        and every kind of evaluation encode their prompts by this.
        """
        return self._with_prefix(self.encode(text))

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_prompt` of each text, in parallel."""
        return [self._with_prefix(ids) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids outside the vocabulary are left out."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def decode_batch(
        self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """`decode` of each row, in parallel."""
        lists = [[int(i) for i in row] for row in rows]
        return self.backend.decode_batch(lists, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The conversation as the text the model was trained on, as transformers renders it.

        Encode the result with `encode_prompt`, which adds no second BOS to one that is written.

        Args:
            messages: {"role": ..., "content": ..., ...}.
            add_generation_prompt: end with the header of an assistant's turn.
            tools: JSON schemas.
            **kwargs: variables of the template, such as `enable_thinking=False`.

        Raises:
            ValueError: there is no template or no message, a part of a message is no text, or the
                template fails or refuses the messages; names its file.
        """
        if not self._templates:
            raise ValueError(
                f"{self.name} has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json); use a chat model's tokenizer or a plain prompt"
            )
        kind = "tool_use" if tools is not None and "tool_use" in self._templates else "default"
        template = self._templates.get(kind)
        if template is None:
            raise ValueError(
                f"{self.name} has chat templates {', '.join(self._templates)} but no 'default'"
            )
        variables = {"documents": None, **self.special_tokens, **kwargs}
        try:
            return chat.render(
                template,
                messages,
                tools=None if tools is None else list(tools),
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except chat.TemplateError as error:
            where = self._template_files.get(kind, self.name)
            raise ValueError(f"chat template of {where}: {error}") from error

    def save(self, directory: str | Path) -> None:
        """Writes the files from which `load` and transformers' AutoTokenizer rebuild this.

        tokenizer.json, tokenizer_config.json, chat_template.jinja where there is a template, and
        generation_config.json where one was read, since it holds further stop ids.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        _write_json(directory / "tokenizer_config.json", config)
        chat.write_templates(directory, self._templates)
        if self._generation_config:
            _write_json(directory / "generation_config.json", self._generation_config)

    def _with_prefix(self, ids: list[int]) -> list[int]:
        prefix = list(self.prefix)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    @contextmanager
    def _encoding(self, *texts: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises bare Exception, and TypeError for halves
            bad = next((text for text in texts if not TEXT.accepts(text)), None)
            if bad is not None:
                raise ValueError(
                    f"{self.name}: a lone surrogate is no text that could be encoded: {bad!r:.80}"
                ) from error
            raise ValueError(
                f"{self.name}: tokenizer.json cannot encode a text: {error}"
            ) from error

    def _ids(self, file: str, data: Mapping[str, Any], kinds: Mapping[str, Kind]) -> list[int]:
        """The ids of the end of sequence, after a look at all that the file names."""
        where = f"{self.name}/{file}"
        json_file.check(data, kinds, where)
        for key in ("eos_token_id", "pad_token_id"):
            value = data.get(key) if key in kinds else None
            ids = value if isinstance(value, list) else [value]
            for i in ids:
                if i is not None and i >= self.vocab_size:
                    raise CheckpointFormatError(
                        f"{where}: {key} is {value}, but the ids of tokenizer.json end at "
                        f"{self.vocab_size - 1}"
                    )
        value = data.get("eos_token_id")
        return [i for i in (value if isinstance(value, list) else [value]) if i is not None]

    def _special_id(self, key: str) -> int | None:
        token = self.special_tokens.get(key)
        if token is None:
            return None
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise CheckpointFormatError(
                f"{self.name}: {key} of tokenizer_config.json or special_tokens_map.json is "
                f"{token!r}, which is not in the vocabulary of tokenizer.json: the files belong to "
                "different tokenizers"
            )
        return token_id


def load(directory: str | Path) -> Tokenizer:
    """The tokenizer of a HuggingFace directory.

    Raises:
        FileNotFoundError: there is no tokenizer.json.
        CheckpointFormatError: a file is not valid JSON, a key holds a value of another type, or the
            files do not fit together.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.is_file():
        found = sorted(file.name for file in directory.glob("*")) if directory.is_dir() else []
        raise FileNotFoundError(
            f"{directory} has no tokenizer.json (found: {', '.join(found) or 'nothing'}); write it "
            "once with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)"
        )
    backend = files.read_backend(path)
    config = files.read_json(directory / "special_tokens_map.json", files.TOKENS)
    config |= files.read_json(directory / "tokenizer_config.json", files.CONFIG)
    templates = chat.template_files(directory)
    if templates:
        config["chat_template"] = {name: files.read_text(file) for name, file in templates.items()}
    where = {name: str(file) for name, file in templates.items()}
    in_config = str(directory / "tokenizer_config.json")
    files.add_missing_tokens(backend, config.get("added_tokens_decoder") or {}, in_config)
    return Tokenizer(
        backend,
        config,
        generation_config=files.read_json(directory / "generation_config.json"),
        model_config=files.read_json(directory / "config.json"),
        name=str(directory),
        template_files=where or dict.fromkeys(("default", "tool_use"), in_config),
    )


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    eos: str = "<|endoftext|>",
) -> Tokenizer:
    """Trains a byte-level BPE tokenizer, which encodes any text without an unknown token.

    The same texts give the same tokenizer. Ids start with `eos` and `special_tokens`, then the 256
    bytes, then the merges.

    Args:
        texts: the corpus.
        vocab_size: an upper bound; a small corpus may not fill it.
        special_tokens: further ones, besides `eos`.
        eos: the end of sequence.

    Raises:
        ValueError: `vocab_size` cannot hold the bytes and the special tokens.
    """
    special = list(dict.fromkeys((eos, *special_tokens)))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(special):
        raise ValueError(
            f"vocab_size {vocab_size} cannot hold {len(alphabet)} bytes and {len(special)} special "
            f"tokens; use at least {len(alphabet) + len(special)}"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    return Tokenizer(backend, {"eos_token": eos})


def train_char(texts: Iterable[str], eos: str = "<|endoftext|>") -> Tokenizer:
    """A tokenizer with one token for each character (code point) that occurs in `texts`.

    Ids start with `eos`, then the characters in order of their code points.

    Raises:
        ValueError: there are no characters.
    """
    characters = sorted(set().union(*map(set, texts)))
    if not characters:
        raise ValueError("a tokenizer of characters needs a text that holds some")
    vocabulary = {word: i for i, word in enumerate((eos, *characters))}
    # Without merges a BPE model leaves every character alone. Others are left out of the ids.
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([eos])
    return Tokenizer(backend, {"eos_token": eos})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
