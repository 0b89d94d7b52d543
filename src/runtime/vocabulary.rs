//! The vocabulary that two models have in common.
//!
//! Embeddings of one tokenizer are often padded to different numbers of rows: Qwen2.5's have
//! 151936 or 152064, for a tokenizer of 151665. The logits of padding are probabilities of
//! tokens that cannot come, so two models are compared, and one learns from the other, over
//! the ids that both have: other rows are left out of both distributions, and the rest is
//! renormalised.

use super::Model;
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// Ids that two models have in common, and what there is to say of them.
pub struct CommonVocabulary {
    /// Number of common ids: ids from here on are left out.
    pub size: usize,
    /// Where one has more rows than the other.
    pub remark: Option<String>,
}

impl CommonVocabulary {
    /// Of a model with `own` rows and this tokenizer, and another one; `roles` are what the two
    /// are for each other, such as "student" and "teacher". Fails where they differ in rows, and
    /// tokenizers do not tell that they are one vocabulary.
    pub fn of(own: usize, tokenizer: Option<&Tokenizer>, other: &Model, roles: [&str; 2]) -> Result<Self> {
        let its = other.spec().vocab_size;
        let [role, others_role] = roles;
        if own == its {
            return Ok(Self { size: own, remark: None });
        }
        let (Some(tokenizer), Some(others)) = (tokenizer, &other.tokenizer) else {
            let reason = format!(
                "the {others_role}'s embedding has {its} rows and the {role}'s {own}, and only tokenizers of both could tell whether the \
                 difference is padding: put its tokenizer beside it"
            );
            return Err(Error::format(&other.path, reason));
        };
        tokenizer.check_same(others)?;
        let size = own.min(its);
        let greatest = tokenizer.greatest_id().max(others.greatest_id());
        let tokens = greatest.map_or(0, |id| (id as usize + 1).saturating_sub(size));
        let which = match tokens {
            0 => "which no token has".into(),
            tokens => format!("{tokens} of which are ids of the tokenizer"),
        };
        let remark = format!(
            "the {others_role}'s embedding has {its} rows and the {role}'s {own}: the {} rows that only one has, {which}, are left out of both \
             distributions, and the rest is renormalised",
            own.max(its) - size
        );
        Ok(Self { size, remark: Some(remark) })
    }
}
