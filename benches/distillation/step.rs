//! Training steps on given ids, timed: our side of `python-compat/train_step.py`, which
//! takes the same arguments and says the same.

use crate::stats::median;
use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use tch::Kind;
use thimble::compress::distil::{Distillation, Teacher};
use thimble::compress::train::{Batch, Network, Objective, Optimizer, Trained};
use thimble::compress::{Compute, MallocTuning};
use thimble::memory::AnonymousPeak;
use thimble::recipe::{Distil, Training};
use thimble::runtime;
use thimble::text::corpus::Piece;

/// What asks this program for steps.
pub const WORD: &str = "step";

/// Steps before the time of one is what it stays at.
pub const WARMING: usize = 2;

#[derive(Parser)]
struct Asked {
    model: PathBuf,
    /// A tensor `ids`, i32 `[sequences, length + 1]`.
    ids: PathBuf,
    #[arg(long)]
    batch: usize,
    #[arg(long)]
    length: usize,
    #[arg(long)]
    steps: usize,
    /// Whose distribution is learnt; the ids' next tokens are where there is none.
    #[arg(long)]
    teacher: Option<PathBuf>,
    #[arg(long, default_value = "float32")]
    dtype: String,
    #[arg(long)]
    threads: Option<i32>,
    /// Whether blocks are computed again for their gradients.
    #[arg(long)]
    checkpointing: bool,
}

pub fn run() {
    let memory = AnonymousPeak::watch();
    let asked = Asked::parse_from(std::env::args().skip(1));
    if let Some(threads) = asked.threads {
        tch::set_num_threads(threads);
    }
    let kind = if asked.dtype == "bfloat16" { Kind::BFloat16 } else { Kind::Float };
    let compute = Compute { kind, ..Compute::CPU };
    let _malloc_tuning = MallocTuning::begin();
    let store = runtime::open_weights(&asked.model).unwrap().store;
    let training = Training { checkpointing: asked.checkpointing, ..Training::default() };
    let network = Network::trained(&*store, compute, &Trained::Parameters(training.variables(store.spec()))).unwrap();
    let teacher = asked.teacher.as_ref().map(|path| Network::frozen(&*runtime::open_weights(path).unwrap().store, compute).unwrap());
    let kd_weight = f64::from(u8::from(teacher.is_some()));
    let plan = Distil { kd_weight, ce_weight: 1.0 - kd_weight, training, ..Distil::default() };
    let teacher = teacher.map(|network| Teacher::Network(Box::new(network)));
    let mut objective = Distillation::new(&plan, teacher.as_ref(), None, network.spec().blocks.len() + 1);
    let mut optimizer = Optimizer::new(&plan.training, network.variables());
    let pieces = asked.pieces();
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for (step, pieces) in pieces.chunks_exact(asked.batch).take(asked.steps).enumerate() {
        let begin = Instant::now();
        let first = (step * asked.batch) as u64;
        let tokens = (asked.batch * asked.length) as f64;
        let batch = Batch { pieces, step: step as u64, numbers: first..first + asked.batch as u64, scored: tokens, tokens };
        optimizer.zero_grad();
        let parts = objective.losses(&network, &batch, true).unwrap();
        optimizer.clip();
        optimizer.step(step as u64 + 1, plan.training.learning_rate, plan.training.weight_decay);
        losses.push(parts.iter().map(|(_, loss)| loss).sum::<f64>());
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let tokens_per_s = (asked.batch * asked.length) as f64 / median(seconds[WARMING..].iter().copied());
    println!("{}", json!({ "losses": losses, "seconds": seconds, "tokens_per_s": tokens_per_s, "peak_anonymous_bytes": memory.bytes() }));
}

impl Asked {
    fn pieces(&self) -> Vec<Piece> {
        let bytes = std::fs::read(&self.ids).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ids: Vec<u32> =
            file.tensor("ids").unwrap().data().chunks_exact(4).map(|id| u32::from_le_bytes(id.try_into().unwrap())).collect();
        ids.chunks_exact(self.length + 1).map(|ids| Piece { ids: ids.to_vec(), scored: vec![true; self.length] }).collect()
    }
}
