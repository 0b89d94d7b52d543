//! Speed of the kernels, each supported set beside the others, on one thread: a
//! weight of 2048 × 2048 and one token (bytes of weights a second) or 64 (products
//! a second).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use thimble::kernels::{Int8Rows, Kernels, Tile, supported};
use thimble::quant::formats::tiled::{PackedTensor, TILE_ROWS};
use thimble::quant::{Code, Codebook, DataType, Layout, QuantizedTensor, Scheme};
use thimble::random::Random;

const SIZE: usize = 2048;
const TILES: usize = SIZE / TILE_ROWS;

fn activations(tokens: usize) -> Vec<f32> {
    let random = Random::new(1, 0);
    (0..(tokens * SIZE) as u64).map(|i| random.uniform(i) as f32 - 0.5).collect()
}

fn weight(code: Code) -> PackedTensor {
    let data_type = if code.has_codebook() { DataType::Normal } else { DataType::Int };
    let scheme = Scheme { data_type, ..Scheme::integers(code, 128, true) };
    let random = Random::new(2, 0);
    let (first, last) = code.range();
    let mut tensor = QuantizedTensor::blank(scheme, SIZE, SIZE);
    tensor.codebook = Codebook::shared(data_type, code.bits()).map(Arc::new);
    for (code, i) in tensor.codes.iter_mut().zip(0..) {
        *code = (first + random.below((last - first + 1) as u64, i) as i32) as i8;
    }
    PackedTensor::pack(&tensor, Layout::Tiles)
}

/// Bytes of weights for one token, products for several.
fn throughput(tokens: usize, bytes: usize) -> Throughput {
    match tokens {
        1 => Throughput::Bytes(bytes as u64),
        _ => Throughput::Elements((tokens * SIZE * SIZE) as u64),
    }
}

fn run(c: &mut Criterion, name: &str, tokens: usize, bytes: usize, mut tiles: impl FnMut(&'static Kernels, usize, &mut [f32])) {
    let mut group = c.benchmark_group(format!("{name}/{tokens}"));
    group.throughput(throughput(tokens, bytes));
    for kernels in supported() {
        let mut out = vec![0.0; tokens * TILE_ROWS];
        group.bench_function(kernels.isa, |b| {
            b.iter(|| {
                for tile in 0..TILES {
                    tiles(kernels, tile, &mut out);
                }
                black_box(&mut out);
            });
        });
    }
}

fn packed(c: &mut Criterion) {
    for code in Code::ALL {
        let weight = weight(code);
        for tokens in [1, 64] {
            let x = activations(tokens);
            let int8 = Int8Rows::quantize(&x, SIZE, supported().next().expect("scalar"));
            let name = match code {
                Code::Ternary | Code::Base3 => format!("{code:?}").to_lowercase(),
                _ => weight.tiling.scheme.data_type.at(code.bits()),
            };
            if code.is_whole() {
                run(c, &format!("int8_tile/{name}"), tokens, weight.codes.len(), |kernels, tile, out| {
                    (kernels.int8_tile[code as usize])(&Tile::of(&weight, tile), &int8, out);
                });
            }
            run(c, &format!("f32_tile/{name}"), tokens, weight.codes.len(), |kernels, tile, out| {
                (kernels.f32_tile[code as usize])(&Tile::of(&weight, tile), &x, SIZE, out);
            });
        }
    }
}

fn dense(c: &mut Criterion) {
    let weight: Vec<u8> = activations(SIZE).iter().flat_map(|v| v.to_le_bytes()).collect();
    let halves: Vec<u8> = activations(SIZE).iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    for tokens in [1, 64] {
        let x = activations(tokens);
        run(c, "dense_f32", tokens, weight.len(), |kernels, tile, out| {
            (kernels.dense_f32)(&weight[tile * TILE_ROWS * SIZE * 4..][..TILE_ROWS * SIZE * 4], SIZE, &x, out);
        });
        run(c, "dense_f16", tokens, halves.len(), |kernels, tile, out| {
            (kernels.dense_f16)(&halves[tile * TILE_ROWS * SIZE * 2..][..TILE_ROWS * SIZE * 2], SIZE, &x, out);
        });
    }
}

criterion_group!(benches, packed, dense);
criterion_main!(benches);
