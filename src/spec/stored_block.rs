//! A block as files hold it: one mixer and one feed-forward have fields of their own, as
//! in the first version of the native file; other blocks are a list of sub-layers.

use super::{Attention, Block, FeedForward, Norm, Op, SubLayer, SubLayerInput, Wkv, is_default};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredBlock {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixer_norm: Option<Norm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixer: Option<Mixer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixer_output_norm: Option<Norm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixer_sum_norm: Option<Norm>,
    #[serde(default, skip_serializing_if = "is_default")]
    residual: Residual,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ffn_norm: Option<Norm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ffn: Option<FeedForward>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ffn_output_norm: Option<Norm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ffn_sum_norm: Option<Norm>,
    #[serde(default, skip_serializing_if = "is_default")]
    sub_layers: Vec<SubLayer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_of: Option<usize>,
}

/// The operation of the first sub-layer.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a model has some dozens of these")]
enum Mixer {
    Attention(Attention),
    Wkv(Wkv),
}

/// Input of the feed-forward.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Residual {
    #[default]
    Sequential,
    Parallel,
    ParallelOneNorm,
}

impl TryFrom<StoredBlock> for Block {
    type Error = &'static str;

    fn try_from(stored: StoredBlock) -> Result<Self, Self::Error> {
        let StoredBlock {
            mixer_norm,
            mixer,
            mixer_output_norm,
            mixer_sum_norm,
            residual,
            ffn_norm,
            ffn,
            ffn_output_norm,
            ffn_sum_norm,
            sub_layers,
            weights_of,
        } = stored;
        if !sub_layers.is_empty() {
            let norms = [mixer_norm, mixer_output_norm, mixer_sum_norm, ffn_norm, ffn_output_norm, ffn_sum_norm];
            let others = mixer.is_some() || ffn.is_some() || residual != Residual::Sequential || norms.iter().any(Option::is_some);
            return if others {
                Err("`sub_layers` excludes the fields of a mixer and a feed-forward")
            } else {
                Ok(Self { sub_layers, weights_of })
            };
        }
        let op = match mixer.ok_or("missing field `mixer`")? {
            Mixer::Attention(attention) => Op::Attention(attention),
            Mixer::Wkv(wkv) => Op::Wkv(wkv),
        };
        let input = match residual {
            Residual::Sequential => SubLayerInput::HiddenStates,
            Residual::Parallel => SubLayerInput::BlockInput,
            Residual::ParallelOneNorm => SubLayerInput::SharedNorm,
        };
        let mixer =
            SubLayer { input: SubLayerInput::HiddenStates, norm: mixer_norm, op, output_norm: mixer_output_norm, sum_norm: mixer_sum_norm };
        let op = Op::FeedForward(ffn.ok_or("missing field `ffn`")?);
        let ffn = SubLayer { input, norm: ffn_norm, op, output_norm: ffn_output_norm, sum_norm: ffn_sum_norm };
        Ok(Self { sub_layers: vec![mixer, ffn], weights_of })
    }
}

impl From<Block> for StoredBlock {
    fn from(block: Block) -> Self {
        let Block { sub_layers, weights_of } = block;
        let [first, second] = match <[SubLayer; 2]>::try_from(sub_layers) {
            Ok(two) if is_pair(&two) => two,
            Ok(two) => return Self { sub_layers: two.into(), weights_of, ..Self::default() },
            Err(sub_layers) => return Self { sub_layers, weights_of, ..Self::default() },
        };
        let mixer = match first.op {
            Op::Attention(attention) => Some(Mixer::Attention(attention)),
            Op::Wkv(wkv) => Some(Mixer::Wkv(wkv)),
            Op::FeedForward(_) => None,
        };
        let ffn = match second.op {
            Op::FeedForward(ffn) => Some(ffn),
            Op::Attention(_) | Op::Wkv(_) => None,
        };
        Self {
            mixer_norm: first.norm,
            mixer,
            mixer_output_norm: first.output_norm,
            mixer_sum_norm: first.sum_norm,
            residual: match second.input {
                SubLayerInput::HiddenStates => Residual::Sequential,
                SubLayerInput::BlockInput => Residual::Parallel,
                SubLayerInput::SharedNorm => Residual::ParallelOneNorm,
            },
            ffn_norm: second.norm,
            ffn,
            ffn_output_norm: second.output_norm,
            ffn_sum_norm: second.sum_norm,
            sub_layers: Vec::new(),
            weights_of,
        }
    }
}

/// True for a mixer of the hidden states and a feed-forward.
fn is_pair([first, second]: &[SubLayer; 2]) -> bool {
    let mixes = matches!(first.op, Op::Attention(_) | Op::Wkv(_)) && first.input == SubLayerInput::HiddenStates;
    mixes && matches!(second.op, Op::FeedForward(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Activation;

    /// Blocks of a mixer and a feed-forward are written as ever, others as a list; all come
    /// back as they were.
    #[test]
    fn blocks_come_back_from_json() {
        let norm = Norm::rms(1e-5);
        let ffn = FeedForward::gated(8, Activation::Silu);
        let two = Block::pre_norm(norm.clone(), Op::Attention(Attention::new(2, 1, 4)), ffn.clone());
        let mut three = two.clone();
        three.sub_layers.push(SubLayer { norm: Some(norm), ..SubLayer::plain(Op::FeedForward(ffn)) });
        for (block, field) in [(two, "mixer"), (three, "sub_layers")] {
            let json = serde_json::to_value(&block).unwrap();
            assert!(json.get(field).is_some(), "{json}");
            assert_eq!(serde_json::from_value::<Block>(json).unwrap(), block);
        }
    }
}
