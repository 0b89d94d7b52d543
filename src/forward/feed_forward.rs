//! Feed-forward networks.

use super::backend::norm_opt;
use super::names::ffn;
use super::{Along, Backend, Binary, Dim, Inner, Layers, Linear, NormLayer, Provider, Unary, Vector};
use crate::spec::{Activation, FeedForward, Gate, LayerName};

/// Layers of a feed-forward.
pub struct FeedForwardLayers<L: Layers> {
    activation: Activation,
    /// Number of the module among its kind.
    number: usize,
    /// Number of the sub-layer in its block.
    state: usize,
    gate: GateLayers<L>,
    up: L::Linear,
    down: L::Linear,
    hidden_norm: Option<L::Norm>,
}

enum GateLayers<L: Layers> {
    None,
    Hidden(L::Linear),
    Receptance { mix_up: L::Vector, receptance: L::Linear, mix_receptance: L::Vector },
}

impl<L: Layers> FeedForwardLayers<L> {
    /// Declares them.
    pub fn new<P: Provider<Layers = L>>(
        spec: &FeedForward,
        number: usize,
        state: usize,
        hidden_size: usize,
        provider: &mut P,
    ) -> Result<Self, P::Error> {
        // Every field is named, so that none that is added can be forgotten here.
        let FeedForward { width, gate, activation, bias, hidden_norm, weights_of: _ } = spec;
        let hidden = || Dim::of(Along::Hidden, hidden_size);
        let inner = || Dim::inner(&[(Inner::FeedForward, *width)]);
        let name = |name: LayerName| name.numbered(number);
        let gate = match gate {
            Gate::None => GateLayers::None,
            Gate::Hidden => GateLayers::Hidden(provider.linear(Linear::new(name(ffn::GATE), inner(), hidden(), *bias))?),
            Gate::Receptance => GateLayers::Receptance {
                mix_up: provider.vector(Vector { name: name(ffn::MIX_UP), shape: vec![hidden()] })?,
                mix_receptance: provider.vector(Vector { name: name(ffn::MIX_RECEPTANCE), shape: vec![hidden()] })?,
                receptance: provider.linear(Linear::new(name(ffn::RECEPTANCE), hidden(), hidden(), *bias))?,
            },
        };
        Ok(Self {
            activation: *activation,
            number,
            state,
            gate,
            up: provider.linear(Linear::new(name(ffn::UP), inner(), hidden(), *bias))?,
            hidden_norm: hidden_norm
                .as_ref()
                .map(|norm| provider.norm(NormLayer::over(name(ffn::HIDDEN_NORM), norm, inner())))
                .transpose()?,
            down: provider.linear(Linear::new(name(ffn::DOWN), hidden(), inner(), *bias))?,
        })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn forward<B: Backend<Layers = L>>(&self, b: &mut B, x: B::X) -> Result<B::X, B::Stop> {
        let activation = Unary::Activation(self.activation);
        match &self.gate {
            GateLayers::None => {
                b.observe(ffn::INPUT.numbered(self.number), &x)?;
                let hidden = b.each(x, |b, x| {
                    let [up] = b.linear([&self.up], &x);
                    let hidden = b.unary(activation, up);
                    Ok(norm_opt(b, &self.hidden_norm, hidden))
                })?;
                self.down(b, hidden)
            }
            GateLayers::Hidden(gate) => {
                b.observe(ffn::INPUT.numbered(self.number), &x)?;
                let hidden = b.each(x, |b, x| {
                    let [gate, up] = b.linear([gate, &self.up], &x);
                    let gate = b.unary(activation, gate);
                    let hidden = b.binary(Binary::Multiply, gate, up);
                    Ok(norm_opt(b, &self.hidden_norm, hidden))
                })?;
                self.down(b, hidden)
            }
            GateLayers::Receptance { mix_up, receptance, mix_receptance } => {
                let before = b.token_before(self.state, &x);
                let up = mixed(b, (mix_up, ffn::MIX_UP.numbered(self.number)), &self.up, &x, &before)?;
                let receptance = mixed(b, (mix_receptance, ffn::MIX_RECEPTANCE.numbered(self.number)), receptance, &x, &before)?;
                drop((x, before));
                let hidden = b.each(up, |b, up| {
                    let hidden = b.unary(activation, up);
                    Ok(norm_opt(b, &self.hidden_norm, hidden))
                })?;
                let down = self.down(b, hidden)?;
                Ok(b.binary(Binary::MultiplySigmoid, down, receptance))
            }
        }
    }

    fn down<B: Backend<Layers = L>>(&self, b: &mut B, hidden: B::X) -> Result<B::X, B::Stop> {
        b.observe(ffn::HIDDEN.numbered(self.number), &hidden)?;
        b.each(hidden, |b, hidden| {
            let [y] = b.linear([&self.down], &hidden);
            Ok(y)
        })
    }
}

/// A linear layer of each token mixed with the one before it (RWKV's token shift). The input
/// has the name of the mix.
pub(super) fn mixed<B: Backend>(
    b: &mut B,
    (share, name): (&<B::Layers as Layers>::Vector, LayerName),
    linear: &<B::Layers as Layers>::Linear,
    x: &B::X,
    before: &B::X,
) -> Result<B::X, B::Stop> {
    let mixed = b.lerp(share, x, before);
    b.observe(name, &mixed)?;
    b.each(mixed, |b, mixed| {
        let [y] = b.linear([linear], &mixed);
        Ok(y)
    })
}
