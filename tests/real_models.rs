//! Real weights against the figures of `shared/data/README.md`, which torch and
//! transformers computed in f32.

#[path = "common/data.rs"]
mod data;

use std::path::Path;
use thimble::eval::{Protocol, evaluate, windows};
use thimble::model::LogitSource;
use thimble::progress::Silent;
use thimble::runtime::{self, Activations, Decoder, NativeLogits, Sampler, generate::generate};

struct Case {
    model: &'static str,
    window: usize,
    windows: usize,
    tokens: usize,
    loss: f64,
}

/// On all of tinystories/valid.txt, protocol `bos`. The same weights in two formats: one decoder
/// reads the one, the other the other.
const STORIES_BIN: Case = Case { model: "stories260K/stories260K.bin", window: 512, windows: 769, tokens: 392_959, loss: 1.671521 };
#[cfg(feature = "torch")]
const STORIES_DIRECTORY: Case = Case { model: "stories260K/hf", ..STORIES_BIN };
/// The same text.
const BABY_LLAMA: Case = Case { model: "babyllama-tok105/hf", window: 256, windows: 3094, tokens: 788_970, loss: 0.931525 };

/// The first 64 windows.
const HOUSE: Case = Case { model: "house-6m", window: 512, windows: 64, tokens: 32_704, loss: 2.239171 };

fn check(case: &Case, data: &Path, what: &str, open: &dyn Fn(&runtime::Model) -> Box<dyn LogitSource>) {
    let model = runtime::open(&data.join("models").join(case.model), None).unwrap();
    let text = std::fs::read_to_string(data.join("text/tinystories/valid.txt")).unwrap();
    let ids = model.tokenizer().unwrap().encode(&text).unwrap();
    let windows = windows(&ids, model.spec(), Protocol::Bos, case.window, Some(case.windows)).unwrap();
    let found = evaluate(open(&model).as_mut(), None, &windows, (Protocol::Bos, case.window), &Silent).unwrap().model;
    println!("{what}: {}: loss {:.6}, expected {:.6}", case.model, found.loss, case.loss);
    assert_eq!((found.windows, found.tokens), (case.windows, case.tokens), "{}", case.model);
    assert!((found.loss - case.loss).abs() <= 1e-4, "{what}: {}: {}", case.model, found.loss);
}

fn native(model: &runtime::Model) -> Box<dyn LogitSource> {
    Box::new(NativeLogits::new(Decoder::new(&*model.store, Activations::Int8, 0).unwrap()))
}

#[test]
fn losses_of_the_device_decoder() {
    let Some(data) = data::shared("losses_of_the_device_decoder") else { return };
    [&STORIES_BIN, &BABY_LLAMA, &HOUSE].into_iter().for_each(|case| check(case, &data, "device", &native));
}

#[cfg(feature = "torch")]
#[test]
fn losses_of_the_torch_decoder() {
    use thimble::compress::{Compute, TorchLogits};
    let Some(data) = data::shared("losses_of_the_torch_decoder") else { return };
    let torch = |model: &runtime::Model| Box::new(TorchLogits::new(model.store.clone(), Compute::CPU)) as Box<dyn LogitSource>;
    [&STORIES_DIRECTORY, &BABY_LLAMA, &HOUSE].into_iter().for_each(|case| check(case, &data, "libtorch", &torch));
}

const ONCE: &str = "Once upon a time";
const STORIES: [u32; 40] = [
    432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265, 282, 295, 433, 426,
    385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426,
];
const HOUSE_ONCE: [u32; 60] = [
    14, 448, 306, 261, 482, 713, 654, 641, 16, 420, 851, 277, 446, 343, 353, 1173, 274, 685, 864, 16, 863, 419, 14, 377, 542, 261, 505,
    1067, 294, 264, 1067, 16, 420, 632, 277, 606, 570, 306, 1308, 264, 1067, 16, 201, 201, 1232, 772, 353, 550, 14, 342, 2312, 311, 446,
    343, 264, 1067, 576, 1271, 550, 369,
];
const HOUSE_OLD_MAN: [u32; 60] = [
    369, 14, 342, 43, 1239, 1357, 14, 311, 1239, 1357, 16, 311, 306, 1339, 277, 398, 261, 668, 512, 16, 311, 306, 261, 661, 512, 16, 311,
    306, 261, 661, 512, 16, 311, 306, 261, 661, 512, 16, 311, 306, 261, 661, 512, 16, 311, 974, 336, 14, 482, 713, 411, 201, 201, 461, 482,
    713, 945, 274, 369, 14,
];

#[test]
fn greedy_texts() {
    let Some(data) = data::shared("greedy_texts") else { return };
    let cases: [(&str, &str, &[u32]); 4] = [
        ("stories260K/stories260K.bin", ONCE, &STORIES),
        ("stories260K/hf", ONCE, &STORIES),
        ("house-6m", ONCE, &HOUSE_ONCE),
        ("house-6m", "The old man looked at the sea and", &HOUSE_OLD_MAN),
    ];
    for (name, prompt, expected) in cases {
        assert_eq!(continued(&data, name, prompt, expected.len()).0, expected, "{name}: {prompt}");
    }
    let (_, text) = continued(&data, "babyllama-tok105/hf", ONCE, 200);
    let expected = ", there was a little girl named Lily. She loved to play outside in the sunshine. One day, she went to the park with her mommy and daddy. She saw a big box on the ground. She wanted to play with it, bu";
    assert_eq!(text, expected);
}

/// New ids, and the text they add.
fn continued(data: &Path, model: &str, prompt: &str, tokens: usize) -> (Vec<u32>, String) {
    let model = runtime::open(&data.join("models").join(model), None).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let ids: Vec<u32> = [model.spec().special.prefix(), &tokenizer.encode(prompt).unwrap()].concat();
    let decoder = Decoder::new(&*model.store, Activations::Int8, 1).unwrap();
    let new = generate(&decoder, &ids, tokens, &Sampler::new(0.0, 1.0, 0), |_| ()).unwrap();
    let whole = tokenizer.decode(&[&ids[..], &new].concat()).unwrap();
    (new, whole[tokenizer.decode(&ids).unwrap().len()..].to_owned())
}
