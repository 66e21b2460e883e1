"""Sentence encoders: by hand in float64, beside transformers, and directories that are none."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from jaxlab.interop import sentence_encoder
from jaxlab.json_file import CheckpointFormatError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mug", "##s", "where", "are", "!", "kept"]
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
LAYER = "encoder.layer.{}."
DENSE = {
    "attention.self.query": (12, 12),
    "attention.self.key": (12, 12),
    "attention.self.value": (12, 12),
    "attention.output.dense": (12, 12),
    "intermediate.dense": (20, 12),
    "output.dense": (12, 20),
}
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def tensors():
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), 12),
        "embeddings.position_embeddings.weight": (16, 12),
        "embeddings.token_type_embeddings.weight": (2, 12),
        "embeddings.LayerNorm.weight": (12,),
        "embeddings.LayerNorm.bias": (12,),
        "pooler.dense.weight": (12, 12),
    }
    for i in range(2):
        for name, shape in DENSE.items():
            shapes[f"{LAYER.format(i)}{name}.weight"] = shape
            shapes[f"{LAYER.format(i)}{name}.bias"] = shape[:1]
        for name in NORMS:
            shapes[f"{LAYER.format(i)}{name}.weight"] = shapes[f"{LAYER.format(i)}{name}.bias"] = (
                12,
            )
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def write(path, values=None, **config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    safetensors.numpy.save_file(tensors() if values is None else values, path / "model.safetensors")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return path


def by_hand(ids):
    """The vector of one text, in float64, with no padding anywhere."""
    w = {name: value.astype(np.float64) for name, value in tensors().items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x):
        from math import erf

        return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(2):
        at = LAYER.format(i)
        q, k, v = (
            dense(x, f"{at}attention.self.{name}").reshape(len(ids), 3, 4).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = np.exp(q @ k.swapaxes(1, 2) / 2)
        y = (scores / scores.sum(-1, keepdims=True)) @ v
        y = y.swapaxes(0, 1).reshape(len(ids), 12)
        x = norm(x + dense(y, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        y = gelu(dense(x, f"{at}intermediate.dense"))
        x = norm(x + dense(y, f"{at}output.dense"), f"{at}output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("encoder"))


def test_vectors_are_those_worked_by_hand(folder):
    encoder = sentence_encoder.load(folder)
    texts = ["Where are MUGS kept!", "", "mug", "mug " * 40, "zebra\ud800"]
    ids = [
        [2, 7, 8, 5, 6, 10, 9, 3],
        [2, 3],
        [2, 5, 3],
        [2, *[5] * 14, 3],  # cut at the sixteen positions that there are
        [2, 1, 1, 3],  # half a surrogate pair is read as a question mark
    ]
    found = encoder(texts)
    assert (encoder.dimensions, encoder.length, found.dtype) == (12, 16, np.float32)
    # Float32 sums of twenty products, two layers deep.
    np.testing.assert_allclose(found, [by_hand(one) for one in ids], atol=2e-6)
    # Neither its place nor what is beside it changes a vector.
    np.testing.assert_allclose(encoder(texts[::-1]), found[::-1], atol=1e-6)
    assert encoder([]).shape == (0, 12)


def test_the_name_says_what_vectors_depend_on(folder, tmp_path):
    name = sentence_encoder.load(folder).name
    assert name.startswith("bert of 2 layers of 12, 16 tokens, ")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert sentence_encoder.load(moved).name == name
    (moved / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    assert "8 tokens" in sentence_encoder.load(moved).name
    (moved / "sentence_bert_config.json").unlink()
    values = tensors()
    values["embeddings.LayerNorm.bias"][3] += 1e-3
    safetensors.numpy.save_file(values, moved / "model.safetensors")
    other = sentence_encoder.load(moved).name
    assert other != name
    write(moved)
    (moved / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert sentence_encoder.load(moved).name not in (name, other)


def test_a_prefix_and_old_names_of_norms(folder, tmp_path):
    old = {}
    for name, value in tensors().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old["bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    encoder = sentence_encoder.load(write(tmp_path / "old", old))
    text = ["where are mugs"]
    np.testing.assert_array_equal(encoder(text), sentence_encoder.load(folder)(text))


def sentence_transformers(path, modules=None, **pooling):
    write(path)
    types = ("Transformer", "Pooling", "Normalize")
    named = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": f"st.{kind}"}
        for i, kind in enumerate(types)
    ]
    (path / "modules.json").write_text(json.dumps(modules or named))
    (path / "1_Pooling").mkdir()
    mean = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (path / "1_Pooling" / "config.json").write_text(json.dumps({**mean, **pooling}))
    return path


def test_a_directory_of_sentence_transformers(tmp_path, folder):
    path = sentence_transformers(tmp_path / "st")
    assert sentence_encoder.load(path).name == sentence_encoder.load(folder).name


def test_the_length_stands_beside_the_transformer(tmp_path):
    """Older directories have the transformer in a folder of its own, and its settings with it."""
    kinds = {"0_Transformer": "st.Transformer", "1_Pooling": "st.Pooling"}
    modules = [{"type": kind, "path": name} for name, kind in kinds.items()]
    path = sentence_transformers(tmp_path / "old", modules)
    inner = write(path / "0_Transformer")
    settings = inner / "sentence_bert_config.json"
    settings.write_text('{"max_seq_length": 8, "do_lower_case": false}')
    assert sentence_encoder.load(path).length == 8
    settings.write_text('{"max_seq_length": 8, "do_lower_case": true}')
    with pytest.raises(CheckpointFormatError, match="do_lower_case true is not supported"):
        sentence_encoder.load(path)


BAD = {
    "family": ({"model_type": "roberta"}, r"config\.json: model_type 'roberta' is no sentence enc"),
    "activation": ({"hidden_act": "relu"}, r"config\.json: hidden_act 'relu' is not supported"),
    "positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative"),
    "decoder": ({"is_decoder": True}, "is_decoder true is not supported"),
    "heads": ({"num_attention_heads": 5}, "5 do not divide the width 12"),
    "kind": ({"hidden_size": "12"}, r"hidden_size is '12': expected a whole number"),
    "layers": ({"num_hidden_layers": 3}, r"has no tensor encoder\.layer\.2\."),
    "shape": ({"intermediate_size": 21}, r"dense\.\w+ has shape .*, config\.json asks"),
    "vocabulary": ({"vocab_size": 5}, "shape"),
}


@pytest.mark.parametrize(("config", "cause"), BAD.values(), ids=list(BAD))
def test_configs_that_ask_for_something_else_are_refused(tmp_path, config, cause):
    path = write(tmp_path / "bad", **config)
    with pytest.raises(CheckpointFormatError, match=cause) as error:
        sentence_encoder.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_directories_that_are_none_are_refused(tmp_path):
    def refused(path, cause):
        with pytest.raises(CheckpointFormatError, match=cause):
            sentence_encoder.load(path)

    refused(tmp_path / "none", "is no directory of a sentence encoder")
    path = write(tmp_path / "x")
    (path / "vocab.txt").write_text("mug\n")
    refused(path, r"vocab\.txt: has no \[UNK\], \[CLS\], \[SEP\]; is it cut short")
    (path / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    refused(path, "the tokenizer has token 11, config.json a vocab_size of 11")
    (path / "vocab.txt").write_bytes(b"\xff\xfe")
    refused(path, "is no UTF-8")
    (path / "vocab.txt").unlink()
    refused(path, r"neither tokenizer\.json nor vocab\.txt")
    (path / "model.safetensors").write_bytes(b"\x00" * 20)
    refused(path, r"model\.safetensors")
    refused(write(tmp_path / "y", {"a": np.zeros(1, np.float32)}), "is it a BERT")
    cls = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    refused(sentence_transformers(tmp_path / "cls", **cls), "pooling cls_token is not supported")
    both = {"pooling_mode_cls_token": True}
    refused(sentence_transformers(tmp_path / "both", **both), "cls_token, mean_tokens")
    dense = [{"type": "st.Dense", "path": "2_Dense"}]
    refused(sentence_transformers(tmp_path / "dense", dense), "module 'Dense' is not supported")
    refused(sentence_transformers(tmp_path / "list", {"a": 1}), "is no list of modules")


@pytest.mark.interop
@pytest.mark.parametrize("saved", ["tokenizer.json", "vocab.txt"])
def test_embeddings_are_those_of_transformers(tmp_path, saved):
    """Random weights of all-MiniLM-L6-v2's shape, but for its width; texts up to 300 tokens."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    letters = [chr(ord("a") + i) for i in range(26)]
    words = [*WORDS, *letters, *(f"##{letter}" for letter in letters), "cafe", "中", "."]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=384,
        initializer_range=0.3,
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    theirs = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    if saved == "tokenizer.json":
        theirs.save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink()
    rng = np.random.default_rng(0)
    texts = ["", "Where are mugs kept?", "Café 中文.", "[MASK] mug [SEP]", "!!!"]
    texts += [" ".join(rng.choice(words[5:], size=n)) for n in (1, 7, 40, 120, 254, 255, 300)]
    batch = theirs(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    wanted = torch.nn.functional.normalize(mean, dim=-1).numpy()
    encoder = sentence_encoder.load(tmp_path)
    assert encoder.length == 256
    ours = [encoding.ids for encoding in encoder._tokenizer.encode_batch(texts)]
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    assert ours == [row[m == 1].tolist() for row, m in pairs]
    np.testing.assert_allclose(encoder(texts), wanted, atol=1e-4)
