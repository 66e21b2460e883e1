import json
import unicodedata

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from jaxlab.text import chat_template
from jaxlab.text.tokenizer import Tokenizer, load, train_bpe, train_char

TEXTS = [
    "Natalia sold clips to 48 of her friends in April, and then half as many in May.",
    "She sold 48/2 = 24 clips in May. Altogether she sold 48+24 = 72 clips.\n#### 72",
    "def f(x):\n\treturn  x ** 2   # twice\n",
] * 4

ODD = [
    "",
    " ",
    "\n\n \t",
    "naïve café",
    unicodedata.normalize("NFD", "naïve café"),
    "日本語とไทยและ عربى",
    "👩‍👩‍👧‍👦🏳️‍🌈\u200d\ufe0f",
    "\0\x01\x7f\u2028\ufeff",
    "a" * 1000,
    "<|endoftex t|> <|user|",
]

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# The features of Qwen3's template: tools as JSON, tool calls and answers, thinking that is kept in
# the last turn alone, and a switch that turns it off.
THINKING = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n<tools>' }}
{%- for tool in tools %}
    {{- '\\n' }}{{- tool | tojson }}
{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}{% continue %}{% endif %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- set content = message.content or '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {%- if loop.index0 > ns.last and thought %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{% set call = call.function %}{% endif %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# The features of Llama 3's template: the start token, headers, a date, tools with an indent, a
# refusal, and blocks on lines of their own that trim_blocks and lstrip_blocks must clean.
HEADERS = """\
{{ bos_token }}
{% if strftime_now is defined %}
    {% set date = strftime_now("%d %b %Y") %}
{% endif %}
{% macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro %}
{{ header('system') }}Today: {{ date }}
{% if tools is not none %}
    {% for tool in tools %}
{{ tool | tojson(indent=4) }}
    {% endfor %}
{% endif %}
{% for message in messages %}
    {% if message['role'] not in ['system', 'user', 'assistant'] %}
        {{ raise_exception('unknown role ' + message['role']) }}
    {% endif %}
    {% if message['role'] == 'user' and loop.index0 > 5 %}{% break %}{% endif %}
{{ header(message['role']) }}{{ message['content'] | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ header('assistant') }}
{% endif %}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "<b>Wetter</b> in einer Stadt & 'Umgebung', größer",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": "  1 < 2 & 'x'?  "},
        {"role": "assistant", "content": "<think>\nsure\n</think>\n\nYes."},
        {"role": "user", "content": "größer? 日本"},
    ],
    [
        {"role": "user", "content": "Now?"},
        {"role": "assistant", "content": "ok", "thinking": "an older name", "tool_calls": None},
    ],
]

TOOL_CONVERSATION = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "ask",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Köln"}}}],
    },
    {"role": "tool", "content": "rain"},
    {"role": "tool", "content": "7 °C"},
]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, vocab_size=330, special_tokens=("<|user|>",))


def _with(bpe, directory, **files):
    """Saves `bpe` and overwrites or extends some of its JSON files."""
    bpe.save(directory)
    for name, content in files.items():
        path = directory / f"{name}.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | content))
    return load(directory)


def test_bytes_round_trip(bpe):
    for text in [*TEXTS, *ODD]:
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text
        assert all(0 <= i < bpe.vocab_size for i in ids)
    assert bpe.decode_batch(bpe.encode_batch(ODD)) == ODD


def test_training_is_deterministic_and_learns_merges(bpe):
    again = train_bpe(iter(TEXTS), vocab_size=330, special_tokens=("<|user|>",))
    assert again.backend.to_str() == bpe.backend.to_str()
    assert bpe.vocab_size == 330
    assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_special_tokens_of_a_trained_tokenizer(bpe):
    assert (bpe.eos_id, bpe.eos_ids, bpe.pad_id, bpe.bos_id) == (0, (0,), 0, None)
    ids = bpe.encode("<|user|>2<|endoftext|>")
    assert ids[0] == 1
    assert ids[-1] == 0
    assert bpe.decode(ids) == "2"
    assert bpe.decode(np.array(ids), skip_special_tokens=False) == "<|user|>2<|endoftext|>"
    assert bpe.decode([*ids, 10**6]) == "2"  # the head of a model may be wider than its vocabulary


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size 257 cannot hold 256 bytes and 2 special"):
        train_bpe(TEXTS, 257, special_tokens=("<|user|>",))


def test_save_and_load(bpe, tmp_path):
    bpe.save(tmp_path / "new" / "dir")
    loaded = load(tmp_path / "new" / "dir")
    for text in [*TEXTS, *ODD]:
        assert loaded.encode(text) == bpe.encode(text)
    assert loaded.special_tokens == {"eos_token": "<|endoftext|>"}
    assert loaded.eos_ids == bpe.eos_ids
    assert loaded.chat_template is None


def test_stop_ids_come_from_every_file(bpe, tmp_path):
    loaded = _with(
        bpe,
        tmp_path,
        generation_config={"eos_token_id": [1, 5, 0]},
        config={"eos_token_id": 6, "text_config": {"eos_token_id": 5}},
    )
    assert loaded.eos_ids == (0, 1, 5, 6)
    assert loaded.eos_id == 0
    loaded.save(tmp_path / "again")
    assert load(tmp_path / "again").eos_ids == (0, 1, 5)  # config.json is the model's


def test_padding_is_always_defined(bpe, tmp_path):
    named = {"pad_token": {"content": "<|user|>", "special": True}}
    assert _with(bpe, tmp_path / "a", tokenizer_config=named).pad_id == 1
    assert _with(bpe, tmp_path / "b", generation_config={"pad_token_id": 7}).pad_id == 7
    bare = Tokenizer(bpe.backend, {})
    assert bare.pad_id == 0
    assert bare.eos_ids == ()
    with pytest.raises(ValueError, match="no end-of-sequence token; name one as eos_token"):
        _ = bare.eos_id


def test_tokens_that_only_the_config_lists_are_added(bpe, tmp_path):
    entry = {"content": "<|late|>", "special": True, "lstrip": False}
    config = {"added_tokens_decoder": {"330": entry}, "pad_token": "<|late|>"}
    loaded = _with(bpe, tmp_path / "a", tokenizer_config=config)
    assert loaded.pad_id == 330
    assert loaded.vocab_size == 331
    with pytest.raises(ValueError, match="the two files do not fit together"):
        _with(bpe, tmp_path / "b", tokenizer_config={"added_tokens_decoder": {"999": entry}})


def test_padding_and_truncation_in_the_file_are_switched_off(bpe, tmp_path):
    backend = tokenizers.Tokenizer.from_str(bpe.backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    assert load(tmp_path).encode(TEXTS[0]) == bpe.encode(TEXTS[0])


def test_load_errors(bpe, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json \(found: nothing.*save_pret"):
        load(tmp_path / "absent")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"found: vocab\.json"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json \(model\): not a tokenizer"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"eos_token .* is '<nope>', which is not in the"):
        _with(bpe, tmp_path, tokenizer_config={"eos_token": "<nope>"})
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: unreadable JSON"):
        load(tmp_path)


def test_chatml_by_hand(bpe):
    chat = Tokenizer(bpe.backend, {"chat_template": CHATML})
    text = chat.apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    )
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    closed = chat.apply_chat_template([{"role": "user", "content": "U"}], False)
    assert closed == "<|im_start|>user\nU<|im_end|>\n"


def test_thinking_by_hand(bpe):
    chat = Tokenizer(bpe.backend, {"chat_template": THINKING})
    text = chat.apply_chat_template(TOOL_CONVERSATION, tools=TOOLS, enable_thinking=False)
    assert "größer" in text  # neither escaped nor turned into HTML entities
    assert "<b>Wetter</b> in einer Stadt & 'Umgebung'" in text
    assert text.endswith(
        "<|im_start|>assistant\n<think>\nask\n</think>\n\n\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response>"
        "\n<tool_response>\n7 °C\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_templates_are_saved(bpe, tmp_path):
    for templates in (CHATML, {"default": CHATML, "tool_use": THINKING}):
        chat = Tokenizer(bpe.backend, {"eos_token": "<|endoftext|>", "chat_template": templates})
        chat.save(tmp_path)
        loaded = load(tmp_path)
        assert loaded.chat_template == CHATML
        tools = TOOLS if isinstance(templates, dict) else None
        rendered = loaded.apply_chat_template(CONVERSATIONS[0], tools=tools)
        assert ("# Tools" in rendered) == isinstance(templates, dict)


def test_template_errors(bpe):
    with pytest.raises(ValueError, match="tokenizer has no chat template"):
        bpe.apply_chat_template(CONVERSATIONS[0])
    chat = Tokenizer(bpe.backend, {"chat_template": HEADERS, "bos_token": "<|user|>"})
    with pytest.raises(ValueError, match="chat template of tokenizer: unknown role tool"):
        chat.apply_chat_template([{"role": "tool", "content": ""}])
    with pytest.raises(ValueError, match="at least one message"):
        chat.apply_chat_template([])
    with pytest.raises(ValueError, match="chat template of tokenizer"):
        Tokenizer(bpe.backend, {"chat_template": "{% if %}"}).apply_chat_template(CONVERSATIONS[0])


FAILING = {
    "{{ messages[0]['content'] + 1 }}": "TypeError: can only concatenate str .* \\(line 1\\)",
    "\n{{ 1 / 0 }}": "ZeroDivisionError: division by zero .line 2.",
    "{{ messages[0].missing.inner }}": "UndefinedError: .*has no attribute 'missing'",
    "{{ messages[7].content }}": "UndefinedError",
    "{{ 'a' | embolden }}": "No filter named 'embolden'",
    "{% if messages is grand %}{% endif %}": "No test named 'grand'",
    "{% for m in messages %}": "Unexpected end of template.*endfor",
    "{{ raise_exception('no\nway') }}": "chat_template.jinja: no way .line 1.$",
    "{{ raise_exception() }}": "TypeError: .*message",
    "{% include 'other' %}": "TypeError: no loader",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}": "does not end",
    "{% for m in messages %}{% for m in range(10 ** 9) %}{% endfor %}{% endfor %}": "OverflowError",
    "{{ messages[0].content | tojson(indent='x', separators=3) }}": "TypeError",
    "{{ strftime_now() }}": "TypeError",
}


@pytest.mark.parametrize("template", FAILING)
def test_a_template_that_fails_names_its_file_in_one_line(bpe, tmp_path, monkeypatch, template):
    monkeypatch.setattr(chat_template, "_MOST_STEPS", 20_000)
    bpe.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=FAILING[template]) as error:
        load(tmp_path).apply_chat_template(CONVERSATIONS[0])
    assert str(error.value).startswith(f"chat template of {tmp_path / 'chat_template.jinja'}: ")
    assert "\n" not in str(error.value)


def test_the_file_of_every_template_is_named(bpe, tmp_path):
    for templates in ({"default": "{{ 1 / 0 }}"}, {"default": CHATML, "tool_use": "{{ 1 / 0 }}"}):
        tools = TOOLS if "tool_use" in templates else None
        in_config = {"chat_template": [{"name": n, "template": t} for n, t in templates.items()]}
        loaded = _with(bpe, tmp_path / "config", tokenizer_config=in_config)
        with pytest.raises(ValueError, match=r"config/tokenizer_config\.json: ZeroDivision"):
            loaded.apply_chat_template(CONVERSATIONS[0], tools=tools)
    loaded.save(tmp_path / "files")
    with pytest.raises(ValueError, match=r"additional_chat_templates/tool_use\.jinja: ZeroDiv"):
        load(tmp_path / "files").apply_chat_template(CONVERSATIONS[0], tools=TOOLS)
    (tmp_path / "files" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat_template\.jinja: unreadable chat template"):
        load(tmp_path / "files")


def test_long_conversations_end(bpe):
    chat = Tokenizer(bpe.backend, {"chat_template": THINKING})
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 2000
    assert chat.apply_chat_template(turns).count("<|im_start|>") == 4001


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "video", "tool_use", None])
def test_parts_that_are_no_text_are_refused(bpe, kind):
    chat = Tokenizer(bpe.backend, {"chat_template": "{{ messages[0].content[0].text }}"})
    parts = [{"type": "text", "text": "hi"}]
    assert chat.apply_chat_template([{"role": "user", "content": parts}]) == "hi"
    with pytest.raises(ValueError, match=f"the user has a part of type {kind!r}"):
        chat.apply_chat_template([{"role": "user", "content": [*parts, {"type": kind}]}])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_templates_run_in_a_sandbox(bpe, attack):
    with pytest.raises(ValueError, match=r"chat template of tokenizer.*unsafe"):
        Tokenizer(bpe.backend, {"chat_template": attack}).apply_chat_template(CONVERSATIONS[0])


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.interop
def test_auto_tokenizer_loads_what_is_saved(bpe, tmp_path, transformers):
    bpe.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, *ODD]:
        ids = theirs(text, add_special_tokens=False).input_ids
        assert ids == bpe.encode(text)
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == bpe.eos_id
    assert len(theirs) == bpe.vocab_size


@pytest.mark.interop
def test_what_transformers_saves_is_loaded(bpe, tmp_path, transformers):
    backend = tokenizers.Tokenizer.from_str(bpe.backend.to_str())
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        chat_template={"default": CHATML, "tool_use": THINKING},
    )
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert (ours.eos_id, ours.pad_id) == (theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocab_size == len(theirs) == 331
    for tools in (None, TOOLS):
        assert ours.apply_chat_template(CONVERSATIONS[1], tools=tools) == (
            theirs.apply_chat_template(
                CONVERSATIONS[1], tools=tools, add_generation_prompt=True, tokenize=False
            )
        )


@pytest.mark.interop
@pytest.mark.parametrize(
    "template", [CHATML, THINKING, HEADERS], ids=["chatml", "think", "headers"]
)
def test_chat_templates_render_as_in_transformers(bpe, tmp_path, transformers, template):
    config = {"eos_token": "<|endoftext|>", "bos_token": "<|user|>", "chat_template": template}
    ours = Tokenizer(bpe.backend, config)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    cases = [(conversation, None, {}) for conversation in CONVERSATIONS]
    cases += [(conversation, TOOLS, {}) for conversation in CONVERSATIONS]
    cases += [(CONVERSATIONS[1], None, {"enable_thinking": False, "bos_token": "<s>"})]
    if template is THINKING:
        cases += [(TOOL_CONVERSATION, TOOLS, {}), (TOOL_CONVERSATION, None, {})]
    for messages, tools, variables in cases:
        for generate in (True, False):
            expected = theirs.apply_chat_template(
                messages,
                tools=tools,
                add_generation_prompt=generate,
                tokenize=False,
                **variables,
            )
            assert ours.apply_chat_template(messages, generate, tools, **variables) == expected
            ids = theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=generate, **variables
            )
            assert ours.encode(expected) == ids["input_ids"]


def _beginning(bpe, single="<|user|> $A", special=None):
    """The tokenizer with a post-processor that puts "<|user|>", id 1, in front."""
    backend = tokenizers.Tokenizer.from_str(bpe.backend.to_str())
    tokens = special or [("<|user|>", 1), ("<|endoftext|>", 0)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return backend


@pytest.mark.parametrize("single", ["<|user|> $A", "<|user|> $A <|endoftext|>"])
def test_a_prompt_begins_once_as_the_post_processor_says(bpe, single):
    tok = Tokenizer(_beginning(bpe, single), {"eos_token": "<|endoftext|>"})
    plain = bpe.encode(TEXTS[0])
    assert tok.prefix == (1,)
    assert tok.encode_prompt(TEXTS[0]) == [1, *plain]
    assert tok.encode_prompt("<|user|>" + TEXTS[0]) == [1, *plain]  # as chat templates write it
    assert tok.encode_prompt("") == [1]
    assert tok.encode_prompts(["", TEXTS[0], "<|user|>"]) == [[1], [1, *plain], [1]]
    assert tok.encode(TEXTS[0]) == plain


@pytest.mark.parametrize(
    "processor",
    [
        None,
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing("$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]),
    ],
)
def test_without_a_beginning_prompts_are_as_they_are(bpe, processor):
    backend = tokenizers.Tokenizer.from_str(bpe.backend.to_str())
    if processor is not None:
        backend.post_processor = processor
    tok = Tokenizer(backend)
    assert tok.prefix == ()
    assert tok.encode_prompts([*TEXTS, *ODD]) == [bpe.encode(text) for text in [*TEXTS, *ODD]]


def test_a_beginning_of_several_processors_and_words(bpe):
    words = [("<|user|>", 1), ("a", bpe.encode("a")[0])]
    pair = processors.TemplateProcessing(single="<|user|> a $A", special_tokens=words)
    backend = _beginning(bpe)
    backend.post_processor = processors.Sequence([processors.ByteLevel(), pair])
    tok = Tokenizer(backend)
    assert tok.prefix == (1, *bpe.encode("a"))
    assert tok.encode_prompt("<|user|>b") == [*tok.prefix, 1, *bpe.encode("b")]


def test_what_cannot_be_encoded_is_named(bpe):
    for encode in (bpe.encode, bpe.encode_prompt, lambda text: bpe.encode_batch(["a", text])):
        with pytest.raises(ValueError, match="tokenizer: a lone surrogate is no text"):
            encode("a\ud83d b")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="?"))
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot encode a text: .*UNK"):
        Tokenizer(words).encode("b")


def test_characters_are_numbered_by_code_point(tmp_path):
    tok = train_char(["b\na ", "é🐚"])
    assert tok.vocab_size == 7
    assert tok.encode("\n abé🐚") == [1, 2, 3, 4, 5, 6]
    assert tok.eos_ids == (0,)
    tok.save(tmp_path)
    assert load(tmp_path).encode("ab") == [3, 4]
    with pytest.raises(ValueError, match="characters needs a text"):
        train_char(["", ""])


@pytest.mark.parametrize("text", ODD)
def test_characters_come_back(text):
    tok = train_char([*ODD])
    assert tok.decode(tok.encode(text)) == text
    assert len(tok.encode(text)) == len(text)


def test_a_character_tokenizer_leaves_out_what_it_does_not_know():
    tok = train_char(["abc"])
    assert tok.decode(tok.encode("axb")) == "ab"
