//! The forward on libtorch: differentiable, one block at a time, so that weights can be
//! streamed, with an observer of the input of each group of linear layers.

mod attention;
mod ends;
mod norm;
mod wkv;

pub use attention::scores as attention_scores;
pub use ends::{EmbeddingLayer, LmHead};

use super::straight_through::{int8, straight};
use super::tensors::Parameters;
use crate::forward::{Backend, Binary, BlockLayers, Declare, Declared, Linear, NormLayer, Unary, Vector};
use crate::spec::{Activation, Attention, Block, LayerName, Positions, QueryGrowth, Rotary};
use ends::{Batch, to_compute};
use std::cell::OnceCell;
use std::ops::ControlFlow;
use tch::Tensor;

/// Observes the input of each group of linear layers, `[batch, tokens, in]`, of all batches that
/// are computed abreast; and queries, keys and values, of each batch by itself. It tells
/// whether to go on. Weights that read an input are looked up after it was observed: an
/// observer may have replaced them.
pub type Observer<'a> = dyn FnMut(LayerName, &[Tensor]) -> ControlFlow<()> + 'a;

/// An observer has ended the forward.
struct Stopped;

/// One block over hidden states `[batch, tokens, hidden]` that start at position 0.
pub fn block_forward(spec: &Block, weights: &Parameters, x: &Tensor, observe: &mut dyn FnMut(LayerName, &Tensor)) -> Tensor {
    let outputs = block_until(spec, weights, vec![x.shallow_clone()], &mut |name, x| {
        observe(name, &x[0]);
        ControlFlow::Continue(())
    });
    outputs.expect("nothing stops it").remove(0)
}

/// One block over several batches abreast; `None` where the observer has ended it. Activations
/// of a batch are freed as soon as nothing reads them any more.
pub fn block_until(spec: &Block, weights: &Parameters, x: Vec<Tensor>, observer: &mut Observer) -> Option<Vec<Tensor>> {
    let hidden_size = x.first().map_or(0, |x| x.size()[2] as usize);
    let Ok(layers) = BlockLayers::new(spec, hidden_size, &mut Declare);
    layers.forward(&mut LibTorch { weights, batch: None, observer }, x).ok()
}

/// The backend.
struct LibTorch<'a, 'o> {
    weights: &'a Parameters,
    /// Token ids, where it is to embed them.
    batch: Option<Batch<'a>>,
    observer: &'a mut Observer<'o>,
}

impl LibTorch<'_, '_> {
    /// x Wᵀ + b
    fn product(&self, linear: &Linear, input: &Input) -> Tensor {
        let name = linear.name.to_string();
        let bias = linear.bias.as_ref().and_then(|bias| self.weights.find(bias));
        input.of(self.weights, &name).linear(&self.weights.get(&name), bias.as_deref())
    }

    fn batch(&self) -> &Batch<'_> {
        self.batch.as_ref().expect("token ids to embed")
    }
}

impl Backend for LibTorch<'_, '_> {
    type Layers = Declared;
    /// Batches abreast.
    type X = Vec<Tensor>;
    type Stop = Stopped;

    fn tokens(&mut self, _: &Vector) -> Vec<Tensor> {
        vec![self.batch().tokens()]
    }

    fn positions(&mut self, _: &Vector) -> Vec<Tensor> {
        vec![self.batch().positions()]
    }

    fn sinusoids(&mut self, first: usize, width: usize) -> Vec<Tensor> {
        let Batch { length, compute, .. } = *self.batch();
        let waves: Vec<f32> = (0..length).flat_map(|position| Positions::sinusoid(first + position, width)).collect();
        vec![to_compute(&waves, compute).view([length as i64, width as i64])]
    }

    fn keep(&mut self, x: &Vec<Tensor>) -> Vec<Tensor> {
        x.iter().map(Tensor::shallow_clone).collect()
    }

    fn each(
        &mut self,
        x: Vec<Tensor>,
        mut f: impl FnMut(&mut Self, Vec<Tensor>) -> Result<Vec<Tensor>, Stopped>,
    ) -> Result<Vec<Tensor>, Stopped> {
        x.into_iter().map(|x| Ok(f(self, vec![x])?.remove(0))).collect()
    }

    fn observe(&mut self, name: LayerName, x: &Vec<Tensor>) -> Result<(), Stopped> {
        match (self.observer)(name, x) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stopped),
        }
    }

    fn norm(&mut self, norm: &NormLayer, x: Vec<Tensor>) -> Vec<Tensor> {
        each(x, |x| norm::forward(norm, self.weights, &x))
    }

    fn linear<const N: usize>(&mut self, layers: [&Linear; N], x: &Vec<Tensor>) -> [Vec<Tensor>; N] {
        let mut outputs = layers.map(|_| Vec::with_capacity(x.len()));
        for x in x {
            let input = Input { x, rounded: OnceCell::new() };
            outputs.iter_mut().zip(layers).for_each(|(outputs, layer)| outputs.push(self.product(layer, &input)));
        }
        outputs
    }

    fn unary(&mut self, operation: Unary, x: Vec<Tensor>) -> Vec<Tensor> {
        each(x, |x| match operation {
            Unary::Activation(Activation::Silu) => x.silu(),
            Unary::Activation(Activation::Gelu) => x.gelu("none"),
            Unary::Activation(Activation::GeluTanh) => x.gelu("tanh"),
            Unary::Activation(Activation::Relu) => x.relu(),
            Unary::Activation(Activation::ReluSquared) => x.relu().square(),
            Unary::Clip(limit) => x.clamp(-f64::from(limit), f64::from(limit)),
            Unary::Scale(factor) => x * f64::from(factor),
            Unary::Softcap(cap) => (x / f64::from(cap)).tanh() * f64::from(cap),
        })
    }

    fn binary(&mut self, operation: Binary, x: Vec<Tensor>, y: Vec<Tensor>) -> Vec<Tensor> {
        let pairs = x.into_iter().zip(y);
        let one = |(x, y): (Tensor, Tensor)| match operation {
            Binary::Add => x + y,
            Binary::Multiply => x * y,
            Binary::MultiplySigmoid => x * y.sigmoid(),
        };
        pairs.map(one).collect()
    }

    /// `[batch, tokens, heads · head_dim]` → `[batch, heads, tokens, head_dim]`
    fn split_heads(&mut self, x: Vec<Tensor>, heads: usize) -> Vec<Tensor> {
        each(x, |x| {
            let (batch, tokens, width) = x.size3().expect("[batch, tokens, width]");
            x.view([batch, tokens, heads as i64, width / heads as i64]).transpose(1, 2)
        })
    }

    fn rotate(&mut self, (rotary, head_dim): &(Rotary, usize), heads: Vec<Tensor>) -> Vec<Tensor> {
        each(heads, |heads| attention::rotate(rotary, *head_dim, &heads))
    }

    fn grow(&mut self, growth: &QueryGrowth, heads: Vec<Tensor>) -> Vec<Tensor> {
        each(heads, |heads| {
            let factors: Vec<f32> = (0..heads.size()[2] as usize).map(|position| growth.at(position)).collect();
            let factors = Tensor::from_slice(&factors).view([-1, 1]).to_kind(heads.kind()).to_device(heads.device());
            heads * factors
        })
    }

    fn attend(&mut self, spec: &Attention, _: usize, q: Vec<Tensor>, k: Vec<Tensor>, v: Vec<Tensor>) -> Vec<Tensor> {
        q.into_iter().zip(k).zip(v).map(|((q, k), v)| attention::attend(spec, &q, &k, &v)).collect()
    }

    fn token_before(&mut self, _: usize, x: &Vec<Tensor>) -> Vec<Tensor> {
        x.iter().map(|x| x.narrow(1, 0, x.size()[1] - 1).constant_pad_nd([0, 0, 1, 0])).collect()
    }

    fn lerp(&mut self, share: &Vector, x: &Vec<Tensor>, before: &Vec<Tensor>) -> Vec<Tensor> {
        let share = self.weights.get(&share.name.to_string());
        x.iter().zip(before).map(|(x, before)| before.lerp_tensor(x, &share)).collect()
    }

    fn wkv(&mut self, _: usize, decay: &Vector, first: &Vector, keys: Vec<Tensor>, values: Vec<Tensor>) -> Vec<Tensor> {
        let [decay, first] = [decay, first].map(|vector| self.weights.get(&vector.name.to_string()));
        keys.into_iter().zip(values).map(|(key, value)| wkv::means(&decay, &first, &key, &value).to_kind(key.kind())).collect()
    }
}

/// Applies f to each batch, which is freed before the next.
fn each(x: Vec<Tensor>, f: impl FnMut(Tensor) -> Tensor) -> Vec<Tensor> {
    x.into_iter().map(f).collect()
}

/// The input of linear layers, rounded once for all of them that want it so.
struct Input<'a> {
    x: &'a Tensor,
    rounded: OnceCell<Tensor>,
}

impl Input<'_> {
    fn of(&self, weights: &Parameters, name: &str) -> &Tensor {
        let blend = weights.blend();
        if !blend.inputs.contains(name) {
            return self.x;
        }
        self.rounded.get_or_init(|| straight(self.x, int8(self.x), blend.lambda))
    }
}
