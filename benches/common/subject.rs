//! A model under test: its original, the texts it is measured on, and what was found
//! of a smaller form of it.

use serde::Serialize;
use std::path::{Path, PathBuf};
use thimble::compress::{Compute, TorchLogits};
use thimble::eval::{Evaluation, Protocol, evaluate, windows};
use thimble::model::Window;
use thimble::progress::Silent;
use thimble::runtime::{self, Model};

/// Tokens of a window; less where the context is.
pub const WINDOW: usize = 512;
pub const WINDOWS: usize = 64;
pub const TEXTS: [(&str, &str); 2] = [("at home", "tinystories/valid.txt"), ("away", "wikitext-2-raw/wiki.test.raw")];

pub struct Subject {
    data: PathBuf,
    /// Its Hugging Face directory.
    pub dir: PathBuf,
    pub original: Model,
    texts: Vec<Vec<Window>>,
    /// Perplexity of the original on each text.
    pub before: Vec<f64>,
}

/// A compressed form against its original, on each text.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    pub perplexity: Vec<f64>,
    pub kl: Vec<f64>,
}

impl Subject {
    /// `folder` inside the data's models.
    pub fn open(folder: &str) -> Self {
        let data =
            std::env::var_os("THIMBLE_DATA").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
        let dir = data.join("models").join(folder);
        let original = runtime::open(&dir, None).unwrap_or_else(|e| panic!("{e}; THIMBLE_DATA names the data"));
        let mut subject = Self { data, dir, original, texts: Vec::new(), before: Vec::new() };
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

    /// Perplexity and divergence, activations in f32 on both sides.
    pub fn quality(&self, model: &Model) -> Quality {
        let on = |text: &Vec<Window>| self.evaluate(model, Some(&self.original), text);
        let found: Vec<Evaluation> = self.texts.iter().map(on).collect();
        Quality {
            perplexity: found.iter().map(|e| e.perplexity).collect(),
            kl: found.iter().map(|e| e.divergence.as_ref().expect("there is a reference").kl_mean).collect(),
        }
    }

    pub fn perplexities(&self, model: &Model) -> Vec<f64> {
        self.texts.iter().map(|text| self.evaluate(model, None, text).perplexity).collect()
    }

    fn evaluate(&self, model: &Model, reference: Option<&Model>, text: &[Window]) -> Evaluation {
        let source = |model: &Model| TorchLogits::new(model.store.clone(), Compute::CPU);
        let mut reference = reference.map(source);
        let reference = reference.as_mut().map(|r| r as &mut dyn thimble::model::LogitSource);
        evaluate(&mut source(model), reference, text, (Protocol::Bos, self.window()), &Silent).unwrap().model
    }
}
