//! RWKV-4's time mixing.

use super::feed_forward::mixed;
use super::names::wkv;
use super::{Along, Backend, Binary, Dim, Inner, Layers, Linear, Provider, Vector};
use crate::spec::{LayerName, Wkv};

/// Layers of a time mixing.
pub struct WkvLayers<L: Layers> {
    /// Number of the module among its kind.
    number: usize,
    /// Number of the sub-layer in its block.
    state: usize,
    key: (L::Vector, L::Linear),
    value: (L::Vector, L::Linear),
    receptance: (L::Vector, L::Linear),
    decay: L::Vector,
    first: L::Vector,
    output: L::Linear,
}

impl<L: Layers> WkvLayers<L> {
    /// Declares them.
    pub fn new<P: Provider<Layers = L>>(
        spec: &Wkv,
        number: usize,
        state: usize,
        hidden_size: usize,
        provider: &mut P,
    ) -> Result<Self, P::Error> {
        let Wkv { width } = spec;
        let hidden = || Dim::of(Along::Hidden, hidden_size);
        let channels = || Dim::inner(&[(Inner::State, *width)]);
        let name = |name: LayerName| name.numbered(number);
        let mut reading = |mix, linear| {
            let mix = provider.vector(Vector { name: name(mix), shape: vec![hidden()] })?;
            Ok((mix, provider.linear(Linear::new(name(linear), channels(), hidden(), false))?))
        };
        let (key, value) = (reading(wkv::MIX_KEY, wkv::KEY)?, reading(wkv::MIX_VALUE, wkv::VALUE)?);
        let receptance = reading(wkv::MIX_RECEPTANCE, wkv::RECEPTANCE)?;
        Ok(Self {
            number,
            state,
            key,
            value,
            receptance,
            decay: provider.vector(Vector { name: name(wkv::DECAY), shape: vec![channels()] })?,
            first: provider.vector(Vector { name: name(wkv::FIRST), shape: vec![channels()] })?,
            output: provider.linear(Linear::new(name(wkv::OUTPUT), hidden(), channels(), false))?,
        })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn forward<B: Backend<Layers = L>>(&self, b: &mut B, x: B::X) -> Result<B::X, B::Stop> {
        let before = b.token_before(self.state, &x);
        let read = |b: &mut B, (mix, linear): &(L::Vector, L::Linear), name: LayerName| {
            mixed(b, (mix, name.numbered(self.number)), linear, &x, &before)
        };
        let keys = read(b, &self.key, wkv::MIX_KEY)?;
        let values = read(b, &self.value, wkv::MIX_VALUE)?;
        let receptances = read(b, &self.receptance, wkv::MIX_RECEPTANCE)?;
        drop((x, before));
        let means = b.wkv(self.state, &self.decay, &self.first, keys, values);
        let means = b.binary(Binary::MultiplySigmoid, means, receptances);
        b.observe(wkv::MIXED.numbered(self.number), &means)?;
        b.each(means, |b, means| {
            let [y] = b.linear([&self.output], &means);
            Ok(y)
        })
    }
}
