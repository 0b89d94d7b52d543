//! Which of a teacher's layers a student's start from, as people say it.

use serde::{Deserialize, Serialize};

/// A choice of layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"every_second\", \"first\", \"last\", \"first_last\", \"spread\", or a list of layers such as [0, 2, 5]"
)]
pub enum Layers {
    /// By a rule.
    Named(LayerRule),
    /// These, in this order, counted from 0.
    Listed(Vec<usize>),
}

/// Rules to choose layers by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerRule {
    /// 0, 2, 4 and so on (DistilBERT: Sanh et al. 2019, section 3).
    EverySecond,
    /// Those nearest to the embedding.
    First,
    /// Those nearest to the head.
    Last,
    /// Half of them from either end; one more from the first where the number is odd.
    FirstLast,
    /// Evenly from the first to the last.
    Spread,
}

impl Default for Layers {
    fn default() -> Self {
        Self::Named(LayerRule::Spread)
    }
}

/// A number of layers that the rule, the list or the teacher does not allow.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The list has another length.
    #[error("n_layers = {count}, but layers names {}: {listed:?}; leave n_layers out", listed.len())]
    Listed {
        /// Layers that are asked for.
        count: usize,
        /// Layers of the list.
        listed: Vec<usize>,
    },
    /// The rule needs a number.
    #[error("layers needs n_layers beside it: how many")]
    NoCount,
    /// More than the teacher has, or none.
    #[error("n_layers = {count} must be from 1 to {of}, the teacher's layers")]
    OutOfRange {
        /// Layers that are asked for.
        count: usize,
        /// The teacher's.
        of: usize,
    },
}

impl Layers {
    /// The layers of a teacher that has `of`, where `count` are asked for.
    pub fn choose(&self, count: Option<usize>, of: usize) -> Result<Vec<usize>, LayersError> {
        let chosen = match self {
            Layers::Listed(layers) => layers.clone(),
            Layers::Named(rule) => rule.choose(count, of)?,
        };
        match count {
            Some(count) if count != chosen.len() => Err(LayersError::Listed { count, listed: chosen }),
            _ => Ok(chosen),
        }
    }
}

impl LayerRule {
    fn choose(self, count: Option<usize>, of: usize) -> Result<Vec<usize>, LayersError> {
        let count = match (self, count) {
            (Self::EverySecond, _) => of.div_ceil(2),
            (Self::Spread, None) => of,
            (Self::First | Self::Last | Self::FirstLast, None) => return Err(LayersError::NoCount),
            (_, Some(count)) if (1..=of).contains(&count) => count,
            (_, Some(count)) => return Err(LayersError::OutOfRange { count, of }),
        };
        let gaps = (count - 1).max(1);
        let layer = |i| match self {
            Self::EverySecond => 2 * i,
            Self::First => i,
            Self::FirstLast if i < count.div_ceil(2) => i,
            Self::Last | Self::FirstLast => of - count + i,
            // i / gaps of the way to the last, to the nearest.
            Self::Spread => (2 * i * (of - 1) + gaps) / (2 * gaps),
        };
        Ok((0..count).map(layer).collect())
    }
}
