"""Write how lm-evaluation-harness splits a context and its continuation into tokens: `tests/data/pairs.json`.

The ids are what `HFLM.loglikelihood` hands to the model (`TemplateLM._encode_pair`, and the token it takes for an empty
context), for each of `PAIRS` and each tokenizer: those of `tests/data/beginnings.json`, with and without a BOS token before
texts, and those of house-6m and stories260K under `shared/data`. An item that lm_eval cannot score is null.

    python write_pairs.py ../shared/data      # in the environment of requirements-tasks.txt
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")

import lm_eval
import transformers
from lm_eval.models.huggingface import HFLM
from write_beginnings import BOS, DATA, TOKENS

PAIRS = [
    ["the dog", " barks"],
    ["the dog ", "barks"],
    ["the dog  ", "barks"],
    ["the dog   ", " barks"],
    ["the dog\t", "barks"],
    ["the dog\n", "barks"],
    ["the dog\n\n", "barks loudly"],
    ["the dog \n", " barks"],
    ["the dog\r\n", "barks"],
    ["the dog \t \n ", "\n barks"],
    ["the dog", "\nbarks"],
    ["the dog", "s bark"],
    ["the do", "g barks"],
    ["th", "e dog"],
    ["def f(x):\n    ", "return x"],
    ["def f(x):\n\t", "return x"],
    ["Question: is it so?\nAnswer:", " yes"],
    ["Question: is it so?\nAnswer: ", "yes"],
    ["Once upon a time, there was ", "a little girl."],
    ["Once upon a time, there was\n\n", "A little girl."],
    [" leading", " blank"],
    ["\nleading ", "line break"],
    ["no-break\u00a0", "space"],
    ["ideographic\u3000", "space"],
    ["next line\u0085", "here"],
    ["separator\u001f", "here"],
    ["zero width\u200b", "space"],
    ["mark\ufeff", "here"],
    ["naïve Größe ", "мир 世界"],
    ["smile 🙂 ", "🙂"],
    ["", "the dog"],
    ["", " the dog"],
    [" ", "the dog"],
    [" \n\t", "the dog"],
    ["<s>the dog ", "barks"],
    ["", "<s> dog"],
    ["a</s> ", "b"],
    ["the dog ", " "],
    ["x", ""],
]


def pairs(folder):
    lm = HFLM.__new__(HFLM)
    lm.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lm.backend, lm.add_bos_token, lm.custom_prefix_token_id = "causal", None, None
    lm.enable_thinking, lm._rank, lm._world_size = False, 0, 1
    lm._loglikelihood_tokens = lambda requests, **_: [[context, continuation] for _, context, continuation in requests]
    found = []
    for pair in PAIRS:
        try:
            [[context, continuation]] = lm.loglikelihood([SimpleNamespace(args=tuple(pair))], disable_tqdm=True)
        except IndexError:
            context = continuation = []
        # What HFLM asserts before it scores.
        found.append([context, continuation] if context and continuation else None)
    return found


def main():
    shared = Path(sys.argv[1])
    files = json.loads((DATA / "beginnings.json").read_text())["tokenizers"]
    found = {}
    for name, tokenizer in files.items():
        for suffix, post in (("bos", BOS), ("plain", None)):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "config.json").write_text(json.dumps({"model_type": "llama"}))
                (Path(folder) / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": post}))
                (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS}))
                found[f"{name}-{suffix}"] = pairs(folder)
    for model in ("models/house-6m", "models/stories260K/hf"):
        found[model] = pairs(str(shared / model))
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(ids)}" for name, ids in found.items())
    head = json.dumps({"lm_eval": lm_eval.__version__, "pairs": PAIRS})[:-1]
    (DATA / "pairs.json").write_text(f'{head}, "ids": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
