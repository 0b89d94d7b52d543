//! What was written, opened again, must be the model that was solved and give its
//! logits.

use super::Options;
use crate::compress::{Compute, MallocTuning, TorchLogits};
use crate::error::{Error, Result};
use crate::model::{LogitSource, ModelSpec};
use crate::quant::WeightStore;
use crate::runtime::{Activations, Decoder, KvCache};
use crate::spec::SpecialTokens;
use std::sync::Arc;

/// Logits may differ by this much of the greatest: rounding of two programs that
/// add in different orders, far below what a wrong byte would do.
const TOLERANCE: f32 = 2e-3;
/// Positions that are compared.
const POSITIONS: usize = 128;

/// Greatest difference of logits over the first tokens of a sequence, between the
/// native runtime on what was written and libtorch on the weights as the stages left
/// them.
pub fn read_back(written: &dyn WeightStore, ids: &[u32], solved: Arc<dyn WeightStore>, options: &Options) -> Result<f32> {
    let unusable = |reason: String| Error::format(&written.files()[0], format!("{reason}: it is not to be used"));
    if plain(written.spec()) != plain(solved.spec()) {
        return Err(unusable("it says another model than the one that was solved".to_owned()));
    }
    let ids = &ids[..ids.len().min(POSITIONS)];
    // bf16 forwards round far more than the comparison may.
    let compute = Compute { kind: tch::Kind::Float, ..options.compute };
    // Every block asks for the memory that the one before it has freed.
    let _tuning = MallocTuning::begin();
    let mut solved = TorchLogits::new(solved, compute);
    solved.run_window(ids)?;
    let solved = solved.logits(0..ids.len())?;

    let decoder = Decoder::new(written, Activations::F32, options.threads)?;
    let mut cache = KvCache::new(written.spec());
    let run = decoder.logits(&decoder.read(&mut cache, ids)?);

    let greatest = solved.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let difference = solved.iter().zip(&run).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    if difference.is_nan() || difference > TOLERANCE * greatest {
        return Err(unusable(format!("its logits differ from those that were solved by {difference}, of {greatest} at most")));
    }
    Ok(difference)
}

/// Without the tokens that a tokenizer tells and a spec by itself may not.
fn plain(spec: &ModelSpec) -> ModelSpec {
    ModelSpec { special: SpecialTokens::default(), ..spec.clone() }
}
