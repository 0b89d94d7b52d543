//! Options that say which model, and what computes its logits.

use crate::error::Result;
use crate::model::LogitSource;
use crate::runtime::{self, Activations, Decoder, Model, NativeLogits};
use std::path::PathBuf;

/// A model, for what needs no text.
#[derive(clap::Args)]
pub struct WeightsArgs {
    /// A Hugging Face directory, a folder with model.thimble or that file, or a llama2.c .bin
    #[arg(value_name = "MODEL")]
    model: PathBuf,
}

impl WeightsArgs {
    pub fn open(&self) -> Result<Model> {
        runtime::open_weights(&self.model)
    }
}

/// A model and its tokenizer.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// A Hugging Face directory, a folder with model.thimble or that file, or a llama2.c .bin
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// A tokenizer.json, sentencepiece model, vocab.json (with merges.txt), RWKV vocabulary or llama2.c tokenizer.bin, instead of the model's own
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl ModelArgs {
    pub fn open(&self) -> Result<Model> {
        runtime::open(&self.model, self.tokenizer.as_deref())
    }
}

/// What computes logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// The device's own runtime
    Native,
    /// libtorch
    #[cfg(feature = "torch")]
    Torch,
}

/// Number format of activations against packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ActivationsArg {
    /// 8 bits, a scale for each 32 columns, as a device runs
    Int8,
    /// 8 bits, a scale a token
    Int8Token,
    /// Full precision
    F32,
}

impl From<ActivationsArg> for Activations {
    fn from(arg: ActivationsArg) -> Self {
        match arg {
            ActivationsArg::Int8 => Activations::Int8,
            ActivationsArg::Int8Token => Activations::Int8Token,
            ActivationsArg::F32 => Activations::F32,
        }
    }
}

/// Number format libtorch computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DtypeArg {
    /// Single precision
    F32,
    /// bfloat16
    Bf16,
}

#[cfg(feature = "torch")]
impl From<DtypeArg> for tch::Kind {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::F32 => tch::Kind::Float,
            DtypeArg::Bf16 => tch::Kind::BFloat16,
        }
    }
}

/// Backend and its options.
#[derive(clap::Args)]
pub struct BackendArgs {
    /// What computes logits
    #[arg(long, value_enum, default_value = "native")]
    backend: Backend,
    /// Number format that libtorch computes in
    #[cfg(feature = "torch")]
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DtypeArg,
}

impl BackendArgs {
    /// A source of logits over an opened model.
    pub fn logits(&self, model: &Model, activations: ActivationsArg, threads: usize) -> Result<Box<dyn LogitSource>> {
        match self.backend {
            Backend::Native => Ok(Box::new(NativeLogits::new(Decoder::new(&*model.store, activations.into(), threads)?))),
            #[cfg(feature = "torch")]
            Backend::Torch => {
                use crate::compress::{Compute, TorchLogits};
                if threads > 0 {
                    tch::set_num_threads(threads as i32);
                }
                Ok(Box::new(TorchLogits::new(model.store.clone(), Compute { device: tch::Device::Cpu, kind: self.dtype.into() })))
            }
        }
    }
}
