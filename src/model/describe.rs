//! A spec in words, as rows of a table.

use super::ModelSpec;
use crate::spec::{
    Activation, Attention, Block, Embedding, FeedForward, Gate, Head, Mask, Norm, NormKind, NormWeight, Op, Positions, QkSpan, Rotary,
    RotaryScaling, SubLayer, SubLayerInput,
};

/// What is described, and how.
type Row = (String, String);

/// Rows from the embedding to the head; blocks that are alike share theirs.
pub fn describe(spec: &ModelSpec) -> Vec<Row> {
    let mut rows = vec![("embedding".to_owned(), embedding(spec))];
    for (block, places) in gathered(spec.blocks.iter().map(without_owner)) {
        let mut place = blocks(&places);
        for sub_layer in &block.sub_layers {
            rows.push((std::mem::take(&mut place), operation(&sub_layer.op)));
        }
        rows.push((String::new(), around(&block)));
    }
    let shared = |what: &'static str, of: fn(&Block) -> Option<usize>| {
        let uses = spec.blocks.iter().enumerate().filter_map(move |(i, block)| Some((i, of(block)?)));
        let (users, owners): (Vec<_>, Vec<_>) = uses.unzip();
        let owners = gathered(owners.into_iter()).into_iter().map(|(owner, _)| owner).collect::<Vec<_>>();
        (!users.is_empty()).then(|| (blocks(&users), format!("{what} of {}, in turn", blocks(&owners))))
    };
    rows.extend(shared("the weights", |block| block.weights_of));
    rows.extend(shared("the feed-forward", |block| block.feed_forward()?.weights_of));
    rows.push(("head".to_owned(), head(spec)));
    rows
}

/// The block as if all its weights were its own: who owns them has rows of its own.
fn without_owner(block: &Block) -> Block {
    let mut block = Block { weights_of: None, ..block.clone() };
    if let Some(ffn) = block.feed_forward_mut() {
        ffn.weights_of = None;
    }
    block
}

/// Distinct values, each with its places.
fn gathered<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<(T, Vec<usize>)> {
    let mut kinds: Vec<(T, Vec<usize>)> = Vec::new();
    for (i, value) in values.enumerate() {
        match kinds.iter_mut().find(|(kind, _)| *kind == value) {
            Some((_, places)) => places.push(i),
            None => kinds.push((value, vec![i])),
        }
    }
    kinds
}

/// `block 3`, `blocks 0-2, 4`
fn blocks(places: &[usize]) -> String {
    format!("block{} {}", if places.len() == 1 { "" } else { "s" }, ranges(places))
}

/// What is there, one behind the other.
fn list(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn when(condition: bool, text: &str) -> Option<String> {
    condition.then(|| text.to_owned())
}

/// `0-3, 5, 7-8`
fn ranges(places: &[usize]) -> String {
    let runs = places.chunk_by(|a, b| a + 1 == *b);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

fn embedding(spec: &ModelSpec) -> String {
    // All of them are named, so that one that is added cannot be forgotten here.
    let Embedding { width, scale, positions, norm: of_sum } = &spec.embedding;
    list([
        Some(format!("{} × {}", spec.vocab_size, spec.embedding_width())),
        scale.map(|scale| format!("times {scale}")),
        width.map(|width| format!("a matrix from {width} to {}", spec.hidden_size)),
        match *positions {
            Positions::None => None,
            Positions::Learned => Some(format!("{} learned positions", spec.context)),
            Positions::Sinusoidal { first } => Some(format!("sinusoidal positions from {first}")),
        },
        of_sum.as_ref().map(norm),
    ])
}

fn head(spec: &ModelSpec) -> String {
    let Head { bias, softcap } = spec.head;
    list([
        Some(spec.final_norm.as_ref().map_or("no norm".into(), norm)),
        spec.embedding.width.map(|width| format!("a matrix from {} to {width}", spec.hidden_size)),
        Some(if spec.tied { "tied to the embedding".into() } else { "a matrix of its own".into() }),
        when(bias, "bias"),
        softcap.map(|cap| format!("softcap {cap}")),
    ])
}

fn operation(op: &Op) -> String {
    match op {
        Op::Attention(a) => attention(a),
        Op::Wkv(wkv) => format!("recurrent mean with decay (wkv) of {} channels", wkv.width),
        Op::FeedForward(ffn) => feed_forward(ffn),
    }
}

fn attention(a: &Attention) -> String {
    // All of them are named, so that one that is added cannot be forgotten here.
    let Attention {
        n_heads,
        n_kv_heads,
        head_dim,
        scale,
        rotary: turned,
        alibi,
        mask,
        qkv_bias,
        output_bias,
        qkv_clip,
        qk_norm,
        query_growth,
        softcap,
        context_norm,
    } = a;
    let kv = if n_kv_heads == n_heads { String::new() } else { format!(" ({} kv)", n_kv_heads) };
    let biases = match (*qkv_bias, *output_bias) {
        (true, true) => Some("biases"),
        (true, false) => Some("biases on q, k, v"),
        (false, true) => Some("bias on o"),
        (false, false) => None,
    };
    // The usual scale goes without saying.
    let unusual = (scale - (*head_dim as f32).sqrt().recip()).abs() > 1e-6 * scale;
    list([
        Some(format!("attention: {} heads{kv} of {}", n_heads, head_dim)),
        turned.as_ref().map(|r| rotary(r, *head_dim)),
        when(!alibi.is_empty(), "ALiBi"),
        match mask {
            Mask::Causal => None,
            Mask::Window(width) => Some(format!("window {width}")),
        },
        biases.map(str::to_owned),
        qkv_clip.map(|clip| format!("q, k, v clipped at {clip}")),
        qk_norm.as_ref().map(|n| {
            let span = match n.span {
                QkSpan::Head => "each head",
                QkSpan::EachHead => "each head by weights of its own",
                QkSpan::All => "all heads together",
            };
            format!("q and k normed ({}, {span})", norm(&n.norm))
        }),
        query_growth.map(|g| format!("queries grow every {} positions", g.every)),
        unusual.then(|| format!("scale {}", scale)),
        softcap.map(|cap| format!("softcap {cap}")),
        context_norm.as_ref().map(|n| format!("{} before o", norm(n))),
    ])
}

fn rotary(r: &Rotary, head_dim: usize) -> String {
    let scaling = match &r.scaling {
        RotaryScaling::None => None,
        RotaryScaling::Linear { factor } => Some(format!("linear × {factor}")),
        RotaryScaling::Llama3 { factor, .. } => Some(format!("llama3 × {factor}")),
        RotaryScaling::Yarn { factor, .. } => Some(format!("yarn × {factor}")),
        RotaryScaling::LongRope { original_context, .. } => Some(format!("longrope behind {original_context} tokens")),
    };
    let notes = list([
        r.dims.map(|dims| format!("{dims} of {head_dim} dimensions")),
        when(r.neighbours, "neighbouring pairs"),
        r.steps.map(|steps| format!("in steps of 1/{steps}")),
        scaling,
    ]);
    format!("rotary θ {}{}", r.theta, if notes.is_empty() { notes } else { format!(" ({notes})") })
}

fn feed_forward(ffn: &FeedForward) -> String {
    let FeedForward { width, gate, activation, bias, hidden_norm, weights_of: _ } = ffn;
    let activation = match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu (tanh)",
        Activation::Relu => "relu",
        Activation::ReluSquared => "squared relu",
    };
    let gate = match gate {
        Gate::Hidden => format!("gated by {activation}"),
        Gate::None => activation.to_owned(),
        Gate::Receptance => format!("{activation}, gated by a receptance"),
    };
    list([
        Some(format!("feed-forward: {width}, {gate}")),
        when(*bias, "biases"),
        hidden_norm.as_ref().map(|n| format!("{} before down", norm(n))),
    ])
}

fn around(block: &Block) -> String {
    let mut parts = Vec::new();
    for sub_layer in &block.sub_layers {
        // Every field is named, so that none that is added can be forgotten here.
        let SubLayer { input: _, norm: input_norm, op, output_norm, sum_norm } = sub_layer;
        let places = match op {
            Op::Attention(_) | Op::Wkv(_) => ["before the mixer", "behind it", "of its sum"],
            Op::FeedForward(_) => ["before the feed-forward", "behind that", "of that sum"],
        };
        let norms = [input_norm, output_norm, sum_norm].into_iter().zip(places);
        parts.extend(norms.map(|(n, place)| n.as_ref().map(|n| format!("{} {place}", norm(n)))));
    }
    let side_by_side = block.sub_layers.iter().find_map(|sub_layer| match sub_layer.input {
        SubLayerInput::HiddenStates => None,
        SubLayerInput::BlockInput => Some("mixer and feed-forward side by side".to_owned()),
        SubLayerInput::SharedNorm => Some("mixer and feed-forward side by side behind one norm".to_owned()),
    });
    list(parts.into_iter().chain([side_by_side]))
}

fn norm(n: &Norm) -> String {
    let kind = match n.kind {
        NormKind::Rms => "rms norm",
        NormKind::Layer => "layer norm",
    };
    let weight = match (n.weight, n.bias) {
        (NormWeight::None, _) => " without weights",
        (NormWeight::OnePlus, _) => " by 1 + w",
        (NormWeight::Plain, false) if n.kind == NormKind::Layer => " without bias",
        _ => "",
    };
    format!("{kind}{weight}")
}
