//! Running a recipe, and the two decoders over what it made.
#![allow(dead_code)] // each test file uses some of it

use std::path::Path;
use thimble::compress::{Compute, TorchLogits};
use thimble::model::LogitSource;
use thimble::pipeline::{Options, Unfinished, compress};
use thimble::progress::Silent;
use thimble::recipe::RawRecipe;
use thimble::report::CompressReport;
use thimble::runtime::{self, Activations, Decoder, Model, NativeLogits};

/// Compresses a model by the text of a recipe.
pub fn run(recipe: &str, model: &Path, out: &Path) -> thimble::Result<CompressReport> {
    let recipe = RawRecipe::parse(recipe, &out.join("recipe.toml"), &[])?;
    let options = Options { out, compute: Compute::CPU, threads: 0, unfinished: Unfinished::Resume };
    compress(&recipe, runtime::open(model, None)?, &options, &Silent)
}

/// The device's decoder.
pub fn native(model: &Model, activations: Activations) -> NativeLogits {
    NativeLogits::new(Decoder::new(&*model.store, activations, 0).unwrap())
}

/// Between the logits of the packed model on the device and of the same numbers in
/// libtorch.
pub fn greatest_difference(packed: &Model, ids: &[u32]) -> f32 {
    let mut sources: [Box<dyn LogitSource>; 2] =
        [Box::new(native(packed, Activations::F32)), Box::new(TorchLogits::new(packed.store.clone(), Compute::CPU))];
    let [ours, theirs] = sources.each_mut().map(|source| {
        source.run_window(ids).unwrap();
        source.logits(0..ids.len()).unwrap()
    });
    ours.iter().zip(&theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()))
}
