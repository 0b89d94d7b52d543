//! Forward and backward in segments: the embedding, then a block each. Gradients are
//! handed from one to the one before it, so that any segment may add a loss of its
//! own, and none but the one at hand need be kept: with checkpointing a segment is
//! computed once more when its turn comes (Chen et al., "Training Deep Nets with
//! Sublinear Memory Cost", 2016).

use super::network::Network;
use crate::compress::libtorch::block_forward;
use crate::compress::tensors::along;
use crate::spec::LayerName;
use std::collections::BTreeMap;
use tch::Tensor;

/// Output of a segment: segment 0 is the embedding, segment i + 1 is block i.
pub struct Segment {
    /// Hidden states behind it, `[batch, tokens, hidden]`.
    pub output: Tensor,
    /// Activations inside it that were asked for, by name.
    pub observed: BTreeMap<LayerName, Tensor>,
}

impl Segment {
    /// The same tensors.
    pub fn shallow_clone(&self) -> Self {
        Self {
            output: self.output.shallow_clone(),
            observed: self.observed.iter().map(|(&name, tensor)| (name, tensor.shallow_clone())).collect(),
        }
    }
}

/// How a forward is run.
#[derive(Clone, Copy)]
pub struct Recording<'a> {
    /// Segments, from the embedding on.
    pub depth: usize,
    /// Names of activations that are observed inside blocks.
    pub observe: &'a [LayerName],
    /// Whether segments are computed again for their gradients.
    pub checkpointing: bool,
}

impl Recording<'_> {
    /// All of a network, and nothing observed.
    pub fn whole(network: &Network) -> Self {
        Self { depth: network.segments(), observe: &[], checkpointing: false }
    }
}

/// A forward that gradients can be sent back through.
pub struct Tape<'a> {
    network: &'a Network,
    sequences: &'a [&'a [u32]],
    recording: Recording<'a>,
    /// What each segment but the first reads: the output before it, cut off.
    inputs: Vec<Tensor>,
    /// Empty with checkpointing.
    segments: Vec<Segment>,
    hidden: Tensor,
    /// The first segment that has something to learn.
    lowest: usize,
}

/// Runs sequences of one length without a thought of gradients; `observe` is told of each
/// segment. Gives hidden states behind the last.
pub fn run(network: &Network, sequences: &[&[u32]], recording: Recording, observe: &mut dyn FnMut(usize, Segment)) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let mut hidden = None;
    for segment in 0..recording.depth {
        let made = forward(network, sequences, segment, hidden.as_ref(), recording.observe);
        hidden = Some(made.output.shallow_clone());
        observe(segment, made);
    }
    hidden.expect("there is an embedding")
}

impl<'a> Tape<'a> {
    /// Runs sequences of one length.
    pub fn record(network: &'a Network, sequences: &'a [&'a [u32]], recording: Recording<'a>) -> Self {
        let (mut inputs, mut segments) = (Vec::new(), Vec::new());
        let mut made = None;
        for segment in 0..recording.depth {
            let input = made.as_ref().map(|x: &Tensor| x.detach().set_requires_grad(true));
            let step = || forward(network, sequences, segment, input.as_ref(), recording.observe);
            let step = if recording.checkpointing { tch::no_grad(step) } else { step() };
            made = Some(step.output.shallow_clone());
            inputs.extend(input);
            if !recording.checkpointing {
                segments.push(step);
            }
        }
        let hidden = made.expect("there is an embedding").detach();
        Self { network, sequences, recording, inputs, segments, hidden, lowest: network.first_to_learn() }
    }

    /// Hidden states behind the last block, `[batch, tokens, hidden]`, without history.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Sends `gradient`, of [`Self::hidden`], back to the parameters, where there is one.
    /// `beside` gives losses of the segments that are `judged`, last to first, which are
    /// added.
    pub fn backward(
        mut self,
        mut gradient: Option<Tensor>,
        judged: &dyn Fn(usize) -> bool,
        beside: &mut dyn FnMut(usize, &Segment) -> Option<Tensor>,
    ) {
        for index in (0..self.recording.depth).rev() {
            // None is left when the embedding's turn comes.
            let input = self.inputs.pop();
            let kept = self.segments.pop();
            let sends = index >= self.lowest && gradient.is_some();
            if !sends && !judged(index) {
                gradient = None;
                continue;
            }
            let segment = kept.unwrap_or_else(|| forward(self.network, self.sequences, index, input.as_ref(), self.recording.observe));
            let handed = gradient.take().filter(|_| sends && segment.output.requires_grad()).map(|g| along(&segment.output, &g));
            let own = if judged(index) { beside(index, &segment) } else { None };
            let loss = match (handed, own) {
                (Some(handed), Some(own)) => handed + own,
                (Some(loss), None) | (None, Some(loss)) => loss,
                (None, None) => continue,
            };
            if loss.requires_grad() {
                loss.backward();
            }
            gradient = input.map(|input| input.grad()).filter(Tensor::defined);
        }
    }
}

fn forward(network: &Network, sequences: &[&[u32]], segment: usize, input: Option<&Tensor>, wanted: &[LayerName]) -> Segment {
    let mut observed = BTreeMap::new();
    let output = match (segment.checked_sub(1), input) {
        (Some(block), Some(x)) => block_forward(&network.spec().blocks[block], &network.block(block), x, &mut |name, x| {
            if wanted.contains(&name) {
                observed.insert(name, x.shallow_clone());
            }
        }),
        _ => network.embedding().forward(sequences),
    };
    Segment { output, observed }
}
