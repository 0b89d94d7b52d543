//! What holds of every quantiser on any weight: codes in range, scales that can be
//! stored, nothing worse than the span allows, and none of it by chance of a shape.
#![cfg(feature = "torch")]

use ndarray::Array2;
use proptest::prelude::*;
use tch::{Kind, Tensor};
use thimble::compress::calibrate::InputStatistics;
use thimble::compress::from_array;
use thimble::compress::quantize::{LayerResult, TargetLayer, layer_method};
use thimble::compress::solve::relative_error::quadratic_form;
use thimble::quant::quant_params::{GridChoice, GridSearch};
use thimble::quant::ternary::Share;
use thimble::quant::{Code, Scheme};
use thimble::random::Random;
use thimble::recipe::{ActOrder, AwqOptions, GptqOptions, LlmInt8Options, Method, RtnOptions, TernaryOptions, TernarySolver};

/// Every method, and settings that change its way.
fn methods() -> Vec<Method> {
    let search = GridChoice::LeastError(GridSearch { steps: 20, ..GridSearch::default() });
    let gptq = GptqOptions::default();
    vec![
        Method::Rtn(RtnOptions::default()),
        Method::Rtn(RtnOptions { grid: search, importance: true }),
        Method::Gptq(gptq),
        Method::Gptq(GptqOptions { act_order: ActOrder::GroupAware, grid: search, ..gptq }),
        Method::Gptq(GptqOptions { act_order: ActOrder::Off, static_groups: true, ..gptq }),
        Method::Gptq(GptqOptions { grid: GridChoice::MinMax, ..gptq }),
        Method::Awq(AwqOptions { clip: true }),
        Method::LlmInt8(LlmInt8Options { threshold: 6.0 }),
    ]
}

/// Those whose codes are ternary, each with its scheme.
fn ternary_methods() -> impl Iterator<Item = (Method, Scheme)> {
    let solvers = [TernarySolver::Absmean, TernarySolver::Gptq { damp_percent: 0.01, rounds: 2 }];
    let shares = [Share::Tensor, Share::Row, Share::Group(32)];
    shares
        .into_iter()
        .flat_map(move |scale| solvers.map(|solver| (Method::Ternary(TernaryOptions { scale, solver }), scale.scheme(Code::Base3))))
}

/// What is peculiar about a weight or its inputs.
#[derive(Clone, Copy, Debug)]
enum Peculiar {
    Plain,
    ZeroRow,
    Constant,
    Outlier,
    DuplicatedColumns,
    DeadInputs,
    Tiny,
}

const KINDS: [Peculiar; 7] = [
    Peculiar::Plain,
    Peculiar::ZeroRow,
    Peculiar::Constant,
    Peculiar::Outlier,
    Peculiar::DuplicatedColumns,
    Peculiar::DeadInputs,
    Peculiar::Tiny,
];

struct Case {
    weight: Array2<f32>,
    input: InputStatistics,
}

fn case(seed: u64, kind: Peculiar, rows: usize, columns: usize) -> Case {
    let random = |stream| Random::new(seed, stream);
    let number = |random: Random, i: usize| (2.0 * random.uniform(i as u64) - 1.0) as f32;
    let mut weight = Array2::from_shape_fn((rows, columns), |(r, c)| number(random(1), r * columns + c));
    let tokens = 2 * columns + 3;
    let mut x = Array2::from_shape_fn((tokens, columns), |(t, c)| number(random(2), t * columns + c) * (1.0 + (c % 5) as f32));
    match kind {
        Peculiar::Plain => (),
        Peculiar::ZeroRow => weight.row_mut(0).fill(0.0),
        Peculiar::Constant => weight.fill(-0.37),
        Peculiar::Outlier => weight[[rows - 1, columns / 2]] = 3e4,
        Peculiar::DuplicatedColumns => {
            for c in 1..columns {
                let before = (weight.column(0).to_owned(), x.column(0).to_owned());
                weight.column_mut(c).assign(&before.0);
                x.column_mut(c).assign(&before.1);
            }
        }
        Peculiar::DeadInputs => (0..columns).step_by(2).for_each(|c| x.column_mut(c).fill(0.0)),
        Peculiar::Tiny => weight.mapv_inplace(|w| w * 1e-30),
    }
    let x = Tensor::from_slice(x.as_slice().unwrap()).view([tokens as i64, columns as i64]);
    let input = InputStatistics {
        tokens: tokens as f64,
        power: 1.0,
        hessian: x.tr().matmul(&x) * (2.0 / tokens as f64),
        mean_magnitude: x.abs().mean_dim(0, false, Kind::Float),
        greatest_magnitude: x.abs().amax(0, false),
    };
    Case { weight, input }
}

fn run(method: Method, case: &Case, scheme: Scheme) -> LayerResult {
    let (rows, columns) = case.weight.dim();
    let weight = Tensor::from_slice(case.weight.as_slice().unwrap()).view([rows as i64, columns as i64]);
    layer_method(method).compress(&[TargetLayer { name: "w".into(), scheme, weight }], case.input.copy()).unwrap().remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_every_quantiser(
        seed in 0u64..1000,
        kind in 0..KINDS.len(),
        rows in 1usize..6,
        columns in 1usize..100,
        code in 0..Code::INTEGERS.len(),
        group in 0usize..3,
        symmetric: bool,
    ) {
        let scheme = Scheme::integers(Code::INTEGERS[code], 32 * group, symmetric);
        let case = case(seed, KINDS[kind], rows, columns);
        for (method, scheme) in methods().into_iter().map(|method| (method, scheme)).chain(ternary_methods()) {
            let name = format!("{method:?}, {:?}", KINDS[kind]);
            let LayerResult { tensor, squared_error, .. } = run(method, &case, scheme);
            let (first, last) = scheme.code.range();
            prop_assert!(tensor.codes.iter().all(|&c| (first..=last).contains(&i32::from(c))), "{name}: codes");
            prop_assert!(tensor.zero_points.iter().all(|&z| (first..=last).contains(&i32::from(z))), "{name}: zero points");
            prop_assert!(tensor.scales.iter().all(|s| s.is_finite() && s.to_f32() > 0.0), "{name}: scales");
            let made = tensor.dequantize();
            prop_assert!(made.iter().all(|v| v.is_finite()), "{name}: values");
            // What a method says it costs is what it costs.
            let hessian = case.input.hessian.to_kind(Kind::Double);
            let weight = from_array(&case.weight).to_kind(Kind::Double);
            let [lost, whole] = [&weight - from_array(&made).to_kind(Kind::Double), weight].map(|of| quadratic_form(&of, &hessian));
            // Squares of f32 below that are none.
            let bound = 1e-3 * lost + 1e-5 * whole + f64::from(f32::MIN_POSITIVE);
            prop_assert!((squared_error - lost).abs() <= bound, "{name}: {lost} is lost, {squared_error} said, of {whole}");
            // A row of zeros stays one.
            for (made, row) in made.rows().into_iter().zip(case.weight.rows()) {
                if row.iter().all(|&w| w == 0.0) {
                    prop_assert!(made.iter().all(|&v| v == 0.0), "{name}: a row of zeros became {made}");
                }
            }
            // The same again.
            prop_assert!(run(method, &case, scheme).tensor == tensor, "{name}: not the same twice");
        }
    }
}
