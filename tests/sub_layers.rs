//! Blocks that no family of today has: a second feed-forward, and three sub-layers side by side
//! behind one norm. Both backends against a naive forward in f64, and through a native file.
#![cfg(feature = "torch")]

use std::collections::BTreeMap;
use std::sync::Arc;
use thimble::compress::{Compute, TorchLogits};
use thimble::model::{LogitSource, Selection};
use thimble::quant::native::{NativeFile, Notes, write_model};
use thimble::quant::{Assembled, Weight, WeightStore};
use thimble::random::Random;
use thimble::runtime::{Activations, Decoder, NativeLogits};
use thimble::spec::{Activation, Attention, Block, FeedForward, ModelSpec, Norm, Op, SpecialTokens, SubLayer, SubLayerInput};

const HIDDEN: usize = 8;
const VOCAB: usize = 11;
const HEADS: usize = 2;
const HEAD_DIM: usize = 4;

/// Attention and two feed-forwards, in turn or side by side.
fn spec(side_by_side: bool) -> ModelSpec {
    let norm = Norm::rms(1e-5);
    let sub_layer = |op, norm: Option<Norm>| SubLayer { norm, ..SubLayer::plain(op) };
    let ffn = |width| Op::FeedForward(FeedForward::gated(width, Activation::Silu));
    let attention = Op::Attention(Attention::new(HEADS, HEADS, HEAD_DIM));
    let mut sub_layers = vec![sub_layer(attention, Some(norm.clone())), sub_layer(ffn(12), None), sub_layer(ffn(6), None)];
    if side_by_side {
        sub_layers[1].input = SubLayerInput::SharedNorm;
        sub_layers[2].input = SubLayerInput::SharedNorm;
    } else {
        sub_layers[1].sum_norm = Some(norm.clone());
        sub_layers[2].output_norm = Some(norm.clone());
    }
    ModelSpec {
        family: "none".into(),
        vocab_size: VOCAB,
        hidden_size: HIDDEN,
        context: 32,
        embedding: Default::default(),
        blocks: vec![Block { sub_layers, weights_of: None }; 2],
        final_norm: Some(norm),
        tied: true,
        head: Default::default(),
        special: SpecialTokens::default(),
    }
}

fn model(spec: &ModelSpec) -> Assembled {
    let weight = |p: thimble::model::Parameter| {
        let random = Random::named(1, &p.name);
        let numbers: Vec<f32> = (0..p.count()).map(|i| 0.5 * random.normal(i) as f32).collect();
        (p.name.clone(), Weight::from_f32(&p.name, p.shape, &numbers))
    };
    Assembled::new(spec.clone(), spec.parameters().into_iter().map(weight))
}

/// The model, written out for these blocks alone.
struct Naive(BTreeMap<String, Vec<f64>>);

type Rows = Vec<Vec<f64>>;

impl Naive {
    fn of(store: &dyn WeightStore) -> Self {
        let numbers = |name: String| (name.clone(), store.weight(&name).unwrap().to_f32().iter().map(|&x| f64::from(x)).collect());
        Self(store.spec().parameters().into_iter().map(|p| numbers(p.name)).collect())
    }

    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = &self.0[name];
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(a, b)| a * b).sum();
        x.iter().map(|x| weight.chunks(x.len()).map(|row| dot(row, x)).collect()).collect()
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        let one = |x: &Vec<f64>| {
            let scale = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
            x.iter().zip(&self.0[name]).map(|(v, w)| v / scale * w).collect()
        };
        x.iter().map(one).collect()
    }

    fn attention(&self, block: usize, x: &Rows) -> Rows {
        let [q, k, v] = ["q", "k", "v"].map(|part| self.linear(&format!("blocks.{block}.attn.{part}"), x));
        let contexts = (0..x.len()).map(|token| {
            let head = |head: usize| {
                let of = |rows: &Rows, token: usize| rows[token][head * HEAD_DIM..(head + 1) * HEAD_DIM].to_vec();
                let score = |key: usize| of(&q, token).iter().zip(of(&k, key)).map(|(a, b)| a * b).sum::<f64>() / (HEAD_DIM as f64).sqrt();
                let weights: Vec<f64> = (0..=token).map(|key| score(key).exp()).collect();
                let sum: f64 = weights.iter().sum();
                (0..HEAD_DIM).map(|i| weights.iter().enumerate().map(|(key, w)| w / sum * of(&v, key)[i]).sum()).collect::<Vec<f64>>()
            };
            (0..HEADS).flat_map(head).collect()
        });
        self.linear(&format!("blocks.{block}.attn.o"), &contexts.collect())
    }

    fn feed_forward(&self, module: &str, x: &Rows) -> Rows {
        let (gate, up) = (self.linear(&format!("{module}.gate"), x), self.linear(&format!("{module}.up"), x));
        let silu = |g: f64| g / (1.0 + (-g).exp());
        let hidden = gate.iter().zip(&up).map(|(g, u)| g.iter().zip(u).map(|(g, u)| silu(*g) * u).collect()).collect();
        self.linear(&format!("{module}.down"), &hidden)
    }

    fn logits(&self, ids: &[u32], side_by_side: bool) -> Vec<f64> {
        let add = |x: &Rows, y: &Rows| -> Rows { x.iter().zip(y).map(|(x, y)| x.iter().zip(y).map(|(x, y)| x + y).collect()).collect() };
        let mut x: Rows = ids.iter().map(|&id| self.0["embeddings"][id as usize * HIDDEN..][..HIDDEN].to_vec()).collect();
        for block in 0..2 {
            let name = |part: &str| format!("blocks.{block}.{part}");
            let normed = self.norm(&name("attn_norm"), &x);
            x = add(&x, &self.attention(block, &normed));
            if side_by_side {
                x = add(&x, &self.feed_forward(&name("ffn"), &normed));
                x = add(&x, &self.feed_forward(&name("ffn2"), &normed));
            } else {
                x = self.norm(&name("ffn_sum_norm"), &add(&x, &self.feed_forward(&name("ffn"), &x)));
                x = add(&x, &self.norm(&name("ffn2_output_norm"), &self.feed_forward(&name("ffn2"), &x)));
            }
        }
        self.linear("embeddings", &self.norm("final_norm", &x)).concat()
    }
}

#[test]
fn any_list_of_sub_layers_runs_on_both_backends_and_from_a_file() {
    let ids = [3, 1, 4, 1, 5, 9, 2, 6, 10, 0];
    for side_by_side in [false, true] {
        let spec = spec(side_by_side);
        spec.check().unwrap();
        let store = Arc::new(model(&spec));
        let expected = Naive::of(&*store).logits(&ids, side_by_side);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.thimble");
        write_model(&path, &*store, None, &Notes::default()).unwrap();
        let file = NativeFile::open(&path).unwrap();
        assert_eq!(*file.spec(), spec);
        let device = |store: &dyn WeightStore| Box::new(NativeLogits::new(Decoder::new(store, Activations::F32, 1).unwrap()));
        let mut in_two = device(&*store);
        let sources: [(&str, Box<dyn LogitSource>, f64); 3] = [
            ("device", device(&*store), 1e-4),
            ("libtorch", Box::new(TorchLogits::new(store.clone(), Compute::CPU)), 1e-4),
            // Dense matrices are written in f16.
            ("file", device(&file), 0.05),
        ];
        for (name, mut source, tolerance) in sources {
            source.run_window(&ids).unwrap();
            let logits = source.logits(0..ids.len()).unwrap();
            let difference = logits.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
            assert!(difference < tolerance, "{name}, side by side: {side_by_side}: {difference}");
        }
        in_two.run_window(&ids[..4]).unwrap();
        let prefix = in_two.logits(0..4).unwrap();
        assert!(prefix.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4), "a prefix");
    }
}

/// Lists that make no sense, and methods that take none of them yet.
#[test]
fn lists_that_cannot_be_are_refused() {
    let refused = |edit: &dyn Fn(&mut ModelSpec), says: &str| {
        let mut spec = spec(true);
        edit(&mut spec);
        let error = spec.check().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&|s| s.blocks[0].sub_layers.clear(), "number of sub-layers is 0");
    refused(&|s| s.blocks[0].sub_layers = vec![s.blocks[0].sub_layers[0].clone(); 65], "number of sub-layers is 65");
    refused(&|s| s.blocks[1].sub_layers[0].input = SubLayerInput::BlockInput, "its first sub-layer reads the hidden states");
    refused(&|s| s.blocks[1].sub_layers[1].norm = Some(Norm::rms(1e-5)), "has none of its own");
    refused(&|s| s.blocks[1].sub_layers[1].sum_norm = Some(Norm::rms(1e-5)), "no place for a norm");
    refused(
        &|s| {
            let Op::FeedForward(ffn) = &mut s.blocks[1].sub_layers[2].op else { panic!("a feed-forward") };
            ffn.weights_of = Some(0);
        },
        "shares one with another block",
    );
    let whole = Selection::whole(&spec(true)).apply(&spec(true)).unwrap_err().to_string();
    assert!(whole.contains("block 0 has several sub-layers of one kind"), "{whole}");
}
