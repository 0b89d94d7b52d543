//! Data types against their definitions in float64: the numbers of each codebook, and
//! what weights become by them.

#[path = "naive/codebooks.rs"]
mod naive;
#[path = "common/normal.rs"]
mod normal;

use half::f16;
use ndarray::{Array2, Axis};
use proptest::prelude::*;
use thimble::quant::codebook::Codebook;
use thimble::quant::quant_params::{GridChoice, GridSearch};
use thimble::quant::rounding::Rounding;
use thimble::quant::rounding::{round_by, round_to_nearest};
use thimble::quant::{Code, DataType, QuantizedTensor, Scheme};
use thimble::random::Random;

/// Every split of so many bits.
fn floats(bits: usize) -> impl Iterator<Item = DataType> {
    (1..bits as u8).map(move |exponent| DataType::Float { exponent, mantissa: bits as u8 - 1 - exponent })
}

/// Every data type but integers at a width.
fn data_types(bits: usize) -> Vec<DataType> {
    floats(bits).chain([DataType::Dynamic, DataType::Normal, DataType::Quantile]).collect()
}

fn scheme(data_type: DataType, bits: usize, group_size: usize, centred: bool) -> Scheme {
    Scheme { code: Code::of_codebook(bits).unwrap(), group_size, symmetric: !centred, data_type }
}

/// A shared codebook by its definition, from −1 to 1.
fn defined(data_type: DataType, bits: usize) -> Vec<f64> {
    match data_type {
        DataType::Float { exponent, mantissa } => naive::floats(exponent.into(), mantissa.into()),
        DataType::Dynamic => naive::dynamics(bits as u32),
        DataType::Normal => naive::normals(bits as u32),
        other => panic!("{other} has no codebook of its own"),
    }
}

fn wide(codebook: &Codebook) -> Vec<f64> {
    codebook.values().iter().map(|v| f64::from(*v)).collect()
}

/// Floats are exact. Others are rounded, up to 16 of them to whole 127ths.
#[test]
fn codebooks_are_those_of_their_definitions() {
    for bits in 3..=8 {
        for data_type in data_types(bits).into_iter().filter(|t| *t != DataType::Quantile) {
            let codebook = Codebook::shared(data_type, bits).unwrap();
            assert_eq!(codebook.values().len(), 1 << bits);
            let is_float = matches!(data_type, DataType::Float { .. });
            let tolerance = if is_float || bits > 4 { 1e-7 } else { 0.5 / 127.0 + 1e-12 };
            let greatest = f64::from(codebook.greatest());
            for (found, expected) in wide(&codebook).into_iter().zip(defined(data_type, bits)) {
                assert!((found / greatest - expected).abs() <= tolerance, "{}: {found} / {greatest} for {expected}", data_type.at(bits));
            }
            if is_float {
                let exact = |v: &f64| (v * f64::from(1 << 30)).fract() == 0.0 || v.abs() < 1e-6;
                assert!(wide(&codebook).iter().all(exact), "{}", data_type.at(bits));
            }
        }
    }
}

/// What others have published.
#[test]
fn codebooks_are_the_published_ones() {
    for (ours, published) in naive::normals(4).into_iter().zip(naive::NF4) {
        assert!((ours - published).abs() < 3e-7, "{ours} for {published}");
    }
    let nf4: Vec<f32> = naive::NF4.iter().map(|v| (127.0 * v).round() as f32).collect();
    assert_eq!(Codebook::shared(DataType::Normal, 4).unwrap().values(), nf4);
    // OCP's MX formats, in halves; bitsandbytes has 1/16 for 1 there, and all else alike.
    let e2m1 = Codebook::shared(DataType::Float { exponent: 2, mantissa: 1 }, 4).unwrap();
    assert_eq!(e2m1.values()[8..], [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]);
    assert!(e2m1.values()[8..].iter().zip(naive::FP4).all(|(a, b)| f64::from(*a) == b || (*a, b) == (1.0, 0.0625)));
    // The ends of bitsandbytes' 8-bit map.
    let dynamic = Codebook::shared(DataType::Dynamic, 8).unwrap();
    for (i, published) in [(0, -0.992_968_8), (1, -0.978_906_3), (127, 0.0), (128, 5.5e-7), (254, 0.992_968_8), (255, 1.0)] {
        assert!((dynamic.values()[i] - published).abs() <= 1e-7, "{} for {published}", dynamic.values()[i]);
    }
}

/// The split of each width.
#[test]
fn floats_are_split_as_the_paper_says() {
    let splits = [(3, "e2m0"), (4, "e2m1"), (5, "e2m2"), (6, "e3m2"), (7, "e3m3"), (8, "e3m4")];
    for (bits, name) in splits {
        assert_eq!(DataType::float(bits).to_string(), name);
        assert_eq!(name.parse(), Ok(DataType::float(bits)));
    }
    for wrong in ["e0m3", "e2m9", "e8m0", "e1m0", "e2", "m1", "em", "e-1m4", "nf4", ""] {
        assert!(wrong.parse::<DataType>().is_err(), "{wrong}");
    }
}

/// A reader knows a codebook by its numbers alone, and takes none that is not one.
#[test]
fn broken_codebooks_are_refused() {
    let nf4 = Codebook::shared(DataType::Normal, 4).unwrap().values().to_vec();
    let with = |i: usize, value: f32| {
        let mut values = nf4.clone();
        values[i] = value;
        Codebook::new(None, values)
    };
    assert!(with(3, nf4[3]).is_ok() && with(3, nf4[2]).is_ok());
    for (i, value) in [(0, -128.0), (15, 128.0), (3, f32::NAN), (15, f32::INFINITY), (3, nf4[4] + 1.0), (3, nf4[3] + 0.5)] {
        assert!(with(i, value).is_err(), "{value} at {i}");
    }
    for len in [0, 1, 4, 15, 17, 512] {
        assert!(Codebook::new(None, vec![0.0; len]).is_err(), "{len} entries");
    }
    let mut wide = Codebook::shared(DataType::Dynamic, 8).unwrap().values().to_vec();
    wide[7] = -1e30;
    assert!(Codebook::new(None, wide).is_err());
}

/// Normal numbers of the size of weights.
fn normal(seed: u64, shape: (usize, usize)) -> Array2<f32> {
    normal::normal(Random::new(seed, 7), shape).mapv(|v| v as f32 * 0.02)
}

fn mean_square(a: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, n) = a.into_iter().fold((0.0, 0), |(sum, n), v| (sum + v * v, n + 1));
    sum / f64::from(n)
}

/// Whole 127ths cost normal weights next to nothing.
#[test]
fn whole_numbers_cost_less_than_a_half_per_cent() {
    let weight = normal(1, (64, 256));
    for data_type in [DataType::Normal, DataType::Dynamic] {
        for bits in [3, 4] {
            let ours = round_to_nearest(weight.view(), scheme(data_type, bits, 64, false)).dequantize();
            let ours = mean_square(ours.iter().zip(&weight).map(|(a, b)| f64::from(a - b)));
            let groups = weight.as_slice().unwrap().chunks(64).map(|g| g.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
            let exact = groups.flat_map(|group| {
                let (.., rounded) = naive::round(&defined(data_type, bits), false, &group);
                rounded.into_iter().zip(group).map(|(a, b)| a - b).collect::<Vec<_>>()
            });
            let exact = mean_square(exact);
            println!("{}: {:+.3} %", data_type.at(bits), 100.0 * (ours / exact - 1.0));
            assert!(ours / exact < 1.005, "{}: {ours} for {exact}", data_type.at(bits));
        }
    }
}

/// What the paper finds: quantiles suit normal weights best, and small blocks beat
/// large ones.
#[test]
fn errors_fall_as_the_paper_says() {
    let weight = normal(2, (64, 1024));
    let error =
        |scheme| mean_square(round_to_nearest(weight.view(), scheme).dequantize().iter().zip(&weight).map(|(a, b)| f64::from(a - b)));
    let int = error(Scheme::integers(Code::Int4, 64, true));
    let float = error(scheme(DataType::float(4), 4, 64, false));
    let normal = error(scheme(DataType::Normal, 4, 64, false));
    assert!(normal < float && normal < int, "{normal} {float} {int}");
    for (data_type, bits) in [(DataType::Normal, 3), (DataType::Normal, 4), (DataType::Quantile, 3), (DataType::Quantile, 4)] {
        let by_block = [32, 64, 256, 1024].map(|group| error(scheme(data_type, bits, group, false)));
        assert!(by_block.is_sorted(), "{} {by_block:?}", data_type.at(bits));
    }
}

/// Weights of every awkward kind.
fn weight(kind: usize, seed: u64, shape: (usize, usize)) -> Array2<f32> {
    let mut weight = normal(seed, shape);
    match kind {
        0 => (),
        1 => weight.fill(0.0),
        2 => weight.fill(-0.037),
        // Outliers far beyond the rest, of either sign.
        3 => weight.axis_iter_mut(Axis(0)).enumerate().for_each(|(i, mut row)| row[i % shape.1] = if i % 2 == 0 { 300.0 } else { -300.0 }),
        // Columns that are all alike.
        4 => {
            let first = weight.column(0).to_owned();
            weight.columns_mut().into_iter().for_each(|mut column| column.assign(&first));
        }
        // Far from zero, as centring is for.
        5 => weight.mapv_inplace(|v| v + 3.0),
        // So small, and so large, that rows have exponents.
        6 => weight.mapv_inplace(|v| v * 1e-8),
        7 => weight.mapv_inplace(|v| v * 1e9),
        _ => weight.mapv_inplace(|v| v.max(0.0)),
    }
    weight
}

/// A tensor keeps every promise of its parts, and each value is as near as any number
/// of its codebook lets it be.
fn check(tensor: &QuantizedTensor, weight: &Array2<f32>) -> Result<(), TestCaseError> {
    let scheme = tensor.scheme;
    let codebook = tensor.codebook.as_ref().unwrap();
    prop_assert_eq!(codebook.values().len(), 1 << scheme.code.bits());
    prop_assert!(codebook.values().is_sorted() && codebook.values().contains(&0.0));
    prop_assert!(tensor.scales.iter().all(|s| s.is_finite() && *s > f16::ZERO));
    prop_assert_eq!(tensor.offsets.is_some(), !scheme.symmetric);
    prop_assert!(tensor.offsets.iter().flatten().all(|o| o.is_finite()));
    prop_assert!(tensor.zero_points.iter().all(|z| *z == 0));
    let (width, codebook, decoded) = (scheme.group_columns(weight.ncols()), wide(codebook), tensor.dequantize());
    for ((row, column), &value) in weight.indexed_iter() {
        let params = tensor.quant_params(row, column / width);
        let power = f64::from(tensor.power(row));
        let (scale, offset) = (power * f64::from(params.scale), power * f64::from(params.offset));
        let place = usize::from(tensor.codes[[row, column]] as u8);
        prop_assert!(place < codebook.len());
        let at = |place: usize| scale * codebook[place] + offset;
        let least = (at(naive::nearest(&codebook, (f64::from(value) - offset) / scale)) - f64::from(value)).abs();
        let found = (at(place) - f64::from(value)).abs();
        // A tie may fall to either side, by roundings of the division.
        let slack = 1e-6 * (f64::from(value).abs() + offset.abs() + scale * f64::from(tensor.codebook.as_ref().unwrap().greatest()));
        prop_assert!(found <= least + slack, "{value} became {} where {least} off is nearest", at(place));
        prop_assert!((f64::from(decoded[[row, column]]) - at(place)).abs() <= slack);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn any_weight_is_rounded_to_the_nearest(
        (bits, which) in (3usize..=8, 0usize..16),
        group_size in prop::sample::select(&[0usize, 32, 64, 96][..]),
        (centred, searched) in any::<(bool, bool)>(),
        (kind, seed) in (0usize..9, 0u64..1000),
        shape in (1usize..6, 1usize..200),
    ) {
        let types = data_types(bits);
        let scheme = scheme(types[which % types.len()], bits, group_size, centred);
        let weight = weight(kind, seed, shape);
        let choice = if searched { GridChoice::LeastError(GridSearch { steps: 10, ..GridSearch::default() }) } else { GridChoice::MinMax };
        let tensor = round_by(weight.view(), scheme, choice, None);
        check(&tensor, &weight)?;
        let decoded = tensor.dequantize();
        match kind {
            1 => prop_assert!(decoded.iter().all(|v| *v == 0.0)),
            // One value is the number at a codebook's negative end, which may be less than the
            // greatest, or what centring leaves of it.
            2 if !searched => {
                let codebook = tensor.codebook.as_ref().unwrap();
                let short = 1.0 - codebook.values()[0].abs() / codebook.greatest();
                prop_assert!(decoded.iter().all(|v| (v / -0.037 - 1.0).abs() < short + 0.01), "{decoded}, {short}");
            }
            4 => prop_assert!(tensor.codes.rows().into_iter().all(|row| row.iter().all(|c| *c == row[0]))),
            _ => (),
        }
    }

    /// The same scale, offset and values as the definition has them.
    #[test]
    fn groups_are_those_of_float64(
        (bits, which, centred) in (3usize..=8, 0usize..16, any::<bool>()),
        (kind, seed, columns) in (prop::sample::select(&[0usize, 1, 3, 5, 8][..]), 0u64..1000, 1usize..200),
    ) {
        let types = data_types(bits);
        let weight = weight(kind, seed, (1, columns));
        let tensor = round_to_nearest(weight.view(), scheme(types[which % types.len()], bits, 64, centred));
        for (group, values) in weight.as_slice().unwrap().chunks(64).enumerate() {
            let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
            let (scale, offset, rounded) = naive::round(&wide(tensor.codebook.as_ref().unwrap()), centred, &values);
            let params = tensor.quant_params(0, group);
            prop_assert_eq!((f64::from(params.scale), f64::from(params.offset)), (scale, offset));
            let decoded = tensor.dequantize();
            // What f32 loses where an offset and a number of the codebook nearly cancel out.
            let codebook = tensor.codebook.as_ref().unwrap();
            let lost = f64::from(f32::EPSILON) * (offset.abs() + scale * f64::from(codebook.greatest()));
            for ((found, expected), value) in decoded.iter().skip(64 * group).zip(rounded).zip(values) {
                let tie = ((f64::from(*found) - value).abs() - (expected - value).abs()).abs();
                prop_assert!(tie <= 1e-5 * (expected.abs() + value.abs()) + lost, "{found} for {expected}");
            }
        }
    }

    /// A greater value never has a lesser code.
    #[test]
    fn codes_ascend_with_values((bits, which) in (3usize..=8, 0usize..16), mut values in prop::collection::vec(-3.0f32..3.0, 2..50)) {
        let types = data_types(bits);
        let weight = Array2::from_shape_vec((1, values.len()), values.clone()).unwrap();
        let rounding = Rounding::new(scheme(types[which % types.len()], bits, 0, false), GridChoice::MinMax, || weight.clone());
        let params = rounding.quant_params(&values, None);
        values.sort_by(f32::total_cmp);
        let codes: Vec<u8> = values.iter().map(|v| rounding.encode(params, *v) as u8).collect();
        prop_assert!(codes.is_sorted(), "{codes:?}");
        // A value that the codebook has is found again.
        for code in 0..1u32 << bits {
            let value: f64 = rounding.decode(params, code as u8 as i8);
            prop_assert_eq!(rounding.decode::<f64>(params, rounding.encode(params, value)), value);
        }
    }
}

/// The codebook of a weight is that of its groups' values, each divided by its greatest.
#[test]
fn quantiles_are_those_of_the_weight() {
    for (kind, bits) in [(0, 3), (0, 4), (0, 8), (3, 4), (5, 4), (8, 6)] {
        for centred in [false, true] {
            let weight = weight(kind, 5, (8, 160));
            let tensor = round_to_nearest(weight.view(), scheme(DataType::Quantile, bits, 64, centred));
            let codebook = tensor.codebook.unwrap();
            assert_eq!(codebook.name, None, "it is the weight's own");
            let groups = weight.rows().into_iter().flat_map(|row| row.to_vec().chunks(64).map(<[f32]>::to_vec).collect::<Vec<_>>());
            let values: Vec<f64> = groups
                .flat_map(|group| {
                    let mean = group.iter().map(|v| f64::from(*v)).sum::<f64>() / group.len() as f64;
                    let offset = if centred { f16::from_f64(mean).to_f64() } else { 0.0 };
                    let greatest = group.iter().fold(0.0f64, |m, v| m.max((f64::from(*v) - offset).abs()));
                    group.into_iter().map(move |v| (f64::from(v) - offset) / greatest)
                })
                .collect();
            let tolerance = if bits <= 4 { 0.5 / 127.0 + 1e-6 } else { 1e-6 };
            let greatest = f64::from(codebook.greatest());
            for (found, expected) in wide(&codebook).into_iter().zip(naive::quantiles(bits as u32, &values)) {
                assert!((found / greatest - expected).abs() <= tolerance, "kind {kind}, {bits} bits: {found} for {expected}");
            }
            // Each number is used about equally often.
            let mut used = vec![0; 1 << bits];
            tensor.codes.iter().for_each(|code| used[usize::from(*code as u8)] += 1);
            let even = tensor.codes.len() >> bits;
            assert!(kind != 0 || used.iter().all(|n| *n <= 3 * even), "{used:?}");
        }
    }
}
