//! Every instruction set that this machine has, against sums in f64 (or in whole
//! numbers) taken straight from the canonical tensor, and against the scalar set.
//!
//! Bounds: with u = 2⁻²⁴, a sum of n products in any order and with or without
//! fused steps is off by at most (n + k) · u · Σ |terms|, where k is the number of
//! further roundings that a term meets. [`Sum`] holds both sums.

use half::{bf16, f16};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use thimble::checkpoint::FloatType;
use thimble::kernels::{BLOCK, Int8Rows, Kernels, Pool, Tile, supported};
use thimble::quant::formats::tiled::TILE_ROWS;
use thimble::quant::{Code, Codebook, DataType, Layout, PackedTensor, Permutation, QuantizedTensor, Scheme};
use thimble::random::Random;

const COLUMNS: [usize; 15] = [1, 3, 4, 5, 16, 31, 32, 33, 44, 64, 100, 128, 172, 256, 576];
const GROUPS: [usize; 4] = [32, 64, 128, 0];
/// Of each way that a set shares blocks among tokens: alone, by fours, by eights and a half, and
/// more than one chunk.
const TOKENS: [usize; 7] = [1, 2, 3, 5, 13, 17, 37];
/// One whole tile and one of three rows.
const ROWS: usize = TILE_ROWS + 3;
/// What `out` holds before: kernels add to it.
const BEFORE: f32 = 0.375;

/// The sets that run here. Says so once, past the capture of tests; under `CI` a
/// set that this processor has and this list lacks is a failure.
fn sets() -> Vec<&'static Kernels> {
    static SAID: Once = Once::new();
    let sets: Vec<_> = supported().collect();
    let names: Vec<_> = sets.iter().map(|k| k.isa).collect();
    SAID.call_once(|| {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "sets that ran: {}", names.join(", "));
    });
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        for isa in expected_sets() {
            assert!(names.contains(&isa), "this processor has {isa}, which did not run");
        }
    }
    sets
}

fn scalar() -> &'static Kernels {
    supported().next().expect("the scalar set")
}

/// The sets that the processor should run, found without the library.
fn expected_sets() -> Vec<&'static str> {
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut names = vec!["scalar"];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("f16c") {
        names.push("avx2");
        if std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512vnni") {
            names.push("avx512vnni");
        }
    }
    names
}

/// A sum in f64, and the sum of magnitudes, which the bounds are relative to.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    magnitude: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
    }

    /// `roundings`: the most that any term meets on its way.
    fn check(&self, found: f32, roundings: usize, what: impl Fn() -> String) {
        let unit = f64::from(f32::EPSILON) / 2.0;
        // The last factor is for the products of roundings, and for this sum's own.
        let relative = roundings as f64 * unit * self.magnitude * 1.001;
        let underflow = roundings as f64 * f64::from(f32::from_bits(1));
        let error = (f64::from(found) - self.value).abs();
        assert!(error <= relative + underflow, "{}: {found} for {}, off by {error:e} > {relative:e}", what(), self.value);
    }
}

/// What weights and activations look like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pattern {
    Random,
    /// Every code the greatest and the zero point the least, every activation +127.
    Greatest,
    /// The same with activations −127.
    GreatestNegative,
    /// Codes alternate between the ends of their range, activations between ±127.
    Alternating,
    /// Activations of zero, so that their scale is 0 too.
    ZeroActivations,
    /// Every code the zero point.
    ZeroGroups,
}

const PATTERNS: [Pattern; 6] =
    [Pattern::Random, Pattern::Greatest, Pattern::GreatestNegative, Pattern::Alternating, Pattern::ZeroActivations, Pattern::ZeroGroups];

impl Pattern {
    fn weight(self, scheme: Scheme, rows: usize, columns: usize, unit_scales: bool) -> QuantizedTensor {
        let random = Random::new(3, columns as u64);
        let (first, last) = scheme.code.range();
        let any = |i: u64| (first + random.below((last - first + 1) as u64, i) as i32) as i8;
        let mut tensor = QuantizedTensor::blank(scheme, rows, columns);
        tensor.codebook = Codebook::shared(scheme.data_type, scheme.code.bits()).map(Arc::new);
        // Whole, as sums are to be with scales of 1.
        let offset = |i: u64| f16::from_f64(random.below(255, 1 << 42 | i) as f64 - 127.0);
        tensor.offsets.iter_mut().flatten().zip(0..).for_each(|(o, i)| *o = offset(i));
        if !unit_scales {
            tensor.scales.iter_mut().zip(0..).for_each(|(s, i)| *s = f16::from_f64(0.001 + 0.1 * random.uniform(1 << 40 | i)));
        }
        if !scheme.symmetric && tensor.codebook.is_none() {
            for (zero, i) in tensor.zero_points.iter_mut().zip(0..) {
                *zero = if self == Pattern::Random { any(1 << 41 | i) } else { first as i8 };
            }
        }
        let width = scheme.group_columns(columns);
        for ((row, column), code) in tensor.codes.indexed_iter_mut() {
            *code = match self {
                Pattern::Random | Pattern::ZeroActivations => any((row * columns + column) as u64),
                Pattern::Greatest | Pattern::GreatestNegative => last as i8,
                Pattern::Alternating => (if (row + column).is_multiple_of(2) { first } else { last }) as i8,
                Pattern::ZeroGroups => {
                    tensor.codebook.as_ref().map_or(tensor.zero_points[[row, column / width]], |codebook| codebook.nearest(0.0))
                }
            };
        }
        tensor
    }

    /// Whole numbers up to `greatest`, which every block holds.
    fn activations(self, tokens: usize, columns: usize, greatest: f32) -> Vec<f32> {
        let random = Random::new(4, columns as u64);
        let value = |i: usize| match self {
            Pattern::ZeroActivations => 0.0,
            Pattern::Greatest => greatest,
            Pattern::GreatestNegative => -greatest,
            Pattern::Alternating => greatest * if (i % columns).is_multiple_of(2) { 1.0 } else { -1.0 },
            Pattern::Random | Pattern::ZeroGroups if (i % columns).is_multiple_of(BLOCK) => greatest,
            Pattern::Random | Pattern::ZeroGroups => (greatest as f64 * (2.0 * random.uniform(i as u64) - 1.0)).round() as f32,
        };
        (0..tokens * columns).map(value).collect()
    }
}

/// A codebook that fills its range, where codes are indices into one: whole numbers from
/// −127 to 127, or fractions over seven powers of ten.
fn scheme(code: Code, group_size: usize, symmetric: bool) -> Scheme {
    let data_type = match (code.has_codebook(), code.is_whole()) {
        (false, _) => DataType::Int,
        (true, true) => DataType::Normal,
        (true, false) => DataType::Dynamic,
    };
    Scheme { data_type, ..Scheme::integers(code, group_size, symmetric) }
}

/// Every combination of code, group and symmetry.
fn schemes(codes: &[Code]) -> impl Iterator<Item = Scheme> {
    let groups = |code: &Code| GROUPS.map(|group_size| (*code, group_size));
    let symmetries = |(code, group_size)| [true, false].map(|symmetric| scheme(code, group_size, symmetric));
    codes.iter().flat_map(groups).flat_map(symmetries)
}

/// What a code stands for before scale and offset.
fn level(tensor: &QuantizedTensor, row: usize, column: usize) -> f64 {
    let code = tensor.codes[[row, column]];
    match &tensor.codebook {
        Some(codebook) => codebook.values()[usize::from(code as u8)].into(),
        None => f64::from(code) - f64::from(tensor.zero_points[[row, column / tensor.scheme.group_columns(tensor.codes.ncols())]]),
    }
}

/// Calls a kernel on each tile: `[tokens][row]` in whole tiles of rows, on top of
/// `before`.
fn run_tiles(packed: &PackedTensor, tokens: usize, before: f32, mut kernel: impl FnMut(&Tile, &mut [f32])) -> Vec<Vec<f32>> {
    let mut rows = vec![Vec::new(); tokens];
    for tile in 0..packed.tiling.tiles() {
        let mut out = vec![before; tokens * TILE_ROWS];
        kernel(&Tile::of(packed, tile), &mut out);
        rows.iter_mut().zip(out.chunks(TILE_ROWS)).for_each(|(rows, out)| rows.extend(out));
    }
    rows
}

/// A term is rounded twice (scale by scale or offset, by the whole number, which a
/// float holds exactly) and then added at most twice a block.
#[test]
fn int8_tiles_are_within_the_bound_of_float_accumulation() {
    for kernels in sets() {
        for scheme in schemes(&Code::WHOLE) {
            for columns in COLUMNS {
                for pattern in PATTERNS {
                    let tensor = pattern.weight(scheme, ROWS, columns, false);
                    let packed = PackedTensor::pack(&tensor, Layout::Tiles);
                    for tokens in TOKENS {
                        let x = pattern.activations(tokens, columns, 127.0).iter().map(|v| v * 0.0173).collect::<Vec<_>>();
                        check_int8(kernels, &tensor, &packed, &x, &format!("{pattern:?} × {columns} × {tokens}, {scheme}"));
                    }
                }
            }
        }
    }
}

fn check_int8(kernels: &Kernels, tensor: &QuantizedTensor, packed: &PackedTensor, x: &[f32], what: &str) {
    let columns = tensor.codes.ncols();
    let width = tensor.scheme.group_columns(columns);
    let (quantized, by_scalar) = (Int8Rows::quantize(x, columns, kernels), Int8Rows::quantize(x, columns, scalar()));
    assert_eq!(quantized.codes, by_scalar.codes, "{}: {what}", kernels.isa);
    assert_eq!(quantized.scales, by_scalar.scales, "{}: {what}", kernels.isa);
    let tokens = quantized.tokens();
    let run = |kernels: &Kernels| {
        run_tiles(packed, tokens, BEFORE, |tile, out| (kernels.int8_tile[tensor.scheme.code as usize])(tile, &quantized, out))
    };
    let (found, reference) = (run(kernels), run(scalar()));
    for token in 0..tokens {
        for row in 0..tensor.codes.nrows() {
            let mut sum = Sum::default();
            sum.add(BEFORE.into());
            for block in 0..quantized.blocks {
                let (codes, x_scale, x_sum) = quantized.block(token, block);
                let params = tensor.quant_params(row, block * BLOCK / width);
                let places = block * BLOCK..((block + 1) * BLOCK).min(columns);
                let whole: f64 = places.zip(codes).map(|(c, &x)| level(tensor, row, c) * f64::from(x)).sum();
                sum.add(f64::from(params.scale) * f64::from(x_scale) * whole);
                sum.add(f64::from(params.offset) * f64::from(x_scale) * f64::from(x_sum));
            }
            let roundings = 2 * quantized.blocks + 2;
            sum.check(found[token][row], roundings, || format!("{} row {row} token {token}: {what}", kernels.isa));
            // Two sets are within the bound of the sum, so within twice of each other.
            let scalar = Sum { value: reference[token][row].into(), ..sum };
            scalar.check(found[token][row], 2 * roundings, || format!("{} and scalar: {what}", kernels.isa));
        }
        let padding = &found[token][tensor.codes.nrows()..];
        assert!(padding.iter().all(|v| *v == BEFORE), "{}: rows of padding changed: {what}", kernels.isa);
    }
}

/// With scales of 1 all sums are whole numbers, and up to 512 columns below 2²⁴
/// (254 · 127 · 512 = 16,516,096, of codebooks too: 127 and an offset of 127): every set
/// must be exact.
#[test]
fn int8_tiles_are_exact_in_whole_numbers() {
    for kernels in sets() {
        for scheme in schemes(&Code::WHOLE) {
            for columns in COLUMNS.into_iter().filter(|c| *c <= 512) {
                for pattern in PATTERNS {
                    let tensor = pattern.weight(scheme, ROWS, columns, true);
                    let packed = PackedTensor::pack(&tensor, Layout::Tiles);
                    for tokens in TOKENS {
                        let x = pattern.activations(tokens, columns, 127.0);
                        let quantized = Int8Rows::quantize(&x, columns, kernels);
                        let out = run_tiles(&packed, tokens, 0.0, |tile, out| {
                            (kernels.int8_tile[scheme.code as usize])(tile, &quantized, out);
                        });
                        for (token, row) in (0..tokens).flat_map(|t| (0..ROWS).map(move |r| (t, r))) {
                            let offset = |c| f64::from(tensor.quant_params(row, c / scheme.group_columns(columns)).offset);
                            let weights = (0..columns).map(|c| level(&tensor, row, c) + offset(c));
                            let whole: f64 = weights.zip(&x[token * columns..]).map(|(w, x)| w * f64::from(*x)).sum();
                            assert_eq!(
                                f64::from(out[token][row]),
                                whole,
                                "{} row {row} token {token}: {pattern:?} × {columns} × {tokens}, {scheme}",
                                kernels.isa
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A term is rounded four times at most (by the code, by the scale, with the offset,
/// into `out`) and added at most once a column.
#[test]
fn f32_tiles_are_within_the_bound() {
    for kernels in sets() {
        for scheme in schemes(&Code::ALL) {
            for columns in COLUMNS {
                let stride = columns + 3;
                for (pattern, greatest) in [(Pattern::Random, 1e6), (Pattern::Alternating, 0.3), (Pattern::ZeroGroups, 5.0)] {
                    let tensor = pattern.weight(scheme, ROWS, columns, false);
                    let packed = PackedTensor::pack(&tensor, Layout::Tiles);
                    let terms = |row: usize, c: usize| {
                        let params = tensor.quant_params(row, c / scheme.group_columns(columns));
                        [f64::from(params.scale) * level(&tensor, row, c), params.offset.into()]
                    };
                    for tokens in TOKENS {
                        // What lies between the rows must not be read as activations.
                        let mut x = vec![f32::NAN; tokens * stride];
                        let rows = pattern.activations(tokens, columns, greatest);
                        x.chunks_mut(stride).zip(rows.chunks(columns)).for_each(|(x, row)| x[..columns].copy_from_slice(row));
                        let out = run_tiles(&packed, tokens, BEFORE, |tile, out| {
                            (kernels.f32_tile[scheme.code as usize])(tile, &x, stride, out);
                        });
                        for (token, row) in (0..tokens).flat_map(|t| (0..ROWS).map(move |r| (t, r))) {
                            let mut sum = Sum::default();
                            sum.add(BEFORE.into());
                            for (c, x) in x[token * stride..][..columns].iter().enumerate() {
                                terms(row, c).into_iter().for_each(|w| sum.add(w * f64::from(*x)));
                            }
                            sum.check(out[token][row], columns + 4, || {
                                format!("{} row {row} token {token}: {pattern:?} × {columns} × {tokens}, {scheme}", kernels.isa)
                            });
                        }
                    }
                }
            }
        }
    }
}

/// Views of a file may start anywhere.
#[test]
fn tiles_may_start_at_any_byte() {
    let shift = |bytes: &[u8], by: usize| [&vec![0; by], bytes].concat();
    for kernels in sets() {
        for code in Code::ALL {
            let columns = 172;
            let tensor = Pattern::Random.weight(scheme(code, 64, false), TILE_ROWS, columns, false);
            let packed = PackedTensor::pack(&tensor, Layout::Tiles);
            let tile = Tile::of(&packed, 0);
            let x = Pattern::Random.activations(3, columns, 127.0);
            let quantized = Int8Rows::quantize(&x, columns, kernels);
            let run = |tile: &Tile| {
                let mut out = [[0.0; 3 * TILE_ROWS]; 2];
                if code.is_whole() {
                    (kernels.int8_tile[code as usize])(tile, &quantized, &mut out[0]);
                }
                (kernels.f32_tile[code as usize])(tile, &x, columns, &mut out[1]);
                out
            };
            for by in [1, 2, 7] {
                let (codes, scales, zeros) = (shift(tile.codes, by), shift(tile.scales, by), shift(tile.zeros.unwrap(), by));
                let moved = Tile { codes: &codes[by..], scales: &scales[by..], zeros: Some(&zeros[by..]), ..tile };
                assert_eq!(run(&tile), run(&moved), "{} {code:?}", kernels.isa);
            }
        }
    }
}

/// A term is rounded once and added at most once a column, and once into `out`.
#[test]
fn dense_tiles_are_within_the_bound() {
    for kernels in sets() {
        for float_type in [FloatType::F32, FloatType::F16, FloatType::Bf16] {
            for columns in COLUMNS {
                for rows in [1, 3, 4, 13, 16] {
                    let (weights, bytes) = dense_weights(float_type, rows * columns);
                    for tokens in TOKENS {
                        let random = Random::new(6, tokens as u64);
                        let x: Vec<_> = (0..(tokens * columns) as u64).map(|i| random.uniform(i) as f32 - 0.5).collect();
                        let mut out = vec![BEFORE; tokens * TILE_ROWS];
                        // One byte off, as views of a file may be.
                        kernels.dense_tile(float_type)(&bytes[1..], columns, &x, &mut out);
                        for (i, found) in out.iter().enumerate() {
                            let (token, row) = (i / TILE_ROWS, i % TILE_ROWS);
                            let mut sum = Sum::default();
                            sum.add(BEFORE.into());
                            if row < rows {
                                let (w, x) = (&weights[row * columns..][..columns], &x[token * columns..]);
                                w.iter().zip(x).for_each(|(w, x)| sum.add(f64::from(*w) * f64::from(*x)));
                            }
                            sum.check(*found, if row < rows { columns + 2 } else { 0 }, || {
                                format!("{} {float_type:?} row {row} of {rows} token {token} of {tokens} × {columns}", kernels.isa)
                            });
                        }
                    }
                }
            }
        }
    }
}

/// Weights of ordinary and of special magnitudes, and their bytes behind one more.
fn dense_weights(float_type: FloatType, count: usize) -> (Vec<f32>, Vec<u8>) {
    let special: &[f32] = match float_type {
        FloatType::F16 => &[65504.0, -65504.0, 6.1e-5, 6e-8, -6e-8, 3.1e-5, 0.0, -0.0],
        _ => &[1e30, -1e30, 1.2e-38, 1e-39, -1e-40, 3.0e-7, 0.0, -0.0],
    };
    let random = Random::new(7, count as u64);
    let (mut weights, mut bytes) = (Vec::new(), vec![0xff]);
    for i in 0..count as u64 {
        let value = match random.below(24, 1 << 40 | i) as usize {
            n if n < special.len() && count.is_multiple_of(5) => special[n],
            _ => random.uniform(i) as f32 - 0.5,
        };
        let (value, stored) = match float_type {
            FloatType::F32 => (value, value.to_le_bytes().to_vec()),
            FloatType::F16 => (f16::from_f32(value).to_f32(), f16::from_f32(value).to_le_bytes().to_vec()),
            FloatType::Bf16 => (bf16::from_f32(value).to_f32(), bf16::from_f32(value).to_le_bytes().to_vec()),
        };
        weights.push(value);
        bytes.extend(stored);
    }
    (weights, bytes)
}

#[test]
fn dots_are_within_the_bound() {
    let random = Random::new(8, 0);
    for kernels in sets() {
        for len in 0..=130 {
            let [a, b]: [Vec<f32>; 2] = [0, 1].map(|s| (0..len).map(|i| random.uniform(s << 32 | i) as f32 - 0.5).collect());
            let mut sum = Sum::default();
            a.iter().zip(&b).for_each(|(a, b)| sum.add(f64::from(*a) * f64::from(*b)));
            sum.check((kernels.dot)(&a, &b), len as usize + 1, || format!("{} dot of {len}", kernels.isa));
        }
    }
}

/// Heads of every width, caches of every length, rows that lie apart.
#[test]
fn attention_kernels_are_within_the_bound() {
    let random = Random::new(9, 0);
    for kernels in sets() {
        for head_dim in [1, 2, 6, 8, 12, 16, 20, 32, 64, 80, 128] {
            for rows in [1, 2, 7, 8, 9, 16, 31, 100] {
                let stride = head_dim + 5;
                let numbers =
                    |stream: u64, n: usize| -> Vec<f32> { (0..n as u64).map(|i| random.uniform(stream << 32 | i) as f32 - 0.5).collect() };
                let (query, keys) = (numbers(1, head_dim), numbers(2, (rows - 1) * stride + head_dim));
                let what = || format!("{} head of {head_dim} over {rows}", kernels.isa);
                let mut scores = vec![f32::NAN; rows];
                (kernels.scores)(&query, &keys, stride, 3.0, &mut scores);
                for (p, found) in scores.iter().enumerate() {
                    let mut sum = Sum::default();
                    query.iter().zip(&keys[p * stride..]).for_each(|(q, k)| sum.add(3.0 * f64::from(*q) * f64::from(*k)));
                    sum.check(*found, head_dim + 2, what);
                }
                let mut out = numbers(3, head_dim);
                let before = out.clone();
                (kernels.weighted_sum)(&scores, &keys, stride, &mut out);
                for (i, found) in out.iter().enumerate() {
                    let mut sum = Sum::default();
                    sum.add(before[i].into());
                    scores.iter().enumerate().for_each(|(p, w)| sum.add(f64::from(*w) * f64::from(keys[p * stride + i])));
                    sum.check(*found, rows + 2, what);
                }
            }
        }
    }
}

/// Weights to a few units in the last place of f64's; scores far below the
/// greatest come to nothing, NaN is not hidden.
#[test]
fn softmax_is_that_of_f64() {
    let random = Random::new(10, 0);
    for kernels in sets() {
        for (len, spread) in [(1, 1.0), (3, 1.0), (8, 30.0), (9, 200.0), (64, 5.0), (100, 90.0), (513, 10.0)] {
            let scores: Vec<f32> = (0..len).map(|i| ((random.uniform(i) - 0.5) * spread) as f32).collect();
            let mut weights = scores.clone();
            (kernels.softmax)(&mut weights);
            let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact: Vec<f64> = scores.iter().map(|s| f64::from(s - greatest).exp()).collect();
            let total: f64 = exact.iter().sum();
            for (found, exact) in weights.iter().zip(&exact) {
                let exact = exact / total;
                // 4 ulp for e^x and the division, half a one for each step of the sum.
                let bound = exact * (4.0 + len as f64 / 2.0) * f64::from(f32::EPSILON) + 1e-37;
                assert!((f64::from(*found) - exact).abs() <= bound, "{} softmax of {len}: {found} for {exact}", kernels.isa);
            }
            let mut broken = scores.clone();
            broken[len as usize / 2] = f32::NAN;
            (kernels.softmax)(&mut broken);
            assert!(broken[len as usize / 2].is_nan(), "{} hides a NaN", kernels.isa);
        }
    }
}

/// Equal to the scalar set to the bit; NaN of any payload are equal.
fn check_quantize_block(x: &[f32]) {
    let run = |kernels: &Kernels| {
        let mut codes = vec![99i8; x.len()];
        let (scale, sum) = (kernels.quantize_block)(x, &mut codes);
        (codes, if scale.is_nan() { None } else { Some(scale.to_bits()) }, sum)
    };
    let expected = run(scalar());
    for kernels in sets() {
        assert_eq!(run(kernels), expected, "{}: {x:?}", kernels.isa);
    }
    let (codes, scale, sum) = expected;
    assert_eq!(sum, codes.iter().map(|c| i32::from(*c)).sum::<i32>());
    assert!(!codes.contains(&-128), "−128 flips its sign in maddubs: {x:?}");
    assert_eq!(scale.is_none(), x.iter().any(|v| v.is_nan()), "a NaN must not vanish: {x:?}");
    if x.iter().any(|v| v.is_infinite()) {
        assert!(scale.is_none_or(|s| f32::from_bits(s).is_infinite()), "an infinity must not vanish: {x:?}");
    }
    if let Some(scale) = scale.map(f32::from_bits).filter(|s| s.is_finite()) {
        for (v, code) in x.iter().zip(codes) {
            let error = (f64::from(*v) - f64::from(scale) * f64::from(code)).abs();
            // Half a step, roundings, and what is too small to be told from zero.
            assert!(error <= f64::from(scale) * 0.500_02 + 4e-37, "{v} became {code} of {scale}");
        }
    }
}

#[test]
fn special_blocks_are_quantised_alike() {
    for len in 0..=BLOCK {
        check_quantize_block(&vec![0.0; len]);
        check_quantize_block(&vec![-3.5; len]);
        // Whole steps, and ties: the scale is 1.
        let ties: Vec<_> = (0..len).map(|i| if i == 0 { -127.0 } else { i as f32 - 15.5 }).collect();
        check_quantize_block(&ties);
    }
    let specials =
        [f32::MAX, f32::MIN, 1e-38, -1e-38, 1e-45, 3.7e-37, 3.8e-37, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, -0.0];
    for special in specials {
        for place in [0, 5, 17, 31] {
            for other in [0.0, -1.0, 1e-40, -1e-40, f32::MAX] {
                let mut block = [other; BLOCK];
                block[place] = special;
                check_quantize_block(&block);
                check_quantize_block(&block[..=place]);
            }
        }
    }
}

/// A broken activation must break the result, not become a zero.
#[test]
fn nan_and_infinity_reach_the_output() {
    for kernels in sets() {
        for (broken, code) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().flat_map(|b| Code::WHOLE.map(|code| (b, code))) {
            let tensor = Pattern::Random.weight(scheme(code, 32, true), TILE_ROWS, 64, false);
            let packed = PackedTensor::pack(&tensor, Layout::Tiles);
            for tokens in TOKENS {
                let mut x = Pattern::Random.activations(tokens, 64, 1.0);
                x[40] = broken;
                let x = Int8Rows::quantize(&x, 64, kernels);
                let out = run_tiles(&packed, tokens, 0.0, |tile, out| (kernels.int8_tile[code as usize])(tile, &x, out));
                assert!(out[0].iter().all(|v| !v.is_finite()), "{} {broken}", kernels.isa);
                assert!(out[1..].iter().flatten().all(|v| v.is_finite()), "{} {broken}", kernels.isa);
            }
        }
    }
}

/// Where the bit planes of a code lie in its tile, straight from the table of the
/// format: (byte, shift, bits) with the low bits first.
fn places_by_the_table(code: Code, tile_rows: usize, row: usize, column: usize) -> Vec<(usize, usize, usize)> {
    let line = 4 * tile_rows;
    let byte = 4 * row + column % 4;
    let unit = column / 4;
    // A line holds 1 unit of 8 bits, 2 of 4, 4 of 2, 8 of 1.
    let (in_32, start) = (unit % 8, column / 32 * (8 * line * code.bits() / 8));
    let four = (start + in_32 / 2 * line + byte, 4 * (in_32 % 2), 4);
    let two_behind_four = (start + (4 + in_32 / 4) * line + byte, 2 * (in_32 % 4), 2);
    match code.bits() {
        8 => vec![(unit * line + byte, 0, 8)],
        4 => vec![(unit / 2 * line + byte, 4 * (unit % 2), 4)],
        2 => vec![(unit / 4 * line + byte, 2 * (unit % 4), 2)],
        3 => vec![(start + in_32 / 4 * line + byte, 2 * (in_32 % 4), 2), (start + 2 * line + byte, in_32, 1)],
        5 => vec![four, (start + 4 * line + byte, in_32, 1)],
        6 => vec![four, two_behind_four],
        7 => vec![four, two_behind_four, (start + 6 * line + byte, in_32, 1)],
        bits => panic!("{bits} bits"),
    }
}

/// The digit of a dense ternary code: five units of 4 columns share a line, the first in
/// the first digit of ⌈v · 256 / 243⌉.
fn digit_by_the_table(tile: &[u8], tile_rows: usize, row: usize, column: usize) -> u8 {
    let byte = tile[column / 20 * 4 * tile_rows + 4 * row + column % 4];
    let digits = (0..243u32).find(|v| (v * 256).div_ceil(243) == u32::from(byte)).expect("a byte of five digits");
    (digits / 3u32.pow(4 - (column % 20 / 4) as u32) % 3) as u8
}

#[test]
fn packed_bytes_are_those_of_the_format() {
    for scheme in schemes(&Code::ALL) {
        for columns in COLUMNS {
            for layout in [Layout::Tiles, Layout::Rows] {
                let tensor = Pattern::Random.weight(scheme, ROWS, columns, false);
                let packed = PackedTensor::pack(&tensor, layout);
                let (tile_rows, code) = (if layout == Layout::Tiles { 16 } else { 1 }, scheme.code);
                // Columns that share a line of the widest plane: padded to those.
                let span = match code.bits() {
                    _ if code == Code::Base3 => 20,
                    8 => 4,
                    4 => 8,
                    2 => 16,
                    _ => 32,
                };
                let padded = columns.next_multiple_of(span);
                let bytes = if code == Code::Base3 { 32 * padded / 5 } else { 32 * padded * code.bits() / 8 };
                assert_eq!(packed.codes.len(), bytes, "rows are padded to 16");
                let width = scheme.group_columns(columns);
                let groups = columns.div_ceil(width);
                for (row, column) in (0..32).flat_map(|r| (0..padded).map(move |c| (r, c))) {
                    let tile = packed.tile(row / tile_rows);
                    let mut shift = 0;
                    let mut found = 0u8;
                    if code == Code::Base3 {
                        found = digit_by_the_table(tile, tile_rows, row % tile_rows, column);
                    } else {
                        for (byte, at, bits) in places_by_the_table(code, tile_rows, row % tile_rows, column) {
                            found |= ((tile[byte] >> at) as u16 & ((1 << bits) - 1)) as u8 * (1 << shift);
                            shift += bits;
                        }
                    }
                    let expected = match () {
                        () if row >= ROWS => code.middle() as i8,
                        () if column >= columns => tensor.zero_points[[row, groups - 1]],
                        () => tensor.codes[[row, column]],
                    };
                    assert_eq!(found as i8, expected, "row {row} column {column} of {columns}, {scheme}, {layout:?}");
                }
                for (row, group) in (0..32).flat_map(|r| (0..groups).map(move |g| (r, g))) {
                    let i = (row / tile_rows * groups + group) * tile_rows + row % tile_rows;
                    let scale = f16::from_le_bytes([packed.scales[2 * i], packed.scales[2 * i + 1]]);
                    assert_eq!(scale, if row < ROWS { tensor.scales[[row, group]] } else { f16::ZERO });
                    if let (Some(offsets), Some(bytes)) = (&tensor.offsets, &packed.zeros) {
                        let offset = f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
                        assert_eq!(offset, if row < ROWS { offsets[[row, group]] } else { f16::ZERO });
                    } else if let Some(zeros) = &packed.zeros {
                        let expected = if row < ROWS { tensor.zero_points[[row, group]] } else { code.middle() as i8 };
                        assert_eq!(zeros[i] as i8, expected);
                    }
                }
                assert_eq!(packed.zeros.is_some(), !scheme.symmetric);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_block_is_quantised_alike(x in prop::collection::vec(any::<f32>(), 0..=BLOCK)) {
        check_quantize_block(&x);
    }

    #[test]
    fn ordinary_blocks_are_quantised_alike(x in prop::collection::vec(-2.0f32..2.0, 0..=BLOCK)) {
        check_quantize_block(&x);
    }

    #[test]
    fn packing_loses_nothing(
        code in prop::sample::select(&Code::ALL[..]),
        group_size in prop::sample::select(&GROUPS[..]),
        layout in prop::sample::select(&[Layout::Tiles, Layout::Rows][..]),
        (symmetric, permuted) in any::<(bool, bool)>(),
        (rows, columns) in (1usize..40, 1usize..300),
    ) {
        let mut tensor = Pattern::Random.weight(scheme(code, group_size, symmetric), rows, columns, false);
        if permuted {
            let random = Random::new(9, columns as u64);
            let mut order: Vec<u32> = (0..columns as u32).collect();
            order.sort_by_key(|i| random.bits(u64::from(*i)));
            tensor.permutation = Some(Arc::new(Permutation { name: "perm".into(), order }));
        }
        let packed = PackedTensor::pack(&tensor, layout);
        prop_assert_eq!(&packed.unpack(), &tensor);
        let weight = tensor.dequantize();
        let mut row = vec![f32::NAN; columns];
        for (i, expected) in weight.outer_iter().enumerate() {
            packed.row(i, &mut row);
            prop_assert_eq!(&row[..], expected.as_slice().unwrap());
        }
    }
}

#[test]
fn pool_runs_every_task_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    for job in 0..500 {
                        let tasks = (job + caller) % 37;
                        let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                        pool.run(tasks, &|task| {
                            counts[task].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "job {job} of caller {caller}");
                    }
                });
            }
        });
    }
}

#[test]
fn pool_wakes_threads_that_have_gone_to_sleep() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        // Both tasks wait for each other: one thread alone would hang here.
        let barrier = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            barrier.wait();
        });
    }
}

#[test]
fn pool_survives_a_panic() {
    for threads in [1, 4] {
        let pool = Pool::new(threads).unwrap();
        for round in 0..20 {
            let ran = AtomicU32::new(0);
            let call = std::panic::AssertUnwindSafe(|| {
                pool.run(10, &|task| {
                    ran.fetch_add(1, Ordering::Relaxed);
                    if task == round % 10 {
                        std::panic::resume_unwind(Box::new("on purpose"));
                    }
                });
            });
            assert!(std::panic::catch_unwind(call).is_err(), "the caller must hear of it");
            let count = AtomicU32::new(0);
            pool.run(10, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 10);
        }
    }
}

/// The binary, so that no test sees another's environment.
fn bench(isa: &str) -> std::process::Output {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fixtures/llama-gqa-tied");
    std::process::Command::new(env!("CARGO_BIN_EXE_thimble"))
        .args(["bench", fixture, "--prompt-tokens", "2", "--gen-tokens", "1", "--repeat", "1", "--json"])
        .env("THIMBLE_ISA", isa)
        .output()
        .unwrap()
}

#[test]
fn the_environment_names_a_set() {
    for kernels in sets() {
        let report: serde_json::Value = serde_json::from_slice(&bench(kernels.isa).stdout).unwrap();
        assert_eq!(report["isa"], kernels.isa);
    }
    let refused = bench("pentium");
    let message = String::from_utf8(refused.stderr).unwrap();
    let names: Vec<_> = supported().map(|k| k.isa).collect();
    assert_eq!(refused.status.code(), Some(4), "{message}");
    assert!(message.contains("THIMBLE_ISA=pentium") && message.contains(&names.join(", ")), "{message}");
}
