//! The trainer: variables of a network follow the gradients of an objective over a
//! corpus. What it is trained for is the objective's business.

mod adapter;
mod network;
mod optimizer;
mod rounded;
mod schedule;
mod state;
mod tape;
mod trainer;

pub use adapter::drawn;
pub use network::{Network, Trained, Variable};
pub use optimizer::Optimizer;
pub use rounded::{Rounded, Rounding};
pub use tape::{Recording, Segment, Tape, run};
pub use trainer::{Batch, Objective, Part, Trainer};
