//! `thimble compress`
use super::Done;
use super::output::Output;
/// Compress a model with a recipe
#[derive(clap::Args)]
pub struct Args {}
pub fn main(_args: Args, _threads: usize, _output: Output) -> Done {
    todo!()
}
