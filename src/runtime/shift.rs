//! Mixtures of a token and the one before it (RWKV's token shift).

use super::cache::{BlockState, Stretch};
use crate::error::Result;
use crate::quant::WeightStore;

/// What each token of `x` (`[tokens, hidden]`) follows: the token before it in its
/// sequence, or what the sequence's state holds, which then takes its last.
pub(super) fn shifted(
    x: &[f32],
    hidden: usize,
    stretches: &mut [Stretch],
    previous: impl Fn(&mut BlockState) -> &mut Vec<f32>,
) -> Vec<f32> {
    let mut before = Vec::with_capacity(x.len());
    let mut rest = x;
    for Stretch { tokens, state, .. } in stretches {
        if *tokens == 0 {
            continue;
        }
        let (own, others) = rest.split_at(*tokens * hidden);
        let previous = previous(state);
        before.extend_from_slice(previous);
        before.extend_from_slice(&own[..own.len() - hidden]);
        previous.copy_from_slice(&own[own.len() - hidden..]);
        rest = others;
    }
    before
}

/// Shares of this token in a mixture, one a dimension.
pub(super) struct Mix(Vec<f32>);

impl Mix {
    pub fn load(store: &dyn WeightStore, name: &str) -> Result<Self> {
        Ok(Self(store.weight(name)?.to_f32().into_owned()))
    }

    /// x · mix + before · (1 − mix)
    pub fn apply(&self, x: &[f32], before: &[f32]) -> Vec<f32> {
        let shares = self.0.iter().cycle();
        x.iter().zip(before).zip(shares).map(|((x, before), share)| x * share + before * (1.0 - share)).collect()
    }
}
