//! The trainer and its objectives on whole models: gradients against finite
//! differences, steps against torch's optimisers.
#![cfg(feature = "torch")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use thimble::compress::Compute;
use thimble::compress::distil::{Distillation, Matching, Teacher};
use thimble::compress::train::{Batch, Network, Objective, Optimizer, Part, Trained, Variable};
use thimble::model::{DenseModel, ModelSpec, ParameterKind};
use thimble::recipe::{Distil, Training};
use thimble::text::corpus::Piece;

const DOUBLE: Compute = Compute { device: Device::Cpu, kind: Kind::Double };

fn fixture(name: &str) -> DenseModel {
    DenseModel::open_hugging_face(&root().join("tests/data/fixtures").join(name)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Two short sequences, some of whose tokens are not scored.
fn pieces(spec: &ModelSpec) -> Vec<Piece> {
    let piece = |seed: u32| Piece {
        ids: (0..7).map(|i| (seed + 13 * i * i + 5 * i) % spec.vocab_size as u32).collect(),
        scored: (0..6).map(|i| !(i + seed).is_multiple_of(4)).collect(),
    };
    vec![piece(3), piece(8)]
}

fn losses(objective: &mut dyn Objective, network: &Network, pieces: &[Piece], learn: bool) -> Vec<Part> {
    let count = |of: fn(&Piece) -> usize| pieces.iter().map(of).sum::<usize>() as f64;
    let scored = count(|piece| piece.scored.iter().filter(|&&scored| scored).count());
    let batch = Batch { pieces, step: 0, numbers: 0..pieces.len() as u64, scored, tokens: count(|piece| piece.scored.len()) };
    objective.losses(network, &batch, learn).unwrap()
}

fn sum(parts: &[Part]) -> f64 {
    parts.iter().map(|(_, value)| value).sum()
}

/// A few entries of every variable.
fn check_gradients(what: &str, variables: &[Variable], loss: &mut dyn FnMut() -> f64) {
    const STEP: f64 = 1e-5;
    assert!(!variables.is_empty());
    let mut seen = 0.0f64;
    for Variable { name, tensor, .. } in variables {
        let gradient = tensor.grad();
        assert!(gradient.defined(), "{what}: {name} has no gradient");
        let count = tensor.numel() as i64;
        for place in [0, count / 2] {
            let mut moved = |by: f64| {
                tch::no_grad(|| drop(tensor.view(-1).get(place).g_add_scalar_(by)));
                let value = loss();
                tch::no_grad(|| drop(tensor.view(-1).get(place).g_add_scalar_(-by)));
                value
            };
            let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let found = gradient.view(-1).double_value(&[place]);
            let close = (difference - found).abs() < 1e-7 + 1e-5 * difference.abs();
            assert!(close, "{what}: {name}[{place}]: by differences {difference}, gradient {found}");
            seen = seen.max(found.abs());
        }
    }
    assert!(seen > 1e-4, "{what}: all gradients are zero");
}

fn all(spec: &ModelSpec) -> Trained {
    Trained::Parameters(spec.parameters().into_iter().map(|p| p.name).collect())
}

const PLANS: [(&str, &str); 5] = [
    ("hard and soft", "ce_weight = 0.5\nkd_weight = 2.0\ntemperature = 2.0\ndivergence = { jensen_shannon = 0.3 }"),
    ("DistilBERT's", "ce_weight = 1.0\nhidden = { loss = 'last_cosine', weight = 1.0 }"),
    (
        "TinyBERT's",
        "kd_weight = 0.0\nembedding = 1.0\nhidden = { loss = 'mean_square', weight = 1.0 }\nattention = { loss = 'scores', weight = 0.5 }",
    ),
    (
        "MobileBERT's",
        "kd_weight = 0.0\nhidden = { loss = 'normalised_mean_square', weight = 1.0 }\nattention = { loss = 'distributions', weight = 1.0 }",
    ),
    ("MiniLM's", "attention = { loss = 'relations', weight = 1.0 }"),
];

/// Through the head, the tape and every kind of block, in double precision, with and
/// without checkpointing; the teacher is another model of the same spec.
#[test]
fn gradients_of_whole_models_are_finite_differences() {
    let models =
        ["llama-gqa-tied", "gemma2-softcaps", "phi-partial", "mobillama-shared", "rwkv-narrow-mlp", "opt-post-norm", "bloom-six-heads"];
    for name in models {
        let store = fixture(name);
        let spec = thimble::quant::WeightStore::spec(&store).clone();
        for (which, plan) in PLANS {
            if name.starts_with("rwkv") && plan.contains("attention") {
                continue;
            }
            for checkpointing in [false, true] {
                let mut plan: Distil = toml::from_str(plan).unwrap();
                plan.training.checkpointing = checkpointing;
                let teacher = Teacher::Network(Box::new(disturbed(&store, &spec)));
                let network = Network::trained(&store, DOUBLE, &all(&spec)).unwrap();
                let matching = Matching::new(&plan, &spec, &spec, None, Device::Cpu).unwrap();
                let mut objective = Distillation::new(&plan, Some(&teacher), Some(matching), spec.blocks.len() + 1);
                let pieces = pieces(&spec);
                let learnt = losses(&mut objective, &network, &pieces, true);
                let judged = losses(&mut objective, &network, &pieces, false);
                assert!((sum(&learnt) - sum(&judged)).abs() < 1e-12 && sum(&learnt) > 1e-3, "{name}, {which}: {learnt:?} and {judged:?}");
                let (variables, idle): (Vec<_>, Vec<_>) = network.variables().into_iter().partition(|v| v.tensor.grad().defined());
                // Where there is no prediction, what only that reads learns nothing.
                let reaches =
                    |name: &str| plan.kd_weight + plan.ce_weight > 0.0 || !(name.starts_with("final_norm") || name.starts_with("head"));
                let idle: Vec<_> = idle.iter().map(|v| &v.name).filter(|name| reaches(name)).collect();
                assert!(idle.is_empty(), "{name}, {which}: {idle:?} have no gradient");
                check_gradients(&format!("{name}, {which}"), &variables, &mut || sum(&losses(&mut objective, &network, &pieces, false)));
            }
        }
    }
}

/// The same weights with noise.
fn disturbed(store: &DenseModel, spec: &ModelSpec) -> Network {
    let network = Network::trained(store, DOUBLE, &all(spec)).unwrap();
    tch::manual_seed(5);
    tch::no_grad(|| {
        for variable in network.variables() {
            let noise = variable.tensor.randn_like() * 0.05;
            let _ = variable.tensor.shallow_clone().g_add_(&noise);
        }
    });
    network
}

/// Only what is trained gets a gradient, and adapters begin without a correction.
#[test]
fn adapters_learn_and_nothing_else() {
    let store = fixture("llama-gqa-tied");
    let spec = thimble::quant::WeightStore::spec(&store).clone();
    let of: Vec<String> = spec.parameters().into_iter().filter(|p| p.kind == ParameterKind::Linear).map(|p| p.name).collect();
    let trained = Trained::Adapters { of: of.clone(), rank: 2, alpha: 4.0, seed: 1 };
    let network = Network::trained(&store, DOUBLE, &trained).unwrap();
    let plain = Network::trained(&store, DOUBLE, &all(&spec)).unwrap();
    assert_eq!(network.values(&of[0]), plain.values(&of[0]));
    let variables = network.variables();
    assert_eq!(variables.len(), 2 * of.len());
    // A moves nothing while B is zero.
    tch::no_grad(|| variables.iter().filter(|v| v.name.ends_with("lora_b")).for_each(|v| drop(v.tensor.shallow_clone().fill_(0.1))));
    assert_ne!(network.values(&of[0]), plain.values(&of[0]));
    let plan: Distil = toml::from_str("kd_weight = 0.0\nce_weight = 1.0").unwrap();
    let mut objective = Distillation::new(&plan, None, None, spec.blocks.len() + 1);
    let pieces = pieces(&spec);
    losses(&mut objective, &network, &pieces, true);
    check_gradients("adapters", &variables, &mut || sum(&losses(&mut objective, &network, &pieces, false)));
}

#[test]
fn optimisers_step_as_those_of_torch() {
    let found: Value = serde_json::from_str(include_str!("data/losses.json")).unwrap();
    let matrix = |value: &Value| Tensor::from_slice2(&serde_json::from_value::<Vec<Vec<f64>>>(value.clone()).unwrap());
    let vector = |value: &Value| Tensor::from_slice(&serde_json::from_value::<Vec<f64>>(value.clone()).unwrap());
    // In single precision AdamW goes another way.
    let cases = found["optimisers"].as_array().unwrap();
    for (case, kind, tolerance) in cases.iter().flat_map(|case| [(case, Kind::Double, 1e-12), (case, Kind::Float, 1e-5)]) {
        let mut settings = case["settings"].clone();
        settings["optimizer"] = case["optimizer"].clone();
        settings["clip"] = 0.0.into();
        let training: Training = serde_json::from_value(settings).unwrap();
        let leaf = |tensor: Tensor| tensor.to_kind(kind).set_requires_grad(true);
        let variables = [leaf(matrix(&case["start"][0])), leaf(vector(&case["start"][1]))];
        let held = |i: usize| Variable { name: i.to_string(), tensor: variables[i].shallow_clone(), decays: i == 0 };
        let mut optimizer = Optimizer::new(&training, vec![held(0), held(1)]);
        for (step, gradients) in case["gradients"].as_array().unwrap().iter().enumerate() {
            optimizer.zero_grad();
            let given = [matrix(&gradients[0]), vector(&gradients[1])].map(|g| g.to_kind(kind));
            let loss: Tensor = variables.iter().zip(&given).map(|(x, g)| (x * g).sum(None)).reduce(|a, b| a + b).unwrap();
            loss.backward();
            optimizer.step(step as u64 + 1, training.learning_rate, training.weight_decay);
        }
        let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(apart(&variables[0].detach(), &matrix(&case["end"][0])) < tolerance, "{}", case["optimizer"]);
        assert!(apart(&variables[1].detach(), &vector(&case["end"][1])) < tolerance, "{}", case["optimizer"]);
    }
}

#[test]
fn gradients_are_clipped_by_their_norm_together() {
    let leaf = |numbers: &[f64]| Tensor::from_slice(numbers).set_requires_grad(true);
    let variables = [leaf(&[0.0, 0.0]), leaf(&[0.0])];
    let held = |i: usize| Variable { name: i.to_string(), tensor: variables[i].shallow_clone(), decays: false };
    let training = Training { clip: 1.0, ..Training::default() };
    let mut optimizer = Optimizer::new(&training, vec![held(0), held(1)]);
    ((&variables[0] * Tensor::from_slice(&[2.0, 3.0])).sum(None) + (&variables[1] * 6.0).sum(None)).backward();
    assert!((optimizer.clip() - 7.0).abs() < 1e-12);
    let apart = (variables[0].grad() - Tensor::from_slice(&[2.0 / 7.0, 3.0 / 7.0])).abs().max().double_value(&[]);
    assert!(apart < 1e-12 && (variables[1].grad().double_value(&[0]) - 6.0 / 7.0).abs() < 1e-12);
    assert!((optimizer.clip() - 1.0).abs() < 1e-12);
}
