//! Options that say which model, and what computes its logits.

#[cfg(feature = "torch")]
use crate::error::Error;
use crate::error::Result;
use crate::model::LogitSource;
use crate::runtime::{self, Activations, Decoder, Model, NativeLogits};
use serde::Serialize;
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

    /// Opens the weights and the model's own tokenizer.
    pub fn open_with_tokenizer(&self) -> Result<Model> {
        runtime::open(&self.model, None)
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
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

/// Where libtorch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceArg {
    /// The processor
    Cpu,
    /// The first GPU, in a build with --features cuda
    Cuda,
}

#[cfg(feature = "torch")]
impl DeviceArg {
    /// libtorch's device. Fails where the build or the machine has no CUDA.
    pub fn find(self) -> Result<tch::Device> {
        match self {
            Self::Cpu => Ok(tch::Device::Cpu),
            Self::Cuda if tch::Cuda::is_available() => Ok(tch::Device::Cuda(0)),
            Self::Cuda => {
                let reason = "--device cuda: this build or machine has no CUDA; build with --features cuda and a libtorch that has it (make cuda-binary)";
                Err(Error::Environment(reason.into()))
            }
        }
    }
}

/// Backend and its options.
#[derive(clap::Args)]
pub struct BackendArgs {
    /// What computes logits
    #[arg(long, value_enum, default_value = "native")]
    backend: Backend,
    /// Number format that libtorch computes in; f32 unless told
    #[cfg(feature = "torch")]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Where libtorch computes; cpu unless told
    #[cfg(feature = "torch")]
    #[arg(long, value_enum)]
    device: Option<DeviceArg>,
}

/// What computes logits, and in which number format.
#[derive(Clone, Copy, Serialize)]
#[serde(tag = "backend", rename_all = "snake_case")]
pub enum Computed {
    /// The device's own runtime.
    Native { activations: Activations },
    /// libtorch.
    #[cfg(feature = "torch")]
    Torch { dtype: DtypeArg, device: DeviceArg },
}

impl BackendArgs {
    /// Fails where one backend is given the other's options.
    pub fn computed(&self, activations: Option<ActivationsArg>, default: ActivationsArg) -> Result<Computed> {
        match self.backend {
            #[cfg(feature = "torch")]
            Backend::Native if self.dtype.is_some() => {
                Err(Error::Usage("--dtype is libtorch's: set --backend torch, or leave it out".into()))
            }
            #[cfg(feature = "torch")]
            Backend::Native if self.device.is_some() => {
                Err(Error::Usage("--device is libtorch's: set --backend torch, or leave it out".into()))
            }
            Backend::Native => Ok(Computed::Native { activations: activations.unwrap_or(default).into() }),
            #[cfg(feature = "torch")]
            Backend::Torch if activations.is_some() => {
                let reason =
                    "--activations is the native runtime's, and libtorch computes in --dtype: leave --activations or --backend torch out";
                Err(Error::Usage(reason.into()))
            }
            #[cfg(feature = "torch")]
            Backend::Torch => {
                Ok(Computed::Torch { dtype: self.dtype.unwrap_or(DtypeArg::F32), device: self.device.unwrap_or(DeviceArg::Cpu) })
            }
        }
    }
}

impl Computed {
    /// A source of logits over an opened model.
    pub fn logits(self, model: &Model, threads: usize) -> Result<Box<dyn LogitSource>> {
        match self {
            Self::Native { activations } => Ok(Box::new(NativeLogits::new(Decoder::new(&*model.store, activations, threads)?))),
            #[cfg(feature = "torch")]
            Self::Torch { dtype, device } => {
                use crate::compress::{Compute, TorchLogits};
                let device = device.find()?;
                crate::threads::expect(crate::threads::count(threads))?;
                if threads > 0 {
                    tch::set_num_threads(threads as i32);
                }
                let compute = Compute { device, kind: dtype.into() };
                Ok(Box::new(TorchLogits::new(model.store.clone(), compute).keeping(TorchLogits::DECODED_BYTES)))
            }
        }
    }
}
