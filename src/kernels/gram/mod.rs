//! Second moments of activations, Σ x xᵀ: what Hessians are made of. Rows in bf16, sums in
//! f32, half of the symmetric matrix.
//!
//! The instructions for it multiply two numbers of one column by two of another: rows are
//! laid out in [`Pairs`] for that. Where a machine has none, [`kernel`] says so, and libtorch's
//! products in f32 are the better way. Another instruction set = one file, one row of `SETS`,
//! where it multiplies such pairs; others want a layout of their own.
//!
//! This is the one kernel that no device needs: what compresses models calls it. `THIMBLE_ISA`
//! says nothing of it.

#[cfg(target_arch = "x86_64")]
mod avx512bf16;

use half::bf16;
use rayon::prelude::*;

/// Columns of a panel. [`Kernel::add`] leaves what lies left of a panel's square as it is.
pub const PANEL: usize = 48;
/// Rows of products that are made at once.
const STRIP: usize = 8;

/// Pairs that are gone through at once: a panel of them stays in the second level of a cache.
const STRETCH: usize = 512;

/// Two rows' numbers of a column, the earlier row's in the low half.
type Pair = u32;

/// Adds to `STRIP` rows of products of panel `left`, from its column `first` on, with all
/// columns of panel `right`: `out` is where they lie, a row each, cut where the matrix ends.
type Strip = fn(left: &[Pair], first: usize, right: &[Pair], out: &mut [&mut [f32]]);

/// The instructions of one set.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Name of the set.
    pub isa: &'static str,
    strip: Strip,
}

struct Set {
    kernel: Kernel,
    detect: fn() -> bool,
}

/// The best last.
static SETS: &[Set] = &[
    #[cfg(target_arch = "x86_64")]
    Set { kernel: avx512bf16::KERNEL, detect: avx512bf16::detect },
];

/// Those that this machine has, the best last.
fn supported() -> impl DoubleEndedIterator<Item = Kernel> {
    SETS.iter().filter(|set| (set.detect)()).map(|set| set.kernel)
}

/// The best one that this machine has.
pub fn kernel() -> Option<Kernel> {
    supported().next_back()
}

/// Rows of bf16, two and two, in panels of [`PANEL`] columns.
pub struct Pairs {
    /// `[panel][pair][PANEL]`; what completes the last panel and the last pair is zero.
    panels: Vec<Pair>,
    pairs: usize,
    width: usize,
    /// Σ |x| `[width]`
    pub magnitudes: Vec<f32>,
    /// max |x| `[width]`; not a number where any is none
    pub greatest: Vec<f32>,
}

impl Pairs {
    /// Lays out rows of `width` numbers.
    pub fn new(x: &[bf16], width: usize) -> Self {
        assert!(width > 0 && x.len().is_multiple_of(width), "whole rows");
        let rows = x.len() / width;
        let (pairs, count) = (rows.div_ceil(2), width.div_ceil(PANEL));
        let mut panels = vec![0; count * pairs * PANEL];
        let (mut magnitudes, mut greatest) = (vec![0.0f32; width], vec![bf16::ZERO; width]);
        let columns = magnitudes.par_chunks_mut(PANEL).zip(greatest.par_chunks_mut(PANEL));
        panels.par_chunks_mut((pairs * PANEL).max(1)).zip(columns).enumerate().for_each(|(panel, (out, (magnitudes, greatest)))| {
            for (pair, out) in out.chunks_exact_mut(PANEL).enumerate() {
                for (half, row) in (2 * pair..rows.min(2 * pair + 2)).enumerate() {
                    let numbers = &x[row * width + panel * PANEL..][..magnitudes.len()];
                    let known = magnitudes.iter_mut().zip(greatest.iter_mut());
                    for ((out, number), (sum, greatest)) in out.iter_mut().zip(numbers).zip(known) {
                        *out |= Pair::from(number.to_bits()) << (16 * half);
                        let magnitude = number.to_bits() & 0x7fff;
                        *sum += f32::from_bits(u32::from(magnitude) << 16);
                        // As whole numbers they have the same order, and what is no number is the greatest.
                        *greatest = bf16::from_bits(greatest.to_bits().max(magnitude));
                    }
                }
            }
        });
        let greatest = greatest.into_iter().map(bf16::to_f32).collect();
        Self { panels, pairs, width, magnitudes, greatest }
    }

    fn panel(&self, index: usize) -> &[Pair] {
        &self.panels[index * self.pairs * PANEL..(index + 1) * self.pairs * PANEL]
    }
}

impl Kernel {
    /// Adds Σ x xᵀ to `products` `[width, width]`: from the square of each panel on the
    /// diagonal rightwards.
    pub fn add(&self, x: &Pairs, products: &mut [f32]) {
        assert_eq!(products.len(), x.width * x.width, "a square");
        products.par_chunks_mut(PANEL * x.width).enumerate().for_each(|(panel, rows)| self.add_panel(x, panel, rows));
    }

    /// What `f` makes of the same products, a panel's rows at a time, that are never all held:
    /// it is given the first of them, and `[rows, width]`, zeros where [`Self::add`] adds nothing.
    pub fn map(&self, x: &Pairs, f: impl Fn(usize, &[f32]) -> f64 + Sync) -> Vec<f64> {
        let panels = (0..x.width.div_ceil(PANEL)).into_par_iter();
        let of_panel = |panel| {
            let first = panel * PANEL;
            let mut rows = vec![0.0; PANEL.min(x.width - first) * x.width];
            self.add_panel(x, panel, &mut rows);
            f(first, &rows)
        };
        panels.map(of_panel).collect()
    }

    fn add_panel(&self, x: &Pairs, left: usize, rows: &mut [f32]) {
        let width = x.width;
        for start in (0..x.pairs).step_by(STRETCH) {
            let stretch = start * PANEL..x.pairs.min(start + STRETCH) * PANEL;
            for right in left..width.div_ceil(PANEL) {
                let columns = right * PANEL..width.min((right + 1) * PANEL);
                let [left, right] = [left, right].map(|panel| &x.panel(panel)[stretch.clone()]);
                for (strip, rows) in rows.chunks_mut(STRIP * width).enumerate() {
                    let mut out: [&mut [f32]; STRIP] = Default::default();
                    let count = rows.len() / width;
                    out.iter_mut().zip(rows.chunks_exact_mut(width)).for_each(|(out, row)| *out = &mut row[columns.clone()]);
                    (self.strip)(left, strip * STRIP, right, &mut out[..count]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Against sums in f64, for widths and rows that fill no panel, strip or pair; whole
    /// numbers exactly.
    #[test]
    fn products_are_those_of_f64() {
        if supported().next().is_none() {
            println!("this machine has no instructions for products of bf16: skipped");
        }
        supported().for_each(products_are_those_of_f64_with);
    }

    fn products_are_those_of_f64_with(kernel: Kernel) {
        println!("{}", kernel.isa);
        for (case, (rows, width)) in
            [(1, 1), (2, 47), (3, 48), (5, 49), (8, 57), (33, 96), (64, 131), (7, 200), (1100, 5)].into_iter().enumerate()
        {
            for whole in [true, false] {
                let random = Random::new(case as u64, 1);
                let number = |i: usize| {
                    let uniform = random.uniform(i as u64) as f32 - 0.5;
                    bf16::from_f32(if whole { (uniform * 30.0).round() } else { uniform })
                };
                let x: Vec<bf16> = (0..rows * width).map(number).collect();
                let before: Vec<f32> = (0..width * width).map(|i| (i % 7) as f32).collect();
                let mut products = before.clone();
                let pairs = Pairs::new(&x, width);
                kernel.add(&pairs, &mut products);
                let at = |row: usize, column: usize| f64::from(x[row * width + column].to_f32());
                for i in 0..width {
                    let magnitudes: Vec<f64> = (0..rows).map(|row| at(row, i).abs()).collect();
                    assert!((magnitudes.iter().sum::<f64>() - f64::from(pairs.magnitudes[i])).abs() < 1e-5 * rows as f64);
                    assert_eq!(magnitudes.into_iter().fold(0.0, f64::max), f64::from(pairs.greatest[i]));
                    for j in 0..width {
                        let (was, found) = (before[i * width + j], products[i * width + j]);
                        if j / PANEL < i / PANEL {
                            assert_eq!(was, found, "row {i}, column {j} is another's");
                            continue;
                        }
                        let expected = f64::from(was) + (0..rows).map(|row| at(row, i) * at(row, j)).sum::<f64>();
                        let bound = if whole { 0.0 } else { 1e-6 * rows as f64 + f64::from(f32::EPSILON) * 8.0 };
                        assert!((f64::from(found) - expected).abs() <= bound, "{rows} x {width}, {i} {j}: {found}, {expected}");
                    }
                }
            }
        }
    }

    /// An activation that overflowed is not lost.
    #[test]
    fn what_is_no_number_is_seen() {
        let x: Vec<bf16> = [1.0, f32::NAN, 2.0, f32::INFINITY, 3.0, -1.0].map(bf16::from_f32).to_vec();
        let pairs = Pairs::new(&x, 2);
        assert_eq!(pairs.greatest[0], 3.0);
        assert!(pairs.greatest[1].is_nan() && pairs.magnitudes[1].is_nan());
    }
}
