"""The tokenizer of a HuggingFace directory, without transformers.

Text to ids and back is done by the `tokenizers` library from tokenizer.json. Around it stand the
special tokens, the ids that stop generation, and the chat template, all read from and written to
the files that transformers' AutoTokenizer uses.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxlab.interop import chat_template as chat

_SPECIAL_TOKENS = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
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
    ):
        """Wraps a `tokenizers.Tokenizer`; `load` and `train_bpe` are the usual ways to get one.

        Args:
            backend: its padding and truncation are switched off.
            config: as in tokenizer_config.json.
            generation_config: as in generation_config.json.
            model_config: as in config.json.
            name: where it came from, for errors.

        Raises:
            ValueError: a special token or an end of sequence that the vocabulary does not hold.
        """
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.name = name
        self._config = dict(config or {})
        self._generation_config = dict(generation_config or {})
        self._templates = chat.named_templates(self._config.pop("chat_template", None))
        self.special_tokens = {
            key: _content(self._config[key]) for key in _SPECIAL_TOKENS if self._config.get(key)
        }
        model_config = model_config or {}
        ids = [
            self._special_id("eos_token"),
            self._generation_config.get("eos_token_id"),
            model_config.get("eos_token_id"),
            model_config.get("text_config", {}).get("eos_token_id"),
        ]
        flat = [i for entry in ids for i in (entry if isinstance(entry, list) else [entry])]
        self.eos_ids = tuple(dict.fromkeys(i for i in flat if i is not None))
        self.bos_id = self._special_id("bos_token")
        pads = (
            self._special_id("pad_token"),
            self._generation_config.get("pad_token_id"),
            *self.eos_ids,
            _NO_PAD_ID,
        )
        self.pad_id: int = next(i for i in pads if i is not None)
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        for i in self.eos_ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"{name}: the end-of-sequence id {i} (eos_token_id in generation_config.json "
                    f"or config.json) is beyond the tokenizer's {self.vocab_size} ids, so no text "
                    "could end: mend the id, or add its token to tokenizer.json"
                )

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

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of `text`. Special tokens written out in `text` become their ids."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = False
    ) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

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

        Encode the result with `add_special_tokens=False`: the template writes them.

        Args:
            messages: {"role": ..., "content": ..., ...}.
            add_generation_prompt: end with the header of an assistant's turn.
            tools: JSON schemas.
            **kwargs: variables of the template, such as `enable_thinking=False`.

        Raises:
            ValueError: there is no template or no message, or the template refuses the messages.
        """
        if not self._templates:
            raise ValueError(
                f"{self.name} has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json); use a chat model's tokenizer or a plain prompt"
            )
        template = self._templates.get("tool_use" if tools is not None else "default")
        template = template or self.chat_template
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
            raise ValueError(f"chat template of {self.name}: {error}") from error

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

    def _special_id(self, key: str) -> int | None:
        token = self.special_tokens.get(key)
        if token is None:
            return None
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise ValueError(
                f"{self.name}: {key} is {token!r}, which is not in the vocabulary of "
                "tokenizer.json; the two files belong to different tokenizers"
            )
        return token_id


def load(directory: str | Path) -> Tokenizer:
    """The tokenizer of a HuggingFace directory.

    Raises:
        FileNotFoundError: there is no tokenizer.json.
        ValueError: a file is not valid JSON, or the files do not fit together.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.is_file():
        found = sorted(file.name for file in directory.glob("*")) if directory.is_dir() else []
        raise FileNotFoundError(
            f"{directory} has no tokenizer.json (found: {', '.join(found) or 'nothing'}); write it "
            "once with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: not a tokenizer of the tokenizers library: {error}") from error

    config = _read_json(directory / "special_tokens_map.json")
    config |= _read_json(directory / "tokenizer_config.json")
    templates = chat.read_templates(directory)
    if templates:
        config["chat_template"] = templates
    _add_missing_tokens(backend, config.get("added_tokens_decoder", {}))
    return Tokenizer(
        backend,
        config,
        generation_config=_read_json(directory / "generation_config.json"),
        model_config=_read_json(directory / "config.json"),
        name=str(directory),
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


def _add_missing_tokens(backend: tokenizers.Tokenizer, decoder: dict[str, Any]) -> None:
    """Adds tokens that only tokenizer_config.json lists, as older directories do."""
    for token_id, fields in sorted(decoder.items(), key=lambda item: int(item[0])):
        if backend.token_to_id(fields["content"]) is None:
            flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
            options = {flag: fields[flag] for flag in flags if flag in fields}
            backend.add_tokens([tokenizers.AddedToken(fields["content"], **options)])
            if backend.token_to_id(fields["content"]) != int(token_id):
                raise ValueError(
                    f"tokenizer_config.json gives {fields['content']!r} the id {token_id}, "
                    "tokenizer.json has no room for it there; the two files do not fit together"
                )


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
