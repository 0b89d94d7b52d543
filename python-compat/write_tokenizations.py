"""Write what the Python libraries make of texts: `tests/data/tokenizations.json`.

For each tokenizer: of whole texts (under `shared/data`) the number of ids, the first 64, and SHA-256 of all of them
as u32 little-endian and of the text decoded again; the same digest over runs of one character; and all ids of short
tricky texts, with the text that the library decodes them to.

The reference is the library that each file is meant for: sentencepiece for a `.model`, transformers for `vocab.json`
and `merges.txt`, tokenizers for a `tokenizer.json`. RWKV's is restated here. sentencepiece never reads a special token
out of a text; transformers does, and so does this: such a token stands for itself, and what lies between is encoded as
texts of their own.

Also trains the small vocabularies under `tests/data/tokenizers` that no published file stands for.
"""

import argparse
import ast
import contextlib
import hashlib
import io
import json
import os
import re
import struct
import tempfile
from pathlib import Path
from typing import Callable, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import sentencepiece
import tokenizers
import transformers

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "data"
TRAINED = OUT / "tokenizers"
WIKITEXT = "text/wikitext-2-raw/wiki.test.raw"
BULGARIAN = "text/redpajama-sample/sample_wiki1.jsonl"
RUNS = [" ", "\n", "\t", "a", "=", "-", "0", "▁", "\u3000", "é", "的", "🙂", " a", "\r\n", "ab", "<s>"]
STRINGS = [
    "",
    "a",
    " ",
    "   ",
    "Hello world!",
    " leading",
    "   leading by three",
    "trailing ",
    "trailing   ",
    "two  blanks, three   blanks,    four",
    "\ttab\tand\t\ttabs ",
    "line\nline\n\nline\n\n\n",
    "\n",
    "\r\n",
    "carriage\r\nreturn\r\n\r\nhere\r",
    "nul\0in the middle",
    "\0",
    "control \x01\x02\x1b\x7f characters",
    "emoji 🙂👍🏽👨‍👩‍👧‍👦 and flags 🇩🇪🇫🇷",
    "combining e\u0301 a\u0308\u0323 o\u0302\u0301 and composed é ä ô",
    "Chinese: 我们在这里，你好世界。",
    "日本語のテキスト、ｶﾞｷﾞ カタカナ",
    "한국어 텍스트 각각",
    "Здравей, свят! مرحبا بالعالم שלום עולם",
    "हिन्दी में लिखा ไทยก็ได้",
    "fullwidth ＡＢＣ１２３ ＜s＞ and ligatures ﬁ ﬂ ½ ² ™ …",
    "no-break\u00a0space, ideographic\u3000space, zero\u200bwidth, \ufeffmark, soft\u00adhyphen",
    "line\u2028separator paragraph\u2029separator next\x85line",
    "digits 1 12 123 1234 12345 3.14159 1,000,000 2024-01-01",
    "I'm you're they'll WE'VE don't ' 's",
    "CamelCase snake_case kebab-case UPPER lower MiXeD",
    "def f(x):\n    return x ** 2  # square\n\n\tif x >= 0:\n        pass\n",
    "https://example.org/path?query=1&other=2#fragment user@example.org",
    "</s>",
    "<s>",
    "<unk>",
    "<s>Hello</s>",
    "a</s>b",
    "a </s> b",
    "<s> <s>\n</s></s>",
    "<|endoftext|>",
    "end<|endoftext|>begin <|endoftext|> end",
    "<pad><mask><extra_id_0><|padding|><madeupword3>",
    "<sep>first<sep><sep> last <sep>",
    "a<sep",
    "[INST] hi [/INST]",
    "<0x0A><0x41>",
    "▁",
    "▁▁a▁ b▁",
    " ▁ a ▁ ",
    "\U0010ffff \ue000 \ud7ff",
    "Zalgo z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e",
    "x" * 300,
    "word " * 60,
]


class Reference(NamedTuple):
    """A tokenizer of a Python library."""

    file: str  # under shared/data, or under tests/data where it was trained here
    library: str
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str | None]  # None where the library writes other text for unknown pieces


def of_sentencepiece(file: str, path: Path, fairseq: bool = False) -> Reference:
    """With `fairseq`, ids as XGLM's, and its special tokens (transformers' `XGLMConverter`, restated)."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
    size = sp.vocab_size()
    shift = {i: {0: 3, 1: 0, 2: 2}.get(i, i + 1) if fairseq else i for i in range(size)}
    back = {id: i for i, id in shift.items()}
    special = {sp.id_to_piece(i): shift[i] for i in range(size) if sp.is_control(i) or sp.is_unknown(i)}
    if fairseq:
        special |= {"<pad>": 1} | {f"<madeupword{n}>": size + 1 + n for n in range(7)}
    longest_first = sorted(special, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(text: str) -> list[int]:
        parts = pattern.split(text)
        return [i for part in parts for i in ([special[part]] if part in special else [shift[i] for i in sp.encode(part)])]

    def decode(ids: list[int]) -> str | None:
        pieces = [back[i] for i in ids if i in back]
        return None if any(sp.is_unknown(i) for i in pieces) else sp.decode(pieces)

    return Reference(file, f"sentencepiece {sentencepiece.__version__}", encode, decode)


def of_tokenizers(file: str, path: Path) -> Reference:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    return Reference(
        file,
        f"tokenizers {tokenizers.__version__}",
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
    )


def of_transformers(file: str, kind: type, path: Path) -> Reference:
    tokenizer = kind.from_pretrained(path)
    return Reference(
        file,
        f"transformers {transformers.__version__}",
        lambda text: tokenizer.encode(text, add_special_tokens=False),
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    )


def of_rwkv(file: str, path: Path) -> Reference:
    """Greedy longest match, restated: candidates by their first byte, the longest first."""
    tokens: dict[int, bytes] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            literal = ast.literal_eval(line[line.index(" ") : line.rindex(" ")].strip())
            token = literal.encode() if isinstance(literal, str) else literal
            assert len(token) == int(line[line.rindex(" ") :])
            tokens[int(line[: line.index(" ")])] = token
    lengths: dict[int, list[int]] = {b: sorted({len(t) for t in tokens.values() if t[0] == b}, reverse=True) for b in range(256)}
    ids = {token: i for i, token in tokens.items()}

    def encode(text: str) -> list[int]:
        data, at, found = text.encode(), 0, []
        while at < len(data):
            length = next(n for n in lengths[data[at]] if data[at : at + n] in ids)
            found.append(ids[data[at : at + length]])
            at += length
        return found

    return Reference(file, "restated", encode, lambda i: b"".join(tokens[n] for n in i).decode("utf-8", errors="replace"))


def train(text: str) -> None:
    """Small vocabularies. The texts come by an iterator and the rules lie in the working folder: the path of a file
    would be written into the model."""
    TRAINED.mkdir(parents=True, exist_ok=True)
    rules = Path("rules.tsv")
    # Blanks and compositions, as the rules of nmt_nfkc in small.
    pairs = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u200b": "", "ﬁ": "fi", "½": "1/2", "…": "..."}
    pairs |= {chr(0xFF21 + i): chr(0x41 + i) for i in range(26)} | {"e\u0301": "é", "a\u0308": "ä", "™": "TM"}
    code = lambda s: " ".join(f"{ord(c):04X}" for c in s)
    rules.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in pairs.items()))
    common = dict(num_threads=1, train_extremely_large_corpus=False, minloglevel=2)
    models = {
        # As Gemma's: no blank before a text, blanks are kept, runs of them are symbols of the user.
        "bpe-symbols": dict(
            model_type="bpe", vocab_size=420, byte_fallback=True, split_digits=True, add_dummy_prefix=False,
            remove_extra_whitespaces=False, normalization_rule_name="identity", allow_whitespace_only_pieces=True,
            user_defined_symbols=["▁▁", "▁▁▁", "▁▁▁▁", "\n\n", "<sep>", "<sep", "[INST]", "(a|b)*"], control_symbols=["<pad>", "<mask>"],
        ),  # fmt: skip
        # As Llama's, with symbols of the user where a blank goes before a text.
        "bpe": dict(
            model_type="bpe", vocab_size=420, byte_fallback=True, remove_extra_whitespaces=False,
            normalization_rule_name="identity", user_defined_symbols=["<sep>"],
        ),
        "unigram": dict(
            model_type="unigram", vocab_size=200, normalization_rule_tsv=str(rules),
            user_defined_symbols=["<sep>", "[INST]"], control_symbols=["<mask>"],
        ),
        "unigram-bytes": dict(
            model_type="unigram", vocab_size=460, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, pad_id=0, unk_id=3, bos_id=-1, eos_id=1,
        ),
    }  # fmt: skip
    for name, options in models.items():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split("\n")), model_writer=model, **common, **options
        )
        assert str(ROOT).encode() not in model.getvalue()
        (TRAINED / f"{name}.model").write_bytes(model.getvalue())

    # As XGLM's: the family says that ids are fairseq's.
    xglm = TRAINED / "xglm"
    xglm.mkdir(exist_ok=True)
    (xglm / "config.json").write_text('{"model_type": "xglm"}\n')
    (xglm / "sentencepiece.bpe.model").write_bytes((TRAINED / "unigram.model").read_bytes())

    # As OPT's: GPT-2's kind of vocabulary with other special tokens.
    bytes_bpe = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bytes_bpe.train_from_iterator(text.split("\n"), vocab_size=360, special_tokens=special, show_progress=False)
    for folder in ("opt", "qwen2"):
        (TRAINED / folder).mkdir(exist_ok=True)
        bytes_bpe.save_model(str(TRAINED / folder))

    def write(path: str, content: dict) -> None:
        (TRAINED / path).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    named = dict(lstrip=False, normalized=True, rstrip=False, single_word=False)
    write("opt/special_tokens_map.json", {"bos_token": {"content": "</s>", **named}, "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"})
    write("opt/added_tokens.json", {"<mask>": 360, "<sep>": 361})
    write("opt/tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "mask_token": "<mask>"})
    decoder = {
        "360": dict(content="<|endoftext|>", lstrip=False, normalized=False, rstrip=False, single_word=False, special=True),
        "361": dict(content="<sep>", lstrip=True, normalized=False, rstrip=True, single_word=False, special=False),
        "362": dict(content="<mask>", lstrip=False, normalized=False, rstrip=False, single_word=True, special=True),
    }
    write("qwen2/tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder, "eos_token": "<|endoftext|>"})


def references(data: Path, gpt2: Path) -> dict[str, Reference]:
    def shared(make: Callable, file: str) -> Reference:
        return make(file, data / file)

    def trained(file: str, **options) -> Reference:
        return of_sentencepiece(file, OUT / file, **options)

    return {
        "llama2": shared(of_sentencepiece, "tokenizers/llama2/tokenizer.model"),
        "stories260K": shared(of_sentencepiece, "models/stories260K/hf/tokenizer.model"),
        "babyllama-tok105": shared(of_sentencepiece, "models/babyllama-tok105/hf/tokenizer.model"),
        "gpt2": of_transformers("tokenizers/gpt2/vocab.json", transformers.GPT2Tokenizer, gpt2),
        "gpt-neox-20b": shared(of_tokenizers, "tokenizers/gpt-neox-20b/20B_tokenizer.json"),
        "t5": shared(of_tokenizers, "tokenizers/t5/tokenizer.json"),
        "rwkv-world": shared(of_rwkv, "tokenizers/rwkv-world/rwkv_vocab_v20230424.txt"),
        "bpe-symbols": trained("tokenizers/bpe-symbols.model"),
        "bpe": trained("tokenizers/bpe.model"),
        "unigram": trained("tokenizers/unigram.model"),
        "unigram-bytes": trained("tokenizers/unigram-bytes.model"),
        "xglm": trained("tokenizers/xglm/sentencepiece.bpe.model", fairseq=True),
        "opt": of_transformers("tokenizers/opt/vocab.json", transformers.GPT2Tokenizer, TRAINED / "opt"),
        "qwen2": of_transformers("tokenizers/qwen2/vocab.json", transformers.Qwen2Tokenizer, TRAINED / "qwen2"),
    }


def digest(ids: list[int]) -> dict:
    return {"count": len(ids), "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()}


def tokenizations(reference: Reference, texts: dict[str, str]) -> dict:
    whole = {}
    for file, text in texts.items():
        ids = reference.encode(text)
        decoded = reference.decode(ids)
        sha256 = None if decoded is None else hashlib.sha256(decoded.encode()).hexdigest()
        whole[file] = {**digest(ids), "first": ids[:64], "decoded_sha256": sha256, "gives_back": decoded == text}
    runs = [i for run in RUNS for n in range(1, 101) for i in reference.encode(run * n)]
    encoded = [(text, reference.encode(text)) for text in STRINGS]
    strings = [{"text": text, "ids": ids, "decoded": reference.decode(ids)} for text, ids in encoded]
    return {"file": reference.file, "library": reference.library, "whole": whole, "runs": digest(runs), "strings": strings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    data = parser.parse_args().data.resolve()
    wikitext = (data / WIKITEXT).read_bytes().decode()
    bulgarian = "\n".join(json.loads(line)["text"] for line in (data / BULGARIAN).read_text(encoding="utf-8").splitlines())
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        train((data / "text/tinystories/valid.txt").read_bytes()[:60_000].decode(errors="ignore"))
    all_references = references(data, data / "tokenizers/gpt2")
    found = {name: tokenizations(reference, {WIKITEXT: wikitext, BULGARIAN: bulgarian}) for name, reference in all_references.items()}
    content = {"runs": {"of": RUNS, "up_to": 100}, "tokenizers": found}
    (OUT / "tokenizations.json").write_text(json.dumps(content, ensure_ascii=True, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    for name, entry in found.items():
        print(f"{name}: {[(w['count'], w['gives_back']) for w in entry['whole'].values()]}")


if __name__ == "__main__":
    main()
