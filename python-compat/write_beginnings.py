"""Write which token transformers puts before a text, and which ends one: `tests/data/beginnings.json`.

Each row is a folder of tokenizer files; for each of `TEXTS` the file has the ids of `AutoTokenizer` with
`add_special_tokens=True` and `False`, under the version of transformers that gave them. Versions 4 and 5 disagree on some folders,
so the script is run once with each and keeps the other's ids. `ends` has the ids at which `generate` ends a text, by
config.json and generation_config.json:

    python write_beginnings.py                     # transformers 5.23
    python write_beginnings.py                     # again in an environment with transformers 4.57
"""

import json
import os
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
OUT = DATA / "beginnings.json"
TEXTS = ["the dog", "a\nb", "x"]
SPECIAL = ["<unk>", "<s>", "</s>"]


def added(vocabulary):
    return [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for token in SPECIAL
    ]


def tokenizer_json(model, vocabulary, pre_tokenizer, decoder):
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoder
    return json.loads(made.to_str()) | {"added_tokens": added(vocabulary)}


def byte_level():
    """Bytes and three merges, as GPT-2's and Llama 3's files are."""
    merges = [("t", "h"), ("th", "e"), ("Ġ", "d")]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate(SPECIAL + letters)}
    model = models.BPE(vocabulary, merges)
    return tokenizer_json(model, vocabulary, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())


def pieces():
    """Pieces with U+2581 for a blank and bytes to fall back to, as Llama 2's and Gemma's files are."""
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "d")]
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + list("▁abcdefghijklmnopqrstuvwxyz") + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate(SPECIAL + tokens)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer_json(model, vocabulary, pre_tokenizers.Metaspace("▁", "first", split=False), decoder)


def template(single, tokens=()):
    """TemplateProcessing: `single` lists special tokens and "A"."""
    part = lambda name: {"Sequence": {"id": "A", "type_id": 0}} if name == "A" else {"SpecialToken": {"id": name, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [part(name) for name in single],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [SPECIAL.index(name)], "tokens": [name]} for name in single if name != "A"},
    }


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
BOS = template(["<s>", "A"])
NONE = template(["A"])
IN_SEQUENCE = {"type": "Sequence", "processors": [BYTES, BOS]}
BOTH = template(["<s>", "A", "</s>"])
ONLY_END = template(["A", "</s>"])
BERT = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}
ROBERTA = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": False}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def rows():
    """(name, tokenizer, post_processor, tokenizer_config.json, model_type); a tokenizer is "byte-level" or "pieces" for a
    tokenizer.json, otherwise files under tests/data/tokenizers and the names they get."""
    for name, post in {"none": None, "bytes": BYTES, "template": BOS, "plain-template": NONE, "sequence": IN_SEQUENCE}.items():
        for add in (True, False, None):
            says = {} if add is None else {"add_bos_token": add}
            suffix = f"{name}-{'absent' if add is None else str(add).lower()}"
            for cls, tokenizer, model_type in [
                ("PreTrainedTokenizerFast", "byte-level", "llama"),
                ("GPT2Tokenizer", "byte-level", "gpt2"),
                ("Qwen2Tokenizer", "byte-level", "qwen2"),
                ("LlamaTokenizerFast", "pieces", "llama"),
                ("LlamaTokenizer", "byte-level", "llama"),
                ("GemmaTokenizerFast", "pieces", "gemma"),
                ("CodeLlamaTokenizer", "pieces", "llama"),
                ("GPTNeoXTokenizerFast", "byte-level", "gpt_neox"),
            ]:
                yield f"{cls}-{suffix}", tokenizer, post, {"tokenizer_class": cls, **TOKENS, **says}, model_type
    for name, post in {"both": BOTH, "only-end": ONLY_END, "bert": BERT, "roberta": ROBERTA}.items():
        yield f"PreTrainedTokenizerFast-{name}", "byte-level", post, {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS}, "llama"
    # No name of a class, no name of the token, a token written as an object, no file beside it.
    yield "no-class-none", "byte-level", None, TOKENS | {"add_bos_token": True}, "llama"
    yield "no-class-template", "byte-level", BOS, TOKENS, "llama"
    yield "no-config-none", "byte-level", None, None, "llama"
    yield "no-config-template", "byte-level", BOS, None, "llama"
    no_bos = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": None, "eos_token": "</s>", "add_bos_token": True}
    yield "LlamaTokenizerFast-without-bos_token", "pieces", None, no_bos, "llama"
    as_object = {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "__type": "AddedToken"}
    yield "LlamaTokenizerFast-bos-as-object", "pieces", None, {"tokenizer_class": "LlamaTokenizerFast", **TOKENS, "bos_token": as_object, "add_bos_token": True}, "llama"
    sentencepiece = {"bpe.model": "tokenizer.model"}
    for cls, model_type in [("LlamaTokenizer", "llama")]:
        for add in (True, False, None):
            says = {"tokenizer_class": cls, **TOKENS} | ({} if add is None else {"add_bos_token": add})
            yield f"{cls}-sentencepiece-{'absent' if add is None else str(add).lower()}", sentencepiece, None, says, model_type
    yield "sentencepiece-without-config", sentencepiece, None, None, "llama"
    yield "xglm-sentencepiece", {"xglm/sentencepiece.bpe.model": "sentencepiece.bpe.model"}, None, {"tokenizer_class": "XGLMTokenizer"}, "xglm"
    for folder, cls, model_type in [("opt", "GPT2Tokenizer", "opt"), ("opt", "GPT2Tokenizer", "gpt2"), ("qwen2", "Qwen2Tokenizer", "qwen2")]:
        files = {f"{folder}/{name}": name for name in ("vocab.json", "merges.txt")}
        for add in (True, False, None):
            says = {"tokenizer_class": cls, "bos_token": "</s>" if folder == "opt" else None, "eos_token": "</s>"} | ({} if add is None else {"add_bos_token": add})
            yield f"{model_type}-merges-{'absent' if add is None else str(add).lower()}", files, None, says, model_type


# (eos_token_id in config.json, in generation_config.json); "absent" = no such file.
ENDS = [(2, "absent"), (2, None), (2, 2), (2, [2, 7]), (2, 7), ([2, 5], [7]), (None, [2, 7]), ([2, 5], "absent"), (None, "absent")]


def ends(config, generation):
    """What ends a text of `generate`."""
    with tempfile.TemporaryDirectory() as folder:
        said = {"model_type": "llama", "vocab_size": 96, "bos_token_id": 1, "eos_token_id": config}
        (Path(folder) / "config.json").write_text(json.dumps(said))
        if generation == "absent":
            made = transformers.GenerationConfig.from_model_config(transformers.AutoConfig.from_pretrained(folder))
        else:
            (Path(folder) / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": generation}))
            made = transformers.GenerationConfig.from_pretrained(folder)
        ids = made.eos_token_id
        return ids if isinstance(ids, list) else [] if ids is None else [ids]


MAKERS = {"byte-level": byte_level, "pieces": pieces}


def ids(folder):
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return [[tokenizer(text, add_special_tokens=add)["input_ids"] for add in (True, False)] for text in TEXTS]
    except Exception as error:  # some folders are none of this version's
        print(f"{folder}: {type(error).__name__}: {str(error)[:100]}")
        return None


def main():
    before = json.loads(OUT.read_text()) if OUT.exists() else {"rows": []}
    known = {row["name"]: row["ids"] for row in before["rows"]}
    files = {name: make() for name, make in MAKERS.items()} if transformers.__version__.startswith("5") else before["tokenizers"]
    found = []
    for name, tokenizer, post, says, model_type in rows():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            (path / "config.json").write_text(json.dumps({"model_type": model_type}))
            if says is not None:
                (path / "tokenizer_config.json").write_text(json.dumps(says))
            if isinstance(tokenizer, str):
                (path / "tokenizer.json").write_text(json.dumps(files[tokenizer] | {"post_processor": post}))
            else:
                for source, target in tokenizer.items():
                    (path / target).write_bytes((DATA / "tokenizers" / source).read_bytes())
            row = {"name": name, "tokenizer": tokenizer, "post_processor": post, "tokenizer_config": says, "model_type": model_type}
            found.append(row | {"ids": known.get(name, {}) | {transformers.__version__: ids(folder)}})
    lines = ",\n".join(json.dumps(row) for row in found)
    ended = [{"config": config, "generation": generation, "ends": ends(config, generation)} for config, generation in ENDS]
    head = {"texts": TEXTS, "tokenizers": files, "ends": ended}
    OUT.write_text(json.dumps(head)[:-1] + ', "rows": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()
