//! Comparison of tokenizers: two models can be compared, or learn from each
//! other, only where an id is the same word to both.

use super::{Kind, Tokenizer};
use crate::error::{Error, Result};
use crate::notice::warn_once;
use std::collections::{BTreeMap, BTreeSet};

/// An entry of a vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The token as its file writes it.
    pub text: String,
    /// True for a special token, which is no text (`<s>`).
    pub special: bool,
}

/// Letters, digits, signs, blanks and other scripts: what normalisation and the cutting into words show in.
const SAMPLE: &str = "Once upon a time, Lily saw 3 big trees (and 1,024 ants)!\n\tdef f(x): return x**2 # \"naïve\"; Größe, мир, 世界.  \
     Two  blanks\r\n\r\n I'LL don't ﬁne ½ e\u{301} 🙂";
/// Words of the vocabulary that are read too, evenly spread; they show the merges.
const WORDS: usize = 2000;

impl Tokenizer {
    /// The vocabulary by id, added tokens among it.
    pub fn words(&self) -> BTreeMap<u32, Word> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.words(),
            Kind::World(world) => world.words().map(|(id, text)| (id, Word { text, special: false })).collect(),
        }
    }

    /// Fails where another one's ids are not these: words under the ids that both have, and the
    /// ids of a sample. Tokens that only one has are no difference as long as the sample's
    /// ids agree; a special token that the other does not have under any id is a rename of
    /// a reserved one, which a warning names.
    pub fn check_same(&self, other: &Self) -> Result<()> {
        let (ours, theirs) = (self.words(), other.words());
        let differ: Vec<_> =
            ours.iter().filter_map(|(id, word)| Some((id, word, theirs.get(id)?))).filter(|(_, a, b)| a.text != b.text).collect();
        let texts = |words: &BTreeMap<u32, Word>| words.values().map(|word| word.text.clone()).collect::<BTreeSet<_>>();
        let known = if differ.is_empty() { Default::default() } else { [texts(&ours), texts(&theirs)] };
        let renamed =
            |(_, a, b): &(&u32, &Word, &Word)| a.special && b.special && !known[1].contains(&a.text) && !known[0].contains(&b.text);
        let refuse = |what: String| {
            let reason = format!("{what}: the models must have one tokenizer");
            Err(Error::format(&other.path, reason))
        };
        if let Some((id, a, b)) = differ.iter().find(|entry| !renamed(entry)) {
            let count = if differ.len() > 1 { format!(" ({} ids differ)", differ.len()) } else { String::new() };
            return refuse(format!("token {id} is {:?} here and {:?} in {}{count}", b.text, a.text, self.path.display()));
        }
        if let Some((id, a, b)) = differ.first() {
            let (count, ours) = (differ.len(), self.path.display());
            warn_once(
                &other.path,
                format!(
                    "{count} special tokens have other names than in {ours}, the first {:?} for {:?} (id {id}); texts that do not use \
                     them are not affected",
                    b.text, a.text
                ),
            );
        }
        let sample = self.sample(ours.keys().filter(|id| theirs.contains_key(id)).copied().collect())?;
        for text in [SAMPLE, &sample] {
            if self.encode_any(text)? != other.encode_any(text)? {
                return refuse(format!("encodes a sample text differently from {}", self.path.display()));
            }
        }
        Ok(())
    }

    /// Words of the vocabulary as a text.
    fn sample(&self, ids: Vec<u32>) -> Result<String> {
        let spread: Vec<u32> = ids.iter().step_by(ids.len().div_ceil(WORDS).max(1)).copied().collect();
        self.decode(&spread)
    }
}
