//! Measuring a model: perplexity over a text, and divergence from a reference.

mod divergence;
mod footprint;
mod perplexity;
mod protocol;

pub use footprint::Footprint;
pub use perplexity::{Evaluation, Measured, evaluate};
pub use protocol::{MIN_WINDOW, Protocol, Window, default_window, windows};
