//! Students made of teachers: what they are, and the weights they start from.

#[path = "common/data.rs"]
mod data;

use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thimble::checkpoint::DenseTensor;
use thimble::error::Result;
use thimble::model::student::{Initialise, Layers};
use thimble::model::{DenseModel, LogitSource, Part, StudentShape};
use thimble::quant::{Assembled, Weight};
use thimble::runtime::{Activations, Decoder, NativeLogits};
use thimble::spec::{ModelSpec, alibi_slopes};

fn teacher(fixture: &str) -> DenseModel {
    DenseModel::open_hugging_face(&data::fixture(fixture)).unwrap()
}

fn numbers(teacher: &DenseModel, name: &str) -> Result<Vec<f32>> {
    Ok(teacher.tensor(name)?.to_f32().into_owned())
}

type Weights = BTreeMap<String, Vec<f32>>;

/// A student and all it starts from.
fn student(shape: &StudentShape, teacher: &DenseModel) -> (ModelSpec, Weights) {
    let spec = shape.apply(teacher.spec()).unwrap();
    let start = |p| shape.starting_weight(p, teacher.spec(), &spec, |name| numbers(teacher, name)).unwrap();
    let weights = spec.parameters().iter().map(|p| (p.name.clone(), start(p))).collect();
    (spec, weights)
}

/// The layers that own their weights, and what a student must share where they do not
/// own their feed-forwards.
fn shape_of_all(teacher: &ModelSpec) -> StudentShape {
    let owners = (0..teacher.blocks.len()).filter(|&i| teacher.blocks[i].weights_of.is_none());
    let shared_ffn = teacher.blocks.iter().any(|block| block.feed_forward().is_some_and(|ffn| ffn.weights_of.is_some()));
    StudentShape { shared_ffn, ..StudentShape::of_layers(owners.collect()) }
}

#[test]
fn layers_of_a_teacher_are_taken_as_they_are() {
    for (fixture, dir) in data::fixtures() {
        let teacher = DenseModel::open_hugging_face(&dir).unwrap();
        let mut shape = shape_of_all(teacher.spec());
        // The later ones, so that no block keeps its number.
        shape.layers = shape.layers.split_off(shape.layers.len() / 2);
        let (spec, weights) = student(&shape, &teacher);
        assert_eq!(spec.blocks.len(), shape.layers.len(), "{fixture}");
        for parameter in spec.parameters() {
            let name = match parameter.part {
                Part::Block(i) => teacher.spec().block_name(shape.layers[i], parameter.role()),
                Part::Start | Part::End => parameter.name.clone(),
            };
            let stored = teacher.tensor(&name).unwrap();
            assert_eq!(stored.shape, parameter.shape, "{fixture}: {}", parameter.name);
            assert!(*stored.to_f32() == weights[&parameter.name], "{fixture}: {} is not {name}", parameter.name);
        }
    }
}

/// Every width named, and each the teacher's.
#[test]
fn a_selection_of_everything_is_the_teacher() {
    for fixture in ["llama-gqa-tied", "bloom-six-heads", "olmo2-biases", "stablelm-parallel", "gpt2-by-layer", "mobillama-shared"] {
        let teacher = teacher(fixture);
        let attention = teacher.spec().blocks[0].attention().unwrap();
        let shape = StudentShape {
            hidden_size: Some(teacher.spec().hidden_size),
            intermediate_size: Some(teacher.spec().blocks[0].feed_forward().unwrap().width),
            n_heads: Some(attention.n_heads),
            n_kv_heads: Some(attention.n_kv_heads),
            ..shape_of_all(teacher.spec())
        };
        let (spec, weights) = student(&shape, &teacher);
        assert_eq!(&spec, teacher.spec(), "{fixture}");
        for parameter in spec.parameters() {
            assert!(weights[&parameter.name] == numbers(&teacher, &parameter.name).unwrap(), "{fixture}: {}", parameter.name);
        }
    }
}

/// Half as wide everywhere, and one head: what comes out is a model of its own.
#[test]
fn narrow_students_of_every_family_run() {
    for (fixture, dir) in data::fixtures() {
        let teacher = DenseModel::open_hugging_face(&dir).unwrap();
        for initialise in [Initialise::Teacher, Initialise::Random] {
            let has_heads = teacher.spec().blocks[0].attention().is_some();
            let shape = StudentShape {
                hidden_size: Some(teacher.spec().hidden_size / 2),
                intermediate_size: Some(10),
                n_heads: has_heads.then_some(1),
                initialise,
                ..shape_of_all(teacher.spec())
            };
            let (spec, weights) = student(&shape, &teacher);
            let parameters = spec.parameters().into_iter();
            let dense = parameters.map(|p| {
                let tensor = DenseTensor::from_f32(&p.name, Path::new(""), p.shape, &weights[&p.name]);
                (p.name, Weight::Dense(tensor))
            });
            let assembled = Assembled::new(spec, dense);
            let mut source = NativeLogits::new(Decoder::new(&assembled, Activations::F32, 1).unwrap());
            source.run_window(&[3, 14, 15, 9, 2, 6]).unwrap();
            let logits = source.logits(0..6).unwrap();
            assert!(logits.iter().all(|x| x.is_finite()), "{fixture}, {initialise:?}");
            assert!(logits.iter().any(|x| *x != logits[0]), "{fixture}, {initialise:?}: it says the same of all");
        }
    }
}

/// Heads of a student, and those of the teacher that they must be, of 6 on 2 in groups
/// of three.
struct Heads {
    n_heads: usize,
    n_kv_heads: Option<usize>,
    queries: &'static [usize],
    keys: &'static [usize],
}

#[test]
fn selected_numbers_are_those_of_a_naive_loop() {
    const CASES: [Heads; 4] = [
        Heads { n_heads: 6, n_kv_heads: None, queries: &[0, 1, 2, 3, 4, 5], keys: &[0, 1] },
        Heads { n_heads: 4, n_kv_heads: Some(2), queries: &[0, 1, 3, 4], keys: &[0, 1] },
        Heads { n_heads: 2, n_kv_heads: Some(2), queries: &[0, 3], keys: &[0, 1] },
        Heads { n_heads: 3, n_kv_heads: None, queries: &[0, 1, 2], keys: &[0] },
    ];
    let teacher = teacher("llama-gqa-tied");
    let (wide, head_dim, ffn_wide) = (36, 6, 44);
    let (hidden_size, ffn_width) = (20, 30);
    let hidden: Vec<usize> = (0..hidden_size).map(|i| (i as f64 * wide as f64 / hidden_size as f64 + 1e-9).floor() as usize).collect();
    let width: Vec<usize> = (0..ffn_width).map(|i| (i as f64 * ffn_wide as f64 / ffn_width as f64 + 1e-9).floor() as usize).collect();
    let tokens: Vec<usize> = (0..96).collect();
    for Heads { n_heads, n_kv_heads, queries, keys } in CASES {
        let shape = StudentShape {
            hidden_size: Some(hidden_size),
            intermediate_size: Some(ffn_width),
            n_heads: Some(n_heads),
            n_kv_heads,
            ..StudentShape::of_layers(vec![1])
        };
        let (spec, weights) = student(&shape, &teacher);
        let rows = |heads: &[usize]| -> Vec<usize> {
            let mut rows = Vec::new();
            for head in heads {
                for d in 0..head_dim {
                    rows.push(head * head_dim + d);
                }
            }
            rows
        };
        let (q, kv, one) = (rows(queries), rows(keys), vec![0]);
        for parameter in spec.parameters() {
            let (from_rows, from_columns) = match parameter.role() {
                "embeddings" => (&tokens, &hidden),
                "attn.q" => (&q, &hidden),
                "attn.k" | "attn.v" => (&kv, &hidden),
                "attn.o" => (&hidden, &q),
                "ffn.gate" | "ffn.up" => (&width, &hidden),
                "ffn.down" => (&hidden, &width),
                "attn_norm" | "ffn_norm" | "final_norm" => (&one, &hidden),
                other => panic!("{other}"),
            };
            let name = parameter.name.replace("blocks.0.", "blocks.1.");
            let tensor = teacher.tensor(&name).unwrap();
            let columns = *tensor.shape.last().unwrap();
            let mut naive = Vec::new();
            for row in from_rows {
                for column in from_columns {
                    naive.push(tensor.to_f32()[row * columns + column]);
                }
            }
            assert_eq!(parameter.shape.iter().product::<usize>(), naive.len(), "{n_heads} heads: {}", parameter.name);
            assert!(weights[&parameter.name] == naive, "{n_heads} heads: {}", parameter.name);
        }
    }
}

/// A slope belongs to its head; heads that are drawn have those of a new model.
#[test]
fn slopes_follow_heads() {
    let teacher = teacher("bloom-six-heads");
    let slopes = |n_heads: usize, initialise| {
        let shape = StudentShape { n_heads: Some(n_heads), initialise, ..StudentShape::of_layers(vec![0]) };
        let mut spec = shape.apply(teacher.spec()).unwrap();
        spec.attentions_mut().next().unwrap().alibi.clone()
    };
    let all = alibi_slopes(6);
    assert_eq!(slopes(3, Initialise::Teacher), [all[0], all[2], all[4]]);
    assert_eq!(slopes(3, Initialise::Random), alibi_slopes(3));
    assert_eq!(slopes(6, Initialise::Random), all);
}

#[test]
fn repeated_layers_and_shared_feed_forwards_are_there_once() {
    let teacher = teacher("llama-gqa-tied");
    let owned = |spec: &ModelSpec| -> BTreeSet<String> { spec.parameters().into_iter().map(|p| p.name).collect() };
    let of_teacher = owned(teacher.spec());

    let (repeated, weights) = student(&StudentShape { repeat: 3, ..StudentShape::of_layers(vec![0, 1]) }, &teacher);
    let uses: Vec<_> = repeated.blocks.iter().map(|block| block.weights_of).collect();
    assert_eq!(uses, [None, Some(0), Some(0), None, Some(3), Some(3)]);
    assert_eq!(owned(&repeated), of_teacher.iter().map(|name| name.replace("blocks.1.", "blocks.3.")).collect());
    assert!(weights["blocks.3.attn.q"] == numbers(&teacher, "blocks.1.attn.q").unwrap());

    let (shared, weights) = student(&StudentShape { shared_ffn: true, ..StudentShape::of_layers(vec![1, 0]) }, &teacher);
    let left = of_teacher.iter().filter(|name| !name.starts_with("blocks.1.ffn.")).cloned().collect();
    assert_eq!(owned(&shared), left);
    assert!(weights["blocks.0.ffn.up"] == numbers(&teacher, "blocks.1.ffn.up").unwrap());
    assert!(weights["blocks.1.ffn_norm"] == numbers(&teacher, "blocks.0.ffn_norm").unwrap());
}

/// Mean and standard deviation.
fn moments(numbers: &[f32]) -> (f64, f64) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (mean, (numbers.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt())
}

fn drawn(layers: Vec<usize>, seed: u64) -> StudentShape {
    StudentShape { initialise: Initialise::Random, seed, ..StudentShape::of_layers(layers) }
}

#[test]
fn drawn_weights_have_the_spread_of_gpt2() {
    // More blocks than the teacher has, and wider ones.
    let shape = StudentShape { hidden_size: Some(64), n_heads: Some(8), n_kv_heads: Some(4), ..drawn(vec![0, 1, 1, 0], 5) };
    let (_, weights) = student(&shape, &teacher("llama-gqa-tied"));
    for (name, numbers) in weights {
        let expected = match name.rsplit_once('.').map_or(&*name, |(_, role)| role) {
            "o" | "down" => (0.0, 0.02 / 8f64.sqrt()),
            "attn_norm" | "ffn_norm" | "final_norm" => (1.0, 0.0),
            _ => (0.0, 0.02),
        };
        let (mean, deviation) = moments(&numbers);
        let of_chance = 4.0 * expected.1 / (numbers.len() as f64).sqrt();
        assert!((mean - expected.0).abs() <= of_chance, "{name}: mean {mean}");
        assert!((deviation - expected.1).abs() <= of_chance, "{name}: deviation {deviation}, expected {}", expected.1);
    }
}

#[test]
fn norms_and_biases_start_as_if_they_were_not_there() {
    let constant = |fixture: &str, name: &str| {
        let (_, weights) = student(&drawn(vec![0, 1], 0), &teacher(fixture));
        let first = weights[name][0];
        assert!(weights[name].iter().all(|&x| x == first), "{fixture}: {name}");
        first
    };
    assert_eq!(constant("bloom-six-heads", "embedding_norm"), 1.0);
    assert_eq!(constant("bloom-six-heads", "final_norm.bias"), 0.0);
    assert_eq!(constant("bloom-six-heads", "blocks.1.attn.q.bias"), 0.0);
    assert_eq!(constant("stablelm-parallel", "blocks.0.attn.q_norm"), 1.0);
    assert_eq!(constant("bitnet-relu2", "blocks.0.ffn.hidden_norm"), 1.0);
    // Whose result is multiplied by 1 + w.
    assert_eq!(constant("gemma-one-kv-head", "blocks.1.attn_norm"), 0.0);
}

/// Decays and mixtures are the teacher's, at the indices of a selection.
#[test]
fn vectors_of_a_recurrent_mixer_are_selected() {
    let teacher = teacher("rwkv-wide-attention");
    let hidden_size = teacher.spec().hidden_size;
    let (_, weights) = student(&StudentShape { hidden_size: Some(hidden_size / 2), ..drawn(vec![1], 0) }, &teacher);
    for role in ["wkv.decay", "wkv.first"] {
        assert!(weights[&format!("blocks.0.{role}")] == numbers(&teacher, &format!("blocks.1.{role}")).unwrap(), "{role}");
    }
    for role in ["wkv.mix_key", "ffn.mix_receptance"] {
        let all = numbers(&teacher, &format!("blocks.1.{role}")).unwrap();
        let second: Vec<f32> = all.into_iter().step_by(2).collect();
        assert!(weights[&format!("blocks.0.{role}")] == second, "{role}");
    }
}

/// By seed, name and index alone.
#[test]
fn drawn_weights_do_not_depend_on_the_order_of_calls() {
    let teacher = teacher("llama-gqa-tied");
    let shape = drawn(vec![0, 1], 7);
    let (spec, weights) = student(&shape, &teacher);
    for parameter in spec.parameters().iter().rev() {
        let again = shape.starting_weight(parameter, teacher.spec(), &spec, |name| panic!("{name} is read")).unwrap();
        assert!(again == weights[&parameter.name], "{}", parameter.name);
    }
    assert!(weights["blocks.0.attn.k"] != weights["blocks.1.attn.k"] && weights["blocks.0.attn.k"] != weights["blocks.0.attn.v"]);
    assert!(weights["blocks.0.attn.k"] != student(&drawn(vec![0, 1], 8), &teacher).1["blocks.0.attn.k"]);
    // Nor on what else the student has.
    let narrower = StudentShape { intermediate_size: Some(8), ..shape };
    assert!(weights["blocks.0.attn.k"] == student(&narrower, &teacher).1["blocks.0.attn.k"]);
}

#[track_caller]
fn refused(fixture: &str, shape: &StudentShape, says: &[&str]) {
    let error = shape.apply(teacher(fixture).spec()).unwrap_err().to_string();
    let missing: Vec<_> = says.iter().filter(|part| !error.contains(**part)).collect();
    assert!(missing.is_empty(), "{fixture}: {missing:?} not in: {error}");
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let all = StudentShape::of_layers(vec![0, 1]);
    let llama = |shape: StudentShape, says: &[&str]| refused("llama-gqa-tied", &shape, says);
    llama(StudentShape { layers: vec![], ..all.clone() }, &["no layers"]);
    llama(StudentShape { layers: vec![0, 2], ..all.clone() }, &["no layer 2", "0 to 1"]);
    llama(StudentShape { repeat: 0, ..all.clone() }, &["repeat = 0"]);
    llama(StudentShape { repeat: usize::MAX, ..all.clone() }, &["lower repeat"]);
    llama(StudentShape { repeat: 2, shared_ffn: true, ..all.clone() }, &["repeat = 2", "shared_ffn"]);
    llama(StudentShape { intermediate_size: Some(0), ..all.clone() }, &["intermediate_size = 0"]);
    llama(StudentShape { intermediate_size: Some(45), ..all.clone() }, &["intermediate_size = 45", "44 at most", "random"]);
    llama(StudentShape { hidden_size: Some(0), ..all.clone() }, &["hidden_size = 0"]);
    llama(StudentShape { hidden_size: Some(37), ..all.clone() }, &["hidden_size = 37", "36 at most", "random"]);
    llama(StudentShape { n_heads: Some(7), ..all.clone() }, &["n_heads = 7", "6 at most", "random"]);
    llama(StudentShape { n_heads: Some(4), n_kv_heads: Some(3), ..all.clone() }, &["n_heads = 4", "multiple of n_kv_heads = 3"]);
    llama(StudentShape { n_kv_heads: Some(3), ..all.clone() }, &["n_kv_heads = 3", "at most 2 key-value heads", "random"]);
    // Six query heads of the one key-value head, where the teacher has three.
    llama(StudentShape { n_kv_heads: Some(1), ..all.clone() }, &["at most 3 query heads", "random"]);
    llama(StudentShape { n_heads: Some(5), ..all.clone() }, &["n_heads = 5 on n_kv_heads = 5", "at most 2 key-value heads"]);
    refused("rwkv-narrow-mlp", &StudentShape { n_heads: Some(2), ..all.clone() }, &["no heads", "leave n_heads"]);
    refused("xglm-scaled", &StudentShape { hidden_size: Some(2), ..all.clone() }, &["hidden_size of 4 or more"]);
    // Of teachers whose layers share weights.
    refused("mobilellm-layer-share", &all, &["layer 1 has the weights of its layer 0", "repeat"]);
    refused("mobillama-shared", &all, &["shared_ffn = true"]);
}

#[test]
fn layers_are_chosen_by_rule_or_by_list() {
    let choose = |layers, count, of| serde_json::from_value::<Layers>(layers).unwrap().choose(count, of);
    assert_eq!(choose(json!("every_second"), None, 12).unwrap(), [0, 2, 4, 6, 8, 10]);
    assert_eq!(choose(json!("every_second"), Some(3), 5).unwrap(), [0, 2, 4]);
    assert_eq!(choose(json!("first"), Some(3), 12).unwrap(), [0, 1, 2]);
    assert_eq!(choose(json!("last"), Some(3), 12).unwrap(), [9, 10, 11]);
    assert_eq!(choose(json!("first_last"), Some(5), 12).unwrap(), [0, 1, 2, 10, 11]);
    assert_eq!(choose(json!("spread"), Some(4), 12).unwrap(), [0, 4, 7, 11]);
    assert_eq!(choose(json!("spread"), Some(1), 12).unwrap(), [0]);
    assert_eq!(choose(json!([0, 2, 5]), None, 12).unwrap(), [0, 2, 5]);
    assert_eq!(Layers::default().choose(None, 3).unwrap(), [0, 1, 2]);
    for count in 1..=12 {
        let spread = Layers::default().choose(Some(count), 12).unwrap();
        assert!(spread.windows(2).all(|pair| pair[0] < pair[1]) && spread.len() == count, "{spread:?}");
    }
    let refused = |layers, count| choose(layers, count, 12).unwrap_err().to_string();
    assert!(refused(json!("first"), None).contains("needs n_layers"));
    assert!(refused(json!("spread"), Some(13)).contains("from 1 to 12"));
    assert!(refused(json!("last"), Some(0)).contains("from 1 to 12"));
    assert!(refused(json!("every_second"), Some(4)).contains("leave n_layers out"));
    assert!(refused(json!([1, 2]), Some(3)).contains("leave n_layers out"));
    let unknown = serde_json::from_value::<Layers>(json!("even")).unwrap_err().to_string();
    assert!(unknown.contains("every_second"), "{unknown}");
}
