//! Measuring a model: perplexity over a text, divergence from a reference, size
//! and speed.

mod divergence;
mod footprint;
mod perplexity;
mod protocol;
pub mod speed;

pub use footprint::Footprint;
pub use perplexity::{Evaluation, Measured, evaluate};
pub use protocol::{MIN_WINDOW, Protocol, Window, default_window, windows};
