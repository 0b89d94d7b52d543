//! What a run depends on, as one hash: the resolved recipe, the model's bytes,
//! the texts, and what libtorch computes in.

use crate::checkpoint::Bytes;
use crate::compress::Compute;
use crate::error::{Error, Result};
use crate::model::families::CONFIG;
use crate::progress::{Progress, Unit};
use crate::recipe::{Recipe, Training};
use crate::runtime::{Model, open_weights};
use crate::text::corpus::Corpus;
use std::path::Path;

/// The key of a run's state, in hexadecimal.
pub fn key(recipe: &Recipe, model: &Model, texts: &[Option<blake3::Hash>], compute: Compute, progress: &dyn Progress) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.update(format!("{compute:?}").as_bytes());
    hasher.update(&serde_json::to_vec(recipe).expect("a recipe is JSON"));
    hasher.update(model.tokenizer.as_ref().map_or(b"", |t| t.file()));
    for text in texts {
        hasher.update(text.map_or([0; 32], blake3::Hash::into).as_slice());
    }
    for stage in &recipe.stages {
        let Some(plan) = stage.distil() else { continue };
        hasher.update(Corpus::fingerprint(&plan.training.text)?.as_bytes());
        if let Some(path) = &plan.teacher {
            add_model(&mut hasher, &open_weights(path)?, progress)?;
        }
    }
    add_model(&mut hasher, model, progress)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What a teacher says depends on: its weights, and the tokens it is asked about, and how
/// they are cut.
pub fn teacher(
    model: &Model,
    tokens: &Path,
    training: &Training,
    prefix: &[u32],
    compute: Compute,
    progress: &dyn Progress,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_rayon(&Bytes::map(tokens)?);
    let Training { length, held_out, seed, .. } = training;
    hasher.update(format!("{length} {held_out} {seed} {prefix:?} {compute:?}").as_bytes());
    add_model(&mut hasher, model, progress)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What a model is, and its weights.
fn add_model(hasher: &mut blake3::Hasher, model: &Model, progress: &dyn Progress) -> Result<()> {
    hasher.update(&serde_json::to_vec(model.spec()).expect("a spec is JSON"));
    // What its numbers stand for is said there.
    if model.is_packed()? && model.native.is_none() {
        let config = model.path.join(CONFIG);
        hasher.update(&std::fs::read(&config).map_err(Error::io("read", &config))?);
    }
    let files = model.store.files();
    progress.begin("fingerprinting the model", files.len() as u64, Unit::one("files"));
    for file in files {
        let mut content = blake3::Hasher::new();
        content.update_rayon(&Bytes::map(&file)?);
        hasher.update(content.finalize().as_bytes());
        progress.advance(1);
    }
    progress.end();
    Ok(())
}
