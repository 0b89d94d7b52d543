//! From an item to the windows that are scored.

use super::read::{Answer, Item, Task};
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Window};
use crate::random::Random;
use crate::text::Tokenizer;

/// How tasks are put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Only the first items of each.
    pub limit: Option<usize>,
    /// Solved examples before each item, others of its file, drawn anew for each:
    /// the same at every run. They are separated by a blank line.
    pub shots: usize,
}

/// Between examples.
const SEPARATOR: &str = "\n\n";
/// The seed of examples.
const SEED: u64 = 0;

impl Ask {
    /// Fails where a task has too few items for the examples.
    pub fn check(&self, task: &Task) -> Result<()> {
        let others = task.items.len() - 1;
        if self.shots > others {
            let reason = format!("{} examples are to come before each item, but only {others} others are there", self.shots);
            return Err(Error::format(&task.path, reason));
        }
        Ok(())
    }

    /// The items that are asked.
    pub fn items<'a>(&self, task: &'a Task) -> &'a [Item] {
        &task.items[..self.limit.unwrap_or(usize::MAX).min(task.items.len())]
    }

    /// Examples before an item, as text.
    pub fn examples(&self, task: &Task, item: usize) -> String {
        let random = Random::new(SEED, item as u64);
        let mut chosen = Vec::new();
        let drawn = (0..).map(|counter| random.below(task.items.len() as u64, counter) as usize);
        for other in drawn.take_while(|_| self.shots > 0) {
            if other != item && !chosen.contains(&other) {
                chosen.push(other);
            }
            if chosen.len() == self.shots {
                break;
            }
        }
        let solved = |&i: &usize| {
            let Item { answers, gold, .. } = &task.items[i];
            let Answer { context, continuation } = &answers[*gold];
            format!("{context}{continuation}{SEPARATOR}")
        };
        chosen.iter().map(solved).collect()
    }
}

/// Makes windows of items by a tokenizer.
pub struct Reader<'a> {
    tokenizer: &'a Tokenizer,
    /// Whether the tokenizer puts a blank before every text (sentencepiece's dummy
    /// prefix): a continuation's own would be a second one.
    puts_blank: bool,
}

impl<'a> Reader<'a> {
    /// Finds out how the tokenizer begins a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        let [sentence, with, without] = ["a b", " b", "b"].map(|text| tokenizer.encode(text));
        let sentence = sentence?;
        Ok(Self { tokenizer, puts_blank: !sentence.ends_with(&with?) && sentence.ends_with(&without?) })
    }

    /// The windows of an item's answers, in their order; `examples` come before each.
    pub fn windows(&self, item: &Item, examples: &str, spec: &ModelSpec) -> std::result::Result<Vec<Window>, String> {
        let encode = |text: &str| self.tokenizer.encode(text).map_err(|e| e.to_string());
        let mut windows = Vec::new();
        let mut last: Option<(&str, Vec<u32>)> = None;
        for Answer { context, continuation } in &item.answers {
            if last.as_ref().is_none_or(|(text, _)| text != context) {
                last = Some((context, encode(&format!("{examples}{context}"))?));
            }
            let (_, given) = last.as_ref().expect("just encoded");
            let continuation = continuation.strip_prefix(' ').filter(|_| self.puts_blank).unwrap_or(continuation);
            windows.push(window(spec, given, &encode(continuation)?)?);
        }
        Ok(windows)
    }
}

/// A context, shortened at its beginning to what fits, and its continuation.
fn window(spec: &ModelSpec, context: &[u32], continuation: &[u32]) -> std::result::Result<Window, String> {
    let bos = spec.special.bos.as_slice();
    if continuation.is_empty() {
        return Err("the continuation has no tokens".into());
    }
    let room = spec.context.checked_sub(bos.len() + continuation.len());
    let room = room.ok_or_else(|| {
        format!("the continuation has {} tokens, more than fit into the model's context of {}", continuation.len(), spec.context)
    })?;
    let kept = &context[context.len() - context.len().min(room)..];
    let given = bos.len() + kept.len();
    if given == 0 {
        return Err("nothing comes before the continuation: the context is empty, and the model has no beginning-of-text token".into());
    }
    Ok(Window { ids: [bos, kept, continuation].concat(), scored: given - 1..given + continuation.len() - 1 })
}
