//! Files of items. All kinds are read into the same form: answers, each a
//! continuation behind a context.

use crate::error::{Error, Result};
use crate::text::read::whole;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its file's name without `.jsonl`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What it asks.
    pub kind: Kind,
    /// In the order of the file.
    pub items: Vec<Item>,
}

/// What a task asks; see [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which continuation of one context.
    Choices,
    /// Which context of one continuation.
    Reversed,
    /// One continuation, word for word.
    Cloze,
}

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where it stands in its file, from 1.
    pub line: usize,
    /// What is compared.
    pub answers: Vec<Answer>,
    /// Which of them is right.
    pub gold: usize,
}

/// A continuation behind a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What is given.
    pub context: String,
    /// What is scored.
    pub continuation: String,
}

/// Behind a query, before a choice.
const CUE: &str = "Answer:";
/// Ending of a task's file.
const ENDING: &str = "jsonl";

/// All fields that are known; others are left alone.
#[derive(Deserialize)]
struct Line {
    query: Option<String>,
    choices: Option<Vec<String>>,
    context_options: Option<Vec<String>>,
    context: Option<String>,
    continuation: Option<String>,
    gold: Option<i64>,
}

/// Reads a file, or all `*.jsonl` of a folder, by the alphabet.
pub fn read(path: &Path) -> Result<Vec<Task>> {
    files(path)?.iter().map(|file| read_file(file)).collect()
}

/// Names of the tasks that [`read`] would find.
pub fn names(path: &Path) -> Result<Vec<String>> {
    Ok(files(path)?.iter().map(|file| name(file)).collect())
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    let entries = entries.map(|entry| Ok(entry.map_err(Error::io("read", path))?.path())).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<_> = entries.into_iter().filter(|p| p.extension().is_some_and(|e| e == ENDING)).collect();
    found.sort();
    if found.is_empty() {
        return Err(Error::format(path, format!("holds no task: no file ends in .{ENDING}")));
    }
    Ok(found)
}

fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_file(path: &Path) -> Result<Task> {
    let text = whole(path)?;
    let (mut kind, mut items) = (None, Vec::new());
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let wrong = |reason| Error::format(path, format!("line {line}: {reason}"));
        let (of_line, answers, gold) = item(text).map_err(wrong)?;
        let of_task = *kind.get_or_insert(of_line);
        if of_line != of_task {
            return Err(wrong(format!(
                "it asks for {}, the lines before for {}: put each into a file of its own",
                of_line.what(),
                of_task.what()
            )));
        }
        items.push(Item { line, answers, gold });
    }
    let kind = kind.ok_or_else(|| Error::format(path, "has no items: a task has one JSON object a line"))?;
    Ok(Task { name: name(path), path: path.to_owned(), kind, items })
}

impl Kind {
    fn what(self) -> &'static str {
        match self {
            Kind::Choices => "one of several choices",
            Kind::Reversed => "one of several beginnings",
            Kind::Cloze => "a last word",
        }
    }
}

fn item(text: &str) -> std::result::Result<(Kind, Vec<Answer>, usize), String> {
    let answer = |context: String, continuation: &str| Answer { context, continuation: format!(" {continuation}") };
    match serde_json::from_str(text).map_err(|e| format!("not a JSON object with the fields of a task: {e}"))? {
        Line { query: Some(query), choices: Some(choices), context_options: None, context: None, continuation: None, gold } => {
            let gold = gold_of(gold, &choices, "choices")?;
            let context = format!("{query}{CUE}");
            Ok((Kind::Choices, choices.iter().map(|choice| answer(context.clone(), choice)).collect(), gold))
        }
        Line { context_options: Some(options), continuation: Some(end), query: None, choices: None, context: None, gold } => {
            let gold = gold_of(gold, &options, "context_options")?;
            not_empty("continuation", &end)?;
            Ok((Kind::Reversed, options.into_iter().map(|option| answer(option, &end)).collect(), gold))
        }
        Line { context: Some(context), continuation: Some(end), query: None, choices: None, context_options: None, gold: _ } => {
            not_empty("continuation", &end)?;
            Ok((Kind::Cloze, vec![answer(context, &end)], 0))
        }
        _ => Err("it must have query, choices and gold, or context_options, continuation and gold, or context and continuation".into()),
    }
}

fn gold_of(gold: Option<i64>, answers: &[String], field: &str) -> std::result::Result<usize, String> {
    if answers.len() < 2 {
        return Err(format!("{field} has {} entries; it must have 2 at least", answers.len()));
    }
    for (i, answer) in answers.iter().enumerate() {
        not_empty(&format!("{field}[{i}]"), answer)?;
    }
    let gold = gold.ok_or("gold is missing: the number of the right answer, from 0")?;
    usize::try_from(gold).ok().filter(|&gold| gold < answers.len()).ok_or_else(|| {
        let last = answers.len() - 1;
        format!("gold is {gold}, but {field} has {} entries: it must be 0 to {last}", answers.len())
    })
}

fn not_empty(field: &str, text: &str) -> std::result::Result<(), String> {
    if text.trim().is_empty() { Err(format!("{field} is empty")) } else { Ok(()) }
}
