//! One block: sub-layers in turn.

use super::backend::norm_opt;
use super::names::{FFN_NORMS, MIXER_NORMS};
use super::{Along, AttentionLayers, Backend, Binary, Dim, FeedForwardLayers, Layers, NormLayer, Provider, WkvLayers};
use crate::spec::{Block, Norm, Op, SubLayer, SubLayerInput};

/// Layers of a block.
pub struct BlockLayers<L: Layers> {
    sub_layers: Vec<SubLayerLayers<L>>,
}

struct SubLayerLayers<L: Layers> {
    input: SubLayerInput,
    norm: Option<L::Norm>,
    op: OpLayers<L>,
    output_norm: Option<L::Norm>,
    sum_norm: Option<L::Norm>,
}

#[expect(clippy::large_enum_variant, reason = "a model has some dozens of these")]
enum OpLayers<L: Layers> {
    Attention(AttentionLayers<L>),
    Wkv(WkvLayers<L>),
    FeedForward(FeedForwardLayers<L>),
}

impl<L: Layers> BlockLayers<L> {
    /// Declares them.
    pub fn new<P: Provider<Layers = L>>(spec: &Block, hidden_size: usize, provider: &mut P) -> Result<Self, P::Error> {
        let sub_layers =
            spec.numbered().enumerate().map(|(state, (number, spec))| SubLayerLayers::new(spec, number, state, hidden_size, provider));
        Ok(Self { sub_layers: sub_layers.collect::<Result<_, _>>()? })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn forward<B: Backend<Layers = L>>(&self, b: &mut B, mut x: B::X) -> Result<B::X, B::Stop> {
        let last_reader = self.sub_layers.iter().rposition(|sub_layer| sub_layer.input == SubLayerInput::BlockInput);
        let mut block_input = last_reader.map(|_| b.keep(&x));
        let mut shared = None;
        for (i, sub_layer) in self.sub_layers.iter().enumerate() {
            let input = match sub_layer.input {
                SubLayerInput::HiddenStates => b.keep(&x),
                SubLayerInput::BlockInput if last_reader == Some(i) => block_input.take().expect("kept above"),
                SubLayerInput::BlockInput => b.keep(block_input.as_ref().expect("kept above")),
                SubLayerInput::SharedNorm => shared.take().expect("there is a sub-layer before it"),
            };
            let input = norm_opt(b, &sub_layer.norm, input);
            if self.sub_layers.get(i + 1).is_some_and(|next| next.input == SubLayerInput::SharedNorm) {
                shared = Some(b.keep(&input));
            }
            let y = match &sub_layer.op {
                OpLayers::Attention(attention) => attention.forward(b, input)?,
                OpLayers::Wkv(wkv) => wkv.forward(b, input)?,
                OpLayers::FeedForward(ffn) => ffn.forward(b, input)?,
            };
            let y = norm_opt(b, &sub_layer.output_norm, y);
            x = b.binary(Binary::Add, x, y);
            x = norm_opt(b, &sub_layer.sum_norm, x);
        }
        Ok(x)
    }
}

impl<L: Layers> SubLayerLayers<L> {
    fn new<P: Provider<Layers = L>>(
        spec: &SubLayer,
        number: usize,
        state: usize,
        hidden_size: usize,
        provider: &mut P,
    ) -> Result<Self, P::Error> {
        // Every field is named, so that none that is added can be forgotten here.
        let SubLayer { input, norm, op, output_norm, sum_norm } = spec;
        let names = match op {
            Op::Attention(_) | Op::Wkv(_) => MIXER_NORMS,
            Op::FeedForward(_) => FFN_NORMS,
        };
        let hidden_norm = |which: usize, norm: &Option<Norm>, provider: &mut P| {
            let layer = |norm| NormLayer::over(names[which].numbered(number), norm, Dim::of(Along::Hidden, hidden_size));
            norm.as_ref().map(|norm| provider.norm(layer(norm))).transpose()
        };
        Ok(Self {
            input: *input,
            norm: hidden_norm(0, norm, provider)?,
            op: match op {
                Op::Attention(attention) => OpLayers::Attention(AttentionLayers::new(attention, number, state, hidden_size, provider)?),
                Op::Wkv(wkv) => OpLayers::Wkv(WkvLayers::new(wkv, number, state, hidden_size, provider)?),
                Op::FeedForward(ffn) => OpLayers::FeedForward(FeedForwardLayers::new(ffn, number, state, hidden_size, provider)?),
            },
            output_norm: hidden_norm(1, output_norm, provider)?,
            sum_norm: hidden_norm(2, sum_norm, provider)?,
        })
    }
}
