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
        let wrong = |reason: ItemError| Error::format(path, format!("line {line}: {reason}"));
        let (of_line, answers, gold) = item(text).map_err(wrong)?;
        let of_task = *kind.get_or_insert(of_line);
        if of_line != of_task {
            return Err(wrong(ItemError::OtherKind { found: of_line, before: of_task }));
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

/// A line that is not an item.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    #[error("not a JSON object with the fields of a task: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("it must have query, choices and gold, or context_options, continuation and gold, or context and continuation")]
    Fields,
    #[error("{field} has {found} entries; it must have 2 at least")]
    TooFew { field: &'static str, found: usize },
    /// `index` is the entry of a field that is a list.
    #[error("{field}{} is empty", index.map_or(String::new(), |index| format!("[{index}]")))]
    Empty { field: &'static str, index: Option<usize> },
    #[error("gold is missing: the number of the right answer, from 0")]
    NoGold,
    #[error("gold is {gold}, but {field} has {entries} entries: it must be 0 to {}", entries - 1)]
    Gold { gold: i64, field: &'static str, entries: usize },
    #[error("it asks for {}, the lines before for {}: put each into a file of its own", found.what(), before.what())]
    OtherKind { found: Kind, before: Kind },
}

fn item(text: &str) -> std::result::Result<(Kind, Vec<Answer>, usize), ItemError> {
    let answer = |context: String, continuation: &str| Answer { context, continuation: format!(" {continuation}") };
    match serde_json::from_str(text)? {
        Line { query: Some(query), choices: Some(choices), context_options: None, context: None, continuation: None, gold } => {
            let gold = gold_of(gold, &choices, "choices")?;
            let context = format!("{query}{CUE}");
            Ok((Kind::Choices, choices.iter().map(|choice| answer(context.clone(), choice)).collect(), gold))
        }
        Line { context_options: Some(options), continuation: Some(end), query: None, choices: None, context: None, gold } => {
            let gold = gold_of(gold, &options, "context_options")?;
            not_empty("continuation", None, &end)?;
            Ok((Kind::Reversed, options.into_iter().map(|option| answer(option, &end)).collect(), gold))
        }
        Line { context: Some(context), continuation: Some(end), query: None, choices: None, context_options: None, gold: _ } => {
            not_empty("continuation", None, &end)?;
            Ok((Kind::Cloze, vec![answer(context, &end)], 0))
        }
        _ => Err(ItemError::Fields),
    }
}

fn gold_of(gold: Option<i64>, answers: &[String], field: &'static str) -> std::result::Result<usize, ItemError> {
    let entries = answers.len();
    if entries < 2 {
        return Err(ItemError::TooFew { field, found: entries });
    }
    for (i, answer) in answers.iter().enumerate() {
        not_empty(field, Some(i), answer)?;
    }
    let gold = gold.ok_or(ItemError::NoGold)?;
    usize::try_from(gold).ok().filter(|&gold| gold < entries).ok_or(ItemError::Gold { gold, field, entries })
}

fn not_empty(field: &'static str, index: Option<usize>, text: &str) -> std::result::Result<(), ItemError> {
    if text.trim().is_empty() { Err(ItemError::Empty { field, index }) } else { Ok(()) }
}
