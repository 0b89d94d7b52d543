//! Int8 products of the device: a scale a token, and columns kept in 16 bits, against
//! the equations of LLM.int8() in float64, on every instruction set there is.

#[path = "common/normal.rs"]
mod normal;
#[path = "naive/vector_wise.rs"]
mod vector_wise;

use half::f16;
use ndarray::{Array2, Axis};
use proptest::prelude::*;
use std::sync::Arc;
use thimble::kernels::{BLOCK, Int8Rows, Kernels, supported};
use thimble::quant::rounding::round_to_nearest;
use thimble::quant::{Code, Columns, DataType, Layout, Outliers, PackedTensor, Permutation, QuantizedTensor, Scheme, Weight};
use thimble::random::Random;
use thimble::runtime::{Activations, product};

/// The paper's: a scale an output row.
const VECTOR_WISE: Scheme = Scheme::integers(Code::Int8, 0, true);

/// Normal numbers by a seed and a stream.
fn normal(seed: u64, stream: u64, shape: (usize, usize)) -> Array2<f32> {
    normal::normal(Random::new(seed, stream), shape).mapv(|v| v as f32)
}

fn columns(places: &[usize]) -> Arc<Columns> {
    Arc::new(Columns { name: "w.outlier_columns".into(), places: places.iter().map(|&p| p as u32).collect() })
}

/// Rounds what is left of a weight without some columns, and keeps those.
fn decompose(weight: &Array2<f32>, scheme: Scheme, outliers: &[usize]) -> QuantizedTensor {
    let mut weight = weight.clone();
    let kept = (!outliers.is_empty()).then(|| Outliers::take(&mut weight, &columns(outliers)));
    let mut tensor = round_to_nearest(weight.view(), scheme);
    tensor.outliers = kept;
    tensor
}

fn run(tensor: &QuantizedTensor, x: &Array2<f32>, activations: Activations, kernels: &'static Kernels) -> Array2<f32> {
    let y = product(Weight::pack("w", tensor, Layout::Tiles), x.as_slice().unwrap(), activations, kernels);
    Array2::from_shape_vec((x.nrows(), tensor.codes.nrows()), y).unwrap()
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    let square = |m: Array2<f32>| m.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    (square(a - b) / square(b.clone())).sqrt()
}

/// A layer and its input.
#[derive(Debug)]
struct Case {
    weight: Array2<f32>,
    x: Array2<f32>,
    outliers: Vec<usize>,
}

/// Any sizes; some columns are huge, some the copy of another, some rows and tokens zero.
/// Which columns are kept does not depend on which are huge.
fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..20, 1usize..100, 1usize..6);
    let kept = prop_oneof![Just(0.0), 0.0..0.3f64, Just(1.0)];
    (sizes, kept, any::<u64>(), 0.0..6.0f64).prop_map(|((rows, width, tokens), kept, seed, decades)| {
        let (mut weight, mut x) = (normal(seed, 1, (rows, width)) * 0.05, normal(seed, 2, (tokens, width)));
        let random = Random::new(seed, 3);
        let chance = |what: u64, i: usize, p: f64| random.uniform(what << 32 | i as u64) < p;
        for i in 0..width {
            if chance(0, i, 0.1) {
                x.column_mut(i).mapv_inplace(|v| v * 10f64.powf(decades) as f32);
            }
            if i > 0 && chance(1, i, 0.1) {
                let copy = (weight.column(i - 1).to_owned(), x.column(i - 1).to_owned());
                weight.column_mut(i).assign(&copy.0);
                x.column_mut(i).assign(&copy.1);
            }
        }
        (0..rows).filter(|&i| chance(2, i, 0.1)).for_each(|i| weight.row_mut(i).fill(0.0));
        (0..tokens).filter(|&i| chance(3, i, 0.1)).for_each(|i| x.row_mut(i).fill(0.0));
        let outliers = (0..width).filter(|&i| chance(4, i, kept)).collect();
        Case { weight, x, outliers }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Codes, scales, packed bytes and the device's products. A term of a product is
    /// rounded at most five times (two scales, their product, by the sum of a block, into
    /// the whole) and then added at most once a column.
    #[test]
    fn decomposed_products_are_those_of_the_paper(case in case()) {
        let Case { weight, x, outliers } = case;
        let (rows, width) = weight.dim();
        let tensor = decompose(&weight, VECTOR_WISE, &outliers);
        for ((row, column), &code) in tensor.codes.indexed_iter() {
            prop_assert!((-127..=127).contains(&code));
            prop_assert!(code == 0 || !outliers.contains(&column), "a kept column has codes");
            let expected = vector_wise::weight_codes(&(0..width).map(|i| if outliers.contains(&i) { 0.0 } else { weight[[row, i]].into() }).collect::<Vec<_>>());
            let off = (f64::from(code) - expected.codes[column]).abs();
            prop_assert!(off == 0.0 || off == 1.0 && expected.at_tie[column], "{code} for {}", expected.codes[column]);
        }
        prop_assert!(tensor.scales.iter().all(|s| s.is_finite() && *s > f16::ZERO));
        let decoded = tensor.dequantize();
        for &column in &outliers {
            prop_assert!((0..rows).all(|row| decoded[[row, column]] == f16::from_f32(weight[[row, column]]).to_f32()));
        }
        let bits = tensor.bits_per_weight();
        prop_assert!(tensor.is_kept() == (outliers.len() == width) && (bits == 16.0 || bits > 8.0));

        let naive = vector_wise::product(&x.mapv(f64::from), &weight.mapv(f64::from), &outliers);
        for kernels in supported() {
            let y = run(&tensor, &x, Activations::Int8Token, kernels);
            for ((token, row), &y) in y.indexed_iter() {
                let entry = &naive[token][row];
                let off = (f64::from(y) - entry.value).abs();
                prop_assert!(off <= entry.bound(width + 5), "{}: {y} for {}, off by {off:e} > {:e}", kernels.isa, entry.value, entry.bound(width + 5));
            }
        }
    }

    /// Any scheme may keep columns, in either layout and in any stored order; what is
    /// packed is what is decoded is what the device multiplies.
    #[test]
    fn any_scheme_keeps_columns(
        case in case(),
        code in prop::sample::select(&Code::ALL[..]),
        group_size in prop::sample::select(&[0usize, 32, 64][..]),
        (symmetric, permuted, tiles) in any::<(bool, bool, bool)>(),
    ) {
        let Case { weight, x, outliers } = case;
        let width = weight.ncols();
        let data_type = if code.has_codebook() { DataType::Normal } else { DataType::Int };
        let mut tensor = decompose(&weight, Scheme { code, group_size, symmetric, data_type }, &outliers);
        if permuted {
            let mut order: Vec<u32> = (0..width as u32).collect();
            order.sort_by_key(|i| Random::new(9, width as u64).bits(u64::from(*i)));
            tensor.permutation = Some(Arc::new(Permutation { name: "w.perm".into(), order }));
        }
        let packed = PackedTensor::pack(&tensor, if tiles { Layout::Tiles } else { Layout::Rows });
        prop_assert!(packed.unpack() == tensor);
        let decoded = tensor.dequantize();
        let mut row = vec![f32::NAN; width];
        for (i, expected) in decoded.outer_iter().enumerate() {
            packed.row(i, &mut row);
            prop_assert_eq!(&row[..], expected.as_slice().unwrap());
        }
        let values = 2 * outliers.len() * weight.nrows();
        prop_assert_eq!(packed.len_bytes(), PackedTensor { outliers: None, ..packed.clone() }.len_bytes() + values);

        // A kernel may sum the numbers of a codebook and their offset apart, and an offset may
        // undo a number: both count in what roundings are relative to.
        let mut scaled = tensor.clone();
        scaled.offsets.iter_mut().flatten().for_each(|offset| *offset = f16::ZERO);
        let scaled = scaled.dequantize().mapv(f64::from);
        let (x, w) = (x.mapv(f64::from), decoded.mapv(f64::from));
        let sizes = scaled.mapv(f64::abs) + (&w - &scaled).mapv(f64::abs);
        let (exact, magnitude) = (x.dot(&w.t()), x.mapv(f64::abs).dot(&sizes.t()));
        for kernels in supported() {
            let y = run(&tensor, &x.mapv(|v| v as f32), Activations::F32, kernels);
            for (place, &y) in y.indexed_iter() {
                let bound = (width + 5) as f64 * f64::from(f32::EPSILON) * magnitude[place];
                prop_assert!((f64::from(y) - exact[place]).abs() <= bound + 1e-40, "{}: {y} for {}", kernels.isa, exact[place]);
            }
        }
    }

    /// A row of activations has one scale, that of its greatest magnitude, and the codes
    /// of the equation; where one block is the whole row, all is as for blocks.
    #[test]
    fn tokens_are_quantised_as_a_whole((tokens, width) in (1usize..5, 1usize..200), seed in any::<u64>(), decades in -30.0..30.0f64) {
        let x = normal(seed, 1, (tokens, width)) * 10f64.powf(decades) as f32;
        let rows = Int8Rows::quantize_by_token(x.as_slice().unwrap(), width);
        prop_assert_eq!((rows.tokens(), rows.blocks), (tokens, width.div_ceil(BLOCK)));
        for (token, x) in x.outer_iter().enumerate() {
            let naive = vector_wise::absmax(&x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), |scale| scale);
            for block in 0..rows.blocks {
                let (codes, scale, sum) = rows.block(token, block);
                prop_assert!((f64::from(scale) / naive.scale - 1.0).abs() <= f64::from(f32::EPSILON));
                prop_assert_eq!(sum, codes.iter().map(|c| i32::from(*c)).sum::<i32>());
                for (i, &code) in codes.iter().enumerate() {
                    let Some(&expected) = naive.codes.get(block * BLOCK + i) else {
                        prop_assert_eq!(code, 0, "behind the last column");
                        continue;
                    };
                    let off = (f64::from(code) - expected).abs();
                    prop_assert!((-127..=127).contains(&code) && (off == 0.0 || off == 1.0 && naive.at_tie[block * BLOCK + i]), "{} for {}", code, expected);
                }
            }
        }
        if width <= BLOCK {
            for kernels in supported() {
                let blocks = Int8Rows::quantize(x.as_slice().unwrap(), width, kernels);
                prop_assert!(blocks.codes == rows.codes && blocks.scales == rows.scales && blocks.sums == rows.sums);
            }
        }
    }
}

/// Zeros, the smallest numbers, and what is not finite.
#[test]
fn tokens_at_the_edges() {
    let mut x = Array2::<f32>::zeros((5, 70));
    x.row_mut(1).fill(f32::from_bits(1));
    x[[2, 69]] = f32::NAN;
    x[[3, 0]] = f32::NEG_INFINITY;
    x[[4, 33]] = f32::MAX;
    let rows = Int8Rows::quantize_by_token(x.as_slice().unwrap(), 70);
    assert!(rows.codes[..4 * 96].iter().all(|c| *c == 0), "nothing to tell apart");
    assert!(rows.codes[4 * 96 + 33] == 127 && rows.codes.iter().map(|c| i32::from(*c)).sum::<i32>() == 127);
    let tensor = decompose(&Array2::ones((3, 70)), VECTOR_WISE, &[]);
    for kernels in supported() {
        let y = run(&tensor, &x, Activations::Int8Token, kernels);
        assert!(y.row(0).iter().chain(y.row(1)).all(|v| v.abs() < 1e-30), "{}", kernels.isa);
        assert!(y.row(2).iter().chain(y.row(3)).all(|v| v.is_nan()), "{}: what is not finite shows", kernels.isa);
        assert!(y.row(4).iter().all(|v| (v / f32::MAX - 1.0).abs() < 1e-2), "{}", kernels.isa);
    }
}

/// The paper's point (section 3.2, figure 1): a few features of great magnitude spoil a
/// scale a token, for all other features share it; with those columns in 16 bits the
/// output is near again. A scale for each 32 columns lies between.
#[test]
fn outliers_spoil_a_scale_a_token_and_the_decomposition_mends_it() {
    let (width, rows, tokens) = (512, 96, 32);
    let outliers = [7, 130, 131, 300, 411, 509];
    let weight = normal(1, 1, (rows, width)) * 0.05;
    let mut x = normal(1, 2, (tokens, width));
    for &column in &outliers {
        // Of one sign, as the paper finds them (section 4).
        x.column_mut(column).mapv_inplace(|v| -60.0 - 10.0 * v.abs());
    }
    // The output that tells tokens apart: what all of them share is taken off.
    let exact = x.dot(&weight.t());
    let centred = |y: &Array2<f32>| y - &exact.mean_axis(Axis(0)).unwrap();
    let kernels = supported().next_back().unwrap();
    let off = |kept: &[usize], activations| {
        let y = run(&decompose(&weight, VECTOR_WISE, kept), &x, activations, kernels);
        distance(&centred(&y), &centred(&exact))
    };
    let [plain, blocks, float] = [Activations::Int8Token, Activations::Int8, Activations::F32].map(|a| off(&[], a));
    let [kept, kept_blocks, kept_float] = [Activations::Int8Token, Activations::Int8, Activations::F32].map(|a| off(&outliers, a));
    println!("relative error of the output: {plain:.4} by token, {blocks:.4} by block, {float:.4} in f32;");
    println!("outliers in 16 bits: {kept:.4} by token, {kept_blocks:.4} by block, {kept_float:.4} in f32");
    assert!(kept < 0.02 && plain > 8.0 * kept, "{plain} and {kept}");
    assert!(blocks < plain && blocks > kept && kept_blocks < 1.1 * kept && kept_float < kept);
}

/// Codes, scales and products of bitsandbytes, LLM.int8()'s own library (see
/// `python-compat/write_int8.py`), code for code.
#[test]
fn codes_are_those_of_bitsandbytes() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bitsandbytes_int8.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| file.tensor(name).unwrap().data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect::<Vec<_>>();
    let floats = |name: &str| words(name).into_iter().map(f32::from_bits).collect::<Vec<_>>();
    let codes = |name: &str| file.tensor(name).unwrap().data().iter().map(|b| *b as i8).collect::<Vec<_>>();
    let matrix = |name: &str| Array2::from_shape_vec((file.tensor(name).unwrap().shape()[0], 70), floats(name)).unwrap();
    let (x, w) = (matrix("x"), matrix("w"));

    let tensor = decompose(&w, VECTOR_WISE, &[]);
    assert_eq!(tensor.codes.iter().copied().collect::<Vec<_>>(), codes("w_codes"));
    assert!(tensor.scales.iter().zip(floats("w_greatest")).all(|(scale, greatest)| scale.to_f32() == greatest / 127.0));

    let by_token = |mut x: Array2<f32>, columns: &[u32], (names, greatest): (&str, &str)| {
        columns.iter().for_each(|&column| x.column_mut(column as usize).fill(0.0));
        let rows = Int8Rows::quantize_by_token(x.as_slice().unwrap(), 70);
        let ours: Vec<i8> = rows.codes.chunks(96).flat_map(|row| row[..70].to_vec()).collect();
        assert_eq!(ours, codes(names));
        assert!(rows.scales.chunks(3).zip(floats(greatest)).all(|(scales, greatest)| scales == [greatest / 127.0; 3]));
    };
    by_token(x.clone(), &[], ("x_codes", "x_greatest"));
    let columns = words("columns");
    let reaching = |c: &u32| x.column(*c as usize).iter().any(|v| v.abs() >= 6.0);
    assert_eq!((0..70).filter(reaching).collect::<Vec<_>>(), columns, "6 itself reaches 6");
    by_token(x.clone(), &columns, ("rest_codes", "rest_greatest"));

    // The whole numbers, by scales: within the rounding of sums.
    let products = words("product");
    for kernels in supported() {
        let y = run(&tensor, &x, Activations::Int8Token, kernels);
        for ((token, row), &y) in y.indexed_iter() {
            let scale = f64::from(floats("x_greatest")[token]) / 127.0 * f64::from(floats("w_greatest")[row]) / 127.0;
            let expected = scale * f64::from(products[token * w.nrows() + row] as i32);
            assert!((f64::from(y) - expected).abs() < 1e-5, "{}: {y} for {expected}", kernels.isa);
        }
    }
}
