//! Activation statistics, streamed block by block: hidden states of all
//! calibration sequences are kept, weights of one block at a time.

use super::importance::Importance;
use super::libtorch::{EmbeddingLayer, block_forward, block_until};
use super::solve::panels;
use super::solve::relative_error::far_power;
use super::tensors::{Parameters, in_place, lent_bf16};
use crate::error::{Error, Result};
use crate::kernels::gram;
use crate::progress::Progress;
use crate::recipe::TokenImportance;
use crate::spec::{Block, LayerName};
use half::bf16;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Sequences that go through a layer together. On a CPU a few keep its cores busy, and what
/// is made of more of them takes memory.
fn batch(device: Device) -> usize {
    match device {
        Device::Cpu => 2,
        _ => 8,
    }
}

/// Hidden states of all calibration sequences between two blocks.
pub struct HiddenStates {
    /// `[batch, tokens, hidden]` each.
    batches: Vec<Tensor>,
    importance: Rc<Importance>,
    /// Count of blocks that have run.
    passed: usize,
}

/// What is gathered of the input of each group of linear layers.
#[derive(Default)]
pub struct Statistics {
    sums: BTreeMap<LayerName, Sums>,
}

/// Over the tokens so far, each as often as it counts.
struct Sums {
    tokens: f64,
    /// Σ x xᵀ `[in, in]`; below the diagonal nothing counts (see [`mirror`]).
    products: Tensor,
    /// Σ |x| `[in]`
    magnitudes: Tensor,
    /// max |x| `[in]`
    greatest: Tensor,
    /// A power of two: `products` are of x divided by it. 1, but where squares of x are beyond f32.
    power: f64,
}

/// What methods know of an input.
pub struct InputStatistics {
    /// Tokens, each as often as it counts.
    pub tokens: f64,
    /// 2/n · Σ x xᵀ `[in, in]`, tokens weighed, the Hessian of the layer's squared error (GPTQ, section
    /// 3.1), of inputs divided by `power`.
    pub hessian: Tensor,
    /// A power of two: 1, but where squares of inputs are beyond f32.
    pub power: f64,
    /// Mean |x| `[in]`.
    pub mean_magnitude: Tensor,
    /// max |x| `[in]`.
    pub greatest_magnitude: Tensor,
}

impl InputStatistics {
    /// Fails where it is not finite: what of it a method or a report looked at would be worth
    /// nothing.
    pub fn check(&self, names: &[String]) -> Result<()> {
        match self.hessian.diag(0).isfinite().all().int64_value(&[]) {
            0 => Err(Error::activations_overflow(names)),
            _ => Ok(()),
        }
    }

    /// The same once more.
    pub fn copy(&self) -> Self {
        let Self { tokens, hessian, power, mean_magnitude, greatest_magnitude } = self;
        Self {
            tokens: *tokens,
            power: *power,
            hessian: hessian.copy(),
            mean_magnitude: mean_magnitude.copy(),
            greatest_magnitude: greatest_magnitude.copy(),
        }
    }
}

/// Observer of an input of linear layers: `[batch, tokens, in]` and the weights of its tokens
/// `[batch · tokens]`, of each batch.
pub type OnInput<'a> = dyn FnMut(LayerName, &[Tensor], &[Option<Tensor>]) -> Result<()> + 'a;

impl HiddenStates {
    /// The embedded sequences, all of one length, and how much their tokens count.
    pub fn start(sequences: &[Vec<u32>], embedding: &EmbeddingLayer, importance: TokenImportance) -> Self {
        let _no_grad = tch::no_grad_guard();
        let read = |some: &[Vec<u32>]| {
            let sequences: Vec<&[u32]> = some.iter().map(Vec::as_slice).collect();
            embedding.forward(&sequences)
        };
        let batch = batch(embedding.device());
        let importance = Rc::new(Importance::new(importance, sequences, batch, embedding.device()));
        Self { batches: sequences.chunks(batch).map(read).collect(), importance, passed: 0 }
    }

    /// Index of the block that reads these states.
    pub fn block(&self) -> usize {
        self.passed
    }

    /// Steps of one pass, for progress.
    pub fn len(&self) -> u64 {
        self.batches.len() as u64
    }

    /// Bytes of an input of so many columns, of all sequences.
    pub fn bytes_of(&self, width: usize) -> usize {
        let tokens = |x: &Tensor| (x.size()[0] * x.size()[1]) as usize * x.kind().elt_size_in_bytes();
        self.batches.iter().map(tokens).sum::<usize>() * width
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Hidden states, `[batch, tokens, hidden]` each.
    pub fn batches(&self) -> &[Tensor] {
        &self.batches
    }

    /// How much the tokens of a batch count, `[batch · tokens]`; `None` where all count
    /// alike.
    pub fn importance(&self, batch: usize) -> Option<Tensor> {
        self.importance.of(batch, &self.batches[batch])
    }

    /// A shallow copy.
    pub fn again(&self) -> Self {
        Self { batches: self.batches.iter().map(Tensor::shallow_clone).collect(), importance: self.importance.clone(), passed: self.passed }
    }

    /// Runs a block and gathers statistics of some of its inputs; the hidden stays
    /// before the block.
    pub fn observe(&self, spec: &Block, weights: &Parameters, inputs: &[LayerName], progress: &dyn Progress) -> Statistics {
        let _no_grad = tch::no_grad_guard();
        let mut statistics = Statistics::default();
        for (i, x) in self.batches.iter().enumerate() {
            let weights_of_tokens = self.importance.of(i, x);
            let mut left = inputs.len();
            // What comes behind the last of them need not be computed.
            let _ = block_until(spec, weights, vec![x.shallow_clone()], &mut |input, x| {
                if inputs.contains(&input) {
                    statistics.add(input, &x[0], weights_of_tokens.as_ref());
                    left -= 1;
                }
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            progress.advance(1);
        }
        statistics
    }

    /// Moves past a block.
    pub fn advance(&mut self, spec: &Block, weights: &Parameters, progress: &dyn Progress) {
        self.advance_observing(spec, weights, progress, &mut |_, _, _| ());
    }

    /// The same, gathering statistics.
    pub fn advance_observed(&mut self, spec: &Block, weights: &Parameters, progress: &dyn Progress) -> Statistics {
        let mut statistics = Statistics::default();
        let hidden = self.batches.first().map_or(0, |x| x.size()[2] as usize);
        let inputs: Vec<LayerName> = spec.input_groups(hidden).iter().map(|group| group.input).collect();
        self.advance_observing(spec, weights, progress, &mut |input, x, weights| {
            if inputs.contains(&input) {
                statistics.add(input, x, weights);
            }
        });
        statistics
    }

    /// Moves past a block whose layers are solved on the way, all sequences abreast, so that each
    /// is met once: `solve` is given what is known of each of `inputs`, made by the layers solved
    /// before, and puts those that read it into `weights`. Behind the last one it stops where
    /// what the block makes `is_read` by none.
    pub fn advance_solving(
        &mut self,
        spec: &Block,
        weights: &Parameters,
        inputs: &[LayerName],
        is_read: bool,
        progress: &dyn Progress,
        solve: &mut dyn FnMut(LayerName, Statistics) -> Result<()>,
    ) -> Result<()> {
        self.advance_abreast(spec, weights, inputs, is_read, progress, &mut |input, x, tokens| {
            let mut statistics = Statistics::default();
            x.iter().zip(tokens).for_each(|(x, tokens)| statistics.add(input, x, tokens.as_ref()));
            solve(input, statistics)
        })
    }

    /// Like [`Self::advance_solving`], but `solve` is given the input itself.
    pub fn advance_abreast(
        &mut self,
        spec: &Block,
        weights: &Parameters,
        inputs: &[LayerName],
        is_read: bool,
        progress: &dyn Progress,
        solve: &mut OnInput,
    ) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let steps = self.len();
        let tokens: Vec<Option<Tensor>> = (0..self.batches.len()).map(|batch| self.importance(batch)).collect();
        let (mut solved, mut left) = (Ok(()), inputs.len());
        let behind = block_until(spec, weights, std::mem::take(&mut self.batches), &mut |input, x| {
            if inputs.contains(&input) {
                progress.advance(steps);
                left -= 1;
                solved = solve(input, x, &tokens);
            }
            if solved.is_err() || (left == 0 && !is_read) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        solved?;
        self.batches = behind.unwrap_or_default();
        self.passed += 1;
        progress.advance(steps);
        Ok(())
    }

    /// Moves past a block; `observe` is told of inputs, and of how much their tokens count.
    pub fn advance_observing(
        &mut self,
        spec: &Block,
        weights: &Parameters,
        progress: &dyn Progress,
        observe: &mut dyn FnMut(LayerName, &Tensor, Option<&Tensor>),
    ) {
        let _no_grad = tch::no_grad_guard();
        for (i, x) in self.batches.iter_mut().enumerate() {
            let weights_of_tokens = self.importance.of(i, x);
            *x = block_forward(spec, weights, x, &mut |input, x| observe(input, x, weights_of_tokens.as_ref()));
            progress.advance(1);
        }
        self.passed += 1;
    }
}

impl Statistics {
    /// Adds inputs `[…, in]`, whose tokens count as much as `weights` `[tokens]` say, or 1.
    fn add(&mut self, input: LayerName, x: &Tensor, weights: Option<&Tensor>) {
        let x = x.reshape([-1, *x.size().last().expect("not a scalar")]);
        let (tokens, width) = x.size2().expect("[tokens, in]");
        let sums = self.sums.entry(input).or_insert_with(|| Sums::none(width, x.device()));
        if sums.tokens == 0.0 {
            sums.power = far_power(&x.abs());
        }
        // SAFETY: activations are written by the operation that makes them alone, and the slice
        // does not outlive this call.
        match (weights, unsafe { lent_bf16(&x) }, gram::kernel()) {
            (None, Some(numbers), Some(kernel)) if sums.power == 1.0 => sums.add_bf16(numbers, tokens, kernel),
            _ => sums.add(x.to_kind(Kind::Float), tokens, weights),
        }
    }

    /// Adds what others have of an input, where they have any.
    pub fn take_over(&mut self, others: &mut Self, input: LayerName) {
        let Some(mut other) = others.sums.remove(&input) else { return };
        match self.sums.get_mut(&input) {
            Some(sums) => {
                let power = sums.power.max(other.power);
                [&mut *sums, &mut other].into_iter().for_each(|sums| sums.set_power(power));
                let _ = sums.products.g_add_(&other.products);
                let _ = sums.magnitudes.g_add_(&other.magnitudes);
                sums.greatest = sums.greatest.maximum(&other.greatest);
                sums.tokens += other.tokens;
            }
            None => drop(self.sums.insert(input, other)),
        }
    }

    /// The same once more.
    pub fn copy(&self) -> Self {
        Self { sums: self.sums.iter().map(|(&input, sums)| (input, sums.copy())).collect() }
    }

    /// What there is of an input.
    pub fn of(&self, input: LayerName) -> InputStatistics {
        self.sums.get(&input).expect("every input of the block was observed").copy().known()
    }

    /// Takes what there is of an input.
    pub fn take(&mut self, input: LayerName) -> InputStatistics {
        self.sums.remove(&input).expect("every input of the block was observed").known()
    }

    /// As if an input had been divided by `scales` `[in]`; nothing where there is
    /// nothing of it.
    pub fn divide(&mut self, input: LayerName, scales: &Tensor) {
        if let Some(sums) = self.sums.get_mut(&input) {
            let _ = sums.products.g_div_(&scales.outer(scales));
            let _ = sums.magnitudes.g_div_(scales);
            sums.greatest = &sums.greatest / scales;
        }
    }
}

impl Sums {
    fn none(width: i64, device: Device) -> Self {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, device));
        Self { tokens: 0.0, products: zeros(&[width, width]), magnitudes: zeros(&[width]), greatest: zeros(&[width]), power: 1.0 }
    }

    /// Inputs `[tokens, in]`.
    fn add(&mut self, x: Tensor, tokens: i64, weights: Option<&Tensor>) {
        let width = x.size()[1];
        let magnitudes = x.abs();
        let greatest = magnitudes.amax(0, false);
        let (x, magnitudes, tokens) = match weights.map(|weights| weights.unsqueeze(1)) {
            None => (x, magnitudes, tokens as f64),
            Some(weights) => (x * weights.sqrt(), magnitudes * &weights, weights.sum(Kind::Double).double_value(&[])),
        };
        let x = if self.power == 1.0 { x } else { x / self.power };
        for (start, count) in panels(width) {
            let rest = width - start;
            let mut products = self.products.narrow(0, start, count).narrow(1, start, rest);
            let _ = products.addmm_(&x.narrow(1, start, count).tr(), &x.narrow(1, start, rest));
        }
        let _ = self.magnitudes.g_add_(&magnitudes.sum_dim_intlist(0, false, Kind::Float));
        self.greatest = self.greatest.maximum(&greatest);
        self.tokens += tokens;
    }

    /// The same of tokens that all count alike, by a kernel of our own: products of numbers
    /// in bf16 are exact in f32 (but for the very smallest, which count as zero), as are those of
    /// the other way, at twice its speed.
    fn add_bf16(&mut self, x: &[bf16], tokens: i64, kernel: gram::Kernel) {
        let pairs = gram::Pairs::new(x, self.magnitudes.numel());
        // SAFETY: `products` was allocated by `Sums::none` and has no other handle.
        let products = unsafe { in_place(&mut self.products) };
        kernel.add(&pairs, products.expect("a contiguous f32 tensor on the CPU"));
        let _ = self.magnitudes.g_add_(&Tensor::from_slice(&pairs.magnitudes));
        self.greatest = self.greatest.maximum(&Tensor::from_slice(&pairs.greatest));
        self.tokens += tokens as f64;
    }

    /// Has the products be of inputs divided by another power of two.
    fn set_power(&mut self, power: f64) {
        if power != self.power {
            let _ = self.products.g_mul_scalar_((self.power / power).powi(2));
            self.power = power;
        }
    }

    fn copy(&self) -> Self {
        let Self { tokens, products, magnitudes, greatest, power } = self;
        Self { tokens: *tokens, power: *power, products: products.copy(), magnitudes: magnitudes.copy(), greatest: greatest.copy() }
    }

    /// Made of the very tensors: a Hessian is the largest thing there is.
    fn known(mut self) -> InputStatistics {
        mirror(&self.products);
        InputStatistics {
            tokens: self.tokens,
            power: self.power,
            hessian: self.products.g_mul_scalar_(2.0 / self.tokens),
            mean_magnitude: self.magnitudes / self.tokens,
            greatest_magnitude: self.greatest,
        }
    }
}

/// Puts what lies above the diagonal below it.
fn mirror(products: &Tensor) {
    let width = products.size()[0];
    for (start, count) in panels(width) {
        let rows = products.narrow(0, start, count);
        let mut square = rows.narrow(1, start, count);
        let upper = square.triu(0);
        square.copy_(&(&upper + upper.triu(1).tr()));
        let behind = start + count;
        let right = rows.narrow(1, behind, width - behind);
        products.narrow(0, behind, width - behind).narrow(1, start, count).copy_(&right.tr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind::{Double, Float};

    const X: LayerName = LayerName::outside("x");

    /// Sums by panels, put together from two places and divided, are those of the
    /// whole; the Hessian that is taken is that which was looked at. In bf16 too, where
    /// tokens count alike and a kernel may add them up.
    #[test]
    fn sums_by_panels_are_those_of_the_whole() {
        tch::manual_seed(1);
        for (width, kind) in [3, 512, 513, 1300].into_iter().flat_map(|width| [(width, Float), (width, Kind::BFloat16)]) {
            let x = Tensor::randn([2, 40, width], (Float, Device::Cpu)).to_kind(kind);
            let scales = Tensor::rand([width], (Float, Device::Cpu)) + 0.5;
            let (mut statistics, mut others) = (Statistics::default(), Statistics::default());
            let drawn = (kind == Float).then(|| Tensor::rand([80], (Float, Device::Cpu)));
            let of_first = drawn.as_ref().map(|weights| weights.narrow(0, 0, 40));
            let of_second = drawn.as_ref().map(|weights| weights.narrow(0, 40, 40));
            statistics.add(X, &x.narrow(0, 0, 1), of_first.as_ref());
            others.add(X, &x.narrow(0, 1, 1), of_second.as_ref());
            statistics.take_over(&mut others.copy(), X);
            statistics.divide(X, &scales);

            let flat = x.view([80, width]).to_kind(Double) / scales.to_kind(Double);
            let weights =
                drawn.map_or_else(|| Tensor::ones([80, 1], (Double, Device::Cpu)), |weights| weights.to_kind(Double).unsqueeze(1));
            let tokens = weights.sum(Double);
            let expected = flat.tr().matmul(&(&flat * &weights)) * 2.0 / &tokens;
            let looked = statistics.of(X);
            let taken = statistics.take(X);
            let apart = |a: &Tensor, b: &Tensor| (a.to_kind(Double) - b.to_kind(Double)).abs().max().double_value(&[]);
            assert!(apart(&taken.hessian, &expected) < 1e-4, "width {width}");
            assert!(apart(&taken.hessian, &taken.hessian.tr()) < 1e-5 && apart(&looked.hessian, &taken.hessian) == 0.0, "width {width}");
            assert!(apart(&taken.mean_magnitude, &((flat.abs() * &weights).sum_dim_intlist(0, false, Double) / &tokens)) < 1e-5);
            assert!(apart(&taken.greatest_magnitude, &flat.abs().amax(0, false)) < 1e-5);
        }
    }
}
