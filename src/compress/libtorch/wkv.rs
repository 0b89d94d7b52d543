//! RWKV's time mixing over whole sequences, token by token.

use crate::compress::tensors::wide;
use tch::Tensor;

/// Means of the values so far, weighted by exp(key), of keys and values `[batch, tokens, width]`;
/// sums are kept divided by exp of their greatest key, in single precision at least.
pub(super) fn means(decay: &Tensor, first: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let (batch, tokens, width) = key.size3().expect("[batch, tokens, width]");
    let (key, value) = (wide(key), wide(value));
    let (decay, first) = (wide(decay).exp().neg(), wide(first));
    let zeros = Tensor::zeros([batch, width], (key.kind(), key.device()));
    let (mut numerator, mut denominator, mut greatest) = (zeros.copy(), zeros.copy(), zeros - 1e38);
    let mut all = Vec::with_capacity(tokens as usize);
    for token in 0..tokens {
        let (key, value) = (key.select(1, token), value.select(1, token));
        // The token itself counts by its key and a bonus.
        let now_key = &key + &first;
        let top = greatest.maximum(&now_key);
        let (past, now) = ((&greatest - &top).exp(), (now_key - &top).exp());
        all.push((&past * &numerator + &now * &value) / (past * &denominator + now));
        let faded = greatest + &decay;
        let top = faded.maximum(&key);
        let (past, now) = ((faded - &top).exp(), (key - &top).exp());
        numerator = &past * numerator + &now * value;
        denominator = past * denominator + now;
        greatest = top;
    }
    Tensor::stack(&all, 1)
}
