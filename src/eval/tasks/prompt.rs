//! From an item to the windows that are scored.

use super::read::{Answer, Item, Task};
use crate::error::{Error, Result};
use crate::model::{ModelSpec, Window};
use crate::random::Random;
use crate::spec::SpecialTokens;
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

/// Makes windows of items by a tokenizer, as lm-evaluation-harness pairs a context with a continuation.
pub struct Reader<'a> {
    tokenizer: &'a Tokenizer,
}

/// Ids of a context and of the continuation that is scored behind it.
type Pair = (Vec<u32>, Vec<u32>);

impl<'a> Reader<'a> {
    /// A reader of texts.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer }
    }

    /// The windows of an item's answers, in their order; `examples` come before each.
    pub fn windows(&self, item: &Item, examples: &str, spec: &ModelSpec) -> std::result::Result<Vec<Window>, String> {
        let special = &spec.special;
        // Answers to one question share a context, which may be long.
        let mut last: Option<(&str, Vec<u32>)> = None;
        let mut windows = Vec::with_capacity(item.answers.len());
        for Answer { context, continuation } in &item.answers {
            let text = format!("{examples}{context}");
            if last.as_ref().is_none_or(|(other, _)| other != context) {
                last = Some((context, self.given(&text, special).map_err(|e| e.to_string())?));
            }
            let (_, given) = last.as_ref().expect("just encoded");
            let pair = self.pair_behind(given, &text, continuation, special).map_err(|e| e.to_string())?;
            windows.push(window(spec, &pair)?);
        }
        Ok(windows)
    }

    /// Ids of a context and its continuation. Blanks and line breaks at the context's end move to
    /// the continuation; both are tokenised as one text, and the continuation's tokens are those
    /// behind as many as the context alone has. What the tokenizer puts before a text comes
    /// first, unless the text begins with it. Without a context the model's BOS token is the
    /// context, or the first token that ends a text where there is no BOS.
    ///
    /// Source: lm-evaluation-harness 0.4.13, `lm_eval/api/model.py` (`TemplateLM._encode_pair` and
    /// `loglikelihood`).
    pub fn pair(&self, context: &str, continuation: &str, special: &SpecialTokens) -> Result<Pair> {
        self.pair_behind(&self.given(context, special)?, context, continuation, special)
    }

    /// Ids of a context without the blanks at its end.
    fn given(&self, context: &str, special: &SpecialTokens) -> Result<Vec<u32>> {
        match context.trim_end_matches(is_blank) {
            "" => Ok(special.prefix().to_vec()),
            trimmed => self.encode(trimmed, special),
        }
    }

    /// [`Reader::pair`] of a context whose ids are `given`.
    fn pair_behind(&self, given: &[u32], context: &str, continuation: &str, special: &SpecialTokens) -> Result<Pair> {
        let whole = match context {
            "" => self.tokenizer.encode(continuation)?,
            _ => self.encode(&format!("{context}{continuation}"), special)?,
        };
        if !context.is_empty() && !given.is_empty() {
            let scored = whole.get(given.len()..).unwrap_or_default().to_vec();
            return Ok((given.to_vec(), scored));
        }
        let start = special.bos.or(special.eos.first().copied());
        Ok(match start {
            Some(start) if whole.first() != Some(&start) => (vec![start], whole),
            Some(_) => (whole[..1].to_vec(), whole[1..].to_vec()),
            None => (Vec::new(), whole),
        })
    }

    /// With what the tokenizer puts before a text.
    fn encode(&self, text: &str, special: &SpecialTokens) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(text)?;
        let prefix = special.prefix();
        Ok(if ids.starts_with(prefix) { ids } else { [prefix, &ids].concat() })
    }
}

/// White space as Python's `str.rstrip` takes it off.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A context, shortened at its beginning to what fits, and its continuation. What the tokenizer
/// puts before a text stays.
fn window(spec: &ModelSpec, (context, continuation): &Pair) -> std::result::Result<Window, String> {
    let prefix = spec.special.prefix();
    let (first, context) = if context.starts_with(prefix) { context.split_at(prefix.len()) } else { context.split_at(0) };
    if continuation.is_empty() {
        return Err("the continuation has no tokens".into());
    }
    let room = spec.context.checked_sub(first.len() + continuation.len());
    let room = room.ok_or_else(|| {
        format!("the continuation has {} tokens, more than fit into the model's context of {}", continuation.len(), spec.context)
    })?;
    let kept = &context[context.len() - context.len().min(room)..];
    let given = first.len() + kept.len();
    if given == 0 {
        return Err(
            "nothing comes before the continuation: the context is empty, and the model has no token that begins or ends a text".into()
        );
    }
    Ok(Window { ids: [first, kept, continuation].concat(), scored: given - 1..given + continuation.len() - 1 })
}
