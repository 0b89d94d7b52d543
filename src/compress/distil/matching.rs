//! What a student's hidden states, attention and embedded tokens are drawn to.
//!
//! Sanh et al., "DistilBERT" (2019), section 3 (cosine of hidden states); Jiao et al., "TinyBERT"
//! (2020), section 3.1, equations 7 to 9; Sun et al., "MobileBERT" (2020), section 3.3; Wang et al.,
//! "MiniLMv2" (2021), section 3.1.

use crate::compress::libtorch::attention_scores;
use crate::compress::tensors::wide;
use crate::compress::train::{Segment, Variable, drawn};
use crate::forward::names::attn;
use crate::random::Random;
use crate::recipe::{AttentionLoss, Distil, HiddenLoss};
use crate::spec::{Attention, LayerName, ModelSpec};
use tch::{Device, Kind, Tensor};

/// Activations that losses of attention compare; relations are of all three.
const OBSERVED: [LayerName; 3] = [attn::QUERIES, attn::KEYS, attn::VALUES];

/// Losses beside those of the prediction.
pub struct Matching {
    hidden: Option<(HiddenLoss, f64)>,
    attention: Option<(AttentionLoss, f64)>,
    embedding: f64,
    /// Pieces that queries, keys and values of a block are cut into, where it is attention
    /// that is compared: as many as both sides' heads can be put together to.
    relations: Vec<i64>,
    /// The teacher's block that each of the student's is compared with.
    pub map: Vec<usize>,
    /// Those of the student that are compared, where it is not all.
    only: Option<usize>,
    /// From the student's width to the teacher's where they differ: hidden states, and
    /// embedded tokens.
    projections: Option<[Variable; 2]>,
}

impl Matching {
    /// Of a student and a teacher; `only` one block, where it is learnt alone. Fails with
    /// a reason where the two cannot be compared.
    pub fn new(plan: &Distil, student: &ModelSpec, teacher: &ModelSpec, only: Option<usize>, device: Device) -> Result<Self, String> {
        let map = match plan.layers.as_slice() {
            [] => evenly(student.blocks.len(), teacher.blocks.len()),
            layers => layers.to_vec(),
        };
        if let Some(block) = map.iter().find(|&&block| block >= teacher.blocks.len()) {
            return Err(format!("layers: the teacher has no block {block}, it has {}", teacher.blocks.len()));
        }
        let mut relations = Vec::new();
        if let Some(wanted) = plan.attention {
            for (i, &at) in map.iter().enumerate() {
                match (attention(student, i), attention(teacher, at)) {
                    (Some(own), Some(its)) if own.n_heads == its.n_heads || wanted.loss == AttentionLoss::Relations => {
                        relations.push(common_divisor(own.n_kv_heads, its.n_kv_heads) as i64);
                    }
                    (Some(own), Some(its)) => {
                        return Err(format!(
                            "attention: block {i} has {} heads and the teacher's block {at} has {}; their scores can be compared where they are as many, their relations (loss = \"relations\") anywhere",
                            own.n_heads, its.n_heads
                        ));
                    }
                    _ => return Err("attention: a block has none: it mixes tokens in another way".into()),
                }
            }
        }
        let narrower = student.hidden_size != teacher.hidden_size;
        let deep = plan.hidden.is_some() || plan.embedding > 0.0;
        let sizes = [teacher.hidden_size, student.hidden_size];
        let projection = |name| projection(name, sizes, plan.training.seed, device);
        let projections = (narrower && deep).then(|| ["distil.hidden_projection", "distil.embedding_projection"].map(projection));
        Ok(Self {
            hidden: plan.hidden.map(|h| (h.loss, h.weight)),
            attention: plan.attention.map(|a| (a.loss, a.weight)),
            embedding: plan.embedding,
            relations,
            map,
            only,
            projections,
        })
    }

    /// Whether there is nothing to match.
    pub fn is_empty(&self) -> bool {
        self.hidden.is_none() && self.attention.is_none() && self.embedding == 0.0
    }

    /// Activations inside blocks that it compares.
    pub fn observed(&self) -> &'static [LayerName] {
        match self.attention {
            None => &[],
            Some((AttentionLoss::Relations, _)) => &OBSERVED,
            Some((AttentionLoss::Scores | AttentionLoss::Distributions, _)) => &OBSERVED[..2],
        }
    }

    /// The teacher's segment that one of the student's is compared with, where it is.
    pub fn teachers(&self, segment: usize) -> Option<usize> {
        let Some(block) = segment.checked_sub(1) else { return (self.embedding > 0.0).then_some(0) };
        let wanted = self.only.is_none_or(|only| only == block) && (self.attention.is_some() || self.hidden_at(block).is_some());
        wanted.then(|| self.map[block] + 1)
    }

    fn hidden_at(&self, block: usize) -> Option<(HiddenLoss, f64)> {
        let last = block + 1 == self.map.len();
        self.hidden.filter(|(loss, _)| last || *loss != HiddenLoss::LastCosine)
    }

    /// Variables of its own.
    pub fn variables(&self) -> Vec<Variable> {
        let clone = |v: &Variable| Variable { name: v.name.clone(), tensor: v.tensor.shallow_clone(), decays: v.decays };
        self.projections.iter().flatten().map(clone).collect()
    }

    /// Losses of one segment of the student's against one of the teacher's, with their
    /// weights, means over all that is compared. What is summed over blocks is divided by
    /// their number.
    pub fn losses(&self, student: &ModelSpec, segment: usize, own: &Segment, its: &Segment) -> Vec<(&'static str, Tensor)> {
        let project = |which: usize| {
            let x = wide(&own.output);
            self.projections.as_ref().map_or_else(|| x.shallow_clone(), |p| x.linear::<&Tensor>(&p[which].tensor, None))
        };
        let target = wide(&its.output);
        let Some(block) = segment.checked_sub(1) else {
            return vec![("embedding", (project(1) - target).square().mean(None) * self.embedding)];
        };
        let compared = if self.only.is_some() { 1.0 } else { self.map.len() as f64 };
        let mut losses = Vec::new();
        if let Some((loss, weight)) = self.hidden_at(block) {
            let value = match loss {
                HiddenLoss::LastCosine => 1.0 - Tensor::cosine_similarity(&project(0), &target, -1, 1e-8).mean(None),
                HiddenLoss::MeanSquare => (project(0) - target).square().mean(None) / compared,
                HiddenLoss::NormalisedMeanSquare => (normalised(&project(0)) - normalised(&target)).square().mean(None) / compared,
            };
            losses.push(("hidden", value * weight));
        }
        if let (Some((loss, weight)), Some(spec)) = (self.attention, attention(student, block)) {
            let observed = |made: &Segment, name: LayerName| wide(&made.observed[&name]);
            let scores = |made| attention_scores(spec, &observed(made, attn::QUERIES), &observed(made, attn::KEYS));
            let value = match loss {
                AttentionLoss::Scores => squared(&scores(own), &scores(its)),
                AttentionLoss::Distributions => divergence(&scores(own), &scores(its)),
                AttentionLoss::Relations => {
                    let relations = |made, name: LayerName| relations(&observed(made, name), self.relations[block]);
                    OBSERVED.map(|name| divergence(&relations(own, name), &relations(its, name))).into_iter().sum()
                }
            };
            losses.push(("attention", value * weight / compared));
        }
        losses
    }
}

/// Mean squared distance of scores `[batch, heads, queries, keys]`, −∞ where a key is not
/// seen.
fn squared(own: &Tensor, its: &Tensor) -> Tensor {
    let seen = its.isfinite().logical_and(&own.isfinite());
    let zero = |x: &Tensor| x.masked_fill(&seen.logical_not(), 0.0);
    (zero(own) - zero(its)).square().sum(None) / seen.sum(Kind::Int64)
}

/// KL of the distributions over keys that such scores make, a mean over queries.
fn divergence(own: &Tensor, its: &Tensor) -> Tensor {
    let unseen = its.isfinite().logical_and(&own.isfinite()).logical_not();
    let [log_q, log_p] = [own, its].map(|x| x.log_softmax(-1, None).masked_fill(&unseen, 0.0));
    let p = log_p.exp().masked_fill(&unseen, 0.0);
    let rows: i64 = its.size()[..3].iter().product();
    (p * (log_p - log_q)).sum(None) / rows as f64
}

/// How much tokens are like each other, `[batch, relations, tokens, tokens]`: products of
/// what heads `[batch, heads, tokens, head_dim]` have, side by side and cut into as many
/// pieces as there are to be relations.
fn relations(x: &Tensor, relations: i64) -> Tensor {
    let (batch, heads, tokens, size) = x.size4().expect("[batch, heads, tokens, head_dim]");
    let width = heads * size / relations;
    let pieces = x.transpose(1, 2).reshape([batch, tokens, relations, width]).transpose(1, 2);
    pieces.matmul(&pieces.transpose(-2, -1)) / (width as f64).sqrt()
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn normalised(x: &Tensor) -> Tensor {
    x.layer_norm([*x.size().last().expect("[…, hidden]")], None::<&Tensor>, None::<&Tensor>, 1e-12, false)
}

fn attention(spec: &ModelSpec, block: usize) -> Option<&Attention> {
    spec.blocks[block].attention()
}

/// Uniform as TinyBERT's: the last of each stretch of the teacher's blocks.
fn evenly(student: usize, teacher: usize) -> Vec<usize> {
    (1..=student).map(|i| (i * teacher).div_ceil(student).saturating_sub(1)).collect()
}

/// To be trained along.
fn projection(name: &str, [outputs, inputs]: [usize; 2], seed: u64, device: Device) -> Variable {
    let tensor = drawn(Random::named(seed, name), [outputs as i64, inputs as i64], (Kind::Float, device));
    Variable { name: name.into(), tensor, decays: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Nested lists of numbers, of any depth.
    fn tensor(value: &Value) -> Tensor {
        match value.as_array() {
            None => Tensor::from(value.as_f64().unwrap()),
            Some(list) => Tensor::stack(&list.iter().map(tensor).collect::<Vec<_>>(), 0),
        }
    }

    fn segment(output: Tensor, observed: [Tensor; 3]) -> Segment {
        Segment { output, observed: OBSERVED.into_iter().zip(observed).collect() }
    }

    /// A model of two heads, with the scale of the fixture.
    fn spec(scale: f64) -> ModelSpec {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/llama-relu");
        let mut spec = crate::model::DenseModel::open_hugging_face(&dir).unwrap().spec().clone();
        spec.attentions_mut().for_each(|a| (a.n_heads, a.n_kv_heads, a.head_dim, a.scale) = (2, 2, 4, scale as f32));
        spec.blocks.truncate(1);
        spec.hidden_size = 8;
        spec
    }

    #[test]
    fn losses_are_those_of_torch() {
        let found: Value = serde_json::from_str(include_str!("../../../tests/data/losses.json")).unwrap();
        let side = |which: &str| {
            let qkv = found["attention"][which].as_array().unwrap();
            segment(tensor(&found["hidden"][which]), [0, 1, 2].map(|i| tensor(&qkv[i])))
        };
        let (own, its) = (side("own"), side("its"));
        let spec = spec(found["attention"]["scale"].as_f64().unwrap());
        let loss = |plan: &str| {
            let plan: Distil = toml::from_str(plan).unwrap();
            let matching = Matching::new(&plan, &spec, &spec, None, Device::Cpu).unwrap();
            let losses = matching.losses(&spec, 1, &own, &its);
            losses.into_iter().map(|(_, loss)| loss.double_value(&[])).sum::<f64>()
        };
        for (name, kind) in [
            ("last_cosine", "hidden"),
            ("mean_square", "hidden"),
            ("normalised_mean_square", "hidden"),
            ("scores", "attention"),
            ("distributions", "attention"),
            ("relations", "attention"),
        ] {
            let expected = found["matching"][name].as_f64().unwrap();
            let value = loss(&format!("{kind} = {{ loss = '{name}', weight = 0.5 }}"));
            assert!((value - 0.5 * expected).abs() < 1e-9, "{name}: {value}, expected {}", 0.5 * expected);
        }
    }

    /// Heads are laid side by side before they are cut: as many relations as a model of
    /// fewer, wider heads has.
    #[test]
    fn relations_are_of_any_number_of_heads() {
        tch::manual_seed(1);
        let wide = Tensor::randn([2, 2, 5, 6], (Kind::Double, Device::Cpu));
        // Of each head of 6, three of 2.
        let narrow = wide.view([2, 2, 5, 3, 2]).permute([0, 1, 3, 2, 4]).reshape([2, 6, 5, 2]);
        let off = (relations(&wide, 2) - relations(&narrow, 2)).abs().max().double_value(&[]);
        assert!(off < 1e-12, "{off}");
        assert_eq!(common_divisor(6, 4), 2);
    }

    #[test]
    fn blocks_are_compared_evenly() {
        assert_eq!(evenly(3, 6), [1, 3, 5]);
        assert_eq!(evenly(4, 12), [2, 5, 8, 11]);
        assert_eq!(evenly(4, 6), [1, 2, 4, 5]);
        assert_eq!(evenly(2, 2), [0, 1]);
    }
}
