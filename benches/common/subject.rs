//! A model under test: its original, the texts it is measured on, and what was found
//! of a smaller form of it.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Evaluation, Protocol, evaluate, windows};
use thimble::model::{LogitSource, Window};
use thimble::progress::Silent;
use thimble::runtime::{self, Activations, Decoder, Model, NativeLogits};

/// Tokens of a window; less where the context is.
pub const WINDOW: usize = 512;
pub const WINDOWS: usize = 64;
pub const TEXTS: [(&str, &str); 2] = [("at home", "tinystories/valid.txt"), ("away", "wikitext-2-raw/wiki.test.raw")];

pub struct Subject {
    /// Where the data lie.
    pub data: PathBuf,
    /// Its folder inside the data's models.
    #[allow(dead_code)] // not every benchmark asks
    pub name: &'static str,
    /// Its Hugging Face directory.
    pub dir: PathBuf,
    pub original: Model,
    texts: Vec<Vec<Window>>,
    /// Perplexity of the original on each text.
    pub before: Vec<f64>,
}

/// A compressed form against its original, on each text.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Quality {
    pub perplexity: Vec<f64>,
    pub kl: Vec<f64>,
}

impl Subject {
    /// `folder` inside the data's models.
    pub fn open(folder: &'static str) -> Self {
        let data =
            std::env::var_os("THIMBLE_DATA").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
        let dir = data.join("models").join(folder);
        let original = runtime::open(&dir, None).unwrap_or_else(|e| panic!("{e}; THIMBLE_DATA names the data"));
        let mut subject = Self { data, name: folder, dir, original, texts: Vec::new(), before: Vec::new() };
        let window = subject.window();
        let cut = |(_, file): &(&str, &str)| {
            let text = std::fs::read_to_string(subject.text(file)).unwrap();
            let ids = subject.original.tokenizer().unwrap().encode(&text).unwrap();
            windows(&ids, subject.original.spec(), Protocol::Bos, window, Some(WINDOWS)).unwrap()
        };
        subject.texts = TEXTS.iter().map(cut).collect();
        subject.before = subject.perplexities(&subject.original);
        subject
    }

    pub fn window(&self) -> usize {
        WINDOW.min(self.original.spec().context)
    }

    /// A file or folder of the data's texts.
    pub fn text(&self, name: &str) -> PathBuf {
        self.data.join("text").join(name)
    }

    /// Of all texts, one after the other.
    #[allow(dead_code)] // not every benchmark asks
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.texts.iter().flatten()
    }

    /// Perplexity and divergence, activations in f32 on both sides.
    #[allow(dead_code)] // not every benchmark asks
    pub fn quality(&self, model: &Model) -> Quality {
        self.compared(&mut TorchLogits::new(model.store.clone(), Compute::CPU))
    }

    /// The same on the device's runtime, activations of the model in int8 by tokens.
    #[allow(dead_code)] // not every benchmark asks
    pub fn quality_on_device(&self, model: &Model) -> Quality {
        self.compared(&mut NativeLogits::new(Decoder::new(&*model.store, Activations::Int8Token, 0).unwrap()))
    }

    fn compared(&self, source: &mut dyn LogitSource) -> Quality {
        let mut original = TorchLogits::new(self.original.store.clone(), Compute::CPU);
        let found: Vec<Evaluation> = self.texts.iter().map(|text| self.evaluate(source, Some(&mut original), text)).collect();
        Quality {
            perplexity: found.iter().map(|e| e.perplexity).collect(),
            kl: found.iter().map(|e| e.divergence.as_ref().expect("there is a reference").kl_mean).collect(),
        }
    }

    pub fn perplexities(&self, model: &Model) -> Vec<f64> {
        let mut source = TorchLogits::new(model.store.clone(), Compute::CPU);
        self.texts.iter().map(|text| self.evaluate(&mut source, None, text).perplexity).collect()
    }

    fn evaluate(&self, source: &mut dyn LogitSource, reference: Option<&mut dyn LogitSource>, text: &[Window]) -> Evaluation {
        evaluate(source, reference, text, (Protocol::Bos, self.window()), &Silent).unwrap().model
    }
}
