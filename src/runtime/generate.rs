//! Token by token.

use super::{Decoder, KvCache, Sampler, Step};
use crate::checkpoint::check_unchanged;
use crate::error::{Error, Result};
use crate::model::{ModelSpec, expect_finite};

/// Fails where nothing can be generated from a prompt.
pub fn check_prompt(prompt: &[u32], spec: &ModelSpec) -> Result<()> {
    match prompt.len() {
        0 => Err(Error::Usage("the prompt has no tokens and the model no BOS token to start from".into())),
        n if n > spec.context => Err(Error::Usage(format!("the prompt has {n} tokens, the model's context {}", spec.context))),
        _ => spec.check_ids(prompt),
    }
}

/// Continues `prompt` by up to `max_tokens`, to an end of text or the model's
/// context. `on_token` sees each new token at once. Returns the new tokens, an end
/// of text not among them.
pub fn generate(
    decoder: &Decoder,
    prompt: &[u32],
    max_tokens: usize,
    sampler: &Sampler,
    mut on_token: impl FnMut(u32),
) -> Result<Vec<u32>> {
    let spec = decoder.spec();
    check_prompt(prompt, spec)?;
    let mut cache = KvCache::new(spec);
    let mut hidden = decoder.read(&mut cache, prompt)?;
    let mut ids = Vec::new();
    while ids.len() < max_tokens {
        let last = &hidden[hidden.len() - spec.hidden_size..];
        let logits = decoder.logits(last);
        expect_finite(&logits, cache.len() - 1)?;
        let id = sampler.sample(&logits, cache.len() as u64);
        if spec.special.eos.contains(&id) {
            break;
        }
        ids.push(id);
        on_token(id);
        if cache.len() >= spec.context {
            break;
        }
        hidden = decoder.forward(&mut [Step { cache: &mut cache, ids: &[id] }])?;
    }
    check_unchanged()?;
    Ok(ids)
}
