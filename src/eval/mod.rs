//! Measuring a model: perplexity over a text, divergence from a reference, accuracy
//! on tasks, size and speed.

mod divergence;
mod footprint;
mod perplexity;
mod protocol;
pub mod speed;
pub mod tasks;

pub use footprint::Footprint;
pub use perplexity::{Evaluation, Measured, evaluate};
pub use protocol::{MIN_WINDOW, Protocol, default_window, tokens_needed, windows};
