//! Accuracy on tasks: the figures of `shared/data/README.md` and of lm_eval
//! (`python-compat/check_tasks.py`), and what a bad file is told.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use approx::assert_abs_diff_eq;
use damage::{copy_with_tokenizer, file};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use thimble::eval::tasks::{Ask, ItemScore, Reader, Subject, Task, TaskItems, compare, measure, read};
use thimble::model::{LogitSource, ModelSpec, OnLogits, Window};
use thimble::progress::Silent;
use thimble::runtime::{self, Activations, Decoder, Model, NativeLogits};
use thimble::spec::SpecialTokens;
use thimble::text::Tokenizer;

fn native(model: &Model) -> NativeLogits {
    NativeLogits::new(Decoder::new(&*model.store, Activations::F32, 0).unwrap())
}

fn scores(model: &Model, tasks: &[Task], ask: Ask) -> Vec<TaskItems> {
    let mut source = native(model);
    measure(&mut Subject { source: &mut source, tokenizer: model.tokenizer().unwrap() }, tasks, ask, &Silent).unwrap()
}

fn first(limit: usize) -> Ask {
    Ask { limit: Some(limit), shots: 0 }
}

/// `shared/data/README.md`: line 1 of arc_easy.
#[test]
fn the_worked_example() {
    let Some(data) = data::shared("the_worked_example") else { return };
    let model = runtime::open(&data.join("models/house-6m"), None).unwrap();
    let tasks = read(&data.join("tasks/arc_easy.jsonl")).unwrap();
    let item: &ItemScore = &scores(&model, &tasks, first(1))[0].items[0];
    for (i, (sum, by_byte)) in
        [(-66.4776, -1.10796), (-61.1196, -1.11127), (-54.9303, -1.07706), (-49.1652, -1.11739)].into_iter().enumerate()
    {
        assert_abs_diff_eq!(item.loglikelihoods[i], sum, epsilon = 1e-3);
        assert_abs_diff_eq!(item.loglikelihoods[i] / item.bytes[i] as f64, by_byte, epsilon = 1e-5);
    }
    assert_eq!((&item.tokens[..], &item.bytes[..]), (&[19, 17, 13, 16][..], &[60, 55, 51, 44][..]));
    assert_eq!((item.gold, item.chosen, item.chosen_norm), (0, 3, 2));
}

/// The same file's score of a whole set, in percent. (`benches/tasks.md` has all six.)
#[test]
fn a_whole_set() {
    let Some(data) = data::shared("a_whole_set") else { return };
    let model = runtime::open(&data.join("models/house-6m"), None).unwrap();
    let tasks = read(&data.join("tasks/arc_challenge.jsonl")).unwrap();
    let score = &compare(&scores(&model, &tasks, Ask::default()), None)["arc_challenge"];
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    assert_eq!((score.n, percent(score.acc), score.acc_norm.map(percent)), (1172, "18.09".into(), Some("23.81".into())));
    assert_abs_diff_eq!(score.stderr.unwrap(), (score.acc * (1.0 - score.acc) / 1171.0).sqrt());
}

/// The first items of all six sets, by lm_eval.
#[test]
fn likelihoods_of_lm_eval() {
    let Some(data) = data::shared("likelihoods_of_lm_eval") else { return };
    let model = runtime::open(&data.join("models/house-6m"), None).unwrap();
    let expected: Value = serde_json::from_str(include_str!("data/tasks_expected.json")).unwrap();
    assert_eq!(expected.as_object().unwrap().len(), 6);
    for (name, items) in expected.as_object().unwrap() {
        let items: Vec<Vec<f64>> = serde_json::from_value(items.clone()).unwrap();
        let tasks = read(&data.join(format!("tasks/{name}.jsonl"))).unwrap();
        for (expected, found) in items.iter().zip(&scores(&model, &tasks, first(items.len()))[0].items) {
            assert_eq!(expected.len(), found.loglikelihoods.len());
            for (expected, found) in expected.iter().zip(&found.loglikelihoods) {
                assert!((expected - found).abs() <= 1e-3, "{name}: {found}, lm_eval {expected}");
            }
        }
    }
}

/// A source that reads nothing twice must say what one says that does.
#[test]
fn windows_together_are_windows_alone() {
    struct Alone<'a>(&'a mut NativeLogits);
    impl LogitSource for Alone<'_> {
        fn spec(&self) -> &ModelSpec {
            self.0.spec()
        }
        fn run_window(&mut self, ids: &[u32]) -> thimble::Result<()> {
            self.0.run_window(ids)
        }
        fn logits(&mut self, positions: std::ops::Range<usize>) -> thimble::Result<Vec<f32>> {
            self.0.logits(positions)
        }
    }
    let id = |i: usize| (3 + (i * i * 7 + i * 5) % 90) as u32;
    let window = |start: usize, shared: usize, own: usize, scored: usize| {
        let ids: Vec<u32> = (0..shared).map(|i| id(start + i)).chain((0..own).map(|i| id(shared * own + i))).collect();
        Window { scored: ids.len() - 1 - scored..ids.len() - 1, ids }
    };
    let windows: Vec<_> = [(0, 14, 5, 4), (0, 14, 3, 3), (0, 14, 8, 2), (9, 2, 1, 1), (5, 11, 12, 6), (5, 11, 2, 2), (7, 20, 1, 1)]
        .map(|(start, shared, own, scored)| window(start, shared, own, scored))
        .into();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden.thimble");
    for (name, path) in data::fixtures().into_iter().chain([("golden".to_owned(), golden)]) {
        let model = runtime::open_weights(&path).unwrap();
        let mut source = native(&model);
        let collect = |source: &mut dyn LogitSource| {
            let (mut places, mut logits) = (Vec::new(), Vec::new());
            let mut each = |some: &[thimble::model::ScoredPosition], row: &[f32]| {
                places.extend_from_slice(some);
                logits.extend_from_slice(row);
            };
            source.run_windows(&windows, &mut each as &mut OnLogits).unwrap();
            (places, logits)
        };
        let (together, alone) = (collect(&mut source), collect(&mut Alone(&mut source)));
        assert_eq!(together.0, alone.0, "{name}");
        assert_eq!(together.1.len(), 19 * model.spec().vocab_size, "{name}");
        let difference = together.1.iter().zip(&alone.1).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

/// Packed weights on the device against the same numbers in libtorch, which reads one
/// window a continuation.
#[cfg(feature = "torch")]
#[test]
fn packed_scores_are_those_of_libtorch() {
    use thimble::compress::{Compute, TorchLogits};
    let (_dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let out = tempfile::tempdir().unwrap();
    let recipe = file(out.path().join("recipe.toml"), SMALL);
    assert!(thimble(&["compress", path(&recipe), "--model", path(&model), "--out", path(out.path())]).status.success());
    let packed = runtime::open(out.path(), None).unwrap();
    let tasks = read(&tasks(out.path())).unwrap();
    let ours = scores(&packed, &tasks, Ask::default());
    let mut torch = TorchLogits::new(packed.store.clone(), Compute::CPU);
    let mut subject = Subject { source: &mut torch, tokenizer: packed.tokenizer().unwrap() };
    let theirs = measure(&mut subject, &tasks, Ask::default(), &Silent).unwrap();
    for (ours, theirs) in ours.iter().zip(&theirs).flat_map(|(a, b)| a.items.iter().zip(&b.items)) {
        let pairs = ours.loglikelihoods.iter().zip(&theirs.loglikelihoods);
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-3), "{ours:?} {theirs:?}");
    }
}

/// A recipe that is done at once; its last section is open.
#[cfg(feature = "torch")]
const SMALL: &str = "[calibration]\nsequences = 4\nlength = 16\n[[stage]]\n[stage.rtn]\n[evaluate]\nwindow = 16\nmax_windows = 2\n";

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn thimble(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let done = thimble(&[args, &["--json"]].concat());
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// A task of each kind, in a folder.
fn tasks(dir: &Path) -> std::path::PathBuf {
    let tasks = dir.join("tasks");
    std::fs::create_dir(&tasks).unwrap();
    let lines = |line: &dyn Fn(usize) -> Value| (0..12).map(|i| format!("{}\n", line(i))).collect::<String>();
    let word = |i: usize| format!("w{}", 3 + (i * i * 7 + i * 13) % 90);
    let some = |from: usize, n: usize| (from..from + n).map(word).collect::<Vec<_>>().join(" ");
    let choices = |i| json!({ "query": some(i, 9), "choices": [some(i + 3, 2), some(i + 5, 4), some(i + 7, 1)], "gold": i % 3, "id": i });
    let reversed = |i| json!({ "context_options": [some(i, 8), some(i + 1, 6)], "continuation": some(i + 9, 3), "gold": i % 2 });
    let cloze = |i| json!({ "context": some(i, 7), "continuation": word(i + 11) });
    file(tasks.join("choices.jsonl"), lines(&choices));
    file(tasks.join("reversed.jsonl"), lines(&reversed));
    file(tasks.join("cloze.jsonl"), lines(&cloze));
    file(tasks.join("notes.txt"), "not a task");
    tasks
}

#[test]
fn eval_reports_what_the_contract_says() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let (tasks, items) = (tasks(dir.path()), dir.path().join("items.jsonl"));
    let report = json(&["eval", path(&model), "--tasks", path(&tasks), "--items", path(&items)]);
    let found = report["tasks"].as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["choices", "cloze", "reversed"]);
    for (name, keys) in [
        ("choices", &["acc", "acc_norm", "stderr", "acc_norm_stderr", "n"][..]),
        ("cloze", &["acc", "stderr", "n", "perplexity"]),
        ("reversed", &["acc", "stderr", "n"]),
    ] {
        let mut of_task: Vec<_> = found[name].as_object().unwrap().keys().map(String::as_str).collect();
        of_task.sort_unstable();
        assert!(of_task.iter().all(|key| keys.contains(key)) && of_task.len() == keys.len(), "{name}: {of_task:?}");
        assert_eq!(found[name]["n"], 12);
    }
    assert!(report.get("perplexity").is_none() && report["size_bytes"].is_number());
    let lines: Vec<Value> = std::fs::read_to_string(&items).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 36);
    let right = lines.iter().filter(|line| line["task"] == "reversed" && line["right"] == true).count();
    assert_abs_diff_eq!(found["reversed"]["acc"].as_f64().unwrap(), right as f64 / 12.0);
    let sums = lines.iter().filter(|line| line["task"] == "cloze").map(|line| line["loglikelihoods"][0].as_f64().unwrap());
    assert_abs_diff_eq!(found["cloze"]["perplexity"].as_f64().unwrap().ln(), -sums.sum::<f64>() / 12.0, epsilon = 1e-9);

    let text = file(dir.path().join("text.txt"), damage::text(200));
    let both = json(&["eval", path(&model), "--tasks", path(&tasks), "--text", path(&text), "--window", "16", "--task-limit", "1"]);
    assert!(both["perplexity"].is_number());
    assert_eq!((&both["tasks"]["choices"]["n"], &both["tasks"]["choices"]["stderr"]), (&json!(1), &Value::Null));
    assert_eq!(thimble(&["eval", path(&model)]).status.code(), Some(2), "neither a text nor tasks");
}

#[test]
fn references_are_compared_item_by_item() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let (_other_dir, other) = copy_with_tokenizer("llama-untied-biases");
    let tasks = tasks(dir.path());
    let alone = json(&["eval", path(&other), "--tasks", path(&tasks)]);
    let report = json(&["eval", path(&model), "--tasks", path(&tasks), "--reference", path(&other)]);
    let mut differences = 0;
    for (name, score) in report["tasks"].as_object().unwrap() {
        assert_eq!(score["reference"], alone["tasks"][name], "{name}");
        let paired = &score["paired"];
        let [gained, lost] = ["gained", "lost"].map(|key| paired[key].as_u64().unwrap());
        let difference = score["acc"].as_f64().unwrap() - score["reference"]["acc"].as_f64().unwrap();
        assert_abs_diff_eq!(paired["difference"].as_f64().unwrap(), difference, epsilon = 1e-12);
        assert_abs_diff_eq!(difference, (gained as f64 - lost as f64) / 12.0, epsilon = 1e-12);
        assert_abs_diff_eq!(
            paired["p_value"].as_f64().unwrap(),
            thimble::eval::tasks::mcnemar(gained as usize, lost as usize),
            epsilon = 1e-15
        );
        differences += gained + lost;
    }
    assert!(differences > 0, "these models agree on everything: choose others");
    let itself = json(&["eval", path(&model), "--tasks", path(&tasks), "--reference", path(&model)]);
    assert_eq!(itself["tasks"]["choices"]["paired_norm"], json!({ "difference": 0.0, "gained": 0, "lost": 0, "p_value": 1.0 }));
    let table = String::from_utf8(thimble(&["eval", path(&model), "--tasks", path(&tasks), "--reference", path(&other)]).stdout).unwrap();
    assert!(["reference", "difference", "choices", "acc_norm", "perplexity"].iter().all(|word| table.contains(word)), "{table}");
}

/// Others of the same file, the same at every run, none of them twice.
#[test]
fn examples_come_before_items() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let tasks = tasks(dir.path());
    let choices = &read(&tasks.join("choices.jsonl")).unwrap()[0];
    for shots in [0, 1, 4, 11] {
        for item in 0..12 {
            let ask = Ask { limit: None, shots };
            let text = ask.examples(choices, item);
            assert_eq!(text, ask.examples(choices, item));
            let solved = |i: usize| {
                let right = &choices.items[i].answers[choices.items[i].gold];
                format!("{}{}\n\n", right.context, right.continuation)
            };
            let among: Vec<_> = (0..12).filter(|&i| text.contains(&solved(i))).collect();
            assert!(among.len() == shots && !among.contains(&item), "{shots} before {item}: {among:?}");
        }
    }
    let [none, two, again] =
        ["0", "2", "2"].map(|shots| json(&["eval", path(&model), "--tasks", path(&tasks), "--shots", shots])["tasks"].clone());
    assert!(two == again && none != two);
    let done = thimble(&["eval", path(&model), "--tasks", path(&tasks), "--shots", "12"]);
    assert_eq!(done.status.code(), Some(3));
    assert!(String::from_utf8(done.stderr).unwrap().contains("only 11 others"));
}

/// Contexts and continuations as lm-evaluation-harness splits them, on contexts that end in blanks, tabs and line breaks, empty
/// ones and those that begin with BOS (`python-compat/write_pairs.py`).
#[test]
fn pairs_of_lm_eval() {
    let expected: Value = serde_json::from_str(include_str!("data/pairs.json")).unwrap();
    let beginnings: Value = serde_json::from_str(include_str!("data/beginnings.json")).unwrap();
    let shared = data::shared("pairs_of_lm_eval");
    let mut compared = 0;
    for (name, found) in expected["ids"].as_object().unwrap() {
        let tokenizer = match (name.split_once("models/"), &shared) {
            (Some(_), None) => continue,
            (Some((_, model)), Some(shared)) => Tokenizer::find(&shared.join("models").join(model)).unwrap().unwrap(),
            (None, _) => {
                let (name, kind) = name.rsplit_once('-').unwrap();
                let mut json = beginnings["tokenizers"][name].clone();
                if kind == "bos" {
                    json["post_processor"] = json!({ "type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1] });
                }
                Tokenizer::from_file(json.to_string().into_bytes(), Path::new("tokenizer.json")).unwrap()
            }
        };
        let mut special = SpecialTokens { bos: Some(1), eos: vec![2], prefix: None };
        special.set_prefix(tokenizer.prefix());
        let reader = Reader::new(&tokenizer);
        for (pair, ids) in expected["pairs"].as_array().unwrap().iter().zip(found.as_array().unwrap()) {
            let [context, continuation] = [0, 1].map(|i| pair[i].as_str().unwrap());
            let (given, scored) = reader.pair(context, continuation, &special).unwrap();
            // What lm_eval fails on: nothing to score, or a context of blanks alone and no BOS.
            let Ok(ids) = serde_json::from_value::<[Vec<u32>; 2]>(ids.clone()) else {
                assert!(scored.is_empty() || given == [1], "{name}: {pair}: {given:?} {scored:?}");
                continue;
            };
            assert_eq!([given, scored], ids, "{name}: {pair}");
            compared += 1;
        }
    }
    assert!(compared > 140, "{compared} pairs");
}

/// The query of a task whose context ends in blanks gets lm_eval's tokens through the whole of the command's path.
#[test]
fn blanks_move_to_the_continuation() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let line = |context: &str, end: &str| json!({ "context": context, "continuation": end }).to_string();
    let score = |line: String| {
        let task = file(dir.path().join("task.jsonl"), line);
        scores(&runtime::open(&model, None).unwrap(), &read(&task).unwrap(), Ask::default())[0].items[0].loglikelihoods.clone()
    };
    let plain = score(line("w5 w6", "w7 w8"));
    for context in ["w5 w6 ", "w5 w6\n\n", "w5 w6 \t\n"] {
        assert_eq!(score(line(context, "w7 w8")), plain, "{context:?}");
    }
}

/// A context that is too long counts as if only its end had been given.
#[test]
fn long_contexts_lose_their_beginning() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let opened = runtime::open(&model, None).unwrap();
    let (context, bos) = (opened.spec().context, opened.spec().special.prefix().len());
    let words: Vec<_> = damage::text(context + 40).split(' ').map(String::from).collect();
    let line = |words: &[String]| format!("{}\n", json!({ "context": words.join(" "), "continuation": "w5 w6 w7" }));
    let kept = context - bos - 3;
    let task =
        file(dir.path().join("long.jsonl"), line(&words) + &line(&words[words.len() - kept..]) + &line(&words[words.len() - kept + 1..]));
    let found = &scores(&opened, &read(&task).unwrap(), Ask::default())[0].items;
    assert_eq!(found[0].loglikelihoods, found[1].loglikelihoods);
    assert_ne!(found[1].loglikelihoods, found[2].loglikelihoods);
}

/// What is wrong, and what the message must say besides the file's name.
const WRONG: [(&str, &str); 14] = [
    ("", "has no items"),
    ("\n{\n", "line 2: not a JSON object"),
    ("[1]\n", "line 1: not a JSON object"),
    (r#"{"query": "w3", "choices": ["w4", 5], "gold": 0}"#, "line 1: not a JSON object"),
    (r#"{"query": "w3", "query": "w3", "choices": ["w4", "w5"], "gold": 0}"#, "duplicate field `query`"),
    (r#"{"query": "w3", "gold": 0}"#, "line 1: it must have query, choices and gold"),
    (r#"{"query": "w3", "choices": [], "gold": 0}"#, "line 1: choices has 0 entries"),
    (r#"{"query": "w3", "choices": ["w4", " "], "gold": 0}"#, "line 1: choices[1] is empty"),
    (r#"{"query": "w3", "choices": ["w4", "w5"], "gold": 2}"#, "line 1: gold is 2"),
    (r#"{"query": "w3", "choices": ["w4", "w5"], "gold": -1}"#, "line 1: gold is -1"),
    (r#"{"query": "w3", "choices": ["w4", "w5"]}"#, "line 1: gold is missing"),
    (r#"{"context_options": ["w3", "w4"], "continuation": "", "gold": 0}"#, "line 1: continuation is empty"),
    (r#"{"context": "w3", "continuation": ""}"#, "line 1: continuation is empty"),
    (
        "{\"context\": \"w3\", \"continuation\": \"w4\"}\n{\"context_options\": [\"w3\", \"w4\"], \"continuation\": \"w5\", \"gold\": 0}\n",
        "line 2: it asks for one of several beginnings, the lines before for a last word",
    ),
];

#[test]
fn bad_files_are_told_by_line() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let task = dir.path().join("bad.jsonl");
    for (content, expected) in WRONG {
        std::fs::write(&task, content).unwrap();
        let done = thimble(&["eval", path(&model), "--tasks", path(&task)]);
        let message = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(3), "{content}: {message}");
        assert!(message.contains("bad.jsonl") && message.contains(expected) && message.lines().count() == 1, "{content}: {message}");
    }
    let long = json!({ "context": "w3", "continuation": damage::text(5000) });
    std::fs::write(&task, long.to_string()).unwrap();
    let message = String::from_utf8(thimble(&["eval", path(&model), "--tasks", path(&task)]).stderr).unwrap();
    assert!(message.contains("line 1: the continuation has 5000 tokens"), "{message}");
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let message = String::from_utf8(thimble(&["eval", path(&model), "--tasks", path(&empty)]).stderr).unwrap();
    assert!(message.contains("holds no task"), "{message}");
}

/// Without a tokenizer that puts BOS none is put, whatever config.json says; nothing is scored behind nothing.
#[test]
fn bos_is_put_where_the_tokenizer_puts_it() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let task = |context: &str| {
        read(&file(dir.path().join("task.jsonl"), json!({ "context": context, "continuation": "w4" }).to_string())).unwrap()
    };
    let bare = runtime::open(&model, None).unwrap();
    assert_eq!((bare.spec().special.bos, bare.spec().special.prefix()), (Some(1), &[][..]));
    let (_dir, with) = copy_with_tokenizer("llama-gqa-tied");
    damage::edit_json(&with.join("tokenizer.json"), |json| {
        json["post_processor"] = json!({ "type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1] });
    });
    let with = runtime::open(&with, None).unwrap();
    let put = scores(&with, &task("w9"), Ask::default());
    assert_eq!(scores(&bare, &task("<s> w9"), Ask::default()), put);
    assert_eq!(scores(&with, &task("<s> w9"), Ask::default()), put, "BOS is not put twice");
    assert_ne!(scores(&bare, &task("w9"), Ask::default())[0].items[0].loglikelihoods, put[0].items[0].loglikelihoods);
    // Nothing to continue: behind BOS, as in lm_eval.
    assert_eq!(scores(&bare, &task(""), Ask::default()), scores(&with, &task(""), Ask::default()));
    damage::edit_json(&model.join("config.json"), |config| {
        config["bos_token_id"] = Value::Null;
        config["eos_token_id"] = Value::Null;
    });
    task("");
    let message = String::from_utf8(thimble(&["eval", path(&model), "--tasks", path(&dir.path().join("task.jsonl"))]).stderr).unwrap();
    assert!(message.contains("line 1: nothing comes before the continuation"), "{message}");
}

/// `[gate] min_accuracy`.
#[cfg(feature = "torch")]
#[test]
fn recipes_gate_on_accuracy() {
    let (dir, model) = copy_with_tokenizer("llama-gqa-tied");
    tasks(dir.path());
    let recipe = file(dir.path().join("recipe.toml"), format!("{SMALL}tasks = 'tasks'\ntask_limit = 10\n"));
    let out = dir.path().join("out");
    let compress = |sets: &[&str]| {
        let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
        thimble(&[&["compress", path(&recipe), "--model", path(&model), "--out", path(&out), "--json"], &sets[..]].concat())
    };
    let report = |done: &Output| serde_json::from_slice::<Value>(&done.stdout).unwrap();

    let open = compress(&[]);
    assert!(open.status.success(), "{}", String::from_utf8_lossy(&open.stderr));
    let after = &report(&open)["after"]["tasks"];
    for name in ["choices", "cloze", "reversed"] {
        assert_eq!(after[name]["n"], 10);
        assert_eq!(after[name]["reference"], report(&open)["before"]["tasks"][name], "{name}");
    }
    // As shipped: what eval says of the written file.
    let eval = json(&["eval", path(&out), "--tasks", path(&dir.path().join("tasks")), "--task-limit", "10", "--reference", path(&model)]);
    assert_eq!(&eval["tasks"], after);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("choices, accuracy") && page.contains("cloze, perplexity a word"), "{page}");

    let acc = after["choices"]["acc"].as_f64().unwrap();
    let kept = compress(&[&format!("gate.min_accuracy.choices={acc}")]);
    assert_eq!((kept.status.code(), &report(&kept)["gate"]), (Some(0), &json!("passed")));
    let missed = compress(&[&format!("gate.min_accuracy={{ choices = {}, cloze = 0.0 }}", acc + 0.05)]);
    assert_eq!((missed.status.code(), &report(&missed)["gate"]), (Some(1), &json!("missed")));

    for (set, expected) in [
        ("gate.min_accuracy.arc_easy=0.5", "there is no task \"arc_easy\" in"),
        ("gate.min_accuracy.arc_easy=0.5", "there are choices, cloze, reversed"),
        ("gate.min_accuracy.choices=50.0", "0.25 means 25 %"),
        ("evaluate.task_limit=0", "task_limit must be at least 1"),
        ("evaluate.tasks=nowhere.jsonl", "nowhere.jsonl"),
    ] {
        let done = compress(&[set]);
        let message = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code().is_some_and(|code| code == 2 || code == 3) && message.contains(expected), "{set}: {message}");
    }
    let recipe = file(dir.path().join("recipe.toml"), format!("{SMALL}[gate]\nmin_accuracy = {{ choices = 0.5 }}\n"));
    let done = thimble(&["compress", path(&recipe), "--model", path(&model), "--out", path(&out)]);
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("min_accuracy needs tasks"));
}
