//! Accuracy on tasks: multiple choice, the same end after several beginnings, and
//! the last word. A task is a file of JSON lines; what it asks is told by its fields:
//!
//! | fields | asks | right |
//! |---|---|---|
//! | `query`, `choices`, `gold` | which " " + choice follows `query` + "Answer:" | the likeliest is the `gold`th; `acc_norm`: the likeliest a byte |
//! | `context_options`, `continuation`, `gold` | after which beginning " " + `continuation` is likeliest | it is the `gold`th |
//! | `context`, `continuation` | " " + `continuation` after `context` | each of its tokens is the likeliest |
//!
//! The log-likelihood of a continuation is the sum over its tokens given all before.
//! Context and continuation are tokenised as one text, blanks and line breaks between them
//! counting as the continuation's ([`Reader::pair`]). BOS comes first where the tokenizer
//! puts it before texts. A context that does not fit loses its beginning, BOS aside.
//!
//! These are the tokens of lm-evaluation-harness 0.4.13 (Gao et al. 2021), with two differences: it
//! takes BOS off a context that does not fit, and its `acc_norm` divides by the characters of the
//! choice without the blank before it, where this divides by bytes with that blank.

mod mcnemar;
mod prompt;
mod read;
mod score;
mod summary;

pub use mcnemar::mcnemar;
pub use prompt::{Ask, Reader};
pub use read::{Answer, Item, Kind, Task, names, read};
pub use score::{ItemScore, Subject, TaskItems, measure};
pub use summary::{Accuracy, Against, Paired, TaskScore, compare};
