//! `thimble eval`: what a text and tasks say of a model.

use super::output::{Output, bytes, table};
use super::progress::Bars;
use super::source::{ActivationsArg, BackendArgs, Computed, ModelArgs};
use super::{CommandResult, number};
use crate::checkpoint::write_atomically;
use crate::error::{Error, Result};
use crate::eval::tasks::{Accuracy, Ask, Subject, Task, TaskItems, TaskScore, compare, measure, read};
use crate::eval::{Evaluation, Footprint, Protocol, default_window, evaluate, tokens_needed, windows};
use crate::paths::Inputs;
use crate::runtime::{self, CommonVocabulary, Model};
use crate::text::read::TextReader;
use crate::text::stream::TokenStream;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure perplexity, divergence from a reference, and accuracy on tasks
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("measured").required(true).multiple(true).args(["text", "tasks"])))]
#[command(after_help = "\
Examples:
  thimble eval ./small --text held-out.txt
  thimble eval ./small --text held-out.txt --reference ./my-model --json
  thimble eval ./small --tasks ./tasks --reference ./my-model
  thimble eval ./small --tasks arc_easy.jsonl --task-limit 200 --shots 5 --items items.jsonl
  thimble eval stories260K.bin --text valid.txt --protocol bos --window 512
  zcat held-out.txt.gz | thimble eval ./small --text - --max-windows 64

A task is a file of JSON lines: query, choices and gold; context_options, continuation and gold;
or context and continuation.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Held-out text; - reads standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tasks: a folder of *.jsonl, or one such file
    #[arg(long, value_name = "DIR")]
    tasks: Option<PathBuf>,
    /// Only the first N items of each task
    #[arg(long, value_name = "N", requires = "tasks", value_parser = number(1..=u64::from(u32::MAX)))]
    task_limit: Option<usize>,
    /// Put K solved items of the same file, drawn at random and the same at every run, before each
    #[arg(long, value_name = "K", requires = "tasks", default_value_t = 0, value_parser = number(0..=1024))]
    shots: usize,
    /// Write what the model makes of each item (JSON lines)
    #[arg(long, value_name = "FILE", requires = "tasks")]
    items: Option<PathBuf>,
    /// Compare with this model: KL divergence and top-1 agreement; on tasks, McNemar's test
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// How the text is cut and what is scored
    #[arg(long, requires = "text", value_enum, default_value = "plain")]
    protocol: Protocol,
    /// Tokens of a window; min(2048, context) unless told
    #[arg(long, requires = "text", value_name = "N")]
    window: Option<usize>,
    /// Only the first N windows
    #[arg(long, requires = "text", value_name = "N", value_parser = number(1..=u64::from(u32::MAX)))]
    max_windows: Option<usize>,
    /// Activations against packed weights, in the native runtime; int8 unless told
    #[arg(long, value_enum)]
    activations: Option<ActivationsArg>,
    #[command(flatten)]
    backend: BackendArgs,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    computed: Computed,
    #[serde(flatten)]
    evaluation: Option<Evaluation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Accuracy>,
    size_bytes: u64,
    #[serde(flatten)]
    footprint: Footprint,
}

pub fn main(args: Args, threads: usize, output: Output) -> CommandResult {
    let computed = args.backend.computed(args.activations, ActivationsArg::Int8)?;
    let model = args.model.open()?;
    // A reference reads tasks by its own tokenizer, and a text by the model's.
    let reference = args.reference.as_deref().map(|path| runtime::open(path, None)).transpose()?;
    let tasks = args.tasks.as_deref().map(read).transpose()?;
    if let Some(items) = &args.items {
        inputs(&args, &model, reference.as_ref(), tasks.as_deref().unwrap_or_default()).refuse_file("--items", items)?;
    }
    let evaluation = args.text.as_deref().map(|text| on_text(&args, computed, text, &model, reference.as_ref(), threads)).transpose()?;
    let tasks = tasks.map(|tasks| on_tasks(&args, computed, &tasks, &model, reference.as_ref(), threads)).transpose()?;
    let report = Report { computed, evaluation, tasks, size_bytes: model.size_bytes(), footprint: Footprint::of(&*model.store)? };
    output.print(&report, |r| {
        let mut rows = r.evaluation.as_ref().map_or_else(Vec::new, of_text);
        rows.push(("size", bytes(r.size_bytes)));
        rows.push(("bits per weight", format!("{:.3}", r.footprint.bits_per_weight)));
        let rows: Vec<_> = rows.into_iter().map(|(k, v)| vec![k.to_owned(), v]).collect();
        let tasks = r.tasks.as_ref().map(|tasks| format!("{}\n\n", of_tasks(tasks)));
        format!("{}{}", tasks.unwrap_or_default(), table(&rows))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Files that are read.
fn inputs(args: &Args, model: &Model, reference: Option<&Model>, tasks: &[Task]) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.add_all("the model", model.input_files());
    inputs.add_all("--reference", reference.iter().flat_map(|model| model.input_files()));
    inputs.add_all("--text", &args.text);
    inputs.add_all("--tasks", tasks.iter().map(|task| &task.path));
    inputs
}

fn on_text(args: &Args, computed: Computed, text: &Path, model: &Model, reference: Option<&Model>, threads: usize) -> Result<Evaluation> {
    let window = args.window.unwrap_or_else(|| default_window(model.spec()));
    let stream = TokenStream::new(model.tokenizer()?, TextReader::open(text)?);
    let ids = stream.first(tokens_needed(window, args.max_windows), &Bars::default())?;
    let windows = windows(&ids, model.spec(), args.protocol, window, args.max_windows)?;
    // Of a long text they are many, and the windows have them too.
    drop(ids);
    if let Some(bos) = args.protocol.bos(model.spec()).filter(|bos| model.spec().special.prefix() != [*bos]) {
        let protocol = format!("{:?}", args.protocol).to_lowercase();
        tracing::warn!(
            "protocol {protocol} puts token {bos} (BOS) before each window, which the model's tokenizer does not put before texts"
        );
    }
    if let Some(reference) = reference {
        check_reference(reference, model, window)?;
    }
    let mut source = computed.logits(model, threads)?;
    let mut reference = reference.map(|r| computed.logits(r, threads)).transpose()?;
    let against = reference.as_mut().map(|r| r.as_mut() as _);
    Ok(evaluate(source.as_mut(), against, &windows, (args.protocol, window), &Bars::default())?.model)
}

/// Fails where a reference cannot read what the model does.
fn check_reference(reference: &Model, model: &Model, window: usize) -> Result<()> {
    if let Some(its) = &reference.tokenizer {
        model.tokenizer()?.check_same(its)?;
    }
    let vocabulary = CommonVocabulary::of(model.spec().vocab_size, model.tokenizer.as_ref(), reference, ["model", "reference"])?;
    if let Some(remark) = vocabulary.remark {
        tracing::warn!("{}: {remark}", reference.path.display());
    }
    let context = reference.spec().context;
    if window > context {
        return Err(Error::Usage(format!(
            "the reference's context of {context} is shorter than a window of {window}: set --window {context}"
        )));
    }
    Ok(())
}

fn on_tasks(args: &Args, computed: Computed, tasks: &[Task], model: &Model, reference: Option<&Model>, threads: usize) -> Result<Accuracy> {
    let ask = Ask { limit: args.task_limit, shots: args.shots };
    let measure = |asked: &Model| {
        let tokenizer = asked.tokenizer.as_ref().map_or_else(|| model.tokenizer(), Ok)?;
        let mut source = computed.logits(asked, threads)?;
        measure(&mut Subject { source: source.as_mut(), tokenizer }, tasks, ask, &Bars::default())
    };
    let ours = measure(model)?;
    if let Some(file) = &args.items {
        write_items(file, &ours)?;
    }
    let theirs = reference.map(measure).transpose()?;
    Ok(compare(&ours, theirs.as_deref()))
}

/// One line an item, with the name of its task.
fn write_items(file: &Path, tasks: &[TaskItems]) -> Result<()> {
    let mut text = String::new();
    for task in tasks {
        for item in &task.items {
            let mut line = serde_json::to_value(item).expect("a score is JSON");
            line["task"] = task.name.as_str().into();
            line["right"] = item.right(task.kind).into();
            text += &format!("{line}\n");
        }
    }
    write_atomically(file, |out| out.write_all(text.as_bytes()))
}

fn of_text(e: &Evaluation) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("perplexity", format!("{:.4}", e.perplexity)),
        ("loss", format!("{:.6} nats a token", e.loss)),
        ("scored", format!("{} tokens in {} windows of {}", e.tokens, e.windows, e.window)),
    ];
    rows.extend(e.bos_token_id.map(|id| ("before each window", format!("token {id} (BOS)"))));
    if let Some(d) = &e.divergence {
        rows.push(("KL, mean", format!("{:.6} nats", d.kl_mean)));
        rows.push(("KL, 99th percentile", format!("{:.6}", d.kl_p99)));
        rows.push(("KL, greatest", format!("{:.6}", d.kl_max)));
        rows.push(("top-1 agreement", format!("{:.2} %", 100.0 * d.top1_agreement)));
    }
    rows
}

/// A row a figure: the model, the reference, and what lies between them.
fn of_tasks(tasks: &Accuracy) -> String {
    let percent = |share: f64, stderr: Option<f64>| match stderr {
        Some(stderr) => format!("{:.2} ± {:.2} %", 100.0 * share, 100.0 * stderr),
        None => format!("{:.2} %", 100.0 * share),
    };
    let acc = |s: &TaskScore| percent(s.acc, s.stderr);
    let norm = |s: &TaskScore| s.acc_norm.map(|acc| percent(acc, s.acc_norm_stderr));
    let perplexity = |s: &TaskScore| s.perplexity.map(|p| format!("{p:.4}"));
    let mut rows = Vec::new();
    for (name, score) in tasks {
        let against = score.against.as_ref();
        let mut row = |what: &str, of: &dyn Fn(&TaskScore) -> Option<String>, paired: Option<&crate::eval::tasks::Paired>| {
            let Some(ours) = of(score) else { return };
            let theirs = against.and_then(|a| of(&a.reference)).into_iter();
            let paired = paired.into_iter().flat_map(|p| [format!("{:+.2}", 100.0 * p.difference), format!("{:.4}", p.p_value)]);
            let first = [name.clone(), score.n.to_string(), what.to_owned(), ours];
            rows.push(first.into_iter().chain(theirs).chain(paired).collect::<Vec<_>>());
        };
        row("acc", &|s| Some(acc(s)), against.map(|a| &a.paired));
        row("acc_norm", &norm, against.and_then(|a| a.paired_norm.as_ref()));
        row("perplexity", &perplexity, None);
    }
    let compared = tasks.values().any(|s| s.against.is_some());
    let head = ["task", "items", "", "model", "reference", "difference", "p"];
    let head = head[..if compared { 7 } else { 4 }].iter().map(|h| h.to_string()).collect();
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}
