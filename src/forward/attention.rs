//! Softmax attention.

use super::backend::norm_opt;
use super::names::attn;
use super::{Along, Backend, Dim, Inner, Layers, Linear, NormLayer, Provider, Unary};
use crate::spec::{Attention, Norm, QkSpan};

/// Layers of an attention.
pub struct AttentionLayers<L: Layers> {
    spec: Attention,
    /// Number of the module among its kind.
    number: usize,
    /// Number of the sub-layer in its block.
    state: usize,
    q: L::Linear,
    k: L::Linear,
    v: L::Linear,
    o: L::Linear,
    q_norm: Option<L::Norm>,
    k_norm: Option<L::Norm>,
    context_norm: Option<L::Norm>,
    rotary: Option<L::Rotary>,
}

impl<L: Layers> AttentionLayers<L> {
    /// Declares them.
    pub fn new<P: Provider<Layers = L>>(
        spec: &Attention,
        number: usize,
        state: usize,
        hidden_size: usize,
        provider: &mut P,
    ) -> Result<Self, P::Error> {
        // Every field is named, so that none that is added can be forgotten here.
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            rotary,
            qkv_bias,
            output_bias,
            qk_norm,
            context_norm,
            // These have no layers: see `forward` and the backends' `attend`.
            scale: _,
            alibi: _,
            mask: _,
            qkv_clip: _,
            query_growth: _,
            softcap: _,
        } = spec;
        let hidden = || Dim::of(Along::Hidden, hidden_size);
        let queries = || Dim::inner(&[(Inner::QueryHeads, *n_heads), (Inner::HeadDim, *head_dim)]);
        let keys = || Dim::inner(&[(Inner::KvHeads, *n_kv_heads), (Inner::HeadDim, *head_dim)]);
        let name = |name: crate::spec::LayerName| name.numbered(number);
        let heads_norm = |norm_name, norm: &Norm, span: QkSpan, heads: Dim| {
            let (shape, width) = match span {
                QkSpan::Head => (vec![Dim(heads.0[1..].to_vec())], *head_dim),
                QkSpan::EachHead => (heads.0.iter().map(|&(along, size)| Dim::of(along, size)).collect(), *head_dim),
                QkSpan::All => (vec![heads.clone()], heads.size()),
            };
            NormLayer { name: name(norm_name), norm: norm.clone(), shape, span: width }
        };
        Ok(Self {
            spec: spec.clone(),
            number,
            state,
            q: provider.linear(Linear::new(name(attn::Q), queries(), hidden(), *qkv_bias))?,
            k: provider.linear(Linear::new(name(attn::K), keys(), hidden(), *qkv_bias))?,
            v: provider.linear(Linear::new(name(attn::V), keys(), hidden(), *qkv_bias))?,
            q_norm: qk_norm.as_ref().map(|n| provider.norm(heads_norm(attn::Q_NORM, &n.norm, n.span, queries()))).transpose()?,
            k_norm: qk_norm.as_ref().map(|n| provider.norm(heads_norm(attn::K_NORM, &n.norm, n.span, keys()))).transpose()?,
            rotary: rotary.as_ref().map(|rotary| provider.rotary(rotary, *head_dim)),
            context_norm: context_norm
                .as_ref()
                .map(|norm| provider.norm(NormLayer::over(name(attn::CONTEXT_NORM), norm, queries())))
                .transpose()?,
            o: provider.linear(Linear::new(name(attn::O), hidden(), queries(), *output_bias))?,
        })
    }

    /// x `[tokens, hidden]` → `[tokens, hidden]`
    pub fn forward<B: Backend<Layers = L>>(&self, b: &mut B, x: B::X) -> Result<B::X, B::Stop> {
        b.observe(attn::INPUT.numbered(self.number), &x)?;
        let contexts = b.each(x, |b, x| self.context(b, x))?;
        b.observe(attn::CONTEXT.numbered(self.number), &contexts)?;
        b.each(contexts, |b, context| {
            let [y] = b.linear([&self.o], &context);
            Ok(y)
        })
    }

    /// x `[tokens, hidden]` → `[tokens, heads · head_dim]`
    fn context<B: Backend<Layers = L>>(&self, b: &mut B, x: B::X) -> Result<B::X, B::Stop> {
        let Attention { n_heads, n_kv_heads, qkv_clip, query_growth, .. } = &self.spec;
        let mut qkv = b.linear([&self.q, &self.k, &self.v], &x);
        drop(x);
        if let Some(clip) = *qkv_clip {
            qkv = qkv.map(|x| b.unary(Unary::Clip(clip), x));
        }
        let [q, k, v] = qkv;
        let (q, k) = (norm_opt(b, &self.q_norm, q), norm_opt(b, &self.k_norm, k));
        let (mut q, mut k, v) = (b.split_heads(q, *n_heads), b.split_heads(k, *n_kv_heads), b.split_heads(v, *n_kv_heads));
        if let Some(rotary) = &self.rotary {
            (q, k) = (b.rotate(rotary, q), b.rotate(rotary, k));
        }
        if let Some(growth) = query_growth {
            q = b.grow(growth, q);
        }
        for (name, heads) in [(attn::QUERIES, &q), (attn::KEYS, &k), (attn::VALUES, &v)] {
            b.observe(name.numbered(self.number), heads)?;
        }
        let context = b.attend(&self.spec, self.state, q, k, v);
        Ok(norm_opt(b, &self.context_norm, context))
    }
}
