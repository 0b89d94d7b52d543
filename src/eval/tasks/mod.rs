//! Accuracy on tasks: multiple choice, the same end after several beginnings, and
//! the last word. A task is a file of JSON lines; what it asks is told by its fields:
//!
//! | fields | asks | right |
//! |---|---|---|
//! | `query`, `choices`, `gold` | which " " + choice follows `query` + "Answer:" | the likeliest is the `gold`th; `acc_norm`: the likeliest a byte |
//! | `context_options`, `continuation`, `gold` | after which beginning " " + `continuation` is likeliest | it is the `gold`th |
//! | `context`, `continuation` | " " + `continuation` after `context` | each of its tokens is the likeliest |
//!
//! The log-likelihood of a continuation is the sum over its tokens given all before;
//! it is tokenised apart from its context, without its blank where the tokenizer puts
//! one. A beginning-of-text token comes first where the model has one. A context that
//! does not fit loses its beginning, that token aside. (The first and the last are how
//! lm-evaluation-harness asks: Gao et al. 2021.)

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
