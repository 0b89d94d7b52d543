//! The written file, opened again, must give the logits of what was solved.

use super::Options;
use crate::compress::TorchLogits;
use crate::error::{Error, Result};
use crate::model::LogitSource;
use crate::quant::WeightStore;
use crate::quant::native::NativeFile;
use crate::runtime::{Activations, Decoder, KvCache};
use std::sync::Arc;

/// Logits may differ by this much of the greatest: rounding of two programs that
/// add in different orders, far below what a wrong byte would do.
const TOLERANCE: f32 = 2e-3;
/// Positions that are compared.
const POSITIONS: usize = 128;

/// Greatest difference of logits over the first tokens of a sequence, between the
/// native runtime on the file and libtorch on the weights as the stages left them.
pub fn read_back(file: &NativeFile, ids: &[u32], solved: Arc<dyn WeightStore>, options: &Options) -> Result<f32> {
    let ids = &ids[..ids.len().min(POSITIONS)];
    let compute = options.compute;
    let mut solved = TorchLogits::new(solved, compute);
    solved.run_window(ids)?;
    let solved = solved.logits(0..ids.len())?;

    let decoder = Decoder::new(file, Activations::F32, options.threads)?;
    let mut cache = KvCache::new(file.spec());
    let run = decoder.logits(&decoder.read(&mut cache, ids)?);

    let greatest = solved.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let difference = solved.iter().zip(&run).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    // bf16 forwards round far more than the comparison may.
    let tolerance = if compute.kind == tch::Kind::Float { TOLERANCE } else { 0.1 };
    if difference.is_nan() || difference > tolerance * greatest {
        let path = file.files().remove(0);
        return Err(Error::format(
            &path,
            format!("its logits differ from those that were solved by {difference}: the file is not to be used"),
        ));
    }
    Ok(difference)
}
