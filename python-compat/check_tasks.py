"""The scores of `thimble eval --tasks` against those of lm-evaluation-harness, item by item.

lm_eval runs the same model through transformers (HFLM, f32) on the same files: task YAMLs are written
that put each item the way shared/data/README.md says. Nothing is asked of the hub.

    check_tasks.py target/release/thimble ../shared/data [--limit N] [--expect tests/data/tasks_expected.json]

Every item must have the same log-likelihoods to 1e-3 and the same chosen answer, by sums and by sums a byte.
lm_eval's own acc_norm is another: it divides by the characters of a choice, its leading blank not counted.
`--expect` writes the first items' figures for the Rust tests.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

TOLERANCE = 1e-3
# Items whose figures the Rust tests hold.
EXPECTED_ITEMS = 40

CHOICES = """\
output_type: multiple_choice
doc_to_text: "{{query}}Answer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
"""
# What lm_eval calls several inputs: the text is the number of the right one, the target what follows each.
REVERSED = """\
output_type: multiple_choice
doc_to_text: !function fields.gold
doc_to_choice: !function fields.context_options
doc_to_target: !function fields.continuation
"""
CLOZE = """\
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{' ' + continuation}}"
"""
FIELDS = """\
def gold(doc): return doc["gold"]
def context_options(doc): return doc["context_options"]
def continuation(doc): return doc["continuation"]
"""
TASKS = {"arc_easy": CHOICES, "piqa": CHOICES, "winogrande": REVERSED, "lambada_openai": CLOZE, "arc_challenge": CHOICES, "boolq": CHOICES}
METRICS = {CHOICES: ["acc"], REVERSED: ["acc"], CLOZE: ["acc", "perplexity"]}


def yaml(name, kind, data):
    metrics = "".join(f"  - metric: {metric}\n" for metric in METRICS[kind])
    path = (data / "tasks" / f"{name}.jsonl").resolve()
    return (
        f"task: thimble_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {path}\n"
        f'test_split: test\ntarget_delimiter: " "\nnum_fewshot: 0\n{kind}metric_list:\n{metrics}'
    )


def theirs(names, data, model, limit):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "fields.py").write_text(FIELDS)
        for name in names:
            (Path(folder) / f"{name}.yaml").write_text(yaml(name, TASKS[name], data))
        manager = TaskManager(include_path=folder, include_defaults=False)
        lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=16)
        tasks = [f"thimble_{name}" for name in names]
        return lm_eval.simple_evaluate(
            model=lm, tasks=tasks, task_manager=manager, limit=limit, log_samples=True, bootstrap_iters=0, verbosity="WARNING"
        )


def ours(binary, names, data, model, limit):
    scores, items = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "items.jsonl"
        for name in names:
            command = [binary, "eval", model, "--tasks", data / "tasks" / f"{name}.jsonl", "--activations", "f32", "--backend", "native"]
            command += ["--items", out, "--json"] + (["--task-limit", str(limit)] if limit else [])
            done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE)
            scores |= json.loads(done.stdout)["tasks"]
            items[name] = [json.loads(line) for line in out.read_text().splitlines()]
    return scores, items


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, help="a Hugging Face directory; house-6m unless told")
    parser.add_argument("--tasks", nargs="+", default=["arc_easy", "piqa", "winogrande", "lambada_openai"], choices=TASKS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--expect", type=Path)
    args = parser.parse_args()
    model = args.model or args.data / "models/house-6m"
    scores, items = ours(args.binary, args.tasks, args.data, model, args.limit)
    found = theirs(args.tasks, args.data, model, args.limit)

    wrong, expected = 0, {}
    print("| task | items | acc, ours | acc, lm_eval | acc_norm, ours | from lm_eval's sums | perplexity, ours | perplexity, lm_eval | greatest difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.tasks:
        samples = {s["doc_id"]: s for s in found["samples"][f"thimble_{name}"]}
        samples = [samples[i] for i in sorted(samples)]
        sums, greatest, right_norm = [], 0.0, 0
        for sample, item in zip(samples, items[name], strict=True):
            answers = sample["filtered_resps"]
            answers = answers if isinstance(answers[0], (list, tuple)) else [answers]
            sums.append([float(total) for total, _ in answers])
            greedy = [str(greedy) == "True" for _, greedy in answers]
            difference = max(abs(a - b) for a, b in zip(sums[-1], item["loglikelihoods"], strict=True))
            by_byte = [total / size for total, size in zip(sums[-1], item["bytes"], strict=True)]
            chosen, chosen_norm = (max(range(len(of)), key=of.__getitem__) for of in (sums[-1], by_byte))
            right_norm += chosen_norm == item["gold"]
            greatest = max(greatest, difference)
            if difference > TOLERANCE or (chosen, chosen_norm, greedy) != (item["chosen"], item["chosen_norm"], item["greedy"]):
                wrong += 1
                print(f"{name}, line {item['line']}: theirs {sums[-1]} {greedy}, ours {item}", file=sys.stderr)
        result, score = found["results"][f"thimble_{name}"], scores[name]
        wrong += abs(score["acc"] - result["acc,none"]) > 1e-9
        figures = [score["acc"], result["acc,none"], score.get("acc_norm"), "acc_norm" in score and right_norm / len(samples)]
        figures += [score.get("perplexity"), result.get("perplexity,none")]
        cells = [name, score["n"], *(f"{figure:.6g}" if figure else "" for figure in figures), f"{greatest:.1e}"]
        print("| " + " | ".join(map(str, cells)) + " |")
        expected[name] = [[round(total, 4) for total in of] for of in sums[:EXPECTED_ITEMS]]
    if args.expect:
        lines = (f" {json.dumps(name)}: {json.dumps(sums, separators=(',', ':'))}" for name, sums in expected.items())
        args.expect.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.exit(f"{wrong} figures differ" if wrong else 0)


main()
